"""A thread that reads a stream and cuts it into windows, so that none waits for the model."""

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import av

from mvit_video.data.datasets.segments import Segment, SlidingWindows
from mvit_video.prediction.live_source import LiveSource
from mvit_video.prediction.live_windows import LiveWindow, WindowCutter
from mvit_video.runtime.interruption import received
from mvit_video.video.opening import video_stream

logger = logging.getLogger(__name__)
Made = TypeVar("Made")

_AHEAD = 2  # windows that wait for the model
_POLL_S = 0.2
_PATIENCE_S = 5.0  # without a picture, after which it is said


@dataclass
class StreamCounts:
    """What did not go as it should.

    Attributes:
        frames: pictures that came.
        damaged: pictures or packets that could not be decoded.
        jumps: time stamps that ran backwards or were missing; such a picture follows the one before.
        dropped: windows left out because the model was still busy.
        empty: windows in which no picture came.
    """

    frames: int = 0
    damaged: int = 0
    jumps: int = 0
    dropped: int = 0
    empty: int = 0


class LiveReader(Generic[Made]):
    """Windows of a stream as they arrive.

    Args:
        source: the stream.
        windows: their length and stride.
        make: what the model's input is made of, of a window; in the thread, so that few whole pictures are held.
    """

    def __init__(self, source: LiveSource, windows: SlidingWindows, *, make: Callable[[LiveWindow], Made]) -> None:
        self.source = source
        self.windows = windows
        self.counts = StreamCounts()
        self._make = make
        self._queue: queue.Queue[tuple[Segment, Made] | BaseException | None] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._error: str | None = None

    @property
    def ended_by(self) -> str | None:
        """What ended the stream, if it was an error in the middle."""
        return self._error

    def read(self) -> Iterator[tuple[Segment, Made]]:
        """The windows and what was made of them, until the stream ends or this process is asked to stop.

        Raises:
            ValueError: the stream cannot be opened, or has no pictures.
        """
        # A thread that waits in FFmpeg cannot be woken: it must not keep the process.
        threading.Thread(target=self._run, name="live-reader", daemon=True).start()
        waited = 0.0
        try:
            while received() is None:
                try:
                    item = self._queue.get(timeout=_POLL_S)
                except queue.Empty:
                    waited += _POLL_S
                    if not self.counts.frames and waited - _POLL_S < _PATIENCE_S <= waited:
                        logger.info("%s: nothing has come yet; waiting, Ctrl-C ends it", self.source.name)
                    continue
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stop.set()

    def _run(self) -> None:
        try:
            with self.source.open() as container:
                self._read(container)
            self._hand_on(None)
        except BaseException as error:  # it is raised again where the windows are read
            self._hand_on(error)

    def _read(self, container: Any) -> None:
        stream = video_stream(container)
        if stream is None:
            raise ValueError(f"{self.source.name}: has no pictures; give a stream of video")
        rate = stream.average_rate or stream.guessed_rate
        cutter = WindowCutter(self.windows, rate=float(rate) if rate else None)
        clock = _Clock(1 / float(rate) if rate else 0.04)
        try:
            for frame in self._frames(container, stream):
                second = clock.second_of(frame)
                self.counts.jumps = clock.jumps
                for window in cutter.add(second, frame):
                    self._cut(window)
                self.counts.empty = cutter.empty
                if self._stop.is_set():
                    return
        except av.error.FFmpegError as error:
            self._error = error.strerror or str(error)
        if not self.counts.frames:
            raise ValueError(f"{self.source.name}: {self._error or 'it ended'} before the first picture came")
        for window in cutter.finish(clock.last + clock.step):
            self._hand_on((window.segment, self._make(window)))

    def _frames(self, container: Any, stream: Any) -> Iterator[Any]:
        """Whole pictures; whoever joins in the middle gets broken ones until the next key frame."""
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                self.counts.damaged += 1
                continue
            for frame in decoded:
                if frame.is_corrupt:
                    self.counts.damaged += 1
                    continue
                self.counts.frames += 1
                yield frame

    def _cut(self, window: LiveWindow) -> None:
        """Make the model's input of a window; of a stream that sends on, only where the model is not still busy."""
        if self.source.sends_on and self._queue.full():
            self.counts.dropped += 1
        else:
            self._hand_on((window.segment, self._make(window)))

    def _hand_on(self, item: tuple[Segment, Made] | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return
            except queue.Full:
                continue


class _Clock:
    """When pictures are shown, from the first one; what a stream states may run backwards or be missing."""

    def __init__(self, step: float) -> None:
        self.step = step  # seconds from one picture to the next
        self.last = -step
        self.jumps = 0
        self._first: float | None = None

    def second_of(self, frame: Any) -> float:
        """Seconds of a frame of PyAV from the first one, later than those of the frame before."""
        stated = None if frame.pts is None else float(frame.pts * frame.time_base)
        if stated is not None and self._first is None:
            self._first = stated
        second = None if stated is None or self._first is None else stated - self._first
        if second is None or second <= self.last:
            if second is not None:  # the sender began anew: its clock counts from here on
                assert self._first is not None
                self._first -= self.last + self.step - second
            self.jumps += 1
            second = self.last + self.step
        self.last = second
        return second
