"""What one pass over a video's packets tells: which frames there are, in which order they are shown, what each needs.

A container's header states neither the true number of frames (edit lists, cut files) nor their times (variable frame
rate), and its key frame flags alone do not say which frames can be decoded from where. One demuxing pass does.

Words used here: a packet's *position* is its number in file (decoding) order; a frame's *index* is its number in the
order of presentation. `FrameIndex.order` maps the second to the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from mvit_video.runtime.decode_error import DecodeError

_TIME_ROUNDING = 0.5e-6  # s
UNREACHABLE = -1  # anchor of a packet that no key frame precedes


class VideoDecodeError(DecodeError):
    """A video file, or one of its frames, that cannot be read; it has `path` and `reason`."""


@dataclass(frozen=True)
class VideoInfo:
    """What is known of one video stream.

    Attributes:
        num_frames: frames that are shown when the file is played from start to end, edit lists applied.
        fps: average frame rate over the presented frames.
        height, width: size of a decoded picture in pixels, rotation applied.
        codec: decoder's name, such as "h264".
        duration: num_frames / fps, in seconds.
    """

    num_frames: int
    fps: float
    height: int
    width: int
    codec: str
    duration: float


@dataclass(frozen=True, eq=False)
class FrameTimes:
    """When the frames of a video are shown, as its container says it.

    Attributes:
        unit: seconds per tick.
        stamps: int64 (num_frames,), when each frame is first shown, in ticks.
        durations: int64 (num_frames,), for how long, in ticks; 0 where the container does not tell. Where rates vary
            this need not be the time until the next frame.
    """

    unit: Fraction
    stamps: npt.NDArray[np.int64]
    durations: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Orientation:
    """How a decoded picture becomes the presented one: transpose, then mirror. Taken from a file's display matrix."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The presented view of `picture` (H, W, ...); no copy is made."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def orientation_from_matrix(matrix: Sequence[int]) -> Orientation:
    """Orientation of a 3x3 display matrix (row by row, 16.16 fixed point; ISO/IEC 14496-12, 6.2.2).

    A matrix that is not a multiple of 90 degrees is ignored: a training clip has no use for empty corners.
    """
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]  # x' = a x + c y,  y' = b x + d y
    if a and d and not b and not c:
        return Orientation(flip_rows=d < 0, flip_columns=a < 0)
    if b and c and not a and not d:
        return Orientation(transpose=True, flip_rows=b < 0, flip_columns=c < 0)
    return Orientation()


@dataclass
class PacketTable:
    """One row per non-empty packet of the video stream, in file order, as the demuxer gave them."""

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)  # 0 where none is stated
    key: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)  # decoding it yields a picture that is presented
    kinds: list["PacketKind"] = field(default_factory=list)
    corrupt: list[int] = field(default_factory=list)  # positions the demuxer marked as damaged
    damage: str = ""  # why demuxing stopped before the end, if it did
    numbered: bool = False  # each packet's decoding time is its position, and seeking to one leads to it (AVI)

    def __len__(self) -> int:
        return len(self.pts)

    def cut(self, length: int, damage: str) -> None:
        """Keep the first `length` rows, for the reason `damage`."""
        for column in (self.pts, self.dts, self.durations, self.key, self.shown, self.kinds):
            del column[length:]
        self.corrupt = [position for position in self.corrupt if position < length]
        self.damage = damage
        self.numbered = False


@dataclass(frozen=True)
class PacketKind:
    """What a packet's first bytes say about its picture.

    Attributes:
        droppable: no other picture is predicted from it (up to `layer` for HEVC).
        leading: shown before the key frame it follows in the file and perhaps predicted from pictures before that
            key frame; True, False, or None where the codec's bitstream was not looked at.
        clean_start: a key frame that nothing decoded after it looks past (H.264 IDR).
        hidden: decoding it yields no picture.
        layer: temporal sub-layer (HEVC).
        vops: coding types of the MPEG-4 part 2 pictures in the packet ("I", "P", "B", "S"), empty ones left out.
    """

    droppable: bool = False
    leading: bool | None = None
    clean_start: bool = False
    hidden: bool = False
    layer: int = 0
    vops: str = ""


PLAIN = PacketKind()
_DROPPABLE = PacketKind(droppable=True)
_IDR = PacketKind(clean_start=True)
_HIDDEN = PacketKind(hidden=True)


