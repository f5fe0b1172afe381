"""An own data source: videos with a rating, in text files of `path rating` lines."""

from dataclasses import dataclass
from pathlib import Path

from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Split


@dataclass(kw_only=True)
class RatedVideos:
    """Videos in `<root>/<split>.csv`.

    Args:
        root: folder of the lists; their paths start there.
        levels: ratings run from 0 to levels - 1. An own option: `data.source.levels=5` on the command line.
    """

    root: str
    levels: int = 8

    def prepare(self) -> None:
        """Nothing to make: the files are there."""

    def has(self, split: Split) -> bool:
        """Whether there is a list."""
        return self._list(split).is_file()

    def manifest(self, split: Split) -> Manifest:
        """Videos and ratings of a split.

        Raises:
            ValueError: a rating is not among the levels.
        """
        rows = [line.rsplit(maxsplit=1) for line in self._list(split).read_text(encoding="utf-8").splitlines()]
        for path, rating in rows:
            if not (rating.isdigit() and int(rating) < self.levels):
                raise ValueError(f"{path}: the rating is {rating}; it must be a whole number below {self.levels}")
        return Manifest(
            [str(Path(self.root) / path) for path, _ in rows],
            [int(rating) for _, rating in rows],
            tuple(str(level) for level in range(self.levels)),
            str(self._list(split)),
        )

    def _list(self, split: Split) -> Path:
        return Path(self.root) / ("train.csv" if split == "train" else "test.csv")
