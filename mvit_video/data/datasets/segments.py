"""Segments of long videos: each row of a manifest may be the stretch [start, end) of its file, in seconds.

Seconds are counted from the first frame that is shown, as players do; which frames lie in a segment is the decoder's to
say (video/reader.py), because frame rates vary.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.array_views import ArrayView

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")
_DECIMAL_COMMA = re.compile(r"\d+,\d+")
_MAYBE_THOUSANDS = re.compile(r"[1-9]\d{0,2},\d{3}")


class Segment(NamedTuple):
    """Start and end of a stretch in seconds: frames shown at or after `start` and before `end`; inf: to the last."""

    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.start:g} s to " + ("the end" if math.isinf(self.end) else f"{self.end:g} s")

    @property
    def whole(self) -> bool:
        """Whether it is all of a video."""
        return self.start == 0 and math.isinf(self.end)


WHOLE = Segment(0.0, math.inf)


class Segments(ArrayView[Segment]):
    """A segment per video, in flat memory.

    Args:
        segments: (start, end) pairs; or float64 (videos, 2).
    """

    def __init__(self, segments: Iterable[tuple[float, float]] | npt.NDArray[np.float64]) -> None:
        if not isinstance(segments, np.ndarray):
            segments = np.array(list(segments), np.float64)
        self._pairs = segments.reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._pairs)

    def item(self, place: int) -> Segment:
        """See ArrayView."""
        start, end = self._pairs[place].tolist()
        return Segment(start, end)

    @property
    def pairs(self) -> npt.NDArray[np.float64]:
        """float64 (videos, 2): start and end."""
        return self._pairs


@dataclass(frozen=True, kw_only=True)
class SlidingWindows:
    """Windows of one length that cover a video of any length.

    Attributes:
        length_s: of a window, seconds.
        stride_s: from the start of one to the start of the next, seconds; at most the length, so that nothing is left
            out.

    Raises:
        ValueError: a number is not positive, or windows would leave something out.
    """

    length_s: float
    stride_s: float

    def __post_init__(self) -> None:
        if not 0 < self.stride_s <= self.length_s < math.inf:
            raise ValueError(
                f"windows of {self.length_s} s every {self.stride_s} s: the length must be positive, and the stride "
                "positive and at most the length"
            )

    def of(self, duration_s: float) -> list[Segment]:
        """The windows of a video; the last one ends with it, and a video shorter than a window is a window itself."""
        last = duration_s - self.length_s
        if last <= 0:
            return [Segment(0.0, duration_s)]
        # A video longer by a rounding error has no window more.
        count = math.ceil(last / self.stride_s - 1e-6)
        starts = [*(i * self.stride_s for i in range(count)), last]
        return [Segment(start, start + self.length_s) for start in starts]


def parse_seconds(text: str | int | float) -> float:
    """Seconds of a number, or of a time `00:01:02.5` or `01:02.5`; a comma may stand for the point of decimals.

    Raises:
        ValueError: it is neither, or negative, or `12,500`, which may be either of two numbers; the text says what it
            is, for the caller to say where.
    """
    if isinstance(text, str):
        clock = _CLOCK.fullmatch(text.strip())
        if clock:
            hours, minutes, seconds = clock[1], clock[2], clock[3].replace(",", ".")
            if float(seconds) >= 60 or (hours is not None and int(minutes) >= 60):
                raise ValueError(f"{text!r} is no time of day: minutes and seconds run below 60")
            return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)
        if _MAYBE_THOUSANDS.fullmatch(text.strip()):
            raise ValueError(
                f"{text!r} is {text.strip().replace(',', '.')} or {text.strip().replace(',', '')} seconds: write it "
                "with a point, or without a comma"
            )
        if _DECIMAL_COMMA.fullmatch(text.strip()):
            text = text.replace(",", ".")
    try:
        if isinstance(text, bool):
            raise TypeError
        value = float(text)
    except (TypeError, ValueError):
        raise ValueError(f"{text!r} is neither seconds (62.5) nor a time (00:01:02.5)") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{text!r} is no time in a video: seconds are 0 or more")
    return value