@dataclass(frozen=True)
class FrameIndex:
    """Everything needed to decode any set of frames of one file exactly.

    Attributes:
        info: what is known of the video.
        stream: number of the stream in its container.
        order: int32 (num_frames,), frame index -> packet position; None if only counting decoded frames is possible.
        anchor: int32 (packets,), position of the key frame from which a packet's picture can be decoded exactly.
        droppable: bool (packets,), packets that may be left out when their own picture is not wanted.
        shown: bool (packets,), packets whose picture is presented.
        stamps: int64 (packets,), presentation times in the stream's time base; None if they cannot be used for seeking.
        corrupt: positions of packets marked as damaged by the demuxer.
        size: (height, width) of the coded picture, before rotation.
        orientation: rotation and mirroring to apply.
        damage: why the file could be read in part only, empty for a whole file.
        single: every packet is known to hold one picture, so that there is nothing to unpack.
        numbered: no stamps, but packets can be sought by position: their decoding times are just that.
        durations: int64 (packets,), in the stream's time base, 0 where none is stated; None in indexes of programs that
            did not keep them.
        time_base: (numerator, denominator) of a tick in seconds; (0, 1) if unknown.
    """

    info: VideoInfo
    stream: int
    order: npt.NDArray[np.int32] | None
    anchor: npt.NDArray[np.int32]
    droppable: npt.NDArray[np.bool_]
    shown: npt.NDArray[np.bool_]
    stamps: npt.NDArray[np.int64] | None
    corrupt: tuple[int, ...]
    size: tuple[int, int]
    orientation: Orientation
    damage: str
    single: bool = False
    numbered: bool = False
    durations: npt.NDArray[np.int64] | None = None
    time_base: tuple[int, int] = (0, 1)

    def times(self) -> FrameTimes | None:
        """When the frames are shown; None if the file, or the program that indexed it, does not say."""
        if self.order is None or self.stamps is None or self.durations is None or not all(self.time_base):
            return None
        return FrameTimes(Fraction(*self.time_base), self.stamps[self.order], self.durations[self.order])

    def seconds_shown(self) -> npt.NDArray[np.float64]:
        """Seconds from the first frame to each, float64 (num_frames,); by the rate where the file states no times."""
        return seconds_shown(self.info, self.times())

    def seek_times(self) -> npt.NDArray[np.int64] | None:
        """int64 (packets,): what to ask a demuxer for to get there; None if there is no seeking."""
        return np.arange(len(self.anchor), dtype=np.int64) if self.numbered else self.stamps

    def spoiled(self, position: int, bad: Sequence[int]) -> bool:
        """Whether the picture at `position` may be damaged, given the packets that did not decode cleanly."""
        first = int(self.anchor[position])
        return any(first <= b <= position and (b == position or not self.droppable[b]) for b in bad)


def seconds_shown(info: VideoInfo, times: FrameTimes | None) -> npt.NDArray[np.float64]:
    """Seconds from the first frame to each, float64 (num_frames,); by the rate where no times are known."""
    if times is None:
        return np.arange(info.num_frames) / info.fps
    return (times.stamps - times.stamps[0]) * float(times.unit)


def frames_between(seconds: npt.NDArray[np.float64], start_s: float, end_s: float) -> range:
    """The frames that are shown at or after `start_s` and before `end_s`.

    Args:
        seconds: when each frame is shown, from the first on; at least one.
        start_s: seconds from the first frame.
        end_s: likewise; beyond the end, or inf, for all frames from `start_s` on.

    Raises:
        ValueError: there is no such frame; the text says so, for the caller to say of which video.
    """
    # Times are products of floats; half a microsecond is less than any two frames are apart.
    first, last = np.searchsorted(seconds, np.array([start_s, end_s]) - _TIME_ROUNDING).tolist()
    if first >= last:
        where = f"has no frame from {start_s:g} s to {end_s:g} s"
        if first >= len(seconds):
            raise ValueError(f"{where}: its last frame is shown at {seconds[-1]:.6g} s")
        raise ValueError(f"{where}: the next one is shown at {seconds[first]:.6g} s")
    return range(first, last)


@dataclass(frozen=True)
class Segment:
    """A run of packets to decode without a seek: from key frame `first` to `last`, for the pictures at `wanted`."""

    first: int
    last: int
    wanted: frozenset[int]


def plan(anchor: npt.NDArray[np.int32], positions: Sequence[int]) -> list[Segment]:
    """The fewest packets that give the pictures at `positions`, as runs in file order.

    A run goes on where the next anchor lies within or right behind it: a seek would gain nothing there.
    """
    runs: list[tuple[int, int, list[int]]] = []
    for position in sorted(positions):
        first = int(anchor[position])
        if runs and first <= runs[-1][1] + 1:
            start, _, wanted = runs[-1]
            runs[-1] = (min(start, first), position, [*wanted, position])
        else:
            runs.append((first, position, [position]))
    return [Segment(start, last, frozenset(wanted)) for start, last, wanted in _join_overlaps(runs)]


