"""COCO's JSON of instances (cocodataset.org, "Data format"), and any data set in that format, as LVIS.

Ids of classes may have gaps; classes are numbered in the order of their ids, as published (detectron2
data/datasets/coco.py), and matched by name everywhere else.
"""

import gc
import json
import logging
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import index
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.class_names import checked_names
from mvit_video.data.datasets.listing import read_text
from mvit_video.data.datasets.manifest import Missing, PathLike
from mvit_video.data.detection.annotations import DetectionManifest
from mvit_video.data.detection.assembly import EmptyImages, ListedImages, Stated, manifest_of, with_box_masks
from mvit_video.data.detection.coco_images import CocoImages, found_images, listed_images
from mvit_video.data.detection.coco_shapes import ReadShapes, read_shapes
from mvit_video.data.detection.findings import (
    BAD_BOX,
    BAD_CROWD,
    BAD_MASK,
    NO_NUMBER,
    TWICE,
    UNKNOWN_CLASS,
    UNKNOWN_IMAGE,
    Findings,
    Mistakes,
)

logger = logging.getLogger(__name__)

_WHAT = "COCO file"
POINTS = "polygons of one or two corners left out of masks"
_PARTS = ("images", "annotations", "categories")
_NOT_USED = {
    "not_exhaustive_category_ids": "classes of which an image may show more than is annotated",
    "neg_category_ids": "classes that an image surely does not show",
}


class Categories(NamedTuple):
    """The classes of a file in the order of their ids."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


def from_coco(
    path: PathLike,
    *,
    root: PathLike | None = None,
    empty_images: EmptyImages = "leave_out",
    missing: Missing = "error",
    mistakes: Mistakes = "error",
    masks: bool = True,
    boxes_as_masks: bool = False,
) -> DetectionManifest:
    """Read a COCO file of instances.

    Args:
        path: the JSON file.
        root: folder of its images; by default the usual places around the file, see coco_images.found_images.
        empty_images: what becomes of images without instances, or with crowds alone: "leave_out" as published for
            training, or "keep", as evaluation has to.
        missing: whether images that do not exist are an error, or are left out.
        mistakes: whether annotations that contradict themselves or the file are an error, or are left out.
        masks: read masks, too; else boxes alone.
        boxes_as_masks: instances without a mask have their box for one.

    Raises:
        ValueError: the file is not as it should be; the text has every kind of mistake with examples.
    """
    source = os.fspath(path)
    content = read_coco(source)
    findings = Findings(source, mistakes)
    categories = categories_of(source, content["categories"])
    images = listed_images(source, content["images"])
    paths, absent = found_images(source, images.names, root=root, missing=missing)
    stated = _stated(content["annotations"], images, categories, findings, masks=masks)
    _say_not_used(source, content["images"])
    del content
    return manifest_of(
        ListedImages(paths=paths, names=images.names, ids=images.ids, sizes=images.sizes),
        with_box_masks(stated) if boxes_as_masks else stated,
        class_names=categories.names,
        category_ids=categories.ids,
        source=source,
        findings=findings,
        empty_images=empty_images,
        missing=absent,
    )


def coco_class_names(path: PathLike) -> tuple[str, ...]:
    """The classes that `from_coco` gives a file; where they are plain to see, without reading all the annotations."""
    source = os.fspath(path)
    text = read_text(source, _WHAT)
    places = [match.end() - 1 for match in re.finditer(r'"categories"\s*:\s*\[', text)]
    if len(places) == 1:
        try:
            return categories_of(source, json.JSONDecoder().raw_decode(text, places[0])[0]).names
        except json.JSONDecodeError:
            pass  # it is no JSON: said below, with the line
    return categories_of(source, _parsed(source, text)["categories"]).names


def read_coco(source: str) -> Mapping[str, Any]:
    """The lists of a COCO file. ValueError where it is none."""
    return _parsed(source, read_text(source, _WHAT))


def _parsed(source: str, text: str) -> Mapping[str, Any]:
    try:
        with _no_collection():
            content = json.loads(text)
    except json.JSONDecodeError as error:
        cut = " and ends in the middle: is it cut off?" if error.pos >= len(text.rstrip()) - 1 else ""
        raise ValueError(
            f"{source}:{error.lineno}: the {_WHAT} is not JSON ({error.msg}){cut}; copy or write it anew"
        ) from error
    absent = [part for part in _PARTS if not isinstance(content, dict) or not isinstance(content.get(part), list)]
    if absent:
        hint = " This looks like results; give the file of annotations." if isinstance(content, list) else ""
        raise ValueError(
            f"{source}: no list `{absent[0]}`; a COCO file of instances is an object with the lists "
            f"{', '.join(_PARTS)}.{hint}"
        )
    for part in _PARTS:
        odd = next((place for place, entry in enumerate(content[part]) if not isinstance(entry, dict)), None)
        if odd is not None:
            raise ValueError(f"{source}: entry {odd} of `{part}` is no object; a COCO file lists objects there")
    return content


@contextmanager
def _no_collection() -> Iterator[None]:
    """No search for unused cycles while millions of objects are made, none of which is one: half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def categories_of(source: str, categories: Sequence[Mapping[str, Any]]) -> Categories:
    """The classes in the order of their ids. ValueError for ids or names that are not there, or there twice."""
    for entry in categories:
        if not isinstance(entry.get("name"), str) or _number(entry.get("id")) < 0:
            raise ValueError(
                f"{source}: category {entry} lacks a name, or an id that is a whole number from 0 on; give it both"
            )
    twice = [number for number, count in Counter(entry["id"] for entry in categories).items() if count > 1]
    if twice:
        names = " and ".join(repr(entry["name"]) for entry in categories if entry["id"] == twice[0])
        raise ValueError(f"{source}: categories {names} share the id {twice[0]}; give each an id of its own")
    ordered = sorted(categories, key=lambda entry: entry["id"])
    return Categories(
        checked_names([entry["name"] for entry in ordered], source), tuple(entry["id"] for entry in ordered)
    )


