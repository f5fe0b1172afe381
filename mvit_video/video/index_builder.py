"""Indexing a video: one pass over its packets, and one picture decoded to learn its true size and orientation."""

import av
import numpy as np
import numpy.typing as npt

from mvit_video.video.container import orientation_of
from mvit_video.video.index import (
    UNREACHABLE,
    FrameIndex,
    Orientation,
    PacketTable,
    VideoDecodeError,
    VideoInfo,
    anchors,
    droppable_packets,
    one_picture_each,
    presented_positions,
)
from mvit_video.video.packets import OutOfStepError, PacketReader, ends_of

_MOST_REORDERED = 16  # pictures a decoder may hold back, H.264 A.3.1
KEYS_TO_TRY = 8
_DEFAULT_FPS = 25.0  # for streams without any clock


def build_index(reader: PacketReader) -> FrameIndex:
    """Index an open video.

    Raises:
        VideoDecodeError: it has no picture that can be decoded.
    """
    table, ranks = reader.scan()
    if ranks is None:  # some demuxers need the probing to work out the times
        reader.reopen()
        table, ranks = reader.scan()
    if not len(table):
        raise VideoDecodeError(reader.name, f"has no pictures{': ' + table.damage if table.damage else ''}")
    if ranks is None:
        if table.corrupt:
            table.cut(table.corrupt[0], f"packet {table.corrupt[0]} is damaged, or one before it is missing")
        order, count = None, sum(1 for _ in reader.frames_in_order(len(table)))
        if table.damage:  # behind the damage frames are missing: what was still to be reordered has wrong numbers
            count = max(0, count - _MOST_REORDERED)
        anchor = np.zeros(len(table), np.int32)
    else:
        anchor = anchors(ranks, table.key, table.kinds)
        order = presented_positions(table, ranks, anchor, container=reader.file.container)
        count = len(order)
    if not count:
        raise VideoDecodeError(reader.name, f"no picture can be decoded ({table.damage or 'no key frame'})")
    size, orientation = _first_picture(reader, table, anchor)
    stamps = None
    if order is not None and reader.file.container != "avi":
        stamps = np.array(table.pts, np.int64)
    fps = _average_fps(reader, count, None if stamps is None or order is None else ends_of(stamps, order))
    height, width = size[::-1] if orientation.transpose else size
    single = one_picture_each(table.kinds)
    return FrameIndex(
        info=VideoInfo(count, fps, height, width, reader.file.codec, count / fps),
        stream=reader.file.stream_index,
        order=order,
        anchor=anchor,
        droppable=droppable_packets(table.kinds, unpacked=reader.unpacks(counted=order is None, single=single)),
        shown=np.array(table.shown, bool),
        stamps=stamps,
        corrupt=tuple(table.corrupt),
        size=size,
        orientation=orientation,
        damage=table.damage,
        single=single,
        numbered=table.numbered and order is not None,
        durations=np.array(table.durations, np.int64),
        time_base=reader.file.time_base,
    )


def _average_fps(reader: PacketReader, count: int, ends: tuple[int, int] | None) -> float:
    """Measured from the first and last frame's times; the header's value, free of rounding, where the two agree."""
    declared = reader.file.declared_fps
    seconds = 0.0 if ends is None else (ends[1] - ends[0]) * reader.file.tick
    if count < 2 or not seconds > 0:
        return declared or _DEFAULT_FPS
    measured = (count - 1) / seconds
    return declared if abs(declared / measured - 1) < 0.01 else measured


def _first_picture(
    reader: PacketReader, table: PacketTable, anchor: npt.NDArray[np.int32]
) -> tuple[tuple[int, int], Orientation]:
    """Size and orientation of the first key frame that decodes: headers may lie, and PyAV hides their rotation."""
    for attempt in ("as opened", "probed", "relaxed"):
        if attempt == "relaxed" and not reader.relax_if_at_fault(np.flatnonzero(table.key)[:KEYS_TO_TRY].tolist()):
            break
        if attempt != "as opened":
            reader.reopen()
        for keys_alone in (True, False):
            frame = _first_frame(reader, table, anchor, keys_alone=keys_alone)
            if frame is not None:
                return (frame.height, frame.width), orientation_of(frame)
    raise VideoDecodeError(reader.name, f"no key frame of its {reader.file.codec} stream can be decoded")


def _first_frame(
    reader: PacketReader, table: PacketTable, anchor: npt.NDArray[np.int32], *, keys_alone: bool
) -> av.VideoFrame | None:
    """The first presented key frame that decodes, or the first presented frame of any kind."""
    try:
        for position, packet in reader.walk(0, len(table) - 1, index=None):
            alone = table.key[position] and table.shown[position]
            if anchor[position] == UNREACHABLE or (keys_alone and not alone):
                continue
            try:
                frames = reader.file.feed(packet) + (reader.file.drain() if keys_alone else [])
            except av.error.FFmpegError:
                continue
            if frames:
                reader.file.reset()
                return frames[0]
        frames = reader.file.drain()
    except (OutOfStepError, av.error.FFmpegError):  # the file itself gives less than when it was scanned
        return None
    return frames[0] if frames else None