def _join_overlaps(runs: list[tuple[int, int, list[int]]]) -> list[tuple[int, int, list[int]]]:
    """Merge runs whose first packet lies before the end of the run before (leading pictures look back a key frame)."""
    joined: list[tuple[int, int, list[int]]] = []
    for first, last, wanted in runs:
        while joined and first <= joined[-1][1]:
            start, end, earlier = joined.pop()
            first, last, wanted = min(start, first), max(end, last), earlier + wanted
        joined.append((first, last, wanted))
    return joined


def packet_kind(codec: str, data: memoryview, length_bytes: int) -> PacketKind:
    """Look at a packet's headers.

    Args:
        codec: decoder's name.
        data: the packet.
        length_bytes: size of the length field before each NAL unit (MP4, Matroska); 0 for start codes (TS, AVI, raw).
    """
    if codec == "h264":
        return _h264_kind(data, length_bytes)
    if codec == "hevc":
        return _hevc_kind(data, length_bytes)
    if codec == "mpeg4":
        return PacketKind(vops=_mpeg4_vops(bytes(data)))
    if codec in ("vp8", "libvpx"):
        return PLAIN if data[0] & 0x10 else _HIDDEN  # show_frame, RFC 6386, 9.1
    if codec in ("vp9", "libvpx-vp9"):
        return _vp9_kind(data)
    return PLAIN


def nal_length_bytes(codec: str, extradata: bytes | None) -> int:
    """Size of the NAL length field that avcC / hvcC extradata announces; 0 if the stream uses start codes."""
    if not extradata or extradata[0] != 1:
        return 0
    if codec == "h264" and len(extradata) > 4:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21:
        return (extradata[21] & 3) + 1
    return 0


def nal_headers(data: memoryview, length_bytes: int) -> list[tuple[int, int]]:
    """Where every NAL unit of a packet starts, and its first byte."""
    headers = []
    size = len(data)
    if length_bytes:
        at = 0
        while at + length_bytes + 1 < size:
            length = int.from_bytes(data[at : at + length_bytes], "big")
            at += length_bytes
            headers.append((at, data[at]))
            at += length
        return headers
    raw = bytes(data)
    at = raw.find(b"\0\0\1")
    while at >= 0 and at + 4 < size:
        headers.append((at + 3, raw[at + 3]))
        at = raw.find(b"\0\0\1", at + 3)
    return headers


def _h264_kind(data: memoryview, length_bytes: int) -> PacketKind:
    """H.264, 7.4.1: slices are NAL types 1 to 5, 5 is IDR; nothing is predicted from a picture of nal_ref_idc 0."""
    droppable = False
    for _, header in nal_headers(data, length_bytes):
        unit = header & 31
        if unit == 5:
            return _IDR
        if 1 <= unit <= 4:
            if header & 0x60:
                return PLAIN
            droppable = True
    return _DROPPABLE if droppable else PLAIN


def _hevc_kind(data: memoryview, length_bytes: int) -> PacketKind:
    """H.265, table 7-1: even types below 16 are not used for reference within their sub-layer; 8 and 9 are RASL."""
    for at, header in nal_headers(data, length_bytes):
        unit = (header >> 1) & 63
        if unit < 32:
            return PacketKind(
                droppable=unit < 16 and unit % 2 == 0,
                leading=unit in (8, 9),
                clean_start=unit in (19, 20),
                layer=(data[at + 1] & 7) - 1,
            )
    return PLAIN


def _vp9_kind(data: memoryview) -> PacketKind:
    """VP9, 6.2: a lone frame may be hidden; a superframe (marker in the last byte) always ends in a shown one."""
    if data[-1] & 0xE0 == 0xC0:
        return PLAIN
    bits = data[0]
    profile = (bits >> 5 & 1) | (bits >> 4 & 1) << 1
    shift = 2 if profile == 3 else 3  # profile 3 has one reserved bit more
    if bits >> shift & 1:  # show_existing_frame
        return PLAIN
    return PLAIN if bits >> (shift - 2) & 1 else _HIDDEN


def _mpeg4_vops(data: bytes) -> str:
    """Coding types of the pictures (VOPs) of an MPEG-4 part 2 packet.

    A VOP of 10 bytes or less is the empty one that stands where a packed B-frame was taken from, or repeats a frame.
    """
    starts = []
    at = data.find(b"\0\0\1\xb6")
    while at >= 0 and at + 4 < len(data):
        starts.append(at)
        at = data.find(b"\0\0\1\xb6", at + 4)
    ends = [*starts[1:], len(data)]
    return "".join("IPBS"[data[s + 4] >> 6] for s, e in zip(starts, ends) if e - s > 10)


def one_picture_each(kinds: Sequence[PacketKind]) -> bool:
    """Whether every packet of an MPEG-4 part 2 stream holds one picture, and that no empty one."""
    return all(len(kind.vops) == 1 for kind in kinds)


