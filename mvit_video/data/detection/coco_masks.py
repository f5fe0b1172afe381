"""COCO's code for masks, an optional package, or a plain text that says how to get it."""

from types import ModuleType


def coco_masks() -> ModuleType:
    """pycocotools.mask. RuntimeError where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise RuntimeError(
            "masks need the package pycocotools, which is not installed; pip install 'mvit-video[detection]'"
        ) from error
    return mask
