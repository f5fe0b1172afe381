"""The packets of one video, from memory or from the file, each under its position."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import Literal

import av
import numpy as np
import numpy.typing as npt

from mvit_video.video.byte_source import ByteSource, Deadline
from mvit_video.video.container import VideoFile
from mvit_video.video.index import FrameIndex, PacketTable, VideoDecodeError, needs_unpacking, presentation_ranks

_READ_ON = 8  # packets: reading so many costs no more than a seek
_UNKNOWN = 2**62
KEEP_BYTES = 8 * 2**20  # packets of smaller streams stay in memory between indexing and decoding
_AHEAD_BYTES = 2**20


class OutOfStepError(Exception):
    """A seek led to packets that the index does not know."""


class PacketReader:
    """An open video whose packets can be had by position.

    Args:
        source: the video.
        max_pixels: pictures with more pixels are refused.
        deadline: when to give up.
        index: of the video, if it is known.

    Raises:
        VideoDecodeError: it cannot be opened.
    """

    def __init__(
        self, source: ByteSource, *, max_pixels: int, deadline: Deadline, index: FrameIndex | None = None
    ) -> None:
        self.name = source.name
        self._source = source
        self._max_pixels = max_pixels
        self._deadline = deadline
        self._strict = True
        self._indexed = index.info.codec if index is not None and index.order is not None else ""
        self._kept: list[av.Packet] | None = None
        self._kept_is_unpacked = False
        self._positions: dict[int, int] | None = None
        self._next = _UNKNOWN  # position of the packet that the file would give next
        self.file = self._open_any()

    def close(self) -> None:
        """Release the file and the packets."""
        self._kept = None
        self.file.close()

    def _open_any(self) -> VideoFile:
        try:
            return self._open("quick")
        except VideoDecodeError:
            self._deadline.check()
            return self._open("probed")

    def _open(self, mode: Literal["quick", "probed"]) -> VideoFile:
        return VideoFile(
            self._source,
            max_pixels=self._max_pixels,
            deadline=self._deadline,
            mode=mode,
            strict=self._strict,
            indexed=self._indexed,
        )

    def reopen(self, *, forget: bool = False) -> None:
        """Open the file once more, in FFmpeg's normal way; `forget` also the packets in memory."""
        self.file.close()
        self._next = _UNKNOWN
        self.file = self._open("probed")
        if forget:
            self._kept = None

    def relax_if_at_fault(self, keys: Sequence[int]) -> bool:
        """Stop refusing packets with small errors if they are the stream's habit rather than damage.

        Some writers put invalid data beside the pictures (H.264 SEI, VUI) into every key frame. So no key frame of
        `keys` (positions) may decode strictly, and every one otherwise; a single one tells nothing.

        Returns:
            Whether it was so: reading again may help.
        """
        if not self._strict or len(keys) < 2:
            return False
        strictly = self._decodable(keys)
        self._strict = False
        if not any(strictly) and all(self._decodable(keys)):
            return True
        self._strict = True
        return False

    def _decodable(self, positions: Sequence[int]) -> list[bool]:
        """Whether the packets at `positions` give a picture each, alone."""
        self.reopen()
        good = [False] * len(positions)
        try:
            for position, packet in self.walk(0, positions[-1], index=None):
                if position in positions:
                    try:
                        good[positions.index(position)] = bool(self.file.feed(packet) + self.file.drain())
                    except av.error.FFmpegError:
                        self.file.reset()
        except (OutOfStepError, av.error.FFmpegError):
            return good
        return good

    def scan(self) -> tuple[PacketTable, list[int] | None]:
        """All packets, which stay in memory if they are small, and numbers that sort them by presentation if known."""
        if self._indexed or not self.file.at_start:
            self._indexed = ""
            self.file.close()
            self.file = self._open_any()
        self._next = _UNKNOWN
        table, self._kept = self.file.scan(KEEP_BYTES)
        self._kept_is_unpacked = False
        return table, presentation_ranks(table, codec=self.file.codec, container=self.file.container)

    def walk(self, first: int, last: int, *, index: FrameIndex | None) -> Iterator[tuple[int, av.Packet]]:
        """Packets at positions first..last with their positions, which also become their presentation times.

        From memory if they are there; else after a seek, if `index` has times to find the position by; else from the
        start, by counting.

        Raises:
            OutOfStepError: the file does not give the packets that are in the index.
            av.error.FFmpegError: the file is damaged here.
            VideoDecodeError: the time is over.
        """
        if index is not None and self.unpacks(counted=index.order is None, single=index.single):
            yield from self._walk_unpacked(first, last, index)
            return
        if self._kept is not None:
            yield from self._numbered(self._kept[first : last + 1], first, first, last)
            return
        times = None if index is None else index.seek_times()
        numbered = index is not None and index.numbered
        start, packets = (0, self._from_start()) if index is None or first == 0 else self._near(first, index)
        expected: Iterable[int | None] = repeat(None) if times is None else times[start : last + 1].tolist()
        self._next = _UNKNOWN
        for position, (stamp, packet) in enumerate(zip(expected, packets), start):
            if stamp is not None and (packet.dts if numbered else packet.pts) != stamp:
                raise OutOfStepError
            if position >= first:
                packet.pts = position
                yield position, packet
            if position == last:
                self._next = position + 1
                return
        raise OutOfStepError

    def unpacks(self, *, counted: bool, single: bool) -> bool:
        """Whether walking by an index yields the pictures of packed packets one by one."""
        return needs_unpacking(codec=self.file.codec, container=self.file.container, counted=counted, single=single)

    def _walk_unpacked(self, first: int, last: int, index: FrameIndex) -> Iterator[tuple[int, av.Packet]]:
        """As `walk`, through FFmpeg's filter that gives packed pictures packets of their own.

        The filter empties what it is given, so that packets in memory are replaced by its output once and for all. It
        can begin with any key frame: no picture is left from before to be given a packet.
        """
        if self._kept is not None and not self._kept_is_unpacked:
            self._kept = list(self.file.unpacked(self._kept))
            self._kept_is_unpacked = True
        if self._kept is not None:
            yield from self._numbered(self._kept[first : last + 1], first, first, last)
        else:
            self._next = _UNKNOWN  # reading on from there is for those who do not filter
            start, packets = self._near(first, index) if first else (0, self._from_start())
            if index.numbered:
                packets = _in_step(packets, start)
            # Only now: the file may have been opened anew, and the filter must belong to that.
            yield from self._numbered(self.file.unpacked(packets), start, first, last)

    def _numbered(
        self, packets: Iterable[av.Packet], start: int, first: int, last: int
    ) -> Iterator[tuple[int, av.Packet]]:
        """Positions first..last of `packets`, which start at position `start`."""
        for position, packet in enumerate(packets, start):
            self._deadline.check()
            if position >= first:
                packet.pts = position
                yield position, packet
            if position == last:
                return
        raise OutOfStepError

    def _near(self, first: int, index: FrameIndex) -> tuple[int, Iterator[av.Packet]]:
        """The packets from `first` or some position before it on, and that position."""
        times = index.seek_times()
        if times is None:
            return 0, self._from_start()
        if 0 <= first - self._next <= _READ_ON:
            return self._next, self.file.packets()
        for attempt in range(2):
            # Some demuxers land behind the time asked for: then try a group of pictures earlier.
            target = first if attempt == 0 else max(0, int(index.anchor[:first].max()))
            self.file.seek(int(times[target]))
            packets = self.file.packets()
            for packet in packets:
                start = self._place_of(packet.dts if index.numbered else packet.pts, first, times)
                if 0 <= start <= first:
                    return start, _chain(packet, packets)
                if start > first:
                    break
        return 0, self._from_start()

    def _place_of(self, stamp: int | None, likely: int, times: npt.NDArray[np.int64]) -> int:
        """Position of the packet with one of the times to seek by, -1 if there is none."""
        if stamp is None or stamp == times[likely]:
            return -1 if stamp is None else likely
        if self._positions is None:
            self._positions = {stamp: position for position, stamp in enumerate(times.tolist())}
        return self._positions.get(stamp, -1)

    def _from_start(self) -> Iterator[av.Packet]:
        if not self.file.at_start:
            self.file.close()
            self.file = self._open_any()
        self._next = _UNKNOWN
        return self.file.packets()

    def frames_in_order(self, packets: int) -> Iterator[av.VideoFrame]:
        """Every presented frame of the first `packets`; stops at damage, behind which counting means nothing."""
        if not self.file.at_start:
            self.reopen()
        try:
            for packet in islice(self.file.packets(), packets):
                for frame in self.file.feed(packet):
                    if frame.is_corrupt:
                        return
                    yield frame
            yield from self.file.drain()
        except av.error.FFmpegError:
            return


