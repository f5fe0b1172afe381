"""Data sources: objects that give the manifest of each split, as `data.source` configures them.

All splits of a source share the class names of its training split, so that a label means the same everywhere.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from mvit_video.data.datasets import manifest as read
from mvit_video.data.datasets.class_folders import folder_class_names, from_folder
from mvit_video.data.datasets.class_names import alike, listed, read_class_names
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.index_file import IndexFile
from mvit_video.data.datasets.indexed_manifest import from_index
from mvit_video.data.datasets.left_out import describe_left_out
from mvit_video.data.datasets.manifest import Manifest, Missing
from mvit_video.data.embedded.motion import MotionSpec, generate_motion
from mvit_video.data.embedded.shapes import CLASS_NAMES as SHAPES
from mvit_video.data.embedded.shapes import ShapesSpec, generate_shapes
from mvit_video.runtime.formatting import are, count_text

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
class Splits:
    """Where each split is. Subclasses say how one is read."""

    train: str | None = None
    val: str | None = None
    test: str | None = None
    _known_classes: tuple[str, ...] | None = field(default=None, init=False, repr=False, compare=False)

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
        if actual == "train":
            self._known_classes = result.class_names
        names = self._classes(actual)
        return logged(result if names is None else result.with_classes(names), split)

    def _resolved(self, split: Split) -> Split | None:
        if split == "test" and self.test is None:
            split = "val"
        return split if getattr(self, split) is not None else None

    def _classes(self, split: Split) -> tuple[str, ...] | None:
        """The training's classes for another split, by which its labels are mapped; None where there is no training."""
        if split == "train" or self.train is None:
            return None
        if self._known_classes is None:
            self._known_classes = self._train_classes(self.train)
        return self._known_classes

    def _read(self, place: str, split: Split) -> Manifest:
        raise TypeError(f"{type(self).__name__} does not say how a split is read")

    def _train_classes(self, place: str) -> tuple[str, ...]:
        """The classes of the training split."""
        return self._read(place, "train").class_names


@dataclass(kw_only=True)
class ListSource(Splits):
    """PySlowFast lists, `path label` a line; see manifest.from_list for the fields."""

    root: str | None = None
    separator: str = " "
    class_names_file: str | None = None
    num_classes: int | None = None
    missing: Missing = "error"
    frame_rate: float | None = None

    def _read(self, place: str, split: Split) -> Manifest:
        return read.from_list(
            place,
            root=self.root,
            separator=self.separator,
            class_names_file=self.class_names_file,
            num_classes=self.num_classes,
            missing=self.missing,
            frame_rate=self.frame_rate,
        )

    def _train_classes(self, place: str) -> tuple[str, ...]:
        return read.list_class_names(
            place, separator=self.separator, class_names_file=self.class_names_file, num_classes=self.num_classes
        )


@dataclass(kw_only=True)
class LabeledVideoPathsSource(Splits):
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

    def _train_classes(self, place: str) -> tuple[str, ...]:
        return read.list_class_names(place, class_names_file=self.class_names_file, num_classes=self.num_classes)


@dataclass(kw_only=True)
class KineticsSource(Splits):
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
        names = None if self.class_names_file is not None else self._classes(split)
        return read.from_kinetics_csv(
            place, root=root, class_names=names, class_names_file=self.class_names_file, missing=self.missing
        )

    def _train_classes(self, place: str) -> tuple[str, ...]:
        if self.class_names_file is not None:
            return read_class_names(self.class_names_file)
        return read.kinetics_class_names(place)


@dataclass(kw_only=True)
class Ssv2Source(Splits):
    """Something-Something v2 JSON annotations over one folder of videos; see manifest.from_ssv2_json."""

    labels: str
    root: str
    missing: Missing = "error"
    frame_rate: float | None = None

    def _read(self, place: str, split: Split) -> Manifest:
        return read.from_ssv2_json(
            place, root=self.root, labels_file=self.labels, missing=self.missing, frame_rate=self.frame_rate
        )

    def _train_classes(self, place: str) -> tuple[str, ...]:
        return read_class_names(self.labels)