def _stated(
    annotations: Sequence[Mapping[str, Any]],
    images: CocoImages,
    categories: Categories,
    findings: Findings,
    *,
    masks: bool,
) -> Stated:
    """The instances whose ids, image, class, box and mask are as they should be; the others are noted."""
    numbers = _numbers(annotations)
    usable = (numbers >= 0).all(axis=1)
    findings.wrong(NO_NUMBER, (f"entry {place} of `annotations`" for place in np.flatnonzero(~usable).tolist()))
    ids, image_ids, category_ids = numbers.T

    def name(place: int) -> str:
        row = image_rows[place]
        return f"{ids[place]} ({images.names[row]})" if row >= 0 else f"{ids[place]} (image_id {image_ids[place]})"

    image_rows = _places_of(image_ids, images.ids)
    labels = _places_of(category_ids, np.array(categories.ids, np.int64))
    first = np.zeros(len(ids), np.bool_)
    first[np.unique(ids, return_index=True)[1]] = True
    boxes = _boxes(annotations)
    read = read_shapes(annotations, images.sizes, image_rows) if masks else ReadShapes(None, {}, [])
    findings.repair(POINTS, map(name, read.points))
    crowds = np.fromiter((_crowd(entry.get("iscrowd")) for entry in annotations), np.int8, len(annotations))
    bad_mask = np.zeros(len(ids), np.bool_)
    bad_mask[list(read.problems)] = True
    for rule, wrong in (
        (TWICE, ~first),
        (UNKNOWN_IMAGE, image_rows < 0),
        (UNKNOWN_CLASS, labels < 0),
        (BAD_BOX, ~np.isfinite(boxes).all(axis=1)),
        (BAD_CROWD, crowds < 0),
        (BAD_MASK, bad_mask),
    ):
        wrong &= usable
        details = {UNKNOWN_CLASS: lambda place: f": category_id {category_ids[place]}"}
        details[BAD_BOX] = lambda place: f": {annotations[place].get('bbox')}"
        details[BAD_CROWD] = lambda place: f": {annotations[place]['iscrowd']!r}"
        details[BAD_MASK] = lambda place: f": {read.problems[place]}"
        detail = details.get(rule, lambda place: "")
        findings.wrong(rule, (name(place) + detail(place) for place in np.flatnonzero(wrong).tolist()))
        usable &= ~wrong
    areas = np.array([_area(entry) for entry in annotations], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    return Stated(
        images=image_rows,
        boxes=boxes,
        labels=labels.astype(np.int32),
        crowds=crowds > 0,
        ids=ids,
        areas=areas,
        shapes=read.columns,
        name=name,
    ).select(np.flatnonzero(usable))


def _numbers(annotations: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.int64]:
    """id, image_id and category_id of each, int64 (annotations, 3); -1 for what is no whole number from 0 on."""
    keys = ("id", "image_id", "category_id")
    try:
        flat = (index(entry[key]) for entry in annotations for key in keys)
        return np.fromiter(flat, np.int64, 3 * len(annotations)).reshape(-1, 3)
    except (KeyError, TypeError, OverflowError):
        rows = [[entry.get(key) for key in keys] for entry in annotations]
        return np.array([[_number(value) for value in row] for row in rows], np.int64).reshape(-1, 3)


def _number(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**63 else -1


def _places_of(values: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Place of each value among known ones, which are all different; -1 where it is not among them."""
    if not len(known):
        return np.full(len(values), -1)
    order = np.argsort(known)
    at = np.searchsorted(known[order], values).clip(max=len(known) - 1)
    return np.where(known[order][at] == values, order[at], -1)


def _boxes(annotations: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64]:
    """x, y, width, height of each, (annotations, 4); NaN for what is no box."""
    try:
        boxes = [entry["bbox"] for entry in annotations]
        if {len(box) for box in boxes} <= {4}:
            flat = array("d", chain.from_iterable(boxes))
            return np.frombuffer(flat, np.float64).reshape(-1, 4).copy()
    except (KeyError, TypeError, OverflowError):
        pass  # some have none: each for itself
    return np.array([_box(entry.get("bbox")) for entry in annotations], np.float64).reshape(-1, 4)


def _box(box: Any) -> list[float]:
    right = isinstance(box, list) and len(box) == 4 and all(isinstance(value, (int, float)) for value in box)
    return [float(value) for value in box] if right else [np.nan] * 4


def _crowd(value: Any) -> int:
    """0 or 1; -1 for what is neither."""
    if value is None:
        return 0
    return int(value) if isinstance(value, (int, float)) and value in (0, 1) else -1


def _area(entry: Mapping[str, Any]) -> float:
    """Square pixels; -1 where the file has none."""
    area = entry.get("area")
    return float(area) if isinstance(area, (int, float)) and np.isfinite(area) and area >= 0 else -1.0


def _say_not_used(source: str, images: Sequence[Mapping[str, Any]]) -> None:
    """LVIS states what is known of an image beyond its instances, for an evaluation that COCO's does not know."""
    for key, meaning in _NOT_USED.items():
        count = sum(bool(entry.get(key)) for entry in images)
        if count:
            logger.info("%s: `%s` of %d images is not used: %s", source, key, count, meaning)
