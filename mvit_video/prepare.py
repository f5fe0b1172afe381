"""Prepare a data set: `python -m mvit_video.prepare +experiment=k400_mvitv2_s out=k400/prepared`.

Reads every video once, leaves out those that do not decode, and writes an index that trainings open at once, and a
report. Optionally re-encodes the videos for quick reading and packs them into tar shards.
"""

import logging
import sys
from typing import TYPE_CHECKING, Any

# Every worker process imports this module again, so it imports next to nothing by itself.
if TYPE_CHECKING:
    from mvit_video.config import Prepare
    from mvit_video.preparation.cost import Cost

logger = logging.getLogger(__name__)
_ASK_ABOVE_S = 600.0


def run(config: "Prepare") -> dict[str, Any] | None:
    """Prepare as configured; the content of report.json, None after a dry run.

    Raises:
        ValueError: a split is not configured, a folder may not be written to, the disk is too small, or no file
            is usable.
        RuntimeError: another run prepares to the same folder; or some files are broken and strict=true.
    """
    from mvit_video.build.common import build_task_builder
    from mvit_video.build.preparation import preparation_plan, prepared_manifests
    from mvit_video.preparation.pipeline import prepare_data_set
    from mvit_video.preparation.report import attention, summary_table

    # Missing files and mistaken annotations are what this command is there to find: they are listed, and the training's
    # own files stay as they are.
    for option, value in (("missing", "skip"), ("mistakes", "leave_out")):
        if isinstance(config.data.source, dict):
            if option in config.data.source:
                config.data.source[option] = value
        elif hasattr(config.data.source, option):
            setattr(config.data.source, option, value)
    content = build_task_builder(config).preparation(config)
    manifests = prepared_manifests(config, content.kind)
    plan = preparation_plan(config, manifests)
    report = prepare_data_set(manifests, plan, content=content, confirm=lambda cost: _confirm(cost, config))
    if report is None:
        return None
    logger.info("done:\n%s", summary_table(report))
    for line in attention(report):
        logger.warning("%s", line)
    logger.info("report: %s", plan.out / "report.md")
    logger.info("train and evaluate with: %s", report["use"])
    if config.strict and report["problems"]:
        raise RuntimeError(
            f"{len(report['problems'])} {content.kind.plural} are missing or broken and strict=true; see "
            f"{plan.out / 'report.md'}"
        )
    return report


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
