"""Data sources: objects that give the manifest of each split, as `data.source` configures them.

All splits of a source share the class names of its training split, so that a label means the same everywhere.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from mvit_video.data.datasets import manifest as read
from mvit_video.data.datasets.index_file import IndexFile
from mvit_video.data.datasets.indexed_manifest import from_index
from mvit_video.data.datasets.manifest import Manifest, Missing
from mvit_video.data.embedded.motion import MotionSpec, generate_motion

logger = logging.getLogger(__name__)
Split = Literal["train", "val", "test"]


class Source(Protocol):
    """What `data.source` has to offer."""

    def prepare(self) -> None:
        """Make the files exist. Called once, before any manifest is read."""
        ...

    def has(self, split: Split) -> bool:
        """Whether the split is configured."""
        ...

    def manifest(self, split: Split) -> Manifest:
        """Videos, labels and class names of one split; a source without test split gives its validation split."""
        ...


@dataclass(kw_only=True)
class _Splits:
    """Where each split is. Subclasses say how one is read."""

    train: str | None = None
    val: str | None = None
    test: str | None = None

    def prepare(self) -> None:
        """Nothing to make: the files are the user's."""

    def has(self, split: Split) -> bool:
        """See Source."""
        return self._resolved(split) is not None

    def manifest(self, split: Split) -> Manifest:
        """See Source. Raises ValueError when the split was not configured or its files are not as they should be."""
        actual = self._resolved(split)
        if actual is None:
            raise ValueError(
                f"data.source.{split} is not set: give the place of the {split} split, data.source.{split}=..."
            )
        result = self._read(getattr(self, actual), actual)
        return _logged(result, split)

    def _resolved(self, split: Split) -> Split | None:
        if split == "test" and self.test is None:
            split = "val"
        return split if getattr(self, split) is not None else None

    def _read(self, place: str, split: Split) -> Manifest:
        raise TypeError(f"{type(self).__name__} does not say how a split is read")


@dataclass(kw_only=True)
class ListSource(_Splits):
    """PySlowFast lists, `path label` a line; see manifest.from_list for the fields."""

    root: str | None = None
    separator: str = " "
    class_names_file: str | None = None
    num_classes: int | None = None
    missing: Missing = "error"

    def _read(self, place: str, split: Split) -> Manifest:
        return read.from_list(
            place,
            root=self.root,
            separator=self.separator,
            class_names_file=self.class_names_file,
            num_classes=self.num_classes,
            missing=self.missing,
        )


@dataclass(kw_only=True)
class LabeledVideoPathsSource(_Splits):
    """Labelled lists as PyTorchVideo reads them; see manifest.from_labeled_video_paths."""

    root: str | None = None
    class_names_file: str | None = None
    num_classes: int | None = None
    missing: Missing = "error"

    def _read(self, place: str, split: Split) -> Manifest:
        return read.from_labeled_video_paths(
            place,
            root=self.root,
            class_names_file=self.class_names_file,
            num_classes=self.num_classes,
            missing=self.missing,
        )


@dataclass(kw_only=True)
class KineticsSource(_Splits):
    """Kinetics annotation CSV files over folders of videos; see manifest.from_kinetics_csv.

    Without `class_names_file` the classes are the sorted labels of the training annotation, or of the split's own where
    no training annotation is configured.
    """

    train_root: str | None = None
    val_root: str | None = None
    test_root: str | None = None
    class_names_file: str | None = None
    missing: Missing = "error"

    def _read(self, place: str, split: Split) -> Manifest:
        root = getattr(self, f"{split}_root")
        if root is None:
            raise ValueError(f"data.source.{split}_root is not set: give the folder of the {split} videos")
        names: Sequence[str] | None = None
        if split != "train" and self.train is not None and self.class_names_file is None:
            names = read.kinetics_class_names(self.train)
        return read.from_kinetics_csv(
            place, root=root, class_names=names, class_names_file=self.class_names_file, missing=self.missing
        )


@dataclass(kw_only=True)
class Ssv2Source(_Splits):
    """Something-Something v2 JSON annotations over one folder of videos; see manifest.from_ssv2_json."""

    labels: str
    root: str
    missing: Missing = "error"

    def _read(self, place: str, split: Split) -> Manifest:
        return read.from_ssv2_json(place, root=self.root, labels_file=self.labels, missing=self.missing)


@dataclass(kw_only=True)
class FolderSource(_Splits):
    """One folder per class; see manifest.from_folder. The classes are the folders of the training split."""

    def _read(self, place: str, split: Split) -> Manifest:
        names = None
        if split != "train" and self.train is not None:
            names = read.folder_class_names(self.train)
        return read.from_folder(place, class_names=names)


@dataclass(kw_only=True)
class IndexSource(_Splits):
    """Prepared splits: the index files that mvit_video.prepare writes; see indexed_manifest.from_index."""

    root: str | None = None

    def _read(self, place: str, split: Split) -> Manifest:
        result = from_index(place, root=self.root)
        if split != "train" and self.train is not None:
            _check_same_classes(self.train, IndexFile.open(self.train).class_names, place, result.class_names)
        return result


def _check_same_classes(first: str, names: Sequence[str], second: str, others: Sequence[str]) -> None:
    if names == others:
        return
    way_out = "prepare the splits together, so that a label means the same in each"
    if len(names) != len(others):
        raise ValueError(f"{first} has {len(names)} classes and {second} has {len(others)}; {way_out}")
    label, name, other = next((i, *pair) for i, pair in enumerate(zip(names, others)) if pair[0] != pair[1])
    raise ValueError(f"class {label} is {name!r} in {first} and {other!r} in {second}; {way_out}")


@dataclass(kw_only=True)
class MotionSource:
    """The embedded set, generated on first use; see motion.MotionSpec. Its test set is its validation set too."""

    root: str
    train_videos: int = 2400
    test_videos: int = 320
    seed: int = 0
    difficulty: float = 0.5
    workers: int | None = None

    def prepare(self) -> None:
        """Generate the videos where they are not there yet."""
        spec = MotionSpec(
            train_videos=self.train_videos, test_videos=self.test_videos, seed=self.seed, difficulty=self.difficulty
        )
        generate_motion(self.root, spec, workers=self.workers)

    def has(self, split: Split) -> bool:
        """See Source: the set has every split."""
        return True

    def manifest(self, split: Split) -> Manifest:
        """See Source."""
        name = "train" if split == "train" else "test"
        root = Path(self.root)
        return _logged(read.from_list(root / f"{name}.csv", root=root, class_names_file=root / "classes.txt"), split)


def _logged(manifest: Manifest, split: Split) -> Manifest:
    left_out = f" ({len(manifest.missing)} listed files are missing or broken and left out)" if manifest.missing else ""
    shape = f"{len(manifest)} videos, {manifest.num_classes} classes"
    logger.info("%s split: %s, %s%s", split, shape, manifest.source, left_out)
    return manifest
