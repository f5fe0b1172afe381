"""JPEG files through torchvision's decoder, which is faster than Pillow's way to an array and gives the same pixels.

Both call libjpeg-turbo. The operator is used as long as it is there (torchvision deprecates its decoders of images) and
gives what Pillow gives; whether it does is found out once per process, on a few small pictures. What it cannot read is
left to Pillow, which then says what is wrong.
"""

import functools
import io
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

logger = logging.getLogger(__name__)

_RGB = 3  # torchvision.io.ImageReadMode.RGB
_START_OF_SCAN, _APP1, _APP2 = 0xDA, 0xE1, 0xE2
_FRAME_HEADERS = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
# Tables, restart interval, comments, and what applications add, but for Adobe's (0xEE).
_PLAIN_SEGMENTS = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)} - {0xEE})
_CHECKED: tuple[dict[str, Any], ...] = (
    {"subsampling": 0},
    {"subsampling": 2, "quality": 60},
    {"subsampling": 1, "progressive": True},
)


def plain_jpeg(data: bytes, *, max_pixels: int, upright: bool) -> torch.Tensor | None:
    """The pixels of a usual JPEG file, uint8 (H, W, 3), without Pillow's reading of its header.

    None for all that is not usual, which is left to Pillow: other than three components of 8 bits, several pictures,
    Adobe's colours, more than max_pixels, damage; and if the picture is to be `upright`, EXIF data.
    """
    size = _plain_size(data, upright=upright)
    if size is None or not 0 < size[0] * size[1] <= max_pixels:
        return None
    return _decoded(data, size)


def _decoded(data: bytes, size: tuple[int, int]) -> torch.Tensor | None:
    """The pixels of a JPEG file if torchvision reads it, and finds this (height, width)."""
    decode = _decoder()
    if decode is None:
        return None
    try:
        pixels = decode(data)
    except RuntimeError:  # Pillow reads it, or says what is wrong with it
        return None
    return pixels if pixels.shape[:2] == size else None


def _plain_size(data: bytes, *, upright: bool) -> tuple[int, int] | None:
    """(height, width) as the header of a usual JPEG file states them (ITU T.81, B.1 and B.2)."""
    if data[:2] != b"\xff\xd8":
        return None
    place, size = 2, None
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : min(place + 2 + length, place + 20)]
        if marker == _START_OF_SCAN:
            return size
        if marker in _FRAME_HEADERS:
            if size is not None or len(segment) < 6 or segment[0] != 8 or segment[5] != 3:
                return None
            size = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
        else:
            pictures = marker == _APP2 and segment.startswith(b"MPF\0")
            if pictures or (upright and marker == _APP1) or marker not in _PLAIN_SEGMENTS or length < 2:
                return None
        place += 2 + length
    return None


def decoded_jpeg(picture: Image.Image, data: bytes) -> torch.Tensor | None:
    """The pixels of a JPEG file in colour, uint8 (H, W, 3) as stored; None if it is left to Pillow.

    Args:
        picture: the file as Pillow opened it, not yet decoded.
        data: the content of the file.
    """
    if picture.format != "JPEG" or picture.mode != "RGB":
        return None
    return _decoded(data, (picture.height, picture.width))


@functools.cache
def _decoder() -> Callable[[bytes], torch.Tensor] | None:
    """torchvision's decoder; None where it is missing or its pixels are not Pillow's."""
    operator = _operator()
    if operator is None:
        logger.info("JPEG files are decoded by Pillow: this torchvision has no decoder")
        return None

    def decode(data: bytes) -> torch.Tensor:
        return operator(torch.frombuffer(data, dtype=torch.uint8), _RGB, False).permute(1, 2, 0)

    if all(_equals_pillow(decode, options) for options in _CHECKED):
        return decode
    logger.info("JPEG files are decoded by Pillow: torchvision's decoder gives other pixels here")
    return None


def _operator() -> Callable[..., torch.Tensor] | None:
    """The operator itself, for the function around it warns that it is deprecated."""
    try:
        import torchvision.io  # noqa: F401 - it registers the operator

        return torch.ops.image.decode_jpeg
    except (ImportError, AttributeError):
        return None


def _equals_pillow(decode: Callable[[bytes], torch.Tensor], options: dict[str, Any]) -> bool:
    """Whether both give the same pixels of a picture with detail and odd sides."""
    rows, columns = np.mgrid[0:37, 0:53]
    pixels = np.stack([rows * columns % 256, rows * 6, (rows ^ columns) * 4], axis=2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    try:
        decoded = decode(file.getvalue())
    except RuntimeError:
        return False
    return np.array_equal(decoded.numpy(), np.asarray(Image.open(file)))
