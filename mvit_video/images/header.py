"""The size of an image file, from its header alone: no pixel is decoded."""

import os
import warnings

from PIL import Image

from mvit_video.images.decoding import Orientation, exif_orientation, readable_formats
from mvit_video.images.formats import ImageDecodeError


def image_size(path: str | os.PathLike[str], *, orientation: Orientation) -> tuple[int, int]:
    """(height, width) of the picture that `read_image` gives.

    Args:
        path: the file.
        orientation: whether the quarter turns that EXIF states are applied.

    Raises:
        ImageDecodeError: no header can be read.
    """
    name = os.fspath(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about EXIF and sizes: no pixel is decoded
            with Image.open(path, formats=readable_formats()) as picture:
                width, height = picture.size
                # Pillow has turned the size of TIFF already.
                turned = orientation == "apply" and picture.format != "TIFF" and exif_orientation(picture) >= 5
    except Image.DecompressionBombError as error:
        raise ImageDecodeError(name, f"states an absurd size: {error}") from error
    except Exception as error:  # plugins raise whatever a broken file makes them stumble over
        raise ImageDecodeError(name, f"has no readable header: {str(error) or type(error).__name__}") from error
    return (width, height) if turned else (height, width)
