"""A FrameIndex as few bytes, and back, exactly.

An ordinary file takes half a byte per frame: presentation times go up in (nearly) equal steps, so what is left is how
the frames are reordered for decoding, which repeats itself. Everything a file may hold instead, such as variable rates
or an order that its times do not give, is kept just as exactly in a few bytes more.

Layout: version (1 byte), CRC-32 (4 bytes; of what follows, begun with the version), the payload in raw DEFLATE
(RFC 1951). In the payload, numbers are signed varints; an array is a `block`: its least value, the bytes per item of
what exceeds it (0, 1, 2, 4 or 8), and those excesses, all first bytes before all second bytes.
"""

import struct
import zlib

import numpy as np
import numpy.typing as npt

from mvit_video.video.index import FrameIndex, Orientation, VideoInfo

VERSION = 1
_HEAD = struct.Struct("<BI")
_DOUBLE = struct.Struct("<d")
_MOST_ITEMS = 2**24  # six days at 30 frames per second; a longer claim is damage
_TEXT_ERRORS = "surrogatepass"  # messages may quote file names that are no valid UTF-8

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# What the bits of the payload's first number say.
_HAS_ORDER, _ORDER_BY_STAMPS, _HAS_STAMPS, _PLAIN_DURATION, _PLAIN_SIZE = 1, 2, 4, 8, 16
_TRANSPOSE, _FLIP_ROWS, _FLIP_COLUMNS = 32, 64, 128
_SINGLE, _NUMBERED = 256, 512  # earlier programs neither set nor read them; the frames are the same without
_HAS_TIMES = 1024  # earlier programs did not set it


def encode_frame_index(index: FrameIndex) -> bytes:
    """The bytes of an index; see the module's text for the layout. ValueError for more than 2**24 packets."""
    if len(index.anchor) > _MOST_ITEMS:
        raise ValueError(f"a video of {len(index.anchor)} packets cannot be indexed, {_MOST_ITEMS} can; cut it")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(_payload(index)) + deflate.flush()
    return _HEAD.pack(VERSION, zlib.crc32(body, VERSION)) + body


def decode_frame_index(data: bytes | memoryview) -> FrameIndex:
    """The index that `encode_frame_index` was given, equal in every field and dtype.

    Raises:
        ValueError: the bytes are damaged, or of a version that this program does not know.
    """
    if len(data) < _HEAD.size:
        raise ValueError(f"damaged frame index: {len(data)} bytes, fewer than its head of {_HEAD.size}; {_WAY_OUT}")
    version, checksum = _HEAD.unpack_from(data)
    body = memoryview(data)[_HEAD.size :]
    if zlib.crc32(body, version) != checksum:
        raise ValueError(f"damaged frame index: its checksum does not fit; {_WAY_OUT}")
    if version != VERSION:
        raise ValueError(f"frame index of version {version}, this program reads version {VERSION}; {_WAY_OUT}")
    try:
        return _read(_Reader(zlib.decompress(body, -zlib.MAX_WBITS)))
    except (zlib.error, struct.error, IndexError, OverflowError, ValueError) as error:
        raise ValueError(f"damaged frame index: {error}; {_WAY_OUT}") from error


_WAY_OUT = "prepare the data set again"


