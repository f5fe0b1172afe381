"""Sliding windows over frames as they arrive. What is held is one window of frames, however long the stream lasts."""

from collections import deque
from dataclasses import dataclass
from typing import Any

from mvit_video.data.datasets.segments import Segment, SlidingWindows

_SAME_RATE = 0.02  # share by which a rate that was measured may differ from the one that the stream states


@dataclass(frozen=True)
class LiveWindow:
    """A window and the frames that are shown in it.

    Attributes:
        segment: its start and end, seconds from the first frame.
        frames: at least one.
        fps: their rate.
    """

    segment: Segment
    frames: tuple[Any, ...]
    fps: float


class WindowCutter:
    """Cuts windows out of frames: those that SlidingWindows has for a file of the same frames.

    Args:
        windows: their length and stride.
        rate: frames per second as the stream states them; None if it does not.
    """

    def __init__(self, windows: SlidingWindows, *, rate: float | None) -> None:
        self._windows = windows
        self._rate = rate
        self._held: deque[tuple[float, Any]] = deque()
        self._number = 0  # of the next window
        self._end = 0.0  # of the last window that was cut
        self.empty = 0  # windows in which nothing arrived

    @property
    def held(self) -> int:
        """Frames that are held."""
        return len(self._held)

    def add(self, second: float, frame: Any) -> list[LiveWindow]:
        """The windows that are over when a frame arrives.

        Args:
            second: when it is shown, from the first frame; more than that of the frame before.
            frame: whatever stands for it.
        """
        found = []
        length, stride = self._windows.length_s, self._windows.stride_s
        while second >= self._number * stride + length - 1e-9:
            window = self._cut(Segment(self._number * stride, self._number * stride + length))
            if window is None and second > (self._number + 1) * stride + length:
                # Nothing came for longer than a window: the next one begins where something does.
                missing = int((second - length) // stride) - self._number
                self.empty += missing
                self._number += missing
                continue
            if window is not None:
                found.append(window)
            self._number += 1
        self._held.append((second, frame))
        # The last window of all ends with the stream, and may begin before the next regular one.
        keep = min(self._number * stride, second - length) - 1e-9
        while self._held[0][0] < keep:
            self._held.popleft()
        return found

    def finish(self, end: float) -> list[LiveWindow]:
        """The windows that are still due, of which the last one ends with the stream.

        Args:
            end: until when the last frame is shown.
        """
        length, stride = self._windows.length_s, self._windows.stride_s
        due = []
        while self._number * stride + length < end - 1e-6 * stride:
            due.append(Segment(self._number * stride, self._number * stride + length))
            self._number += 1
        if end > self._end + 1e-6 * stride:
            due.append(Segment(max(0.0, end - length), end))
        return [window for window in map(self._cut, due) if window is not None]

    def _cut(self, segment: Segment) -> LiveWindow | None:
        inside = [
            (second, frame) for second, frame in self._held if segment.start - 1e-9 <= second < segment.end - 1e-9
        ]
        if not inside:
            return None
        self._end = segment.end
        return LiveWindow(segment, tuple(frame for _, frame in inside), self._fps([second for second, _ in inside]))

    def _fps(self, seconds: list[float]) -> float:
        """The stated rate where it is true; a camera in the dark has another."""
        if len(seconds) < 2:
            return self._rate or 1.0
        measured = (len(seconds) - 1) / (seconds[-1] - seconds[0])
        if self._rate is not None and abs(measured - self._rate) <= _SAME_RATE * self._rate:
            return self._rate
        return measured
