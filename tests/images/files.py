"""Image files of every kind, made on the spot."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def scene(height: int = 48, width: int = 64) -> Image.Image:
    """A picture without symmetry: a gradient in each channel, and a bright corner."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], axis=2).astype(np.uint8)
    pixels[: height // 4, : width // 4] = (250, 240, 10)
    return Image.fromarray(pixels)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The file of a picture in a format of Pillow."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(picture: Image.Image, orientation: int, kind: str = "JPEG") -> bytes:
    """The file of a picture, with a statement of how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, kind, exif=exif)


def png_header(height: int, width: int) -> bytes:
    """A PNG of a few bytes that states any size: a decompression bomb, if believed."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )
