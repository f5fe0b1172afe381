"""Boxes, masks and names of found objects, drawn on copies of images and videos."""

import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mvit_video.data.detection.coco_masks import coco_masks
from mvit_video.data.loading.image_files import read_upright
from mvit_video.engine.contact_sheet import save_picture
from mvit_video.engine.marks import Mark, Overlay, colour_of, drawn, enlargement_of, overlay
from mvit_video.prediction.annotation import PaintPicture, paint_video
from mvit_video.prediction.drawings import ANNOTATED
from mvit_video.prediction.results import ClassScore, FilePrediction, FoundObject, Window
from mvit_video.prediction.words import Planes, enlarged_planes, lay_over
from mvit_video.runtime.decode_error import DecodeError

logger = logging.getLogger(__name__)

_CLOSE = 1e-4  # seconds: times of frames are rounded in files


@dataclass(frozen=True, kw_only=True)
class ObjectDrawings:
    """Where drawings go; a `Draws` of build/file_predictor.py.

    Attributes:
        folder: of the results.
        names: of the drawings, by the path of the file.
        class_names: each has its colour.
        annotate: whether anything is drawn.
    """

    folder: Path
    names: Mapping[str, str]
    class_names: Sequence[str]
    annotate: bool

    def draw(self, one: FilePrediction) -> str | None:
        """Draw a file's objects, unless the file could not be read; see `Draws`."""
        if one.error is not None or not self.annotate:
            return None
        name = self.names[one.path]
        target = self.folder / ANNOTATED / f"{name}.{'png' if one.windows is None else 'mp4'}"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if one.windows is None:
                picture = drawn(read_upright(one.path).numpy(), marks_of(one.predictions, self.class_names))
                save_picture(Image.fromarray(picture), target)
            else:
                paint_video(one.path, target, object_painter(one.windows, self.class_names))
        except DecodeError as error:
            logger.warning("%s", error)
        return name


def marks_of(found: Sequence[ClassScore], class_names: Sequence[str]) -> list[Mark]:
    """Objects as they are drawn, the best in front, each class in its colour."""
    return [
        Mark(
            box=one.box,
            text=f"{one.name} {one.score:.2f}",
            colour=colour_of(class_names.index(one.name)),
            mask=None if one.mask is None else np.asarray(coco_masks().decode(dict(one.mask))).astype(np.bool_),
        )
        for one in reversed(found)
        if isinstance(one, FoundObject)
    ]


def object_painter(frames: Sequence[Window], class_names: Sequence[str]) -> PaintPicture:
    """Draws on each picture the objects of the last frame that was looked at; small pictures are enlarged.

    Args:
        frames: of a video, in the order of their starts.
        class_names: each has its colour.
    """
    starts = [frame.start for frame in frames]
    held: tuple[int, Overlay | None] = (-1, None)

    def paint(planes: Planes, second: float, matrix: str) -> Planes:
        nonlocal held
        height, width = planes[0].shape
        place = max(0, bisect_right(starts, second + _CLOSE) - 1)
        if place != held[0]:
            marks = marks_of(frames[place].predictions, class_names)
            held = place, overlay(_even(marks, height, width), height, width) if marks else None
        large = enlarged_planes(planes, enlargement_of(height, width))
        return large if held[1] is None else lay_over(large, held[1], matrix)

    return paint


def _even(marks: Sequence[Mark], height: int, width: int) -> list[Mark]:
    """Marks with their masks as large as an encoded picture, which has no odd edge."""
    return [
        mark if mark.mask is None else Mark(mark.box, mark.text, mark.colour, mark.mask[:height, :width])
        for mark in marks
    ]
