"""The exact backend: index a file once, then decode only what the asked frames need. VideoReader is its public face."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import av
import numpy as np
import numpy.typing as npt

from mvit_video.video.byte_source import ByteSource, Deadline, SourceKey, warn_of_change
from mvit_video.video.container import explain, too_large
from mvit_video.video.index import (
    UNREACHABLE,
    FrameIndex,
    FrameTimes,
    Orientation,
    Segment,
    VideoDecodeError,
    VideoInfo,
    plan,
    seconds_shown,
)
from mvit_video.video.index_builder import KEYS_TO_TRY, build_index
from mvit_video.video.packets import OutOfStepError, PacketReader, read_ahead
from mvit_video.video.pictures import Canvas

_CACHE_SIZE = 4096  # indexes per process, 2 to 10 KB each for clips of ten seconds


class IndexCache:
    """The last indexes of this process, by file; the oldest unused goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[SourceKey, FrameIndex] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: SourceKey) -> FrameIndex | None:
        with self._lock:
            index = self._entries.get(key)
            if index is not None:
                self._entries.move_to_end(key)
            return index

    def put(self, key: SourceKey, index: FrameIndex) -> None:
        with self._lock:
            self._entries[key] = index
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def drop(self, key: SourceKey) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()


_cache = IndexCache(_CACHE_SIZE)


def clear_cache() -> None:
    """Forget the indexes of this process."""
    _cache.clear()


@dataclass
class _Run:
    """What has come of a run of packets.

    Attributes:
        wanted: positions of the pictures to draw.
        rows: position -> row.
        canvas: where to.
        fed: positions of the packets given to the decoder.
        seen: positions of the pictures that came out.
        bad: positions of the packets that did not decode cleanly.
    """

    wanted: Set[int]
    rows: Mapping[int, int]
    canvas: Canvas
    fed: list[int] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    bad: list[int] = field(default_factory=list)

    def take(self, frames: Sequence[av.VideoFrame]) -> None:
        """Draw the wanted ones of the pictures."""
        for frame in frames:
            stamp = frame.pts
            position = -1 if stamp is None else stamp
            self.seen.add(position)
            if frame.is_corrupt:
                self.bad.append(position)
            if position in self.wanted:
                try:
                    self.canvas.draw(frame, self.rows[position])
                except av.error.FFmpegError:  # a pixel format without conversion
                    self.bad.append(position)


