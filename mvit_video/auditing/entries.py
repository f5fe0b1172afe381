"""The videos of the training and of the audited split in one list: the first ones are the training's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segment


@dataclass(frozen=True)
class Entries:
    """Both splits.

    Attributes:
        train: the training split.
        audited: the split whose number is audited.
        split: its name.
    """

    train: Manifest
    audited: Manifest
    split: str

    def __len__(self) -> int:
        return len(self.train) + len(self.audited)

    def where(self, place: int) -> tuple[Manifest, int]:
        """The split of an entry, and its place in it."""
        first = len(self.train)
        return (self.train, place) if place < first else (self.audited, place - first)

    def in_training(self, place: int) -> bool:
        """Whether an entry is trained on."""
        return place < len(self.train)

    def split_of(self, place: int) -> str:
        """The name of the split of an entry."""
        return "train" if self.in_training(place) else self.split

    def path(self, place: int) -> str:
        """The path of an entry."""
        manifest, index = self.where(place)
        return manifest.paths[index]

    def segment(self, place: int) -> Segment:
        """The stretch of its file that an entry is."""
        manifest, index = self.where(place)
        return manifest.segment(index)

    def shown(self, place: int) -> str:
        """Its path, with the stretch where it is one."""
        segment = self.segment(place)
        return self.path(place) if segment.whole else f"{self.path(place)} [{segment}]"

    def classes(self, place: int) -> tuple[str, ...]:
        """The names of the classes of an entry."""
        manifest, index = self.where(place)
        labels: Sequence[int] = (manifest.labels[index],)
        if manifest.label_sets is not None:
            labels = manifest.label_sets[index]
        return tuple(manifest.class_names[label] for label in labels)

    def group(self, place: int) -> str:
        """The group that the data set states; empty if it states none."""
        manifest, index = self.where(place)
        return "" if manifest.groups is None else manifest.groups[index]

    def audited_rows(self, places: np.ndarray) -> np.ndarray:
        """Of an array with a value for every entry, those of the audited split."""
        return places[len(self.train) :]