def _payload(index: FrameIndex) -> bytes:
    info, count = index.info, len(index.anchor)
    sort = None if index.stamps is None else np.argsort(index.stamps, kind="stable")
    present = _presented(index)
    by_stamps = bool(
        sort is not None
        and present is not None
        and index.order is not None
        and np.array_equal(sort[present[sort]], index.order)
    )
    flags = {
        _HAS_ORDER: index.order is not None,
        _ORDER_BY_STAMPS: by_stamps,
        _HAS_STAMPS: index.stamps is not None,
        _PLAIN_DURATION: info.fps != 0 and info.num_frames / info.fps == info.duration,
        _PLAIN_SIZE: (info.height, info.width) == _turned(index.size, index.orientation),
        _TRANSPOSE: index.orientation.transpose,
        _FLIP_ROWS: index.orientation.flip_rows,
        _FLIP_COLUMNS: index.orientation.flip_columns,
        _SINGLE: index.single,
        _NUMBERED: index.numbered,
        _HAS_TIMES: index.durations is not None,
    }
    out = _Writer()
    for number in (sum(bit for bit, on in flags.items() if on), count, info.num_frames, index.stream, *index.size):
        out.number(number)
    if not flags[_PLAIN_SIZE]:
        out.number(info.height)
        out.number(info.width)
    out.double(info.fps)
    if not flags[_PLAIN_DURATION]:
        out.double(info.duration)
    out.text(info.codec)
    out.text(index.damage)
    out.number(len(index.corrupt))
    out.block(np.array(index.corrupt, np.int64))
    out.runs(index.anchor.astype(np.int64))
    out.bits(index.droppable)
    out.bits(index.shown)
    if index.stamps is not None and sort is not None:
        ordered = index.stamps[sort]
        out.number(int(ordered[0]) if count else 0)
        out.block(np.diff(ordered))
        out.block(sort - np.arange(count))
    if by_stamps and present is not None:
        out.bits(present)
    elif index.order is not None:
        out.number(len(index.order))
        out.block(index.order - np.arange(len(index.order)))
    if index.durations is not None:
        for number in index.time_base:
            out.number(number)
        out.block(index.durations)
    return bytes(out.data)


def _presented(index: FrameIndex) -> Bools | None:
    """Packets that are in the order, bool (packets,); None if the order is none or names packets that are not there."""
    count = len(index.anchor)
    if index.order is None or (len(index.order) and not 0 <= index.order.min() <= index.order.max() < count):
        return None
    present = np.zeros(count, bool)
    present[index.order] = True
    return present


def _turned(size: tuple[int, int], orientation: Orientation) -> tuple[int, int]:
    return (size[1], size[0]) if orientation.transpose else size


def _read(source: "_Reader") -> FrameIndex:
    flags, count, num_frames, stream, rows, columns = (source.number() for _ in range(6))
    source.check_count(count)
    orientation = Orientation(bool(flags & _TRANSPOSE), bool(flags & _FLIP_ROWS), bool(flags & _FLIP_COLUMNS))
    height, width = _turned((rows, columns), orientation)
    if not flags & _PLAIN_SIZE:
        height, width = source.number(), source.number()
    fps = source.double()
    duration = num_frames / fps if flags & _PLAIN_DURATION and fps else source.double()
    codec, damage = source.text(), source.text()
    corrupt = tuple(source.block(source.number()).tolist())
    anchor = source.runs(count).astype(np.int32)
    droppable, shown = source.bits(count), source.bits(count)
    stamps = order = sort = None
    if flags & _HAS_STAMPS:
        steps = np.empty(count, np.int64)
        steps[:1] = source.number()
        steps[1:] = source.block(max(0, count - 1))
        sort = source.block(count) + np.arange(count)
        stamps = np.empty(count, np.int64)
        stamps[sort] = np.cumsum(steps)
    if flags & _ORDER_BY_STAMPS and sort is not None:
        order = sort[source.bits(count)[sort]].astype(np.int32)
    elif flags & _HAS_ORDER:
        length = source.number()
        order = (source.block(length) + np.arange(length)).astype(np.int32)
    durations, time_base = None, (0, 1)
    if flags & _HAS_TIMES:
        time_base = source.number(), source.number()
        durations = source.block(count)
    source.check_end()
    return FrameIndex(
        info=VideoInfo(num_frames, fps, height, width, codec, duration),
        stream=stream,
        order=order,
        anchor=anchor,
        droppable=droppable,
        shown=shown,
        stamps=stamps,
        corrupt=corrupt,
        size=(rows, columns),
        orientation=orientation,
        damage=damage,
        single=bool(flags & _SINGLE),
        numbered=bool(flags & _NUMBERED),
        durations=durations,
        time_base=time_base,
    )


