"""What videos look like, in a few numbers per frame that re-encoding, another size and a small crop hardly change.

Some frames of each video are scaled to a small grey picture. Each of its fields is compared with its surroundings
(their mean is subtracted, their contrast divided by), so that every part of the picture counts alike; the vector of all
fields, of length 1, is compared by its cosine. The same is kept of the picture with edges cut off, so that a video and
a crop of it meet.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.dataset import DecodeOptions
from mvit_video.video.reader import VideoDecodeError

SIDE = 96  # pixels a frame is scaled to, whatever its shape
# Pixels cut off above, below, left and right: nothing, all edges, or one of them.
CUTS = ((0, 0, 0, 0), (3, 3, 3, 3), (6, 6, 6, 6), (5, 0, 0, 0), (0, 5, 0, 0), (0, 0, 5, 0), (0, 0, 0, 5))
FIELDS = 16  # of the small picture, in each direction
LEAST_CONTRAST = 6.0  # grey levels, standard deviation: below it a frame (black, a title, a wall) says nothing
_SURROUNDINGS = 5  # fields in each direction
_NOISE = 4.0  # grey levels, added to the contrast that is divided by: what coding leaves in a flat area is no feature


@dataclass(frozen=True)
class Fingerprints:
    """Of some videos, in their order.

    Attributes:
        values: float16 (videos, frames, len(CUTS), FIELDS * FIELDS), each vector of length 1; zeros for a frame without
            structure and for a video that could not be read.
        numbers: int64 (videos, frames), which frames of the file these are.
        failures: reason by place of the videos that could not be read.
    """

    values: torch.Tensor
    numbers: npt.NDArray[np.int64]
    failures: dict[int, str]

    @property
    def plain(self) -> npt.NDArray[np.bool_]:
        """(videos,): readable videos of which fewer than two frames show any structure."""
        structured = (self.values[:, :, 0].abs().amax(-1) > 0).sum(1).numpy()
        plain = structured < min(2, self.values.shape[1])
        plain[list(self.failures)] = False
        return np.asarray(plain)


def frame_places(count: int, frames: int) -> list[int]:
    """The middle of each of `frames` equal parts of `count` frames: openings and ends are left out."""
    return [(2 * place + 1) * count // (2 * frames) for place in range(frames)]


def fingerprint_frames(pictures: torch.Tensor) -> torch.Tensor:
    """Vectors of pictures.

    Args:
        pictures: uint8 (N, H, W, 3).

    Returns:
        float16 (N, len(CUTS), FIELDS * FIELDS).
    """
    grey = pictures.float() @ torch.tensor([0.299, 0.587, 0.114])
    if grey.shape[1:] != (SIDE, SIDE):
        grey = F.interpolate(grey[:, None], (SIDE, SIDE), mode="bilinear", antialias=True)[:, 0]
    cut = [F.adaptive_avg_pool2d(grey[:, a : SIDE - b, c : SIDE - d], FIELDS) for a, b, c, d in CUTS]
    fields = torch.stack(cut, dim=1)
    contrast = fields[:, 0].flatten(1).std(1)
    apart = fields - _around(fields)
    vectors = F.normalize((apart / (_around(apart.square()).sqrt() + _NOISE)).flatten(2), dim=2)
    return (vectors * (contrast >= LEAST_CONTRAST)[:, None, None]).half()


def _around(fields: torch.Tensor) -> torch.Tensor:
    """The mean of the surroundings of each field."""
    return F.avg_pool2d(fields, _SURROUNDINGS, stride=1, padding=_SURROUNDINGS // 2, count_include_pad=False)


def fingerprints(
    manifests: Sequence[Manifest],
    *,
    frames: int,
    time_limit_s: float | None,
    threads: int,
    on_progress: Callable[[int], None],
) -> Fingerprints:
    """Read some frames of every video, into one array: of a large set it takes most of the memory of an audit.

    Args:
        manifests: the videos, those of the first and so on; of a segment, frames of that segment.
        frames: per video.
        time_limit_s: seconds after which a video counts as unreadable.
        threads: videos read at a time.
        on_progress: called with 1 after each video.
    """
    decoding = DecodeOptions(time_limit_s=time_limit_s)
    videos = [(manifest, index) for manifest in manifests for index in range(len(manifest))]
    values = torch.zeros(len(videos), frames, len(CUTS), FIELDS * FIELDS, dtype=torch.float16)
    numbers = np.zeros((len(videos), frames), np.int64)
    failures: dict[int, str] = {}

    def read(place: int) -> None:
        """Take the fingerprints of one video, or note why there are none."""
        manifest, index = videos[place]
        try:
            wanted, pictures = read_places(manifest, index, frames=frames, decoding=decoding, size=(SIDE, SIDE))
        except VideoDecodeError as error:
            failures[place] = error.reason
            return
        values[place], numbers[place] = fingerprint_frames(pictures), wanted

    with ThreadPoolExecutor(max(1, threads)) as pool:
        for _ in pool.map(read, range(len(videos))):
            on_progress(1)
    return Fingerprints(values, numbers, dict(sorted(failures.items())))


def read_places(
    manifest: Manifest, index: int, *, frames: int, decoding: DecodeOptions, size: tuple[int, int] | None
) -> tuple[Sequence[int], torch.Tensor]:
    """Numbers and pictures, uint8 (frames, H, W, 3), of the frames of a video that are compared.

    Raises:
        VideoDecodeError: it cannot be read.
    """
    with decoding.open(manifest, index) as video:
        shown = decoding.frames(video, manifest.segment(index))
        wanted = [shown[place] for place in frame_places(len(shown), frames)]
        return wanted, video.read(wanted, size=size)


def default_threads() -> int:
    """Videos read at a time: one per core; FFmpeg does its work outside of Python's lock."""
    return max(1, len(os.sched_getaffinity(0)))
