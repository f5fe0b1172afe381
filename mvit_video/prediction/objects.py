"""Objects that a detector finds: from its answers to results, and results in COCO's format."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mvit_video.data.detection.masks import encode_bitmap
from mvit_video.prediction.results import ClassScore, FilePrediction, FoundObject, Window
from mvit_video.runtime.files import replacing

COCO_FILE = "predictions.json"


def found_objects(
    found: Mapping[str, torch.Tensor], class_names: Sequence[str], *, threshold: float, masks: bool
) -> tuple[FoundObject, ...]:
    """What was found in a picture, best first.

    Args:
        found: of a picture of H x W: boxes (n, 4), scores (n), labels (n) and masks bool (n, H, W).
        class_names: by label.
        threshold: score from which an object counts.
        masks: whether its masks mean something.
    """
    kept = [place for place, score in enumerate(found["scores"].tolist()) if score >= threshold]
    boxes, scores, labels = (found[name].float().cpu().tolist() for name in ("boxes", "scores", "labels"))
    objects = []
    for place in kept:
        x1, y1, x2, y2 = boxes[place]
        mask = encode_bitmap(found["masks"][place].cpu().numpy()) if masks else None
        objects.append(FoundObject(class_names[int(labels[place])], scores[place], (x1, y1, x2, y2), mask))
    return tuple(objects)


def best_of_each_class(windows: Sequence[Window]) -> tuple[ClassScore, ...]:
    """Each class of a video with its best score in any frame, best first."""
    best: dict[str, float] = {}
    for one in (one for window in windows for one in window.predictions):
        best[one.name] = max(best.get(one.name, 0.0), one.score)
    return tuple(ClassScore(name, score) for name, score in sorted(best.items(), key=lambda item: -item[1]))


def write_coco(path: Path, found: Sequence[FilePrediction], numbers: Mapping[str, int]) -> int:
    """Write the objects of images as COCO's results, which its evaluators read; the number of images.

    An image has the number of its place among the results, from 1, videos and broken files counted, and its path.
    Nothing is written if there is no image.

    Args:
        path: the file.
        found: results; those of videos and of files that could not be read are passed over.
        numbers: of the classes.
    """
    images = [place for place, one in enumerate(found, 1) if one.windows is None and one.error is None]
    if not images:
        return 0
    with replacing(path) as beside, open(beside, "w", encoding="utf-8", errors="backslashreplace") as file:
        start = "["
        for place in images:
            for entry in _entries(place, found[place - 1], numbers):
                file.write(start + json.dumps(entry, ensure_ascii=False))
                start = ",\n"
        file.write("[]\n" if start == "[" else "]\n")
    return len(images)


def _entries(number: int, one: FilePrediction, numbers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for found in one.predictions:
        assert isinstance(found, FoundObject)
        x1, y1, x2, y2 = found.box
        entry: dict[str, Any] = {
            "image_id": number,
            "file_name": one.path,
            "category_id": numbers[found.name],
            "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
            "score": found.score,
        }
        yield entry if found.mask is None else {**entry, "segmentation": found.mask}