def read_ahead(packets: Iterable[tuple[int, av.Packet]]) -> Iterator[tuple[int, av.Packet]]:
    """The same packets and errors, of which a few are read before the first is handed on.

    Reading one packet between two pictures was measured to take about twice as long, presumably because the decoder
    pushes what the demuxer works with out of the processor's caches.
    """
    packets = iter(packets)
    more = True
    while more:
        ahead: list[tuple[int, av.Packet]] = []
        size, more = 0, False
        try:
            for position, packet in packets:
                ahead.append((position, packet))
                size += packet.size
                if size >= _AHEAD_BYTES:
                    more = True
                    break
        except (OutOfStepError, av.error.FFmpegError):
            yield from ahead  # they are sound; an end of the time, though, is the end
            raise
        yield from ahead


def ends_of(stamps: npt.NDArray[np.int64], order: npt.NDArray[np.int32]) -> tuple[int, int]:
    """Presentation times of the first and last frame."""
    return int(stamps[order[0]]), int(stamps[order[-1]])


def _in_step(packets: Iterable[av.Packet], start: int) -> Iterator[av.Packet]:
    """The packets, whose decoding times must go up from `start` by ones."""
    for position, packet in enumerate(packets, start):
        if packet.dts != position:
            raise OutOfStepError
        yield packet


def _chain(packet: av.Packet, rest: Iterator[av.Packet]) -> Iterator[av.Packet]:
    yield packet
    yield from rest
