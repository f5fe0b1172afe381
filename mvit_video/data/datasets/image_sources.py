"""Sources of images that are files: a folder per class, and lists. Tables are in table.py, ImageNet in imagenet.py."""

from dataclasses import dataclass

from mvit_video.data.datasets import manifest as read
from mvit_video.data.datasets.class_folders import folder_class_names, from_folder
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.manifest import Manifest, Missing
from mvit_video.data.datasets.sources import Split, Splits


@dataclass(kw_only=True)
class ImageFolderSource(Splits):
    """One folder of images per class; see class_folders.from_folder. The classes are those of the training split."""

    def _read(self, place: str, split: Split) -> Manifest:
        return from_folder(place, kind=IMAGES)

    def _train_classes(self, place: str) -> tuple[str, ...]:
        return folder_class_names(place, kind=IMAGES)


@dataclass(kw_only=True)
class ImageListSource(Splits):
    """Lists of images, `path label` a line; see manifest.from_list for the fields."""

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
            kind=IMAGES,
        )

    def _train_classes(self, place: str) -> tuple[str, ...]:
        return read.list_class_names(
            place,
            separator=self.separator,
            class_names_file=self.class_names_file,
            num_classes=self.num_classes,
            kind=IMAGES,
        )
