"""Options of the group `data/source`: where the videos and labels of each split are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import MISSING, SI, DictConfig

from mvit_video.config.rules import option

SPLITS = ("train", "val", "test")
_EVERY_SPLIT = ("table", "folder", "data")  # fields that may hold every split at once
_MISSING_FILES = "what to do about listed files that do not exist: stop, or train without them and say how many"
_FRAME_RATE = "frames per second of videos that are folders of numbered pictures; null: there are none"
_ROOT = "folder or URL that relative paths start from; null: the current one, or the list's if no file is there"
_CLASS_NAMES = "file with one class name a line, in the order of the labels"


@dataclass
class ListOptions:
    """What lists of videos and of images have in common."""

    _target_: str = MISSING
    train: str | None = option(None, help="the training list")
    val: str | None = option(None, help="the validation list")
    test: str | None = option(None, help="the test list; null: the validation list")
    root: str | None = option(None, help=_ROOT)
    class_names_file: str | None = option(None, help=_CLASS_NAMES)
    num_classes: int | None = option(SI("${data.num_classes}"), at_least=1, help="labels run from 0 to this minus 1")
    missing: str = option("error", choices=("error", "skip"), help=_MISSING_FILES)


@dataclass
class ListSource(ListOptions):
    """PySlowFast lists: one `path label` a line."""

    _target_: str = "mvit_video.data.datasets.sources.ListSource"
    separator: str = option(" ", help="what stands between path and label")
    frame_rate: float | None = option(None, above=0, help=_FRAME_RATE)


@dataclass
class KineticsSource:
    """Kinetics annotation CSV files over folders of trimmed videos."""

    _target_: str = "mvit_video.data.datasets.sources.KineticsSource"
    train: str | None = option(None, help="the training annotation")
    val: str | None = option(None, help="the validation annotation")
    test: str | None = option(None, help="the test annotation; null: the validation annotation")
    train_root: str | None = option(None, help="folder of the training videos")
    val_root: str | None = option(None, help="folder of the validation videos")
    test_root: str | None = option(None, help="folder of the test videos")
    class_names_file: str | None = option(
        None, help=f"{_CLASS_NAMES}; null: the sorted labels of the training annotation"
    )
    missing: str = option("error", choices=("error", "skip"), help=_MISSING_FILES)


@dataclass
class Ssv2Source:
    """Something-Something v2: the JSON annotations over one folder of webm files."""

    _target_: str = "mvit_video.data.datasets.sources.Ssv2Source"
    train: str | None = option(None, help="the training annotation")
    val: str | None = option(None, help="the validation annotation")
    test: str | None = option(None, help="the test annotation; null: the validation annotation")
    labels: str = option(MISSING, help="the JSON file that numbers the templates")
    root: str = option(MISSING, help="folder of the webm files")
    missing: str = option("error", choices=("error", "skip"), help=_MISSING_FILES)
    frame_rate: float | None = option(
        None, above=0, help="frames per second, where the videos are folders of extracted frames; null: webm files"
    )


@dataclass
class FolderSource:
    """One folder per class; the validation videos in folders of the same names."""

    _target_: str = "mvit_video.data.datasets.sources.FolderSource"
    train: str | None = option(None, help="folder of the training videos, with one folder per class in it")
    val: str | None = option(None, help="folder of the validation videos")
    test: str | None = option(None, help="folder of the test videos; null: that of the validation videos")
    frame_rate: float | None = option(None, above=0, help=_FRAME_RATE)


@dataclass
class LabeledVideoPathsSource(ListOptions):
    """Labelled lists (or folders, in the place of lists) as PyTorchVideo reads them."""

    _target_: str = "mvit_video.data.datasets.sources.LabeledVideoPathsSource"


@dataclass
class IndexSource:
    """Prepared splits: the index files that mvit_video.prepare writes."""

    _target_: str = "mvit_video.data.datasets.sources.IndexSource"
    train: str | None = option(None, help="index of the training split")
    val: str | None = option(None, help="index of the validation split")
    test: str | None = option(None, help="index of the test split; null: that of the validation split")
    root: str | None = option(None, help="where the videos or shards are now, if they were moved")


@dataclass
class MotionSource:
    """The embedded set of time-reversed motions, generated on first use."""

    _target_: str = "mvit_video.data.datasets.sources.MotionSource"
    root: str = option("data/motion", help="folder it is written to")
    train_videos: int = option(2400, at_least=1, help="training videos")
    test_videos: int = option(320, at_least=1, help="test videos")
    seed: int = option(0, at_least=0, help="another seed draws other scenes")
    difficulty: float = option(0.5, at_least=0, help="how much disturbs the motion: 0 nothing, 1 a lot")
    workers: int | None = option(None, at_least=1, help="processes that write it; null: one per core")


@dataclass
class ShapesSource:
    """The embedded set of images: one of four kinds of figures in each, generated on first use."""

    _target_: str = "mvit_video.data.datasets.sources.ShapesSource"
    root: str = option("data/shapes", help="folder it is written to")
    train_images: int = option(3000, at_least=1, help="training images")
    test_images: int = option(600, at_least=1, help="test images")
    seed: int = option(0, at_least=0, help="another seed draws other pictures")


class SourceWithDefaults:
    """A schema some of whose places may be left open, since the source looks for them itself."""

    _target_: str
    optional_places: ClassVar[tuple[str, ...]]


def missing_locations(source: Any, splits: Sequence[str], *, cut_training: bool = False) -> set[str]:
    """Names of the fields that say where `splits` are and have no value: to the schema all of them are optional.

    A source without test split gives its validation split. A user's own source is asked for the fields it has.

    Args:
        source: the options of the group, some of them still without a value.
        splits: those the command cannot do without.
        cut_training: whether the validation split is cut off the training split.
    """
    if not isinstance(source, DictConfig) or any(source.get(key) is not None for key in _EVERY_SPLIT):
        return set()
    read = ["val" if split == "test" and source.get("test") is None else split for split in splits]
    if cut_training:
        read = ["train" if split == "val" else split for split in read]
    keys = {key for split in read for key in (split, f"{split}_root")}
    # A source that comes from a run is without its schema, but says which class it stands for.
    kinds = [kind for kind in SourceWithDefaults.__subclasses__() if source.get("_target_") == kind._target_]
    optional = kinds[0].optional_places if kinds else ()
    return {key for key in keys if key in source and source.get(key) is None and key not in optional}