def droppable_packets(kinds: Sequence[PacketKind], *, unpacked: bool) -> npt.NDArray[np.bool_]:
    """Packets that may be left out: bool (packets,).

    An HEVC picture that its own sub-layer does not use may still be used by a higher one, so only the highest counts.
    MPEG-4 B pictures are never referenced; if the packets are to be `unpacked`, packet n will carry picture n.
    """
    top = max((kind.layer for kind in kinds), default=0)
    vops = [kind.vops for kind in kinds]
    if unpacked:
        vops = list("".join(vops)[: len(vops)])
    elif any(len(pictures) != 1 for pictures in vops):
        vops = [""] * len(vops)
    return np.array([(k.droppable and k.layer == top) or v == "B" for k, v in zip(kinds, vops, strict=True)], bool)


def needs_unpacking(*, codec: str, container: str, counted: bool, single: bool) -> bool:
    """Whether packets may hold several pictures, one of which takes the place of the next packet: MPEG-4 in AVI.

    Not where frames can only be `counted`: there nothing is left out; nor where each packet has a `single` picture.
    """
    return codec == "mpeg4" and container == "avi" and not (counted or single)


def presentation_ranks(table: PacketTable, *, codec: str, container: str) -> list[int] | None:
    """A number per packet that sorts the packets by presentation; None if the file does not tell.

    AVI has no presentation times: those that a demuxer reports are guesses. MPEG-4 pictures are put in order by their
    types there (an anchor is shown once the next anchor comes), and codecs without reordering need no order.
    """
    if container == "avi":
        if codec == "mpeg4":
            return _mpeg4_ranks([kind.vops for kind in table.kinds])
        return list(range(len(table))) if codec in ("mjpeg", "rawvideo", "ffv1", "huffyuv", "png") else None
    pts = [p for p in table.pts if p is not None]
    if len(pts) != len(table) or len(set(pts)) != len(pts):
        return None
    return pts


def _mpeg4_ranks(vops: Sequence[str]) -> list[int] | None:
    """Presentation ranks of MPEG-4 packets. The decoder unpacks packed streams: packet n then carries picture n.

    A B picture packed into the last packet never comes out, for want of a packet to take its place.
    """
    pictures = 0
    for position, kinds in enumerate(vops):
        pictures += len(kinds)
        if pictures <= position:
            return None
    types = "".join(vops)[: len(vops)]
    ranks = [0] * len(types)
    shown = 0
    held = -1
    for position, kind in enumerate(types):
        if kind == "B":
            ranks[position] = shown
        elif held >= 0:
            ranks[held] = shown
        shown += kind == "B" or held >= 0
        held = held if kind == "B" else position
    if held >= 0:
        ranks[held] = shown
    return ranks


def anchors(ranks: Sequence[int], key: Sequence[bool], kinds: Sequence[PacketKind]) -> npt.NDArray[np.int32]:
    """The key frame each picture can be decoded from: int32 (packets,), UNREACHABLE where there is none.

    A picture shown before the key frame it follows in the file (open GOP) may refer to pictures before that key frame,
    so it needs an earlier one. At the start of the file there is none: the picture is lost unless its codec says not.
    """
    keys: list[int] = []
    out = np.full(len(ranks), UNREACHABLE, np.int32)
    for position, rank in enumerate(ranks):
        if key[position]:
            keys.append(position)
        at = len(keys) - 1
        while at >= 0 and ranks[keys[at]] > rank:
            at -= 1
        if at >= 0:
            out[position] = keys[at]
        elif keys and (kinds[keys[0]].clean_start or kinds[position].leading is False):
            out[position] = keys[0]
    return out


def presented_positions(
    table: PacketTable, ranks: Sequence[int], anchor: npt.NDArray[np.int32], *, container: str
) -> npt.NDArray[np.int32]:
    """Packet positions in order of presentation: int32 (num_frames,).

    Pictures that no key frame precedes count only where a file must begin with a key frame, so that losing it shifts no
    numbers; a broadcast stream may be joined anywhere, and players show nothing before its first key frame.

    If demuxing stopped early, packets are missing whose decoding time lies behind the last one read. A picture is
    never shown before it is decoded, so up to that time the order is complete; what lies behind cannot be numbered.
    Where there are no decoding times, the last picture is in doubt: an anchor before which B pictures may be missing.
    """
    values = np.array(ranks, np.int64)
    reachable = anchor != UNREACHABLE
    if not container.startswith("mpeg"):
        reachable[: table.key.index(True) if any(table.key) else 0] = True
    usable = np.array(table.shown, bool) & reachable
    if table.damage and len(values):
        last = table.dts[-1]
        usable &= values < values.max() if last is None or container == "avi" else values <= last
    positions = np.flatnonzero(usable)
    return positions[np.argsort(values[positions], kind="stable")].astype(np.int32)
