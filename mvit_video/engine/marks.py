"""Boxes, masks and names drawn onto images and frames, for people."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from mvit_video.engine.contact_sheet import Pen, Pictures, Style, enlarged, printable, text_length

LEAST_SIDE = 320  # of a picture that is drawn on; smaller ones are enlarged, so that names are legible
MASK_SHARE = 0.4  # of the colour in the pixels of a mask
NAME = Style(15, 20, "#ffffff", bold=True)
NAME_SIDE = 700  # short side up to which names have that size; on larger pictures they grow with it
Colour = tuple[int, int, int]
Values = npt.NDArray[np.float32]
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


@dataclass(frozen=True)
class Overlay:
    """What is laid over a picture.

    Attributes:
        colours: RGB float32 (H, W, 3), already times `share`.
        share: float32 (H, W): how much of the picture it covers, from 0 to 1.
    """

    colours: Values
    share: Values


def colour_of(label: int) -> Colour:
    """A colour for a class; that of every seventh is the same."""
    return COLOURS[label % len(COLOURS)]


def enlargement_of(height: int, width: int) -> int:
    """The whole factor by which a picture is enlarged before it is drawn on."""
    return max(1, -(-LEAST_SIDE // max(1, min(height, width))))


def drawn(pixels: Pictures, marks: Sequence[Mark]) -> Pictures:
    """An image, uint8 (H, W, 3), with objects drawn onto it; small images are enlarged by a whole factor."""
    height, width = pixels.shape[:2]
    over = overlay(marks, height, width)
    below = enlarged(pixels, enlargement_of(height, width)).astype(np.float32)
    below *= 1 - over.share[..., None]
    below += over.colours
    return below.round().astype(np.uint8)


def overlay(marks: Sequence[Mark], height: int, width: int) -> Overlay:
    """What `drawn` lays over a picture (height, width), after its enlargement."""
    colours, share = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    for mark in marks:
        if mark.mask is not None:
            colours[mark.mask] += MASK_SHARE * (np.array(mark.colour, np.float32) - colours[mark.mask])
            share[mark.mask] += MASK_SHARE * (1 - share[mark.mask])
    factor = enlargement_of(height, width)
    colours = colours.repeat(factor, axis=0).repeat(factor, axis=1)
    share = share.repeat(factor, axis=0).repeat(factor, axis=1)
    lines, covered = _lines(marks, factor, share.shape[1], share.shape[0])
    colours[covered] = lines[covered]
    share[covered] = 1
    return Overlay(colours, share)


def _lines(marks: Sequence[Mark], factor: int, width: int, height: int) -> tuple[Pictures, npt.NDArray[np.bool_]]:
    """Boxes and names on a black page, uint8 (H, W, 3), and where they are, bool (H, W)."""
    page, covered = Image.new("RGB", (width, height)), Image.new("1", (width, height))
    pen, where = ImageDraw.Draw(page), ImageDraw.Draw(covered)
    line = max(2, round(min(page.size) / 200))
    for mark in marks:
        x1, y1, x2, y2 = (factor * value for value in mark.box)
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle(corners, outline=mark.colour, width=line)
        where.rectangle(corners, outline=1, width=line)
    for mark in marks:
        _write_name(page, pen, where, mark, factor)
    return np.asarray(page), np.asarray(covered)


def _write_name(
    page: Image.Image, pen: ImageDraw.ImageDraw, where: ImageDraw.ImageDraw, mark: Mark, factor: int
) -> None:
    """The name on a plate above the box, or inside where there is no room above."""
    if not mark.text:
        return
    grown = max(1.0, min(page.size) / NAME_SIDE)
    style = replace(NAME, size=round(NAME.size * grown), line=round(NAME.line * grown))
    text = printable(mark.text)
    width, height = text_length(text, style) + 6, style.line
    left = min(max(0.0, factor * mark.box[0]), max(0.0, page.width - width))
    top = factor * mark.box[1] - height
    top = top if top >= 0 else min(factor * mark.box[1], page.height - height)
    plate = (left, top, left + width, top + height)
    pen.rectangle(plate, fill=mark.colour)
    where.rectangle(plate, fill=1)
    Pen(page).write((round(left) + 3, round(top)), text, style, page.width)


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
