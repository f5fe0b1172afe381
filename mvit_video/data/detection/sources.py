"""Sources of images with boxes and masks, as `data.source` configures them: COCO's format, and YOLO's."""

from dataclasses import dataclass
from typing import cast

from mvit_video.data.datasets.class_names import read_class_names
from mvit_video.data.datasets.manifest import Missing
from mvit_video.data.datasets.sources import Split, Splits, logged
from mvit_video.data.detection.annotations import DetectionManifest
from mvit_video.data.detection.assembly import EmptyImages
from mvit_video.data.detection.coco_json import coco_class_names, from_coco
from mvit_video.data.detection.findings import Mistakes
from mvit_video.data.detection.yolo import from_yolo
from mvit_video.data.detection.yolo_files import YoloData, read_data_yaml
from mvit_video.images.decoding import Orientation


@dataclass(kw_only=True)
class CocoSource(Splits):
    """COCO files of instances, one for each split; see coco_json.from_coco for the fields.

    `empty_images` is about the training alone: an evaluation keeps all images.
    """

    train_root: str | None = None
    val_root: str | None = None
    test_root: str | None = None
    empty_images: EmptyImages = "leave_out"
    missing: Missing = "error"
    mistakes: Mistakes = "error"
    masks: bool = True
    boxes_as_masks: bool = False

    def manifest(self, split: Split) -> DetectionManifest:
        """See Source."""
        return cast(DetectionManifest, super().manifest(split))

    def _read(self, place: str, split: Split) -> DetectionManifest:
        return from_coco(
            place,
            root=getattr(self, f"{split}_root"),
            empty_images=self.empty_images if split == "train" else "keep",
            missing=self.missing,
            mistakes=self.mistakes,
            masks=self.masks,
            boxes_as_masks=self.boxes_as_masks,
        )

    def _train_classes(self, place: str) -> tuple[str, ...]:
        return coco_class_names(place)


@dataclass(kw_only=True)
class YoloSource(Splits):
    """Labels in YOLO's text form; see yolo.from_yolo for the fields.

    Attributes:
        data: a data.yaml, with the names of the classes and the places of the splits; or give `train`, `val` and
            `class_names_file`. What is given beside it takes the place of what it has.
        train, val, test: folder of the pictures, or a text file that lists them.
        class_names_file: one name a line (classes.txt), in the order of the numbers.
    """

    data: str | None = None
    class_names_file: str | None = None
    orientation: Orientation = "apply"
    empty_images: EmptyImages = "keep"
    missing: Missing = "error"
    mistakes: Mistakes = "error"
    masks: bool = True
    boxes_as_masks: bool = False

    def has(self, split: Split) -> bool:
        """See Source."""
        return any(self._places(name) for name in ((split, "val") if split == "test" else (split,)))

    def manifest(self, split: Split) -> DetectionManifest:
        """See Source."""
        actual: Split = "val" if split == "test" and not self._places("test") else split
        places = self._places(actual)
        if not places:
            raise ValueError(
                f"data.source.{split} is not set, and no data.yaml (data.source.data) has it: give the folder of the "
                f"{split} pictures, data.source.{split}=..."
            )
        manifest = from_yolo(
            places,
            class_names=self._names(),
            orientation=self.orientation,
            empty_images=self.empty_images if actual == "train" else "keep",
            missing=self.missing,
            mistakes=self.mistakes,
            masks=self.masks,
            boxes_as_masks=self.boxes_as_masks,
        )
        return cast(DetectionManifest, logged(manifest, split))

    def _yaml(self) -> YoloData | None:
        return None if self.data is None else read_data_yaml(self.data)

    def _places(self, split: str) -> tuple[str, ...]:
        given = getattr(self, split)
        if given is not None:
            return (given,)
        stated = self._yaml()
        return () if stated is None else stated.splits.get(split, ())

    def _names(self) -> tuple[str, ...]:
        if self.class_names_file is not None:
            return read_class_names(self.class_names_file)
        stated = self._yaml()
        if stated is None:
            raise ValueError(
                "neither data.source.data nor data.source.class_names_file is set: give a data.yaml, or a file with "
                "the names of the classes, one a line, in the order of their numbers"
            )
        return stated.names
