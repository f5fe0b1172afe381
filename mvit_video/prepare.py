"""Prepare a data set: `python -m mvit_video.prepare +experiment=k400_mvitv2_s out=k400/prepared`.

Reads every video once, leaves out those that do not decode, and writes an index that trainings open at once, and a
report. Optionally re-encodes the videos for quick reading and packs them into tar shards.
"""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

# Every worker process imports this module again, so it imports next to nothing by itself.
if TYPE_CHECKING:
    from mvit_video.config import Prepare
    from mvit_video.data.datasets.manifest import Manifest
    from mvit_video.data.datasets.sources import Source, Split
    from mvit_video.preparation.cost import Cost
    from mvit_video.preparation.pipeline import PreparePlan

logger = logging.getLogger(__name__)
_ASK_ABOVE_S = 600.0


def run(config: "Prepare") -> dict[str, Any] | None:
    """Prepare as configured; the content of report.json, None after a dry run.

    Raises:
        ValueError: a split is not configured, a folder may not be written to, the disk is too small, or no video is
            usable.
        RuntimeError: another run prepares to the same folder; or some videos are broken and strict=true.
    """
    from mvit_video import build
    from mvit_video.preparation.pipeline import prepare_data_set
    from mvit_video.preparation.report import attention, summary_table

    # Missing files are what this command is there to find: they are listed, and the training list stays as it is.
    if isinstance(config.data.source, dict):
        if "missing" in config.data.source:
            config.data.source["missing"] = "skip"
    elif hasattr(config.data.source, "missing"):
        config.data.source.missing = "skip"
    manifests = _manifests(config)
    plan = _plan(config, manifests)
    report = prepare_data_set(
        manifests, plan, sampler=build.build_sampler(config.data), confirm=lambda cost: _confirm(cost, config)
    )
    if report is None:
        return None
    logger.info("done:\n%s", summary_table(report))
    for line in attention(report):
        logger.warning("%s", line)
    logger.info("report: %s", plan.out / "report.md")
    logger.info("train and evaluate with: %s", report["use"])
    if config.strict and report["problems"]:
        raise RuntimeError(
            f"{len(report['problems'])} videos are missing or broken and strict=true; see {plan.out / 'report.md'}"
        )
    return report


def _manifests(config: "Prepare") -> "dict[str, Manifest]":
    """The manifests of the splits to prepare; a test split that is the validation split is left out."""
    import torch

    from mvit_video import build
    from mvit_video.distributed.process_group import World

    source = build.build_source(config.data, World(rank=0, size=1, device=torch.device("cpu")))
    manifests: dict[str, Manifest] = {split: source.manifest(split) for split in _splits(config, source)}
    if "test" in manifests and "val" in manifests and manifests["test"].source == manifests["val"].source:
        del manifests["test"]
    for split, manifest in manifests.items():
        classes = config.data.num_classes
        if classes is not None and manifest.num_classes != classes:
            logger.warning(
                "%s: %d classes, data.num_classes=%d; a training needs data.num_classes=%d",
                split,
                manifest.num_classes,
                classes,
                manifest.num_classes,
            )
    return manifests


def _splits(config: "Prepare", source: "Source") -> "list[Split]":
    if config.splits is not None:
        return cast("list[Split]", list(dict.fromkeys(config.splits)))
    known: tuple[Split, ...] = ("train", "val", "test")
    return [split for split in known if source.has(split)]


def _plan(config: "Prepare", manifests: "Mapping[str, Manifest]") -> "PreparePlan":
    """The options as the preparation takes them."""
    from mvit_video.preparation.pipeline import PreparePlan
    from mvit_video.preparation.reencode import Encoding
    from mvit_video.preparation.split_packing import ShardOptions
    from mvit_video.runtime.cores import usable_cores

    out = Path(config.out)
    encode, shards = config.reencode, config.shards
    encoding = Encoding(
        short_side=encode.short_side,
        gop=encode.gop,
        crf=encode.crf,
        preset=encode.preset,
        fastdecode=encode.fastdecode,
    )
    return PreparePlan(
        out=out,
        verify=config.verify,  # type: ignore[arg-type]
        workers=config.workers or usable_cores(),
        time_limit_s=config.time_limit_s,
        limit=config.limit,
        keep=frozenset({"ok", "partial"} if config.keep_partial else {"ok"}),
        retry_broken=config.retry_broken,
        dry_run=config.dry_run,
        encoding=encoding if encode.enabled else None,
        encode_folder=encode.folder or str(out / "videos"),
        encode_limit_s=encode.time_limit_s,
        shards=ShardOptions(folder=shards.folder or str(out / "shards"), max_bytes=int(shards.max_gb * 1e9))
        if shards.enabled
        else None,
        source_folders=[manifest.source for manifest in manifests.values() if os.path.isdir(manifest.source)],
    )


def _confirm(cost: "Cost", config: "Prepare") -> bool:
    """Whether to go on: asked on a terminal before a long run."""
    if not config.ask or cost.seconds < _ASK_ABOVE_S or not sys.stdin.isatty():
        return True
    return input("Go on? [y/N] (ask=false does not ask) ").strip().lower() in ("y", "yes")


def main() -> None:
    """Entry point of the command."""
    from mvit_video.cli import run_command

    run_command("prepare", run, shown=("data",), interrupted="the same command goes on with the files that are left")


if __name__ == "__main__":
    main()
