"""A hand-made COCO set with one of each oddity, for the tests of detection data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

WIDTH, HEIGHT = 40, 30
SQUARE = [5, 6, 15, 6, 15, 16, 5, 16]  # corners of the first cat


def disc() -> np.ndarray:
    """A bitmap: a disc in an image."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (x - 25) ** 2 + (y - 12) ** 2 <= 50


def counts(bitmap: np.ndarray) -> list[int]:
    """Run lengths of a bitmap as plain numbers, column after column."""
    flat = bitmap.ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends, len(flat)]).tolist()
    return [0, *runs] if flat[0] else runs


def packed(bitmap: np.ndarray) -> str:
    """Compressed run lengths."""
    return coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))["counts"].decode()


def content() -> dict[str, Any]:
    """The set: polygons in one part and in two, both kinds of run lengths, a crowd, an image without instances, one
    with a crowd alone, classes whose ids have gaps and are not in order, and one that nothing has."""

    def image(number: int) -> dict[str, Any]:
        return {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}

    def instance(number: int, image_id: int, category_id: int, box: list[float], shape: Any, crowd: int = 0) -> dict:
        return {
            "id": number, "image_id": image_id, "category_id": category_id, "bbox": box, "area": 50.5,
            "segmentation": shape, "iscrowd": crowd,
        }  # fmt: skip

    size = [HEIGHT, WIDTH]
    parts = [[2, 2, 6, 2, 6, 5, 2, 5], [20.25, 20.5, 30.75, 20.5, 25, 28]]
    return {
        "images": [image(7), image(3), image(100), image(4)],
        "annotations": [
            instance(11, 3, 90, [5, 6, 10, 10], [SQUARE]),
            instance(12, 7, 2, [17, 4, 16, 16], {"size": size, "counts": packed(disc())}),
            instance(13, 3, 2, [2, 2, 28.75, 26], parts),
            instance(14, 7, 90, [17, 4, 16, 16], {"size": size, "counts": counts(disc())}),
            instance(15, 7, 90, [17, 4, 16, 16], {"size": size, "counts": counts(disc())}, crowd=1),
            instance(16, 4, 2, [0, 0, 5, 5], {"size": size, "counts": counts(disc())}, crowd=1),
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 13, "name": "bird"}],
    }


def write_set(folder: Path, made: dict[str, Any] | None = None, name: str = "instances_train.json") -> Path:
    """The files of a set: images in `train`, and the JSON in `annotations`."""
    made = content() if made is None else made
    (folder / "train").mkdir(exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for image in content()["images"]:
        Image.new("RGB", (WIDTH, HEIGHT), (image["id"], 0, 0)).save(folder / "train" / image["file_name"])
    path = folder / "annotations" / name
    path.write_text(json.dumps(made))
    return path
