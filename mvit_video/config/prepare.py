"""Options of `python -m mvit_video.prepare`."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from mvit_video.config.rules import option
from mvit_video.config.sources import SPLITS
from mvit_video.config.train import Train

_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


@dataclass
class ReencodeOptions:
    """Writing videos again for quick reading, on the same time line: H.264 without sound."""

    enabled: bool = option(False, help="re-encode at all")
    folder: str | None = option(None, help="where the new files go; null: <out>/videos")
    short_side: int = option(
        256, at_least=16, at_most=8192, help="in pixels, 256 or 320 is usual; smaller videos are not enlarged"
    )
    gop: int = option(16, at_least=1, help="most frames from one key frame to the next")
    crf: int = option(
        23, at_least=0, at_most=51, help="x264's quality from 0 (lossless, large) to 51 (poor, small); 23 is usual"
    )
    preset: str = option("medium", choices=_PRESETS, help="x264's trade of time for size")
    fastdecode: bool = option(True, help="no CABAC, deblocking and B pictures: quicker to read, somewhat larger")
    time_limit_s: float = option(600.0, at_least=0, help="time limit per file in seconds; 0: none")


@dataclass
class ShardOptions:
    """Packing videos into tar shards, for file systems that cannot serve many small files."""

    enabled: bool = option(False, help="pack at all")
    folder: str | None = option(None, help="a folder or fsspec URL; null: <out>/shards")
    max_gb: float = option(1.0, above=0, help="size of a shard, in 10^9 bytes")


@dataclass
class Prepare(Train):
    """Everything the preparation of a data set needs: the options of the training, where to write, how far to go."""

    name: str = option("prepare", help="name of the run; the preparation has no use for it")
    out: str = option(MISSING, help="folder of the indexes, the report and what makes the run resumable")
    splits: list[str] | None = option(
        None, choices=SPLITS, help="splits to prepare; null, or left out: all that are configured"
    )
    verify: str = option(
        "decode",
        choices=("decode", "index"),
        help="decode: every frame of every video; index: read the packets only",
    )
    workers: int | None = option(None, at_least=1, help="processes; null: one per core")
    time_limit_s: float = option(60.0, at_least=0, help="time limit per file in seconds; 0: none")
    limit: int | None = option(None, at_least=1, help="take so many videos of each split, spread over it; null: all")
    keep_partial: bool = option(False, help="index files that can be read up to a damage, with the frames before it")
    retry_broken: bool = option(False, help="try files again that earlier runs found broken")
    strict: bool = option(False, help="exit with status 1 if any video is missing or broken")
    dry_run: bool = option(False, help="say what it would cost, and stop")
    ask: bool = option(True, help="ask before a run of more than ten minutes, on a terminal")
    reencode: ReencodeOptions = field(default_factory=ReencodeOptions)
    shards: ShardOptions = field(default_factory=ShardOptions)

    @classmethod
    def splits_read(cls, options: Any) -> list[str]:
        """See Train."""
        configured = [split for split in SPLITS if options.data.source.get(split) is not None]
        return list(options.splits or configured or ["train"])
