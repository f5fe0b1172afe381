"""The frames of a video that a detector looks at, a few of them decoded at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mvit_video.video.index import seconds_shown
from mvit_video.video.location import VideoLocation
from mvit_video.video.reader import VideoReader

CHUNK_BYTES = 100_000_000  # of decoded pictures that are held


@dataclass(frozen=True)
class Frame:
    """A picture of a video.

    Attributes:
        pixels: uint8 (H, W, 3), as a person sees it.
        start, end: seconds from the first picture; until the next one that is looked at, or the end.
    """

    pixels: torch.Tensor
    start: float
    end: float


class VideoFrames:
    """The frames of a video, as many a second as asked for.

    Args:
        path: path or URL.
        rate: frames a second; None for all.

    Raises:
        VideoDecodeError: the video cannot be read; while its frames are read, too.
    """

    def __init__(self, path: str, *, rate: float | None) -> None:
        self.path = path
        with VideoReader(VideoLocation.of(path)) as video:
            seconds = seconds_shown(video.info, video.times)
            self.end = float(seconds[-1]) + 1 / video.info.fps
            self._chunk = max(1, CHUNK_BYTES // max(1, 3 * video.info.height * video.info.width))
        self.chosen = chosen_frames(seconds, rate)
        self.times = [float(seconds[frame]) for frame in self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, first: int = 0) -> Iterator[Frame]:
        """The frames from one of them on.

        Raises:
            VideoDecodeError: one of them cannot be decoded.
        """
        ends = [*self.times[1:], self.end]
        with VideoReader(VideoLocation.of(self.path)) as video:
            for start in range(first, len(self), self._chunk):
                places = range(start, min(len(self), start + self._chunk))
                pixels = video.read([self.chosen[place] for place in places])
                for row, place in enumerate(places):
                    yield Frame(pixels[row], self.times[place], ends[place])


def chosen_frames(seconds: npt.NDArray[np.float64], rate: float | None) -> Sequence[int]:
    """The frames to look at: of each 1/rate seconds the first one; all of them without a rate.

    Args:
        seconds: when each frame is shown.
        rate: frames a second.
    """
    if rate is None:
        return range(len(seconds))
    steps = np.floor((seconds - seconds[0]) * rate + 1e-6)
    return np.flatnonzero(np.diff(steps, prepend=-1) > 0).tolist()
