"""Options of `python -m mvit_video.preview`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mvit_video.config.rules import option
from mvit_video.config.sources import SPLITS
from mvit_video.config.train import Train


@dataclass
class Preview(Train):
    """Everything a preview needs: the options of the training, what to show, and how."""

    out: str | None = option(None, help="folder of the sheets; null: <run>/preview")
    clips: int = option(16, at_least=0, help="training clips or images to show; 0: none")
    mix: bool = option(True, help="show training clips mixed with one another as they are trained on; false: apart")
    per_class: bool = option(
        False, help="instead of the first clips of a step show one training clip of each class, not mixed"
    )
    step: int = option(0, at_least=0, help="optimizer step whose batches are shown")
    processes: int = option(1, at_least=1, help="processes of the training run: they share out each step's files")
    rank: int = option(0, at_least=0, help="the one of them whose batches are shown")
    videos: int = option(
        4, at_least=0, help="videos or images whose test views are shown, spread evenly over the split; 0: none"
    )
    split: str = option("test", choices=SPLITS, help="split of these; without a test split val")
    frames: int | None = option(
        None, at_least=1, help="pictures per row, spread evenly over the clip; null: as many as fit"
    )
    scale: int | None = option(
        None, at_least=1, help="pixels of a sheet per pixel of a clip; null: more than 1 for small clips only"
    )
    animate: bool = option(False, help="each clip as an animated WebP picture, too")

    @classmethod
    def splits_read(cls, options: Any) -> list[str]:
        """See Train."""
        return ["train"] * (options.clips > 0) + [options.split] * (options.videos > 0)

    def problems(self) -> Iterator[str]:
        """Rules between two values."""
        yield from super().problems()
        if self.rank >= self.processes:
            yield f"rank={self.rank}: the ranks of processes={self.processes} run from 0 to {self.processes - 1}"
        if self.clips == 0 and self.videos == 0:
            yield "clips=0 and videos=0: nothing to show; leave one of them above 0"