@dataclass(kw_only=True)
class FolderSource(Splits):
    """One folder per class; see class_folders.from_folder. The classes are the folders of the training split."""

    frame_rate: float | None = None

    def _read(self, place: str, split: Split) -> Manifest:
        return from_folder(place, frame_rate=self.frame_rate)

    def _train_classes(self, place: str) -> tuple[str, ...]:
        return folder_class_names(place, frame_rate=self.frame_rate)


@dataclass(kw_only=True)
class IndexSource(Splits):
    """Prepared splits: the index files that mvit_video.prepare writes; see indexed_manifest.from_index."""

    root: str | None = None

    def _read(self, place: str, split: Split) -> Manifest:
        if self.root is not None and self.train is not None and split != "train":
            self._check_roots(place, split)
        return from_index(place, root=self.root)

    def _check_roots(self, place: str, split: Split) -> None:
        """Refuse one root in the place of two: files of one split could be taken for those of another."""
        assert self.train is not None
        ours, trained = IndexFile.open(place).root, IndexFile.open(self.train).root
        if ours != trained:
            raise ValueError(
                f"data.source.root={self.root} would stand for two folders: paths of {self.train} start from "
                f"{trained}, those of {place} from {ours}. Prepare both splits again with one command, which gives "
                "them one folder, or leave root out and have the videos where they were"
            )

    def _train_classes(self, place: str) -> tuple[str, ...]:
        return IndexFile.open(place).class_names


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
        return logged(read.from_list(root / f"{name}.csv", root=root, class_names_file=root / "classes.txt"), split)


@dataclass(kw_only=True)
class ShapesSource:
    """The embedded set of images, generated on first use; see shapes.ShapesSpec. Its test set validates, too."""

    root: str
    train_images: int = 3000
    test_images: int = 600
    seed: int = 0

    def prepare(self) -> None:
        """Generate the images where they are not there yet."""
        spec = ShapesSpec(train_images=self.train_images, test_images=self.test_images, seed=self.seed)
        generate_shapes(self.root, spec)

    def has(self, split: Split) -> bool:
        """See Source: the set has every split."""
        return True

    def manifest(self, split: Split) -> Manifest:
        """See Source."""
        folder = Path(self.root) / ("train" if split == "train" else "test")
        listed = [(path, label) for label, name in enumerate(SHAPES) for path in sorted((folder / name).glob("*.jpg"))]
        paths, labels = [str(path) for path, _ in listed], [label for _, label in listed]
        return logged(Manifest(paths, labels, SHAPES, str(folder), kind=IMAGES), split)


def logged(manifest: Manifest, split: Split) -> Manifest:
    """The manifest, after saying what it holds and what it does not."""
    gone = len(manifest.missing)
    left_out = f" ({count_text(gone, 'listed file')} {are(gone)} missing or broken and left out)" if gone else ""
    shape = f"{count_text(len(manifest), manifest.kind.noun)}, {count_text(manifest.num_classes, 'class')}"
    logger.info("%s split: %s, %s%s", split, shape, manifest.source, left_out)
    if manifest.left_out:
        count = sum(map(len, manifest.left_out.values()))
        texts = (count_text(count, manifest.left_out_noun), are(count), describe_left_out(manifest.left_out))
        logger.warning("%s split: %s %s not used. %s", split, *texts)
    empty = manifest.empty_classes()
    if empty:
        # A split to measure on may well lack classes; a training that lacks one cannot learn it.
        level = logging.WARNING if split == "train" else logging.INFO
        has = "has" if len(empty) == 1 else "have"
        counts = (len(empty), manifest.num_classes, has, manifest.kind.noun, listed(empty))
        logger.log(level, "%s split: %d of %d classes %s no %s: %s", split, *counts)
    if split == "train":
        for group in alike(manifest.class_names):
            logger.warning(
                "%s split: these are different classes, for names count as written: %s", split, listed(group)
            )
    return manifest
