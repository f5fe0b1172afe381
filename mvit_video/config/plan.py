"""Options of `python -m mvit_video.plan`."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mvit_video.config.machine import Machine
from mvit_video.config.rules import option
from mvit_video.config.train import Train

# Options of sources that say where the training split is.
TRAINING_PLACES = ("train", "folder")


@dataclass
class Plan(Train):
    """Everything a plan needs: the options of the training, the machine, and what is known of the videos or images."""

    machine: Machine = field(default_factory=Machine)
    nodes: int = option(1, at_least=1, help="nodes of that machine")
    num_videos: int | None = option(
        None,
        at_least=1,
        help="training videos or images; null: those of data.source.train if it is given, or as many as were published",
    )
    published_videos: int | None = option(None, at_least=1, help="set by conf/data_statistics")
    published_kb: float | None = option(None, above=0, help="likewise: average size of a file")
    videos_per_core_s: float | None = option(
        None,
        above=0,
        help="videos or images decoded and augmented per core and second, as scripts/bench_data.py and bench_images.py "
        "measure it; null: 20 videos or 200 images",
    )
    video_kb: float | None = option(
        None,
        above=0,
        help="average size of a file, in 1000 bytes; null: that of the training files if they are given, else as "
        "published, else 500 (videos) or 110 (images)",
    )

    @classmethod
    def splits_read(cls, options: Any) -> list[str]:
        """See Train: a plan reads no video."""
        return []

    @classmethod
    def unneeded(cls, options: Any) -> set[str]:
        """See Train: without a training list to count, nothing of the data source matters."""
        source = options.data.source
        if not isinstance(source, DictConfig) or any(source.get(key) is not None for key in TRAINING_PLACES):
            return set()
        return {f"data.source.{key!s}" for key in source if OmegaConf.is_missing(source, key)}
