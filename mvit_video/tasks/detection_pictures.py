"""What a detector found in the best, the worst and random images of a split, beside what is annotated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou

from mvit_video.data.detection.annotations import DetectionManifest, Instances
from mvit_video.data.detection.coco_masks import coco_masks
from mvit_video.data.detection.reading import DetectionReading
from mvit_video.engine.contact_sheet import save_picture
from mvit_video.engine.marks import Colour, Mark, drawn
from mvit_video.engine.preview import Item, Look, make_sheet
from mvit_video.runtime.decode_error import DecodeError
from mvit_video.tasks.detection import DetectionScorer, Found
from mvit_video.tasks.detection_preview import of_one_size

OVERLAP = 0.5
LEAST_SCORE = 0.5  # of detections that are shown and counted here
RIGHT: Colour = (34, 136, 51)
MISSED: Colour = (204, 51, 51)
WRONG: Colour = (230, 140, 20)
IGNORED: Colour = (120, 120, 120)
EXPLANATION = (
    "left: annotated, green where it was found, red where it was missed, grey for crowds",
    f"right: detections of a score of at least {LEAST_SCORE:g}, green where right, orange where wrong",
    f"right is what has the class of an annotated box and overlaps it by at least {OVERLAP:g}, each box once",
)


@dataclass(frozen=True)
class Judged:
    """The detections of an image that are counted here, and what became of them.

    Attributes:
        shown: places of the detections.
        matched: for each of them the instance it found, -1 for none, -2 for one that lies in a crowd.
        missed: places of the instances that no detection found; crowds are none.
    """

    shown: list[int]
    matched: list[int]
    missed: list[int]

    @property
    def right(self) -> int:
        return sum(place >= 0 for place in self.matched)

    @property
    def wrong(self) -> int:
        return self.matched.count(-1)

    @property
    def f1(self) -> float:
        """2 right / (2 right + wrong + missed); 1 where there is nothing to find and nothing was found."""
        errors = self.wrong + len(self.missed)
        return 1.0 if not (self.right or errors) else 2 * self.right / (2 * self.right + errors)


def judge(found: Found, instances: Instances) -> Judged:
    """Match detections with instances of their class, best first, as COCO does at one overlap."""
    shown = [place for place, score in enumerate(found.scores) if score >= LEAST_SCORE]
    overlaps = box_iou(torch.from_numpy(found.boxes), torch.from_numpy(instances.boxes)).numpy()
    free = {place for place in range(len(instances)) if not instances.crowds[place]}
    matched: list[int] = []
    for place in shown:
        own = [i for i in free if instances.labels[i] == found.labels[place] and overlaps[place, i] >= OVERLAP]
        best = max(own, key=lambda i: overlaps[place, i], default=-1)
        free.discard(best)
        matched.append(best if best >= 0 or not _in_crowd(found, place, instances) else -2)
    return Judged(shown, matched, sorted(free))


def _in_crowd(found: Found, place: int, instances: Instances) -> bool:
    """Whether at least half of a detection's box lies in a crowd of its class."""
    x1, y1, x2, y2 = found.boxes[place]
    for i in np.flatnonzero(instances.crowds & (instances.labels == found.labels[place])):
        left, top, right, bottom = instances.boxes[i]
        inside = max(0.0, min(x2, right) - max(x1, left)) * max(0.0, min(y2, bottom) - max(y1, top))
        if inside >= OVERLAP * max(1e-9, (x2 - x1) * (y2 - y1)):
            return True
    return False


class DetectionPictures:
    """Writes best.png, worst.png and random.png; a `ResultsWriter`.

    Args:
        read: gives an image of the manifest.
        count: images on each sheet; 0: none are written.
        seed: of the choice of random images.
    """

    def __init__(self, read: DetectionReading, *, count: int, seed: int = 0) -> None:
        self.read = read
        self.count = count
        self.seed = seed

    def __call__(self, folder: Path, scorer: DetectionScorer) -> list[Path]:
        """Write the sheets into a folder; their files."""
        manifest = scorer.manifest
        readable = [row for row in range(len(manifest)) if not scorer.found[row].failed]
        if not self.count or not readable:
            return []
        judged = {row: judge(scorer.found[row], manifest.instances(row)) for row in readable}
        # Of equally good images the one with more to find says more.
        ranked = sorted(readable, key=lambda row: (-judged[row].f1, -judged[row].right, row))
        count = min(self.count, len(readable))
        drawn_at_random = np.random.default_rng(self.seed).choice(len(readable), count, replace=False)
        groups = {
            "best": ranked[:count],
            "worst": ranked[::-1][:count],
            "random": [readable[place] for place in sorted(drawn_at_random.tolist())],
        }
        written = []
        for name, rows in groups.items():
            items = [self._item(manifest, row, scorer.found[row], judged[row]) for row in rows]
            heading = f"the {name} of {len(readable)} images" if name != "random" else f"{count} images at random"
            sheet = make_sheet(of_one_size(items), heading=heading, about=EXPLANATION, notes=(), look=Look(scale=1))
            save_picture(sheet.draw(), folder / f"{name}.png")
            written.append(folder / f"{name}.png")
        return written

    def _item(self, manifest: DetectionManifest, row: int, found: Found, judged: Judged) -> Item:
        title = (
            f"F1 {judged.f1:.2f}  ·  found {judged.right} of {judged.right + len(judged.missed)}, {judged.wrong} wrong"
        )
        path, position = manifest.paths[row], f"image {row} of the split"
        try:
            pixels = self.read(manifest, row)[0].numpy()
        except DecodeError as error:
            return Item(title, "", path, position, None, problem=error.reason)
        names, instances = manifest.class_names, manifest.instances(row)
        pictures = [
            drawn(pixels, annotated_marks(instances, names, missed=judged.missed)),
            drawn(pixels, found_marks(found, judged, names)),
        ]
        return Item(title, "", path, position, np.stack(pictures))


def annotated_marks(instances: Instances, names: Sequence[str], *, missed: Sequence[int]) -> list[Mark]:
    """What is annotated, by whether it was found."""
    masks = [None] * len(instances) if instances.masks is None else list(instances.masks.bitmaps())
    return [
        Mark(
            box=_corners(instances.boxes[place]),
            text=names[instances.labels[place]],
            colour=IGNORED if instances.crowds[place] else MISSED if place in missed else RIGHT,
            mask=masks[place],
        )
        for place in range(len(instances))
    ]


def found_marks(found: Found, judged: Judged, names: Sequence[str]) -> list[Mark]:
    """What was found, the best in front, by whether it is right."""
    marks = []
    for place, match in reversed(list(zip(judged.shown, judged.matched, strict=True))):
        marks.append(
            Mark(
                box=_corners(found.boxes[place]),
                text=f"{names[found.labels[place]]} {found.scores[place]:.2f}",
                colour={-1: WRONG, -2: IGNORED}.get(match, RIGHT),
                mask=_bitmap(found.masks[place]) if found.masks else None,
            )
        )
    return marks


def _bitmap(mask: dict[str, Any]) -> npt.NDArray[np.bool_]:
    return np.asarray(coco_masks().decode(mask)).astype(np.bool_)


def _corners(box: npt.NDArray[np.float32]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
