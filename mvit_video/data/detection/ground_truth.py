"""A detection set in COCO's form, for evaluators and for files: whatever form it was read from."""

import os
from typing import Any

from mvit_video.data.detection.annotations import DetectionManifest


def ground_truth(manifest: DetectionManifest, *, root: str | None = None) -> dict[str, Any]:
    """`images`, `annotations` and `categories` as COCO's JSON has them, with the ids of the manifest.

    Classes without a number in the file, which have no instance either, are numbered behind all that it lists.

    Args:
        manifest: the set.
        root: folder that `file_name` starts from; None for the bare names.
    """
    numbers = category_numbers(manifest)
    images, annotations = [], []
    for row, path in enumerate(manifest.paths):
        height, width = manifest.size(row)
        image_id = manifest.image_ids[row]
        name = os.path.basename(path) if root is None else os.path.relpath(path, root)
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        instances = manifest.instances(row)
        begin = int(manifest.annotations.starts[row])
        boxes = manifest.annotations.boxes[begin : begin + len(instances)]
        for place, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            entry: dict[str, Any] = {
                "id": int(instances.ids[place]),
                "image_id": image_id,
                "category_id": numbers[int(instances.labels[place])],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(instances.areas[place]),
                "iscrowd": int(instances.crowds[place]),
            }
            if instances.masks is not None:
                entry["segmentation"] = instances.masks.coco(place)
            annotations.append(entry)
    categories = [{"id": number, "name": name} for number, name in zip(numbers, manifest.class_names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def category_numbers(manifest: DetectionManifest) -> tuple[int, ...]:
    """The number of each class, in the order of the classes; each once."""
    free = manifest.free_category_id
    numbers = []
    for number in manifest.category_ids:
        numbers.append(number if number >= 0 else free)
        free += number < 0
    return tuple(numbers)
