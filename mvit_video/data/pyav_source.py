"""The exact backend: index a file once, then decode only what the asked frames need. The public face is decode.py."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import av
import numpy as np
import numpy.typing as npt

from mvit_video.data.video_file import FileKey, VideoFile, file_key, orientation_of, too_large
from mvit_video.data.video_index import (
    UNREACHABLE,
    FrameIndex,
    Orientation,
    PacketTable,
    Segment,
    VideoDecodeError,
    VideoInfo,
    anchors,
    droppable_packets,
    plan,
    presentation_ranks,
    presented_positions,
)

_KEEP_BYTES = 8 * 2**20  # packets of smaller streams stay in memory between indexing and decoding
_CACHE_SIZE = 4096  # indexes per process, 2 to 10 KB each for clips of ten seconds
_MOST_REORDERED = 16  # pictures a decoder may hold back, H.264 A.3.1
_DEFAULT_FPS = 25.0  # for streams without any clock


class IndexCache:
    """The last indexes of this process, by file identity; the oldest unused goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[FileKey, FrameIndex] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: FileKey) -> FrameIndex | None:
        with self._lock:
            index = self._entries.get(key)
            if index is not None:
                self._entries.move_to_end(key)
            return index

    def put(self, key: FileKey, index: FrameIndex) -> None:
        with self._lock:
            self._entries[key] = index
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()


_cache = IndexCache(_CACHE_SIZE)


def clear_cache() -> None:
    """Forget the indexes of this process."""
    _cache.clear()


class OutOfStepError(Exception):
    """A seek led to packets that the index does not know."""


