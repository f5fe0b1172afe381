"""Images with boxes and masks, as the preparation reads and reports them; see content.py.

What a training reads of it is a COCO file of the images that can be used, whatever form the labels came in.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.left_out import describe_left_out
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.detection.annotations import AnnotationColumns, DetectionManifest
from mvit_video.data.detection.ground_truth import ground_truth
from mvit_video.data.detection.reading import size_problem
from mvit_video.images.decoding import MAX_PIXELS, Orientation
from mvit_video.preparation.image_content import ImageContent
from mvit_video.preparation.inventory import Inventory, SplitEntry
from mvit_video.preparation.journal import Record
from mvit_video.preparation.output_paths import common_folder
from mvit_video.preparation.quantities import histogram, most_common, quantiles
from mvit_video.runtime.files import write_text
from mvit_video.runtime.formatting import count_text

SMALL, LARGE = 32**2, 96**2  # square pixels: COCO's sizes of instances
_CROWDED_IOU = 0.5
_ROWS = 1000  # boxes that are compared with all of an image at once
_EDGES = (1, 2, 3, 5, 10, 20, 50, 100)


class DetectionContent(ImageContent):
    """A `Content`: see content.py.

    Args:
        short_side: of images in the training, pixels.
        orientation: whether images are turned as their EXIF data says.
        max_pixels: largest images (height * width) to accept.
    """

    preload: tuple[str, ...] = ("mvit_video.preparation.image_content",)
    quantities: Mapping[str, str] = {
        **ImageContent.quantities,
        "instances in an image": "instances_in_an_image",
        "side of instances (root of the area), pixels": "instance_sides",
        "width / height of boxes": "box_ratios",
        "overlap with the nearest box, IoU": "overlaps",
    }
    histograms: Mapping[str, str] = {
        **ImageContent.histograms,
        "Instances by area": "area_groups",
        "Images by their number of instances": "instance_histogram",
        "Instances of the most common classes": "common_classes",
    }

    def __init__(
        self, *, short_side: int = 800, orientation: Orientation = "apply", max_pixels: int = MAX_PIXELS
    ) -> None:
        super().__init__(crop_size=-(-short_side // 2), max_pixels=max_pixels)
        self.short_side = short_side
        self.orientation: Orientation = orientation

    @property
    def too_small_rule(self) -> str:
        """See Content."""
        return f"with less than half of the short side of {self.short_side} pixels that they are enlarged to"

    def judged(self, data: Inventory, records: Mapping[int, Record]) -> Mapping[int, Record]:
        """See Content: an image of another size than its annotations state counts as broken."""
        changed = dict(records)
        for split, entries in data.entries.items():
            manifest = cast(DetectionManifest, data.manifests[split])
            for entry in entries:
                record = records[entry.item]
                actual = (record.height, record.width)
                stated = manifest.size(entry.row)
                turned_well = self.orientation == "ignore" and stated == actual[::-1]
                problem = size_problem(stated, actual)
                if record.status == "ok" and problem and not turned_well:
                    changed[entry.item] = replace(record, status="broken", reason=problem)
        return changed

    def statistics(
        self, entries: Sequence[SplitEntry], records: Mapping[int, Record], manifest: Manifest
    ) -> dict[str, Any]:
        """See Content."""
        detection = cast(DetectionManifest, manifest)
        columns = detection.annotations.of_images(np.array([entry.row for entry in entries], np.int64))
        objects = ~columns.crowds
        per_image = np.bincount(columns.images[objects], minlength=len(entries)).tolist()
        areas, labels = columns.areas[objects], columns.labels[objects]
        sides = columns.boxes[objects, 2:] - columns.boxes[objects, :2]
        overlaps = nearest_overlaps(columns)[objects]
        counts = np.bincount(labels, minlength=manifest.num_classes).tolist()
        return {
            **super().statistics(entries, records, manifest),
            "instances": int(objects.sum()),
            "crowds": int(columns.crowds.sum()),
            "instances_in_an_image": quantiles(per_image),
            "instance_histogram": histogram(per_image, _EDGES),
            "instance_sides": quantiles(np.sqrt(areas).tolist()),
            "box_ratios": quantiles((sides[:, 0] / sides[:, 1]).tolist()),
            "overlaps": quantiles(overlaps.tolist()),
            "area_groups": _area_groups(areas),
            "instances_of_classes": dict(zip(manifest.class_names, counts)),
            "common_classes": most_common(manifest.class_names[label] for label in labels.tolist()),
            "repaired": {reason: list(names) for reason, names in detection.repaired.items()},
            "notes": list(_notes(detection, columns, overlaps)),
        }

    def write_split(self, out: Path, split: str, manifest: Manifest, entries: Sequence[SplitEntry]) -> str | None:
        """See Content: a COCO file, with the names of the images below their common folder."""
        rows = np.array([entry.row for entry in entries], np.int64)
        kept = cast(DetectionManifest, manifest.subset(rows))
        path = out / f"{split}.json"
        made = ground_truth(kept, root=common_folder(manifest.paths))
        write_text(path, json.dumps(made, ensure_ascii=False) + "\n")
        return str(path)

    def use(self, written: Mapping[str, str], data: Inventory) -> str:
        """See Content."""
        options = ["data/source=coco"]
        for split, path in written.items():
            manifest = data.manifests[split]
            options += [
                f"data.source.{split}={path}",
                f"data.source.{split}_root={common_folder(manifest.paths)}",
            ]
            if split == "train" and manifest.label_sets is not None and not manifest.label_sets.sizes.all():
                options.append("data.source.empty_images=keep")
        return " ".join(options)


def nearest_overlaps(columns: AnnotationColumns) -> npt.NDArray[np.float64]:
    """The largest intersection over union of each instance with another one of its image, crowds left out."""
    nearest = np.zeros(len(columns))
    for begin, end in zip(columns.starts[:-1].tolist(), columns.starts[1:].tolist()):
        places = begin + np.flatnonzero(~columns.crowds[begin:end])
        boxes = columns.boxes[places]
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        for first in range(0, len(places), _ROWS):
            some = slice(first, first + _ROWS)
            low = np.maximum(boxes[some, None, :2], boxes[None, :, :2])
            high = np.minimum(boxes[some, None, 2:], boxes[None, :, 2:])
            shared = np.prod((high - low).clip(min=0), axis=2)
            overlaps = shared / (areas[some, None] + areas[None] - shared)
            overlaps[np.arange(len(overlaps)), first + np.arange(len(overlaps))] = 0
            nearest[places[some]] = overlaps.max(axis=1)
    return nearest


def _area_groups(areas: npt.NDArray[np.float64]) -> dict[str, int]:
    small, large = int((areas < SMALL).sum()), int((areas > LARGE).sum())
    return {
        "small (below 32x32 pixels)": small,
        "medium": len(areas) - small - large,
        "large (above 96x96 pixels)": large,
    }


def _notes(manifest: DetectionManifest, columns: AnnotationColumns, overlaps: npt.NDArray[np.float64]) -> Sequence[str]:
    """Sentences for the report."""
    crowds = int(columns.crowds.sum())
    kinds = "boxes alone, no masks"
    if columns.shapes is not None:
        runs = int((columns.shapes.run_sizes[:, 0] > 0).sum())
        absent = int(columns.shapes.absent.sum())
        kinds = f"masks: {len(columns) - runs - absent} of polygons, {runs} of run lengths, {absent} without"
    objects = count_text(len(columns) - crowds, "instance")
    notes = [f"{objects} and {count_text(crowds, 'crowd')} in the usable images; {kinds}."]
    crowded = int((overlaps > _CROWDED_IOU).sum())
    share = 100 * crowded / max(1, len(overlaps))
    notes.append(f"Crowding: {count_text(crowded, 'instance')} ({share:.1f} %) overlap another by IoU over 0.5.")
    if manifest.repaired:
        notes.append(f"Changed in reading: {describe_left_out(manifest.repaired)}.")
    return notes