class _Writer:
    """Numbers, texts and arrays into bytes."""

    def __init__(self) -> None:
        self.data = bytearray()

    def number(self, value: int) -> None:
        rest = value * 2 if value >= 0 else -value * 2 - 1  # the sign in the lowest bit
        while rest > 127:
            self.data.append(rest & 127 | 128)
            rest >>= 7
        self.data.append(rest)

    def double(self, value: float) -> None:
        self.data += _DOUBLE.pack(value)

    def text(self, value: str) -> None:
        raw = value.encode("utf-8", _TEXT_ERRORS)
        self.number(len(raw))
        self.data += raw

    def bits(self, values: Bools) -> None:
        if values.all() or not values.any():
            self.data.append(int(bool(values.any())))
        else:
            self.data.append(2)
            self.data += np.packbits(values).tobytes()

    def block(self, values: npt.NDArray[np.integer]) -> None:
        """Whole numbers, (N,): their least, and what each is above that, in as many bytes as the largest needs."""
        if not len(values):
            return
        least, most = int(values.min()), int(values.max())
        width = next(w for w in (0, 1, 2, 4, 8) if most - least < 1 << 8 * w)
        self.number(least)
        self.data.append(width)
        if width:
            # Differences of any two int64 are right modulo 2**64.
            excess = values.astype(np.int64).view(np.uint64) - np.uint64(least % 2**64)
            planes = excess.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
            self.data += planes.T.tobytes()

    def runs(self, values: Ints) -> None:
        """Values that stay the same for long and are near their place, such as anchors: the runs' places and values."""
        starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1)) if len(values) else np.zeros(0, np.int64)
        self.number(len(starts))
        self.block(np.diff(starts, append=len(values)))
        self.block(values[starts] - starts)


class _Reader:
    """What _Writer wrote. Every method raises ValueError or IndexError where the bytes do not go on."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        """The next number that `number` of the writer wrote."""
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return -(value >> 1) - 1 if value & 1 else value >> 1

    def double(self) -> float:
        self._at += _DOUBLE.size
        return float(_DOUBLE.unpack_from(self._data, self._at - _DOUBLE.size)[0])

    def text(self) -> str:
        return str(self._take(self.number()), "utf-8", _TEXT_ERRORS)

    def bits(self, count: int) -> Bools:
        kind = self._take(1)[0]
        if kind < 2:
            return np.full(count, kind == 1)
        packed = np.frombuffer(self._take((count + 7) // 8), np.uint8)
        return np.unpackbits(packed, count=count).view(bool)

    def block(self, count: int) -> Ints:
        """The next `count` whole numbers that `block` of the writer wrote, int64 (count,)."""
        self.check_count(count)
        if not count:
            return np.zeros(0, np.int64)
        least = self.number()
        width = self._take(1)[0]
        if not width:
            return np.full(count, least, np.int64)
        if width not in (1, 2, 4, 8):
            raise ValueError(f"items of {width} bytes")
        planes = np.frombuffer(self._take(count * width), np.uint8).reshape(width, count)
        if width == 1:
            return planes[0] + np.int64(least)
        excess = np.ascontiguousarray(planes.T).view(f"<u{width}").ravel().astype(np.uint64)
        return (excess + np.uint64(least % 2**64)).view(np.int64)

    def runs(self, count: int) -> Ints:
        number = self.number()
        lengths, offsets = self.block(number), self.block(number)
        if lengths.min(initial=1) < 1 or lengths.sum() != count:
            raise ValueError(f"runs of {lengths.sum()} items where {count} are due")
        return np.repeat(np.cumsum(lengths) - lengths + offsets, lengths)

    def check_count(self, count: int) -> None:
        if not 0 <= count <= _MOST_ITEMS:
            raise ValueError(f"{count} items are out of the question")

    def check_end(self) -> None:
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes are left over")

    def _take(self, size: int) -> bytes:
        self._at += size
        if size < 0 or self._at > len(self._data):
            raise ValueError("it ends too early")
        return self._data[self._at - size : self._at]
