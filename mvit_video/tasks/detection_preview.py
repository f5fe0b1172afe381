"""Samples of detection for people: images as the detector gets them, with boxes, masks and names."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mvit_video.data.detection.annotations import Instances
from mvit_video.data.loading.detection_batch import DetectionBatch
from mvit_video.data.loading.detection_dataset import DetectionEvalDataset
from mvit_video.data.loading.loader import TrainLoader
from mvit_video.engine.contact_sheet import spread
from mvit_video.engine.marks import Mark, colour_of, drawn, on_one_canvas
from mvit_video.engine.preview import Item

CROWD_COLOUR = (120, 120, 120)


def training_views(loader: TrainLoader, *, step: int, count: int) -> tuple[list[Item], list[tuple[str, str]]]:
    """The first `count` views from optimizer step `step` on, and (path, reason) of the images that were replaced.

    Raises:
        DecodeError: an image and all its replacements are unreadable.
    """
    names = loader.dataset.manifest.class_names
    items: list[Item] = []
    failures: dict[str, str] = {}
    for number, batch in enumerate(loader.batches(step)):
        failures.update(batch.failures)
        at = step + number // loader.accumulate
        for row in range(min(len(batch), count - len(items))):
            items.append(_item(batch, row, names, position=f"step {at}, epoch {batch.epoch}"))
        if len(items) >= count:
            break
    return of_one_size(items), list(failures.items())


def evaluation_pictures(dataset: DetectionEvalDataset, *, count: int) -> tuple[list[Item], list[tuple[str, str]]]:
    """`count` images spread evenly over the split, and (path, reason) of those that cannot be read."""
    names = dataset.manifest.class_names
    items: list[Item] = []
    failures: list[tuple[str, str]] = []
    for index in spread(len(dataset), count):
        batch = dataset.collate([dataset[index]])
        failures += batch.failures
        items.append(_item(batch, 0, names, position=f"image {index} of the split"))
    return of_one_size(items), failures


def instance_marks(instances: Instances, names: Sequence[str]) -> list[Mark]:
    """What is annotated, each class in its colour and crowds in grey."""
    masks = [None] * len(instances) if instances.masks is None else list(instances.masks.bitmaps())
    marks = []
    for place, label in enumerate(instances.labels.tolist()):
        x1, y1, x2, y2 = instances.boxes[place].tolist()
        crowd = bool(instances.crowds[place])
        name = f"{names[label]} (crowd)" if crowd else names[label]
        marks.append(Mark((x1, y1, x2, y2), name, CROWD_COLOUR if crowd else colour_of(label), masks[place]))
    return marks


def of_one_size(items: Sequence[Item]) -> list[Item]:
    """The items with their pictures on one canvas, as a sheet needs them."""
    pictures = [picture for item in items if item.pictures is not None for picture in item.pictures]
    padded = iter(on_one_canvas(pictures) if pictures else [])
    return [
        item if item.pictures is None else replace(item, pictures=np.stack([next(padded) for _ in item.pictures]))
        for item in items
    ]


def _item(batch: DetectionBatch, row: int, names: Sequence[str], *, position: str) -> Item:
    instances, path = batch.instances[row], batch.paths[row]
    counts = Counter(names[label] for label in instances.labels.tolist())
    content = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing annotated"
    if batch.failed[row]:
        reason = "; ".join(reason for failed, reason in batch.failures if failed == path)
        return Item(content, content, path, position, None, problem=reason)
    height, width = batch.sizes[row]
    pixels = batch.pictures()[row].permute(1, 2, 0).numpy()
    pictures = drawn(pixels, instance_marks(instances, names))[None]
    return Item(f"{width} x {height}: {content}", content, path, position, pictures)
