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
_CHECKED: tuple[dict[str, Any], ...] = (
    {"subsampling": 0},
    {"subsampling": 2, "quality": 60},
    {"subsampling": 1, "progressive": True},
)


def decoded_jpeg(picture: Image.Image, data: bytes) -> torch.Tensor | None:
    """The pixels of a JPEG file in colour, uint8 (H, W, 3) as stored; None if it is left to Pillow.

    Args:
        picture: the file as Pillow opened it, not yet decoded.
        data: the content of the file.
    """
    if picture.format != "JPEG" or picture.mode != "RGB":
        return None
    decode = _decoder()
    if decode is None:
        return None
    try:
        pixels = decode(data)
    except RuntimeError:  # Pillow reads it, or says what is wrong with it
        return None
    return pixels if pixels.shape[:2] == picture.size[::-1] else None


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
