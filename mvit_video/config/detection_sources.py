"""Options of the group `data/source` for detection: where images are, and their boxes and masks."""

from dataclasses import dataclass
from typing import ClassVar

from mvit_video.config.rules import option
from mvit_video.config.sources import SourceWithDefaults

_ROOT = "folder of its images; null: the usual places around the file"
_MISSING = "what to do about listed images that do not exist: stop, or leave them out and say how many"
_MISTAKES = "what to do about annotations that contradict themselves or the file: stop, or leave them out, counted"
_EMPTY = "what becomes of training images without instances, or with crowds alone; an evaluation keeps all"
_MASKS = "read masks, too; false: boxes alone"
_BOXES_AS_MASKS = "instances without a mask have their box for one"


@dataclass
class CocoSource(SourceWithDefaults):
    """COCO's files of instances, and any data set in that format; its images beside."""

    optional_places: ClassVar[tuple[str, ...]] = ("train_root", "val_root", "test_root")
    _target_: str = "mvit_video.data.detection.sources.CocoSource"
    train: str | None = option(None, help="the JSON file of the training instances")
    val: str | None = option(None, help="that of the validation")
    test: str | None = option(None, help="that of the test; null: that of the validation")
    train_root: str | None = option(None, help=_ROOT)
    val_root: str | None = option(None, help=_ROOT)
    test_root: str | None = option(None, help=_ROOT)
    empty_images: str = option("leave_out", choices=("leave_out", "keep"), help=_EMPTY)
    missing: str = option("error", choices=("error", "skip"), help=_MISSING)
    mistakes: str = option("error", choices=("error", "leave_out"), help=_MISTAKES)
    masks: bool = option(True, help=_MASKS)
    boxes_as_masks: bool = option(False, help=_BOXES_AS_MASKS)


@dataclass
class YoloSource:
    """Labels in YOLO's text form, a file beside each image: boxes, or polygons."""

    _target_: str = "mvit_video.data.detection.sources.YoloSource"
    data: str | None = option(None, help="a data.yaml, which has names and splits; what is given beside it counts more")
    train: str | None = option(None, help="folder of the training images, or a text file that lists them")
    val: str | None = option(None, help="likewise of the validation")
    test: str | None = option(None, help="likewise of the test; null: of the validation")
    class_names_file: str | None = option(None, help="file with one class name a line, in the order of the numbers")
    orientation: str = option(
        "apply", choices=("apply", "ignore"), help="labels are drawn on the image as EXIF turns it, or as it is stored"
    )
    empty_images: str = option("keep", choices=("leave_out", "keep"), help=_EMPTY)
    missing: str = option("error", choices=("error", "skip"), help=_MISSING)
    mistakes: str = option("error", choices=("error", "leave_out"), help=_MISTAKES)
    masks: bool = option(True, help=_MASKS)
    boxes_as_masks: bool = option(False, help=_BOXES_AS_MASKS)
