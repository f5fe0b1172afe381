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


def _png(height: int, width: int, bits: int, content: bytes) -> bytes:
    """An RGB PNG: sizes, bits a channel, rows with their filter bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def png_header(height: int, width: int) -> bytes:
    """A PNG of a few bytes that states any size: a decompression bomb, if believed."""
    return _png(height, width, 8, bytes(64))


def png_of_sixteen_bits(pixels: np.ndarray) -> bytes:
    """A PNG of uint16 (H, W, 3), which Pillow does not write."""
    rows = [b"\0" + row.astype(">u2").tobytes() for row in pixels]
    return _png(*pixels.shape[:2], 16, b"".join(rows))
