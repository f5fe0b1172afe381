"""Every frame of a video from first to last, with all packets decoded once and one picture in memory at a time.

VideoReader gives chosen frames and skips what they do not need. Here nothing is skipped: that shows whether all of a
file decodes, and it is the cheapest way to see all of its pictures.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np

from mvit_video.video.byte_source import ByteSource, Deadline
from mvit_video.video.index import UNREACHABLE, FrameIndex, VideoDecodeError
from mvit_video.video.packets import OutOfStepError, PacketReader

OnFrame = Callable[[int, av.VideoFrame], None]
_FINEST_TICK = 10_000_000  # parts of a second; containers count in fewer


@contextmanager
def open_packets(source: ByteSource, *, max_pixels: int) -> Iterator[PacketReader]:
    """A video while it is open. Raises VideoDecodeError."""
    # No deadline: the process that reads is stopped from outside, whatever it waits for.
    reader = PacketReader(source, max_pixels=max_pixels, deadline=Deadline(source.name, None))
    try:
        yield reader
    finally:
        reader.close()


def decode_all(reader: PacketReader, index: FrameIndex, on_frame: OnFrame) -> None:
    """Decode the frames that `index` presents and call `on_frame(number, picture)` for each, in order of presentation.

    Pictures are as coded: not yet turned by the index's orientation. A picture that later proves to be damaged has been
    handed out by then; the error at the end tells.

    Raises:
        VideoDecodeError: some frames cannot be decoded cleanly; its reason names them.
    """
    reader.file.reset()
    lost = _count(reader, index, on_frame) if index.order is None else _decode(reader, index, on_frame)
    if lost:
        raise VideoDecodeError(reader.name, describe_lost(lost, index.info.num_frames))


def _decode(reader: PacketReader, index: FrameIndex, on_frame: OnFrame) -> Sequence[int]:
    """Decode by packet positions; the numbers of the frames that did not come out clean."""
    assert index.order is not None
    number_of = {int(position): number for number, position in enumerate(index.order)}
    last = int(index.order.max())
    seen: set[int] = set()
    bad: list[int] = []

    def take(frames: Sequence[av.VideoFrame]) -> None:
        for frame in frames:
            position = -1 if frame.pts is None else frame.pts
            if frame.is_corrupt:
                bad.append(position)
            if position in number_of and position not in seen:
                on_frame(number_of[position], frame)
            seen.add(position)

    try:
        for position, packet in reader.walk(0, last, index=index):
            try:
                take(reader.file.feed(packet))
            except av.error.FFmpegError:
                bad.append(position)
        take(reader.file.drain())
    except (OutOfStepError, av.error.FFmpegError):
        pass  # the file does not give its packets a second time: those that did not come have not been seen
    bad += [p for p in range(last + 1) if p not in seen and index.shown[p]]
    bad += [p for p in index.corrupt if p <= last]
    # Pictures before the first key frame may well fail: nothing that is presented depends on them.
    bad = [p for p in set(bad) if 0 <= p <= last and (index.anchor[p] != UNREACHABLE or p == 0)]
    return [n for p, n in number_of.items() if p not in seen or (bad and index.spoiled(p, bad))]


def _count(reader: PacketReader, index: FrameIndex, on_frame: OnFrame) -> Sequence[int]:
    """Decode and count, for streams whose packets do not tell their position; the frames that did not come."""
    number = 0
    for frame in reader.frames_in_order(len(index.anchor)):
        if number < index.info.num_frames:
            on_frame(number, frame)
        number += 1
    return range(number, index.info.num_frames)


def describe_lost(lost: Sequence[int], total: int) -> str:
    """Which frames of `total` cannot be decoded, in words; `lost` has at least one."""
    frames = sorted(lost)
    runs = np.split(np.array(frames), np.flatnonzero(np.diff(frames) > 1) + 1)
    shown = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs[:3])
    more = ", ..." if len(runs) > 3 else ""
    return f"{len(frames)} of {total} frames cannot be decoded: {shown}{more}"


def ticks(reader: PacketReader, index: FrameIndex) -> tuple[list[int], Fraction]:
    """When each frame is shown: its time in units, and the unit in seconds.

    Videos without times of their own are shown at their frame rate.
    """
    if index.stamps is None or index.order is None:
        return list(range(index.info.num_frames)), 1 / Fraction(index.info.fps).limit_denominator(60_000)
    return index.stamps[index.order].tolist(), Fraction(reader.file.tick).limit_denominator(_FINEST_TICK)
