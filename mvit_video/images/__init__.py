"""Exact decoding of any image file, as a person sees it. It knows nothing of data sets or training.

    from mvit_video.images import read_image

    read_image("cat.jpg", orientation="apply")              # uint8 (H, W, 3), RGB
    read_image(data, name="shard.tar/cat.jpg", orientation="ignore")

| name | what it is |
|---|---|
| `read_image` | the picture of a file, or of bytes (decoding.py) |
| `ImageDecodeError` | everything that can be wrong with a file; it has `path` and `reason` (formats.py) |
| `IMAGE_EXTENSIONS` | the extensions of the formats that are read (formats.py) |
| `MAX_PIXELS` | the largest picture, unless told otherwise |

Needs Pillow, NumPy and PyTorch, and of the project runtime/decode_error.py; torchvision makes it faster.
"""

import importlib
from typing import TYPE_CHECKING

from mvit_video.images.formats import IMAGE_EXTENSIONS, ImageDecodeError

if TYPE_CHECKING:
    from mvit_video.images.decoding import MAX_PIXELS, Orientation, read_image

__all__ = ["IMAGE_EXTENSIONS", "MAX_PIXELS", "ImageDecodeError", "Orientation", "read_image"]


def __getattr__(name: str) -> object:
    """A public name, imported when it is first asked for: decoding needs torch, which takes seconds to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.decoding"), name)
