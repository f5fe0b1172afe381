"""The embedded set `scenes` as a data source."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvit_video.data.datasets.array_views import IntArrayView
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.sources import Split
from mvit_video.data.detection.annotations import AnnotationColumns, DetectionManifest, label_columns
from mvit_video.data.detection.masks import RunLengths
from mvit_video.data.detection.shape_columns import ShapeColumns
from mvit_video.data.embedded.scenes import ScenesSpec, generate_scenes


@dataclass(kw_only=True)
class ScenesSource:
    """The embedded set of detection, generated on first use; see scenes.ScenesSpec. Its test set validates, too."""

    root: str
    train_images: int = 1200
    test_images: int = 200
    seed: int = 0

    def prepare(self) -> None:
        """Generate the scenes where they are not there yet."""
        spec = ScenesSpec(train_images=self.train_images, test_images=self.test_images, seed=self.seed)
        generate_scenes(self.root, spec)

    def has(self, split: Split) -> bool:
        """See Source: the set has every split."""
        return True

    def manifest(self, split: Split) -> DetectionManifest:
        """See Source."""
        name = "train" if split == "train" else "test"
        return from_coco(Path(self.root) / "annotations" / f"{name}.json", folder=Path(self.root) / name)


def from_coco(path, *, folder):  # TEMPORARY
    c = json.loads(Path(path).read_text())
    from pycocotools import mask as M

    anns = sorted(c["annotations"], key=lambda a: (a["image_id"], a["id"]))
    counts = np.bincount([a["image_id"] - 1 for a in anns], minlength=len(c["images"]))
    starts = np.concatenate([[0], np.cumsum(counts)])
    labels = np.array([a["category_id"] - 1 for a in anns], np.int32)
    b = np.array([a["bbox"] for a in anns], np.float64)
    b[:, 2:] += b[:, :2]
    shapes = [
        RunLengths(
            tuple(a["segmentation"]["size"]), M.frPyObjects(a["segmentation"], *a["segmentation"]["size"])["counts"]
        )
        for a in anns
    ]
    return DetectionManifest(
        [str(Path(folder) / i["file_name"]) for i in c["images"]],
        **label_columns(labels, starts),
        class_names=tuple(x["name"] for x in c["categories"]),
        source=str(path),
        kind=IMAGES,
        sizes=np.array([[i["height"], i["width"]] for i in c["images"]], np.int32),
        image_ids=IntArrayView([i["id"] for i in c["images"]]),
        category_ids=tuple(x["id"] for x in c["categories"]),
        annotations=AnnotationColumns(
            starts=starts,
            boxes=b,
            labels=labels,
            crowds=np.zeros(len(anns), bool),
            ids=np.array([a["id"] for a in anns]),
            areas=np.array([a["area"] for a in anns], float),
            shapes=ShapeColumns.of_shapes(shapes),
        ),
    )