class PyAVDecoder:
    """The exact backend.

    A read first takes the fast way: file opened without probing, seeks, unneeded packets left out. If a frame does not
    come, it is read once more the safe way, from the first key frame on, before the file is called broken.

    The index is the one that came with the location, the one remembered from an earlier opening, or made now, in this
    order; one that was not made now is made anew before the second attempt.
    """

    def __init__(self, source: ByteSource, *, max_pixels: int, deadline: Deadline) -> None:
        self.name = source.name
        self._key = source.key
        self._max_pixels = max_pixels
        self._deadline = deadline
        known = source.index or _cache.get(source.key)
        self._borrowed = known is not None
        if known is not None:
            self._check_size(known)
        self._reader = PacketReader(source, max_pixels=max_pixels, deadline=deadline, index=known)
        try:
            self.index = known or build_index(self._reader)
            self._check_size(self.index)
        except BaseException:
            self.close()
            raise
        if known is None:
            _cache.put(source.key, self.index)

    @property
    def info(self) -> VideoInfo:
        return self.index.info

    @property
    def damage(self) -> str:
        return self.index.damage

    @property
    def coded(self) -> tuple[int, int]:
        return self.index.size

    @property
    def orientation(self) -> Orientation:
        return self.index.orientation

    def seconds_shown(self) -> npt.NDArray[np.float64]:
        """Seconds from the first frame to each, float64 (num_frames,); by the rate where the file states no times."""
        return seconds_shown(self.index.info, self.times())

    def times(self) -> FrameTimes | None:
        """When the frames are shown. Raises VideoDecodeError if they have to be looked up, and cannot be."""
        if self.index.durations is None:  # of a program that did not keep them
            self._make_index_anew()
        return self.index.times()

    def close(self) -> None:
        self._reader.close()

    def _check_size(self, index: FrameIndex) -> None:
        height, width = index.size
        if height * width > self._max_pixels:
            raise too_large(self.name, height, width, self._max_pixels)

    def _make_index_anew(self) -> None:
        """Replace an index that was not made by this reader.

        Raises:
            VideoDecodeError: the video is another one than the index tells of.
        """
        if not self._borrowed:
            return
        known = self.index
        new = build_index(self._reader)
        self._borrowed = False
        if (new.info, new.size, new.orientation) != (known.info, known.size, known.orientation):
            _cache.drop(self._key)
            warn_of_change(self.name)
            raise VideoDecodeError(self.name, "does not fit its index: the file has changed; index it again")
        self.index = new

    def fill(self, rows: Mapping[int, int], canvas: Canvas) -> None:
        """Draw frames (frame -> row of the canvas). Raises VideoDecodeError if one cannot be decoded."""
        if self.index.order is None:
            self._fill_counting(rows, canvas)
            return
        lost, damaged = self._fill_once(rows, canvas, careful=False)
        if lost and all(self.index.anchor[self.index.order[frame]] != UNREACHABLE for frame in lost):
            self._make_index_anew()
            self._reader.reopen(forget=True)
            lost, damaged = self._fill_once(lost, canvas, careful=True)
            if lost and self._reader.relax_if_at_fault(self._some_keys()):
                self._reader.reopen(forget=True)
                lost, damaged = self._fill_once(lost, canvas, careful=True)
        if lost:
            why = "the data it needs is damaged" if damaged else "no key frame precedes it"
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise VideoDecodeError(self.name, f"frame {min(lost)}{more} cannot be decoded: {why}")

    def _some_keys(self) -> list[int]:
        """Positions of the first key frames that pictures are decoded from."""
        anchor = self.index.anchor
        return np.unique(anchor[anchor != UNREACHABLE])[:KEYS_TO_TRY].tolist()

    def _fill_once(self, rows: Mapping[int, int], canvas: Canvas, *, careful: bool) -> tuple[dict[int, int], list[int]]:
        """Draw the frames of `rows` (frame -> row).

        Returns:
            Those that did not come out clean, and the positions of the packets that did not decode cleanly.
        """
        order, anchor = self.index.order, self.index.anchor
        assert order is not None
        todo = {int(order[frame]): row for frame, row in rows.items()}
        reachable = [position for position in todo if anchor[position] != UNREACHABLE]
        segments: Sequence[Segment] = plan(anchor, reachable)
        if careful:
            segments = [Segment(int(anchor[anchor != UNREACHABLE].min()), max(todo), frozenset(todo))]
        trouble: list[int] = []
        for segment in segments:
            seen, bad = self._decode_segment(segment, todo, canvas, careful=careful)
            trouble += bad
            for position in segment.wanted & seen:
                if not self.index.spoiled(position, bad):
                    del todo[position]
        return {frame: row for frame, row in rows.items() if int(order[frame]) in todo}, trouble

    def _decode_segment(
        self, segment: Segment, todo: Mapping[int, int], canvas: Canvas, *, careful: bool
    ) -> tuple[set[int], list[int]]:
        """Decode one run of packets.

        Returns:
            Positions of the pictures that came out, and of the packets that did not decode cleanly.
        """
        index, reader = self.index, self._reader
        first = segment.first
        span = slice(first, segment.last + 1)
        left_out = [False] * (segment.last + 1 - first) if careful else index.droppable[span].tolist()
        for position in segment.wanted:
            left_out[position - first] = False
        looks_back = int(index.anchor[span].min()) < first
        run = _Run(segment.wanted, todo, canvas)
        try:
            walk = reader.walk(first, segment.last, index=None if careful else index)
            for position, packet in read_ahead(item for item in walk if not left_out[item[0] - first]):
                if not run.fed:  # by now the file that gives the packets is open
                    reader.file.begin(packet, looks_back=looks_back)
                self._deadline.check()  # decoding packets that were read ahead takes time, too
                run.fed.append(position)
                try:
                    run.take(reader.file.feed(packet))
                except av.error.FFmpegError:
                    run.bad.append(position)
            run.take(reader.file.drain())
        except (OutOfStepError, av.error.FFmpegError):
            run.bad.append(first)
            reader.file.reset()  # what comes next must not find pictures of this run in the decoder
        except VideoDecodeError:
            reader.file.reset()
            raise
        bad = run.bad + [p for p in run.fed if p not in run.seen and index.shown[p]]
        bad += [p for p in index.corrupt if first <= p <= segment.last]
        # Pictures that look back past the segment's first key frame may well fail, and nothing wanted depends on them.
        return run.seen, [p for p in bad if index.anchor[p] >= first or p == first]

    def _fill_counting(self, rows: Mapping[int, int], canvas: Canvas) -> None:
        last = max(rows)
        number = -1
        for number, frame in enumerate(self._reader.frames_in_order(len(self.index.anchor))):
            if number in rows:
                try:
                    canvas.draw(frame, rows[number])
                except av.error.FFmpegError as error:
                    raise VideoDecodeError(
                        self.name, f"frame {number} cannot be converted: {explain(error)}"
                    ) from error
            if number == last:
                return
        raise VideoDecodeError(self.name, f"frame {last} cannot be decoded: the stream ends after {number + 1} frames")
