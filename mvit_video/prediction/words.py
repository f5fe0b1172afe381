"""What is drawn on decoded pictures: white letters on a dark plate at the upper left edge, and overlays."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from mvit_video.engine.marks import Overlay
from mvit_video.video.index import Orientation
from mvit_video.video.yuv import brightness_weights

Plane = npt.NDArray[np.uint8]
Planes = tuple[Plane, Plane, Plane]

QUALITY = {"crf": "20", "preset": "veryfast"}  # of x264, for videos that people look at
_GREY, _PLATE, _WHITE = 128, 16, 235  # of YUV with limited range
_PLATE_SHARE = 0.65  # how much of the plate covers the picture


def planes_of(frame: Any, orientation: Orientation) -> Planes:
    """Brightness (H, W) and colours (H/2, W/2), as the picture is presented; an odd edge becomes even."""
    height, width = frame.height - frame.height % 2, frame.width - frame.width % 2
    plain = frame.reformat(width=width, height=height, format="yuv420p", dst_color_range="MPEG").to_ndarray()
    colour = plain[height:].reshape(2, height // 2, width // 2)
    turned = [orientation.apply(plane) for plane in (plain[:height], colour[0], colour[1])]
    y, u, v = (np.ascontiguousarray(plane) for plane in turned)
    return y, u, v


def joined(planes: Planes) -> Any:
    """The planes as a frame that an encoder takes."""
    y, u, v = planes
    together = np.concatenate([y.reshape(-1), u.reshape(-1), v.reshape(-1)]).reshape(-1, y.shape[1])
    return av.VideoFrame.from_ndarray(together, format="yuv420p")


def enlarged_planes(planes: Planes, factor: int) -> Planes:
    """Planes with each pixel as a square of `factor` x `factor` pixels."""
    y, u, v = (plane.repeat(factor, axis=0).repeat(factor, axis=1) for plane in planes)
    return y, u, v


def lay_over(planes: Planes, over: Overlay, matrix: str) -> Planes:
    """Planes under something drawn in RGB; what is not covered stays as it is, to the bit.

    Args:
        planes: brightness (H, W) and colours (H/2, W/2), limited range.
        over: of the size of the brightness, or smaller by an odd edge.
        matrix: one of video.yuv.MATRICES.
    """
    red, green, blue = brightness_weights(matrix)
    height, width = planes[0].shape
    share = over.share[:height, :width]
    r, g, b = np.moveaxis(over.colours[:height, :width], -1, 0) * np.float32(1 / 255)
    bright = red * r + green * g + blue * b
    halved = share.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    parts = [(16 * share + 219 * bright, share)]
    for colour, weight in ((b, blue), (r, red)):
        difference = ((colour - bright) / (2 * (1 - weight))).reshape(height // 2, 2, width // 2, 2).mean((1, 3))
        parts.append((_GREY * halved + 224 * difference, halved))
    y, u, v = (
        (plane * (1 - covered) + value).round().clip(0, 255).astype(np.uint8)
        for plane, (value, covered) in zip(planes, parts)
    )
    return y, u, v


def draw_lines(planes: Planes, lines: Sequence[str]) -> None:
    """Draw lines of text on a plate at the upper left edge, in place.

    Args:
        planes: brightness (H, W) and colours (H/2, W/2), limited range.
        lines: one below the other; what does not fit into the picture is cut off.
    """
    y, u, v = planes
    text = _text_mask(tuple(lines), max(10, min(y.shape) // 18))
    height, width = min(text.shape[0], y.shape[0]) // 2 * 2, min(text.shape[1], y.shape[1]) // 2 * 2
    share = text[:height, :width].astype(np.float32) / 255
    plate = (1 - _PLATE_SHARE) * y[:height, :width] + _PLATE_SHARE * _PLATE
    y[:height, :width] = np.rint(plate * (1 - share) + _WHITE * share).astype(np.uint8)
    for colour in (u, v):
        part = colour[: height // 2, : width // 2]
        part[...] = (part * (1 - _PLATE_SHARE) + _GREY * _PLATE_SHARE).astype(np.uint8)


@lru_cache(maxsize=256)
def _text_mask(lines: tuple[str, ...], size: int) -> Plane:
    """How much of each pixel is covered by letters, uint8 (H, W); H and W are even."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    # Pillow's own font knows Latin letters alone.
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
    text, margin = "\n".join(lines), max(2, size // 3)
    box = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((margin, margin), text, font=font)
    width, height = (int(-(-length // 2) * 2) for length in (box[2] + margin, box[3] + margin))
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).multiline_text((margin, margin), text, fill=255, font=font)
    return np.asarray(mask)


def draw_on_pixels(pixels: npt.NDArray[np.uint8], lines: Sequence[str]) -> None:
    """Draw lines of text on an RGB picture, uint8 (H, W, 3), in place; see draw_lines."""
    text = _text_mask(tuple(lines), max(10, min(pixels.shape[:2]) // 18))
    height, width = min(text.shape[0], pixels.shape[0]), min(text.shape[1], pixels.shape[1])
    share = text[:height, :width, None].astype(np.float32) / 255
    plate = (1 - _PLATE_SHARE) * pixels[:height, :width]
    pixels[:height, :width] = np.rint(plate * (1 - share) + 255 * share).astype(np.uint8)
