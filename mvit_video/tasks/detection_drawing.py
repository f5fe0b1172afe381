"""Boxes, masks and names drawn onto images, for people."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from mvit_video.engine.contact_sheet import Pen, Pictures, Style, enlarged, printable, text_length

LEAST_SIDE = 320  # of a picture that is drawn on; smaller ones are enlarged, so that names are legible
MASK_SHARE = 0.4  # of the colour in the pixels of a mask
NAME = Style(15, 20, "#ffffff", bold=True)
Colour = tuple[int, int, int]
# Told apart by colour-blind readers too (Paul Tol's bright scheme).
COLOURS: Sequence[Colour] = (
    (68, 119, 170), (238, 102, 119), (34, 136, 51), (204, 187, 68), (102, 204, 238), (170, 51, 119), (255, 140, 0),
)  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """An object to draw.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image.
        text: its name, written at the box.
        colour: of box, mask and name.
        mask: bool (H, W); None: the box alone.
    """

    box: tuple[float, float, float, float]
    text: str
    colour: Colour
    mask: npt.NDArray[np.bool_] | None = None


def colour_of(label: int) -> Colour:
    """A colour for a class; that of every seventh is the same."""
    return COLOURS[label % len(COLOURS)]


def drawn(pixels: Pictures, marks: Sequence[Mark]) -> Pictures:
    """An image, uint8 (H, W, 3), with objects drawn onto it; small images are enlarged by a whole factor."""
    tinted = pixels.astype(np.float32)
    for mark in marks:
        if mark.mask is not None:
            tinted[mark.mask] += MASK_SHARE * (np.array(mark.colour, np.float32) - tinted[mark.mask])
    factor = max(1, -(-LEAST_SIDE // max(1, min(pixels.shape[:2]))))
    page = Image.fromarray(enlarged(tinted.round().astype(np.uint8), factor))
    pen = ImageDraw.Draw(page)
    line = max(2, round(min(page.size) / 200))
    for mark in marks:
        x1, y1, x2, y2 = (factor * value for value in mark.box)
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle(corners, outline=mark.colour, width=line)
    for mark in marks:
        _write_name(page, pen, mark, factor)
    return np.asarray(page)


def _write_name(page: Image.Image, pen: ImageDraw.ImageDraw, mark: Mark, factor: int) -> None:
    """The name on a plate above the box, or inside where there is no room above."""
    if not mark.text:
        return
    text = printable(mark.text)
    width, height = text_length(text, NAME) + 6, NAME.line
    left = min(max(0.0, factor * mark.box[0]), max(0.0, page.width - width))
    top = factor * mark.box[1] - height
    top = top if top >= 0 else min(factor * mark.box[1], page.height - height)
    pen.rectangle((left, top, left + width, top + height), fill=mark.colour)
    Pen(page).write((round(left) + 3, round(top)), text, NAME, page.width)


def on_one_canvas(pictures: Sequence[Pictures]) -> list[Pictures]:
    """Pictures padded with white at the bottom and right to one size, that of the largest in each direction."""
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    padded = []
    for picture in pictures:
        canvas = np.full((height, width, 3), 255, np.uint8)
        canvas[: picture.shape[0], : picture.shape[1]] = picture
        padded.append(canvas)
    return padded
