"""From the options of a preparation to what it prepares and how."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch

from mvit_video.build.common import build_source
from mvit_video.build.samples import check_kind
from mvit_video.config import Prepare
from mvit_video.data.datasets.extensions import FileKind
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Source, Split
from mvit_video.distributed.process_group import World
from mvit_video.preparation.pipeline import PreparePlan
from mvit_video.preparation.reencode import Encoding
from mvit_video.preparation.split_packing import ShardOptions
from mvit_video.runtime.cores import usable_cores

logger = logging.getLogger(__name__)


def prepared_manifests(config: Prepare, kind: FileKind) -> dict[str, Manifest]:
    """The manifests of the splits to prepare; a test split that is the validation split is left out.

    Args:
        config: the options.
        kind: of the files that the task is for.

    Raises:
        ValueError: a split is not configured, or has files of another kind.
    """
    source = build_source(config.data, World(rank=0, size=1, device=torch.device("cpu")))
    manifests: dict[str, Manifest] = {split: source.manifest(split) for split in _splits(config, source)}
    if "test" in manifests and "val" in manifests and manifests["test"].source == manifests["val"].source:
        del manifests["test"]
    for split, manifest in manifests.items():
        check_kind(manifest, kind)
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


def _splits(config: Prepare, source: Source) -> list[Split]:
    if config.splits is not None:
        return cast("list[Split]", list(dict.fromkeys(config.splits)))
    known: tuple[Split, ...] = ("train", "val", "test")
    return [split for split in known if source.has(split)]


def preparation_plan(config: Prepare, manifests: Mapping[str, Manifest]) -> PreparePlan:
    """The options as the preparation takes them."""
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
