"""Contact sheets: clips as rows of pictures with captions, for people who look at their data.

A picture is shown pixel for pixel, or every pixel as a square of whole pixels, so that what is seen is what a model
gets. The arithmetic (`Layout`, `spread`, `shorten`) is apart from the drawing.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from mvit_video.runtime.files import replacing

Pictures = npt.NDArray[np.uint8]

MARGIN, GAP, ROW_GAP = 24, 6, 26
PAGE_WIDTH = 1900  # pixels a sheet aims at: what a wide screen shows without scrolling
MIN_WIDTH = 900  # narrower sheets would cut their captions
MIN_PICTURE = 112  # smaller pictures are enlarged
BOX_HEIGHT = 92  # stands in for the pictures of a video that could not be read
MAX_ANIMATION_MS = 2000


@dataclass(frozen=True)
class Style:
    """Size of the letters in pixels, height of a line, and colour."""

    size: int
    line: int
    colour: str
    bold: bool = False


# Sizes at which a sheet is still read when a page shows it at half its width.
HEADING = Style(28, 40, "#111111", bold=True)
ABOUT = Style(18, 26, "#444444")
TITLE = Style(22, 31, "#111111", bold=True)
DETAILS = Style(18, 26, "#555555")
MARK = Style(16, 22, "#777777")
PROBLEM = Style(18, 26, "#a11212")


@dataclass(frozen=True)
class Row:
    """One clip on a sheet.

    Attributes:
        caption: lines above the pictures: what it is, then where it comes from.
        pictures: uint8 (N, H, W, 3), N of the sheet's columns or fewer; None for a video that could not be read.
        marks: a short text under each picture, such as the number of its frame.
        problem: why there are no pictures.
    """

    caption: Sequence[str]
    pictures: Pictures | None
    marks: Sequence[str] = ()
    problem: str = ""


@dataclass(frozen=True)
class Layout:
    """Where things are on a sheet, in pixels from its upper left corner.

    Attributes:
        height, width: of a picture as it is shown, enlargement included.
        columns: pictures in a row.
        has_pictures: for each row, whether it has pictures or only a box that says why not.
        caption_lines: lines of a row's caption.
        about_lines: lines below the heading.
        note_lines: lines at the foot.
    """

    height: int
    width: int
    columns: int
    has_pictures: Sequence[bool]
    caption_lines: int = 1
    about_lines: int = 0
    note_lines: int = 0

    @property
    def page_width(self) -> int:
        """Width of the sheet."""
        return max(MIN_WIDTH, 2 * MARGIN + self.columns * (self.width + GAP) - GAP)

    @property
    def text_width(self) -> int:
        """Pixels that a line of text may take."""
        return self.page_width - 2 * MARGIN

    def row_top(self, row: int) -> int:
        """Top of a row's caption; for the row after the last, the top of the notes."""
        head = MARGIN + HEADING.line + self.about_lines * ABOUT.line + ROW_GAP
        return head + sum(self._row_height(earlier) for earlier in range(row))

    def cell(self, row: int, column: int) -> tuple[int, int]:
        """(top, left) of a picture, or of the box of a row without pictures."""
        return self.row_top(row) + self._caption_height, MARGIN + column * (self.width + GAP)

    @property
    def page_height(self) -> int:
        """Height of the sheet."""
        return self.row_top(len(self.has_pictures)) + self.note_lines * ABOUT.line + MARGIN

    def _row_height(self, row: int) -> int:
        body = self.height + MARK.line if self.has_pictures[row] else BOX_HEIGHT
        return self._caption_height + body + ROW_GAP

    @property
    def _caption_height(self) -> int:
        return TITLE.line + (self.caption_lines - 1) * DETAILS.line + GAP


