"""An own data source: `robin_0412.mp4` and `robin_0413.mp4` are robins, all in one folder."""

from dataclasses import dataclass
from pathlib import Path

from mvit_video.data import Manifest
from mvit_video.data.datasets.extensions import VIDEO_EXTENSIONS
from mvit_video.data.datasets.sources import Split


@dataclass(kw_only=True)
class NamedFiles:
    """Videos named CLASS_ANYTHING.

    Args:
        root: their folder. There is no validation split: `data.holdout=0.2` cuts one off.
        separator: ends the name of the class. An own option: `data.source.separator=-` on the command line.
    """

    root: str
    separator: str = "_"

    def prepare(self) -> None:
        """Nothing to make: the files are there."""

    def has(self, split: Split) -> bool:
        """There is one folder, and it is for training."""
        return split == "train"

    def manifest(self, split: Split) -> Manifest:
        """The videos and their classes.

        Raises:
            ValueError: a file name without separator.
        """
        files = sorted(path for path in Path(self.root).iterdir() if path.name.lower().endswith(VIDEO_EXTENSIONS))
        for path in files:
            if self.separator not in path.stem:
                raise ValueError(f"{path}: has no {self.separator!r} behind the name of its class; rename it")
        classes = [path.name.split(self.separator)[0] for path in files]
        names = tuple(sorted(set(classes)))
        return Manifest([str(path) for path in files], [names.index(name) for name in classes], names, self.root)
