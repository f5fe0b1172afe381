"""From the bytes of an image file to RGB pixels: the picture that a person sees, or one error that names the file.

The content decides about the format, never the extension. What becomes of what RGB with 8 bits does not hold:

| in the file | in the picture |
|---|---|
| grey, palette, 1 bit | the colours that a viewer shows |
| 16 bits a channel | scaled to 8: 65535 becomes 255 |
| transparency | laid on white, as a page shows it |
| CMYK, YCbCr | Pillow's conversion, without colour profiles |
| several pictures (GIF, animated WebP and PNG, TIFF, MPO) | the first |
| a colour profile, a gamma value | not applied, as in the pipelines of the published models |
| an EXIF orientation | applied or ignored, as asked; that of TIFF, where it belongs to the format, is always applied |
| 32 bits a channel, floats | refused: there is no agreed range |
| Lab | Pillow's conversion from the standard Lab to sRGB |

Damage that leaves a valid stream behind (flipped bits in a JPEG) is beyond the decoder's notice.
"""

import functools
import io
import os
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from mvit_video.images.formats import FORMATS, ImageDecodeError
from mvit_video.images.jpeg import decoded_jpeg, plain_jpeg

Orientation = Literal["apply", "ignore"]
MAX_PIXELS = 178_956_970  # height * width; the same as Pillow's: as RGB 0.5 GB, and a hostile header can ask for more

_EXIF_ORIENTATION = 0x0112
_WHITE = 255
_limit_lock = threading.Lock()


def read_image(
    image: bytes | str | os.PathLike[str],
    *,
    orientation: Orientation,
    name: str | None = None,
    min_side: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> torch.Tensor:
    """The picture of an image file.

    Args:
        image: the content of the file, or its path.
        orientation: whether the rotation or mirroring that EXIF states is applied: "apply" shows photographs upright,
            "ignore" is what the published ImageNet pipelines do.
        name: what errors call it; by default the path.
        min_side: a JPEG file may be decoded at 1/2, 1/4 or 1/8 of its size, as long as its short side keeps so many
            pixels. Much faster for photographs, but not the same as decoding at full size and resizing: each 8x8 block
            is scaled by itself. None decodes at full size, exactly.
        max_pixels: pictures with more pixels (height * width, as the header states them) are refused undecoded.

    Returns:
        uint8 (H, W, 3), RGB, contiguous.

    Raises:
        ImageDecodeError: it cannot be read, or not as a whole; it is larger than max_pixels.
        ValueError: an option out of range.
    """
    if orientation not in ("apply", "ignore"):
        raise ValueError(f"orientation={orientation!r}: must be 'apply' or 'ignore'")
    if max_pixels < 1 or (min_side is not None and min_side < 1):
        raise ValueError(f"max_pixels={max_pixels}, min_side={min_side}: both must be 1 or more")
    if isinstance(image, bytes):
        name, data = name or "image", image
    else:
        path = os.fspath(image)
        name = name or path
        data = _file_content(path, name)
    if not data:
        raise ImageDecodeError(name, "the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about EXIF, palettes and sizes: what matters is an error here
            if min_side is None:
                pixels = plain_jpeg(data, max_pixels=max_pixels, upright=orientation == "apply")
                if pixels is not None:
                    return pixels.contiguous()
            with _opened(data, name, max_pixels) as picture:
                scaled = min_side is not None and min(picture.size) >= 2 * min_side
                pixels = None if scaled else decoded_jpeg(picture, data)
                if pixels is None:
                    pixels = _pixels(picture, name, min_side)
                turned = exif_orientation(picture) if orientation == "apply" else 1
                return _turned(pixels, turned).contiguous()
    except ImageDecodeError:
        raise
    except MemoryError as error:
        raise ImageDecodeError(name, "does not fit into memory; lower max_pixels") from error
    except Exception as error:  # plugins raise whatever a broken file makes them stumble over
        raise ImageDecodeError(name, f"cannot be decoded: {str(error) or type(error).__name__}") from error


def _file_content(path: str, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise ImageDecodeError(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def _opened(data: bytes, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """The picture with its header read, no larger than max_pixels."""
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the rule below is the only one
        try:
            picture = Image.open(io.BytesIO(data), formats=readable_formats())
        except UnidentifiedImageError as error:
            raise ImageDecodeError(name, _unknown(data)) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with picture:
        width, height = picture.size
        if height * width > max_pixels:
            raise ImageDecodeError(
                name,
                f"its header states {width}x{height} pixels, more than max_pixels={max_pixels}; raise the limit if "
                "that is its true size, or make it smaller",
            )
        yield picture


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """The formats of which this build of Pillow has a reader."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _unknown(data: bytes) -> str:
    """What is said of a file in no known format."""
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return "is HEIF (the format of iPhones), which Pillow does not read; save it as JPEG or PNG"
    known = ", ".join(readable_formats())
    return f"is in no format that is read ({known}); it begins with {data[:12]!r}. Is it an image, and whole?"


def _pixels(picture: Image.Image, name: str, min_side: int | None) -> torch.Tensor:
    """uint8 (H, W, 3) as Pillow decodes it."""
    if min_side is not None and picture.format in ("JPEG", "MPO"):
        picture.draft(None, (min_side, min_side))
    picture.load()
    return torch.from_numpy(_rgb(picture, name))


def _rgb(picture: Image.Image, name: str) -> "np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]":
    """uint8 (H, W, 3) of a decoded picture in any mode, writable."""
    mode = picture.mode
    if mode == "RGB" and "transparency" not in picture.info:
        return np.array(picture)
    if mode in ("I;16", "I;16B", "I;16L", "I;16N") or (mode == "I" and picture.format in ("PNG", "PPM")):
        grey = (np.clip(np.asarray(picture), 0, 65535).astype(np.uint32) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if mode in ("I", "F"):
        raise ImageDecodeError(
            name, f"has pixels of 32 bits (mode {mode}), which have no agreed range; save it with 8 or 16 bits"
        )
    if picture.has_transparency_data:
        return _on_white(picture)
    return np.array(picture.convert("RGB"))


def _on_white(picture: Image.Image) -> "np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]":
    white = Image.new("RGBA", picture.size, (_WHITE, _WHITE, _WHITE, _WHITE))
    return np.array(Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB"))


def exif_orientation(picture: Image.Image) -> int:
    """1 to 8; 1 (as it is) where nothing is stated, or what is stated cannot be read."""
    try:
        value = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except (SyntaxError, OSError, ValueError, TypeError, LookupError, struct.error):
        # Broken EXIF is common, and says nothing about the picture.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(pixels: torch.Tensor, orientation: int) -> torch.Tensor:
    """(H, W, 3) as EXIF (orientation, tag 0x0112) wants it shown."""
    if orientation >= 5:
        pixels = pixels.transpose(0, 1)
    flipped = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return pixels.flip(flipped) if flipped else pixels