@dataclass(frozen=True)
class Sheet:
    """A page of clips of one size.

    Attributes:
        heading: first line of the page.
        about: further lines below it.
        rows: the clips.
        notes: lines at the foot.
        columns: pictures in a row.
        enlarge: pixels of the sheet, in each direction, for one of a clip.
    """

    heading: str
    rows: Sequence[Row]
    columns: int
    about: Sequence[str] = ()
    notes: Sequence[str] = ()
    enlarge: int = 1

    def layout(self) -> Layout:
        """Where things are; the size of the pictures is that of the first row that has some."""
        shape = next((row.pictures.shape[1:3] for row in self.rows if row.pictures is not None), (0, 0))
        return Layout(
            height=shape[0] * self.enlarge,
            width=shape[1] * self.enlarge,
            columns=self.columns,
            has_pictures=tuple(row.pictures is not None for row in self.rows),
            caption_lines=max((len(row.caption) for row in self.rows), default=1),
            about_lines=len(self.about),
            note_lines=len(self.notes),
        )

    def draw(self) -> Image.Image:
        """The sheet as an RGB picture."""
        layout = self.layout()
        page = Image.new("RGB", (layout.page_width, layout.page_height), "white")
        pen = Pen(page)
        width = layout.text_width
        pen.write((MARGIN, MARGIN), self.heading, HEADING, width)
        for number, line in enumerate(self.about):
            pen.write((MARGIN, MARGIN + HEADING.line + number * ABOUT.line), line, ABOUT, width)
        for number, row in enumerate(self.rows):
            self._draw_row(page, pen, layout, number, row)
        foot = layout.row_top(len(self.rows))
        for number, line in enumerate(self.notes):
            pen.write((MARGIN, foot + number * ABOUT.line), line, PROBLEM, width)
        return page

    def _draw_row(self, page: Image.Image, pen: "Pen", layout: Layout, number: int, row: Row) -> None:
        top, width = layout.row_top(number), layout.text_width
        for place, line in enumerate(row.caption):
            at = (MARGIN, top + (TITLE.line + (place - 1) * DETAILS.line if place else 0))
            pen.write(at, line, TITLE if place == 0 else DETAILS, width)
        if row.pictures is None:
            below, left = layout.cell(number, 0)
            pen.box((left, below, layout.page_width - MARGIN, below + BOX_HEIGHT))
            for place, line in enumerate(("could not be read", row.problem)):
                at = (left + 16, below + 16 + place * PROBLEM.line)
                pen.write(at, line, PROBLEM, width - 32)
            return
        for column, picture in enumerate(row.pictures[: layout.columns]):
            below, left = layout.cell(number, column)
            page.paste(Image.fromarray(enlarged(picture, self.enlarge)), (left, below))
            if column < len(row.marks):
                pen.write((left, below + layout.height + 1), row.marks[column], MARK, layout.width)


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture as PNG, beside its place and renamed, so that it is whole or absent at every instant."""
    with replacing(path) as beside:
        image.save(beside, format="PNG")


def save_animation(pictures: Pictures, path: Path, *, milliseconds: Sequence[int]) -> None:
    """Write uint8 (N, H, W, 3) as an endless animated WebP, picture i shown for milliseconds[i]; see save_picture."""
    frames = [Image.fromarray(picture) for picture in pictures]
    with replacing(path) as beside:
        frames[0].save(
            beside,
            format="WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=list(milliseconds),
            loop=0,
            quality=90,
        )


def frame_durations(frames: Sequence[int], fps: float) -> list[int]:
    """Milliseconds each frame of a clip is shown at the video's own pace; the last one as long as the one before."""
    gaps = [later - earlier for earlier, later in itertools.pairwise(frames)]
    gaps.append(gaps[-1] if gaps else 1)
    return [min(MAX_ANIMATION_MS, max(20, round(1000 * gap / fps))) for gap in gaps]


