"""The masks of a COCO file: lists of polygons, and run lengths as numbers or as COCO's compressed text."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mvit_video.data.detection.coco_masks import coco_masks
from mvit_video.data.detection.ragged import starts_of
from mvit_video.data.detection.run_lengths import lengths_problem, runs_problem
from mvit_video.data.detection.shape_columns import ShapeColumns, compact

_NO_TEXT = b""
_FARTHEST = 1e6  # pixels; COCO's code walks along edges in whole numbers of 32 bits, and ends the process beyond them


class ReadShapes(NamedTuple):
    """The masks of all annotations (None where no annotation has one), and by their place what was found wrong.

    Attributes:
        columns: the masks.
        problems: what is wrong with a mask.
        points: annotations with polygons of one or two corners, which are left out, as published.
    """

    columns: ShapeColumns | None
    problems: dict[int, str]
    points: list[int]


def read_shapes(
    annotations: Sequence[Mapping[str, Any]], sizes: npt.NDArray[np.int32], image_rows: npt.NDArray[np.int64]
) -> ReadShapes:
    """The masks of annotations.

    Args:
        annotations: those of the file.
        sizes: height and width of each image, (images, 2).
        image_rows: row of the image of each annotation; -1 where it is not known.
    """
    numbers, corner_counts, ring_counts = array("d"), array("q"), array("q")
    runs: list[bytes] = []
    run_sizes = np.zeros((len(annotations), 2), np.int32)
    problems: dict[int, str] = {}
    points: list[int] = []
    for place, entry in enumerate(annotations):
        stated, rings, text = entry.get("segmentation"), 0, _NO_TEXT
        if isinstance(stated, dict):
            row = image_rows[place]
            size = (int(sizes[row, 0]), int(sizes[row, 1])) if row >= 0 else None
            text, problem = _run_text(stated, size)
            if problem:
                problems[place] = problem
            else:
                run_sizes[place] = stated["size"]
        elif stated:
            before = len(numbers), len(corner_counts)
            problem, all_rings = _append_rings(stated, numbers, corner_counts)
            if problem:
                problems[place] = problem
                del numbers[before[0] :], corner_counts[before[1] :]
            rings = len(corner_counts) - before[1]
            if not all_rings:
                points.append(place)
        ring_counts.append(rings)
        runs.append(text)
    if not numbers and not any(runs) and not problems:
        return ReadShapes(None, {}, points)
    corners = np.frombuffer(numbers, np.float64).reshape(-1, 2) if numbers else np.zeros((0, 2))
    columns = ShapeColumns(
        ring_starts=starts_of(ring_counts),
        corner_starts=starts_of(corner_counts),
        corners=compact(corners),
        run_starts=starts_of(map(len, runs)),
        runs=np.frombuffer(b"".join(runs), np.uint8),
        run_sizes=run_sizes,
    )
    return ReadShapes(columns, {**problems, **_too_far(columns, corners)}, points)


def _append_rings(stated: Any, numbers: "array[float]", corner_counts: "array[int]") -> tuple[str, bool]:
    """Add the polygons of an instance; what is wrong with them, or nothing, and whether all have three corners."""
    if not isinstance(stated, list):
        return f"{type(stated).__name__} where polygons or run lengths are expected", True
    if not isinstance(stated[0], list):
        held = "run lengths" if isinstance(stated[0], dict) else "numbers"
        return f"a list of {held} where a list of polygons is expected", True
    complete = True
    for ring in stated:
        if not isinstance(ring, list) or len(ring) % 2:
            held = f"{len(ring)} numbers" if isinstance(ring, list) else type(ring).__name__
            return f"a polygon of {held}, not of pairs x, y", True
        if len(ring) < 6:
            complete = False
            continue
        try:
            numbers.extend(ring)
        except (TypeError, OverflowError):
            return "a polygon with a corner that is no number", True
        corner_counts.append(len(ring) // 2)
    return "", complete


def _run_text(stated: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[bytes, str]:
    """Run lengths in COCO's compressed text, and what is wrong with them, or nothing."""
    counts, own = stated.get("counts"), stated.get("size")
    if not isinstance(own, list) or len(own) != 2 or not all(isinstance(side, int) and side > 0 for side in own):
        return _NO_TEXT, f"run lengths of the size {own}, not of [height, width]"
    if size is not None and tuple(own) != size:
        return _NO_TEXT, f"run lengths of {own[1]}x{own[0]} in an image of {size[1]}x{size[0]}"
    held = (own[0], own[1])
    if isinstance(counts, str):
        text = counts.encode("utf-8", "replace")
        return text, runs_problem(text, held)
    if not isinstance(counts, list) or not all(isinstance(run, int) and not isinstance(run, bool) for run in counts):
        return _NO_TEXT, "run lengths whose counts are neither text nor whole numbers"
    problem = lengths_problem(np.array(counts, np.int64), held)
    if problem:
        return _NO_TEXT, problem
    packed: bytes = coco_masks().frPyObjects({"counts": counts, "size": own}, *held)["counts"]
    return packed, ""


def _too_far(columns: ShapeColumns, corners: npt.NDArray[np.float64]) -> dict[int, str]:
    """Instances with a corner that is NaN, infinite, or farther away than masks are drawn."""
    odd = np.flatnonzero(~(np.abs(corners) <= _FARTHEST).all(axis=1)) if len(corners) else np.zeros(0, np.int64)
    rings = np.searchsorted(columns.corner_starts, odd, side="right") - 1
    places = np.searchsorted(columns.ring_starts, rings, side="right") - 1
    return dict.fromkeys(
        np.unique(places).tolist(), f"a polygon with a corner that is not finite, or over {_FARTHEST:,.0f} pixels away"
    )
