"""Images, as the preparation reads and reports them; see content.py.

An image's signature is eight difference hashes of parts of the picture, so that images are compared as videos are.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.images.decoding import MAX_PIXELS, read_image
from mvit_video.images.formats import ImageDecodeError
from mvit_video.preparation.content import IndexedContent
from mvit_video.preparation.duplicates import LEAST_FRAMES, MOST_BITS
from mvit_video.preparation.inventory import SplitEntry
from mvit_video.preparation.journal import Record
from mvit_video.preparation.perceptual_hash import FRAMES, difference_hash, to_text
from mvit_video.preparation.quantities import most_common
from mvit_video.preparation.scan import ScanTask
from mvit_video.video.byte_source import locate
from mvit_video.video.index import VideoDecodeError

_MAGIC = {
    b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WebP", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}  # fmt: skip


def scan_image(task: ScanTask) -> Record:
    """Read and decode an image; what is wrong with it is the record's status, no error is raised for it."""
    start = time.monotonic()
    record = Record(state=task.state, verify="decode", status="ok")
    try:
        data = locate(task.location).read()
        record = replace(record, digest=hashlib.sha256(data).hexdigest())
        pixels = read_image(data, orientation="apply", name=task.location.name, max_pixels=task.max_pixels).numpy()
        record = replace(
            record,
            signature=signature(pixels),
            codec=next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "other"),
            num_frames=1,
            height=pixels.shape[0],
            width=pixels.shape[1],
        )
    except (VideoDecodeError, ImageDecodeError) as error:
        record = replace(record, status="broken", reason=error.reason)
    except OSError as error:
        record = replace(record, status="broken", reason=error.strerror or str(error))
    return replace(record, seconds=round(time.monotonic() - start, 4))


def signature(pixels: npt.NDArray[np.uint8]) -> str:
    """Hashes of the whole picture, of its quarters, its middle, and its left and right half.

    Args:
        pixels: (H, W, 3).
    """
    grey = pixels.mean(axis=2)
    height, width = grey.shape
    rows, columns = max(1, height // 2), max(1, width // 2)
    parts = [
        grey,
        grey[:rows, :columns],
        grey[:rows, width - columns :],
        grey[height - rows :, :columns],
        grey[height - rows :, width - columns :],
        grey[height // 4 : height // 4 + rows, width // 4 : width // 4 + columns],
        grey[:, :columns],
        grey[:, width - columns :],
    ]
    return to_text([difference_hash(part.astype(np.uint8)) for part in parts])


class ImageContent(IndexedContent):
    """A `Content`: see content.py.

    Args:
        crop_size: side of what a model sees: images with a shorter side are enlarged.
        max_pixels: largest images (height * width) to accept.
    """

    kind = IMAGES
    scan = staticmethod(scan_image)
    preload: tuple[str, ...] = ("mvit_video.preparation.image_content",)
    near_rule = (
        f"at least {LEAST_FRAMES} of {FRAMES} parts of the picture (all of it, quarters, middle, halves) show enough "
        f"structure to be compared, and their 64-bit difference hashes differ in at most {MOST_BITS:g} bits on average"
    )
    too_small_title = "Small images"
    quantities: Mapping[str, str] = {"short side, pixels": "short_side", "file, bytes": "file_bytes"}
    histograms: Mapping[str, str] = {"Picture sizes": "sizes", "Formats": "formats"}

    def __init__(self, *, crop_size: int, max_pixels: int = MAX_PIXELS) -> None:
        self.crop_size = crop_size
        self.max_pixels = max_pixels

    @property
    def too_small_rule(self) -> str:
        """See Content."""
        return f"smaller than the crop of {self.crop_size} pixels, so that it is enlarged"

    def statistics(
        self, entries: Sequence[SplitEntry], records: Mapping[int, Record], manifest: Manifest
    ) -> dict[str, Any]:
        """See Content."""
        return {"formats": most_common(records[entry.item].codec for entry in entries)}

    def too_small(self, entry: SplitEntry, record: Record) -> dict[str, float] | None:
        """See Content."""
        side = min(record.height, record.width)
        return None if side >= self.crop_size else {"pixels": side, "needed": self.crop_size}