def denormalize_clips(
    clips: torch.Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: Literal["rgb", "bgr"] = "rgb",
) -> Pictures:
    """Grey levels of normalised clips, the inverse of transforms.normalize_clips; what lies beyond is cut off.

    Args:
        clips: floating point (B, 3, T, H, W), on any device.
        mean: three numbers, in R, G, B order.
        std: likewise.
        channel_order: "bgr": both were applied in reverse order.

    Returns:
        uint8 (B, T, H, W, 3), RGB.
    """
    order = slice(None) if channel_order == "rgb" else slice(None, None, -1)
    means = torch.tensor(list(mean)[order], dtype=torch.float32).view(1, 3, 1, 1, 1)
    stds = torch.tensor(list(std)[order], dtype=torch.float32).view(1, 3, 1, 1, 1)
    levels = clips.detach().float().cpu().mul(stds).add_(means).mul_(255).round_().clamp_(0, 255)
    return levels.permute(0, 2, 3, 4, 1).to(torch.uint8).contiguous().numpy()


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` of the numbers 0 .. count - 1, evenly spread with both ends in; all of them if there are no more."""
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [count // 2]
    return [round(place * (count - 1) / (wanted - 1)) for place in range(wanted)]


def enlargement(side: int) -> int:
    """Whole factor by which pictures of `side` pixels are enlarged to be seen at all."""
    return max(1, math.ceil(MIN_PICTURE / side))


def columns_that_fit(width: int) -> int:
    """Pictures of `width` pixels that a sheet of usual size holds in a row; at least one."""
    return max(1, (PAGE_WIDTH - 2 * MARGIN + GAP) // (width + GAP))


def enlarged(picture: Pictures, factor: int) -> Pictures:
    """(H, W, 3) with each pixel as a square of `factor` x `factor` pixels."""
    return np.ascontiguousarray(picture.repeat(factor, axis=0).repeat(factor, axis=1))


def shorten(text: str, limit: int) -> str:
    """The text in `limit` characters at most, cut in the middle: both ends of a path or a class name tell most."""
    if len(text) <= limit:
        return text
    if limit < 3:
        return text[:limit]
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def fit(text: str, width: float, measure: Callable[[str], float]) -> str:
    """The longest middle-cut form of `text` that `measure` finds at most `width` wide."""
    if measure(text) <= width:
        return text
    low, high = 0, len(text) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measure(shorten(text, middle)) <= width else (low, middle - 1)
    return shorten(text, low)


def printable(text: str) -> str:
    """The text with a replacement sign for control characters and for bytes of a file name that are no UTF-8."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def boxed_letters(texts: Iterable[str]) -> str:
    """The letters that no installed font has, in order: a sheet shows them as boxes."""
    letters = sorted(set(printable("".join(texts))))
    return "".join(letter for letter in letters if ord(letter) not in _letters(_font_file(letter, False)))


class Pen:
    """Writes on a page, in DejaVu Sans and, for letters it lacks, in whatever installed font has them."""

    def __init__(self, page: Image.Image) -> None:
        self._draw = ImageDraw.Draw(page)

    def write(self, at: tuple[int, int], text: str, style: Style, width: int) -> None:
        """A line of text with its upper left corner at (left, top), shortened in the middle to `width` pixels."""
        text = fit(printable(text), width, lambda candidate: text_length(candidate, style))
        left: float = at[0]
        for run, font in _runs(text, style):
            # "ls": letters of all fonts stand on one line.
            self._draw.text((left, at[1] + style.size), run, font=font, fill=style.colour, anchor="ls")
            left += font.getlength(run)

    def box(self, corners: tuple[int, int, int, int]) -> None:
        """The box (left, top, right, bottom) of a video that could not be read."""
        self._draw.rectangle(corners, fill="#fdeeee", outline="#d9a0a0")


def text_length(text: str, style: Style) -> float:
    """Width in pixels of a line of text."""
    return sum(font.getlength(run) for run, font in _runs(text, style))


def _runs(text: str, style: Style) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The text cut where the font has to change."""
    groups = itertools.groupby(text, key=lambda letter: _font_file(letter, style.bold))
    return [("".join(run), _font(file, style.size)) for file, run in groups]


@functools.lru_cache(maxsize=64)
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


@functools.lru_cache(maxsize=4096)
def _font_file(letter: str, bold: bool) -> str:
    """A font file with the letter: matplotlib's DejaVu Sans, else any installed one that has it, else DejaVu Sans."""
    import matplotlib

    usual = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' * bold}.ttf")
    if ord(letter) < 128 or ord(letter) in _letters(usual):
        return usual
    from matplotlib import font_manager

    # LastResort, which comes with matplotlib, "has" every letter, as a box.
    found = {entry.fname for entry in font_manager.fontManager.ttflist if "LastResort" not in entry.fname}
    installed = sorted(found)
    return next((file for file in installed if ord(letter) in _letters(file)), usual)


@functools.cache
def _letters(file: str) -> frozenset[int]:
    """Code points that a font can draw; none for a file that is no font."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):  # the list of installed fonts may be out of date
        return frozenset()
