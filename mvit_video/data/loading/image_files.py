"""Images as files that nobody annotated: for a detector that says what is in them."""

from collections.abc import Sequence

import numpy as np
import torch

from mvit_video.data.detection.annotations import Instances
from mvit_video.data.loading.detection_batch import DetectionBatch, DetectionSample, collate_detection
from mvit_video.data.loading.worker_monitor import reading
from mvit_video.images.decoding import MAX_PIXELS, read_image
from mvit_video.images.formats import ImageDecodeError
from mvit_video.runtime.decode_error import DecodeError
from mvit_video.video.byte_source import locate
from mvit_video.video.index import VideoDecodeError
from mvit_video.video.location import VideoLocation


def read_upright(source: str, *, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
    """An image as a person sees it, turned as its EXIF data says: uint8 (H, W, 3).

    Args:
        source: path or URL.
        max_pixels: images with more pixels count as broken.

    Raises:
        ImageDecodeError: it cannot be read.
    """
    try:
        content = locate(VideoLocation.of(source)).read()
    except VideoDecodeError as error:
        raise ImageDecodeError(source, error.reason) from error
    return read_image(content, orientation="apply", name=source, max_pixels=max_pixels)


class ImageFiles:
    """Files as samples of detection without instances; an `EvalItems`.

    Args:
        paths: files and URLs.
        max_pixels: images with more pixels count as broken.
    """

    num_views = 1

    def __init__(self, paths: Sequence[str], *, max_pixels: int = MAX_PIXELS) -> None:
        self.paths = paths
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> DetectionSample:
        """One image; `failed` and a black pixel where it cannot be read."""
        path, failures = self.paths[index], []
        try:
            with reading(path):
                pixels = read_upright(path, max_pixels=self.max_pixels)
        except DecodeError as error:
            failures = [(path, error.reason)]
            pixels = torch.zeros(1, 1, 3, dtype=torch.uint8)
        return DetectionSample(
            pixels=pixels,
            instances=_none((pixels.shape[0], pixels.shape[1])),
            image=index,
            path=path,
            failures=failures,
            failed=bool(failures),
        )

    def collate(self, samples: Sequence[DetectionSample]) -> DetectionBatch:
        """See detection_batch.collate_detection."""
        return collate_detection(samples)


def _none(size: tuple[int, int]) -> Instances:
    """No instances in an image of (height, width)."""
    return Instances(
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        crowds=np.zeros(0, np.bool_),
        ids=np.zeros(0, np.int64),
        areas=np.zeros(0, np.float64),
        masks=None,
        size=size,
    )