class PyAVSource:
    """The exact backend.

    A read first takes the fast way: file opened without probing, seeks, unneeded packets left out. If a frame does not
    come, it is read once more the safe way, from the first key frame on, before the file is called broken.
    """

    def __init__(self, path: str, max_pixels: int) -> None:
        self.path = path
        self._max_pixels = max_pixels
        self._packets: list[av.Packet] | None = None
        self._positions: dict[int, int] | None = None
        key = file_key(path)
        cached = _cache.get(key)
        self._file = self._open_any()
        if cached is not None:
            self._index = cached
            self._check_size(cached)
            return
        try:
            self._index = self._build_index()
        except BaseException:
            self.close()
            raise
        _cache.put(key, self._index)

    @property
    def info(self) -> VideoInfo:
        return self._index.info

    @property
    def damage(self) -> str:
        return self._index.damage

    def close(self) -> None:
        self._packets = None
        self._file.close()

    def _check_size(self, index: FrameIndex) -> None:
        height, width = index.size
        if height * width > self._max_pixels:
            self.close()
            raise too_large(self.path, height, width, self._max_pixels)

    def _open_any(self) -> VideoFile:
        try:
            return VideoFile(self.path, max_pixels=self._max_pixels)
        except VideoDecodeError:
            return VideoFile(self.path, max_pixels=self._max_pixels, mode="probed")

    def _reopen(self) -> None:
        self._file.close()
        self._file = VideoFile(self.path, max_pixels=self._max_pixels, mode="probed")

    # ---- index

    def _build_index(self) -> FrameIndex:
        table, ranks = self._scan()
        if ranks is None:  # some demuxers need the probing to work out the times
            self._reopen()
            table, ranks = self._scan()
        if not len(table):
            raise VideoDecodeError(self.path, f"has no pictures{': ' + table.damage if table.damage else ''}")
        if ranks is None:
            order, count = None, self._count_frames()
            if table.damage:  # behind the damage frames are missing: what was still to be reordered has wrong numbers
                count = max(0, count - _MOST_REORDERED)
            anchor = np.zeros(len(table), np.int32)
        else:
            anchor = anchors(ranks, table.key, table.kinds)
            order = presented_positions(table, ranks, anchor, container=self._file.container)
            count = len(order)
        if not count:
            raise VideoDecodeError(self.path, f"no picture can be decoded ({table.damage or 'no key frame'})")
        size, orientation = self._first_picture(table, anchor)
        stamps = None
        if order is not None and self._file.container != "avi":
            stamps = np.array(table.pts, np.int64)
        fps = self._average_fps(count, None if stamps is None or order is None else stamps[order[[0, -1]]])
        height, width = size[::-1] if orientation.transpose else size
        return FrameIndex(
            info=VideoInfo(count, fps, height, width, self._file.codec, count / fps),
            stream=self._file.stream_index,
            order=order,
            anchor=anchor,
            droppable=droppable_packets(table.kinds),
            shown=np.array(table.shown, bool),
            stamps=stamps,
            corrupt=tuple(table.corrupt),
            size=size,
            orientation=orientation,
            damage=table.damage,
        )

    def _scan(self) -> tuple[PacketTable, list[int] | None]:
        table, self._packets = self._file.scan(_KEEP_BYTES)
        return table, presentation_ranks(table, codec=self._file.codec, container=self._file.container)

    def _average_fps(self, count: int, ends: npt.NDArray[np.int64] | None) -> float:
        """Measured from the first and last frame's times; the header's value, free of rounding, where the two agree."""
        declared = self._file.declared_fps
        if ends is None or count < 2:
            return declared or _DEFAULT_FPS
        measured = (count - 1) / (float(ends[1] - ends[0]) * self._file.tick)
        return declared if abs(declared / measured - 1) < 0.01 else measured

    def _first_picture(self, table: PacketTable, anchor: npt.NDArray[np.int32]) -> tuple[tuple[int, int], Orientation]:
        """Size and orientation of the first key frame that decodes: headers may lie, and PyAV hides their rotation."""
        for attempt in ("as opened", "probed"):
            if attempt == "probed":
                self._reopen()
            frame = self._first_frame(table, anchor, keys_alone=True) or self._first_frame(
                table, anchor, keys_alone=False
            )
            if frame is not None:
                return (frame.height, frame.width), orientation_of(frame)
        raise VideoDecodeError(self.path, f"no key frame of its {self._file.codec} stream can be decoded")

    def _first_frame(
        self, table: PacketTable, anchor: npt.NDArray[np.int32], *, keys_alone: bool
    ) -> av.VideoFrame | None:
        """The first presented key frame that decodes, or the first presented frame of any kind."""
        for position, packet in self._walk(0, len(table) - 1, stamps=None):
            if anchor[position] == UNREACHABLE or (keys_alone and not (table.key[position] and table.shown[position])):
                continue
            try:
                frames = self._file.feed(packet) + (self._file.drain() if keys_alone else [])
            except av.error.FFmpegError:
                continue
            if frames:
                self._file.drain()
                return frames[0]
        frames = self._file.drain()
        return frames[0] if frames else None

    def _count_frames(self) -> int:
        """Decode everything and count: the only way for streams whose packets do not tell."""
        return sum(1 for _ in self._decode_in_order())

    # ---- decoding

    def fill(self, rows: Mapping[int, int], out: npt.NDArray[np.uint8]) -> None:
        order = self._index.order
        if order is None:
            self._fill_counting(rows, out)
            return
        todo = {int(order[frame]): row for frame, row in rows.items()}
        anchor = self._index.anchor
        reachable = [position for position in todo if anchor[position] != UNREACHABLE]
        bad = self._fill_segments(plan(anchor, reachable), todo, out, careful=False)
        if todo and len(reachable) == len(rows):
            self._reopen()
            self._packets = None
            first = int(anchor[anchor != UNREACHABLE].min())
            whole = Segment(first, max(todo), frozenset(todo))
            bad = self._fill_segments([whole], todo, out, careful=True)
        if todo:
            lost = sorted(frame for frame in rows if int(order[frame]) in todo)
            why = "the data it needs is damaged" if bad else "no key frame precedes it"
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise VideoDecodeError(self.path, f"frame {lost[0]}{more} cannot be decoded: {why}")

    def _fill_segments(
        self, segments: Sequence[Segment], todo: dict[int, int], out: npt.NDArray[np.uint8], *, careful: bool
    ) -> list[int]:
        """Decode `segments` and strike what came out clean off `todo` (packet position -> row).

        Returns:
            Positions of the packets that did not decode cleanly.
        """
        trouble: list[int] = []
        for segment in segments:
            try:
                seen, bad = self._decode_segment(segment, todo, out, careful=careful)
            except (OutOfStepError, av.error.FFmpegError):
                bad, seen = [segment.first], set()
            trouble += bad
            for position in segment.wanted & seen:
                if not self._index.spoiled(position, bad):
                    del todo[position]
        return trouble

    def _decode_segment(
        self, segment: Segment, todo: Mapping[int, int], out: npt.NDArray[np.uint8], *, careful: bool
    ) -> tuple[set[int], list[int]]:
        """Decode one run of packets.

        Returns:
            Positions of the pictures that came out, and of the packets that did not decode cleanly.
        """
        index, file = self._index, self._file
        fed: list[int] = []
        seen: set[int] = set()
        bad: list[int] = []

        def take(frames: list[av.VideoFrame]) -> None:
            for frame in frames:
                position = -1 if frame.pts is None else frame.pts
                seen.add(position)
                if frame.is_corrupt:
                    bad.append(position)
                if position in segment.wanted:
                    self._write(frame, out[todo[position]])

        stamps = None if careful else index.stamps
        for position, packet in self._walk(segment.first, segment.last, stamps=stamps):
            if index.droppable[position] and position not in segment.wanted and not careful:
                continue
            fed.append(position)
            try:
                take(file.feed(packet))
            except av.error.FFmpegError:
                bad.append(position)
        try:
            take(file.drain())
        except av.error.FFmpegError:
            bad.append(segment.first)
        bad += [p for p in fed if p not in seen and index.shown[p]]
        bad += [p for p in index.corrupt if segment.first <= p <= segment.last]
        # Pictures that look back past the segment's first key frame may well fail, and nothing wanted depends on them.
        return seen, [p for p in bad if index.anchor[p] >= segment.first or p == segment.first]

    def _write(self, frame: av.VideoFrame, out: npt.NDArray[np.uint8]) -> None:
        self._file.write_rgb(frame, out, size=self._index.size, orientation=self._index.orientation)

    def _walk(self, first: int, last: int, *, stamps: npt.NDArray[np.int64] | None) -> Iterator[tuple[int, av.Packet]]:
        """Packets at positions first..last with their positions, which also become their presentation times.

        From memory if they are there; else after a seek, if there are stamps to find the place by; else from the start.

        Raises:
            OutOfStepError: the file does not give the packets that are in the index.
            av.error.FFmpegError: the file is damaged here.
        """
        if self._packets is not None:
            for position in range(first, last + 1):
                packet = self._packets[position]
                packet.pts = position
                yield position, packet
            return
        place, packets = self._packets_near(first, stamps)
        for position, packet in enumerate(packets, place):
            if stamps is not None and packet.pts != stamps[position]:
                raise OutOfStepError
            if position >= first:
                packet.pts = position
                yield position, packet
            if position == last:
                return
        raise OutOfStepError

    def _packets_near(self, first: int, stamps: npt.NDArray[np.int64] | None) -> tuple[int, Iterator[av.Packet]]:
        """The packets from `first` or some place before on, and that place."""
        if first > 0 and stamps is not None:
            if self._positions is None:
                self._positions = {stamp: position for position, stamp in enumerate(stamps.tolist())}
            before = self._index.anchor[:first].max()  # some demuxers land behind the time asked for: try a GOP earlier
            for target in (first, max(0, int(before))):
                self._file.seek(int(stamps[target]))
                packets = self._file.packets()
                for packet in packets:
                    place = -1 if packet.pts is None else self._positions.get(packet.pts, -1)
                    if 0 <= place <= first:
                        return place, _chain(packet, packets)
                    if place > first:
                        break
        if not self._file.at_start:
            self._file.close()
            self._file = self._open_any()
        return 0, self._file.packets()

    def _decode_in_order(self) -> Iterator[av.VideoFrame]:
        """Every presented frame from the start; stops at the first damage, behind which counting means nothing."""
        if not self._file.at_start:
            self._reopen()
        try:
            for packet in self._file.packets():
                for frame in self._file.feed(packet):
                    if frame.is_corrupt:
                        return
                    yield frame
            yield from self._file.drain()
        except av.error.FFmpegError:
            return

    def _fill_counting(self, rows: Mapping[int, int], out: npt.NDArray[np.uint8]) -> None:
        last = max(rows)
        number = -1
        for number, frame in enumerate(self._decode_in_order()):
            if number in rows:
                self._write(frame, out[rows[number]])
            if number == last:
                return
        raise VideoDecodeError(self.path, f"frame {last} cannot be decoded: the stream ends after {number + 1} frames")


def _chain(packet: av.Packet, rest: Iterator[av.Packet]) -> Iterator[av.Packet]:
    yield packet
    yield from rest
