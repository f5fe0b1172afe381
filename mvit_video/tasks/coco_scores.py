"""Average precision of boxes and masks as COCO measures it, by pycocotools."""

import contextlib
import io
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

Kind = Literal["box", "mask"]
KINDS: Mapping[Kind, str] = {"box": "bbox", "mask": "segm"}
"""Our names, and those of pycocotools."""
NUMBERS = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
"""The twelve numbers in COCO's order: precision, then recall with at most 1, 10 and 100 detections an image."""

Annotation = dict[str, Any]
"""An entry of COCO's lists of annotations or results."""


class CocoScores:
    """The numbers of a set of detections, per cent; NaN where no instance is there to be found.

    Args:
        images: `id`, `height` and `width` of each.
        categories: `id` and `name` of each, in the order of the classes.
        annotations: the instances, in COCO's format. Scores of masks ignore those without a mask.
        detections: `image_id`, `category_id`, `score`, `bbox` and, for masks, `segmentation`.
        kinds: what is measured.
    """

    def __init__(
        self,
        *,
        images: Sequence[Annotation],
        categories: Sequence[Annotation],
        annotations: Sequence[Annotation],
        detections: Sequence[Annotation],
        kinds: Sequence[Kind] = ("box", "mask"),
    ) -> None:
        self.class_names = [category["name"] for category in categories]
        self.numbers: dict[str, float] = {}
        self.per_class: dict[str, dict[str, float]] = {name: {} for name in self.class_names}
        truth = {"info": {}, "images": list(images), "categories": list(categories), "annotations": list(annotations)}
        for kind in kinds:
            evaluated = _evaluated(truth, detections, kind)
            stats = [math.nan] * len(NUMBERS) if evaluated is None else evaluated.stats.tolist()
            self.numbers |= {f"{kind}_{name}": _per_cent(value) for name, value in zip(NUMBERS, stats)}
            places = {} if evaluated is None else {number: i for i, number in enumerate(evaluated.params.catIds)}
            for category in categories:
                table = self.per_class[category["name"]]
                place = places.get(category["id"])
                known = evaluated is not None and place is not None
                precision = evaluated.eval["precision"][:, :, place] if known else None
                table[f"{kind}_ap"] = _mean(precision)
                table[f"{kind}_ap50"] = _mean(None if precision is None else precision[:1])


def _evaluated(truth: Mapping[str, Any], detections: Sequence[Annotation], kind: Kind) -> Any:
    """The accumulated COCOeval; None where there is nothing to find."""
    coco, evaluation = _pycocotools()
    if not truth["annotations"]:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        ours = coco()
        # pycocotools writes into what it is given.
        # An id of 0 would stand for "not found" in it.
        known = [_with_mask(entry) if kind == "mask" else entry for entry in truth["annotations"]]
        ours.dataset = {**truth, "annotations": [{**entry, "id": i} for i, entry in enumerate(known, start=1)]}
        ours.createIndex()
        found = ours.loadRes(_results(detections, kind)) if detections else _without_results(coco, truth)
        scored = evaluation(ours, found, KINDS[kind])
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return scored


def _with_mask(entry: Annotation) -> Annotation:
    """An instance; one without a mask as a crowd in its box.

    Its mask is not known: it can neither be found nor missed, and what lies in its box is no error.
    """
    if entry.get("segmentation"):
        return entry
    x, y, width, height = entry["bbox"]
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {**entry, "segmentation": [corners], "iscrowd": 1}


def _results(detections: Sequence[Annotation], kind: Kind) -> list[Annotation]:
    """Detections for one kind: masks without boxes, so that an area is that of the mask (as detectron2)."""
    drop = "segmentation" if kind == "box" else "bbox"
    return [{key: value for key, value in entry.items() if key != drop} for entry in detections]


def _without_results(coco: Any, truth: Mapping[str, Any]) -> Any:
    """A result without any detection, which `loadRes` does not take."""
    empty = coco()
    empty.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": []}
    empty.createIndex()
    return empty


def _mean(precision: npt.NDArray[np.float64] | None) -> float:
    """Mean of a class's precision (overlaps, recalls, sizes, most detections), over all sizes, at 100 detections."""
    if precision is None:
        return math.nan
    valid = precision[..., 0, -1]
    valid = valid[valid > -1]
    return _per_cent(float(valid.mean()) if valid.size else -1.0)


def _per_cent(value: float) -> float:
    """COCO's -1 stands for "nothing to find"."""
    return math.nan if value < 0 else 100.0 * float(value)


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise RuntimeError(
            "the scores of detection need the package pycocotools, which is not installed; "
            "pip install 'mvit-video[detection]'"
        ) from error
    return COCO, COCOeval
