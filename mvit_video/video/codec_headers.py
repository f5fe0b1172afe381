"""The few fields of codec headers that tell more about a stream than its container does.

`PacketScanner` looks at the packets of one stream in file order: what may be left out (see `PacketKind`), and where an
H.264 picture is missing that others refer to. Bits are read only as far as needed; what is unusual tells nothing.
"""

from dataclasses import dataclass

from mvit_video.video.index import PLAIN, PacketKind, nal_headers, nal_length_bytes, packet_kind

_LOOKED_INTO = ("h264", "hevc", "mpeg4", "vp8", "vp9", "libvpx", "libvpx-vp9", "libdav1d", "av1", "libaom-av1")
_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # H.264, 7.3.2.1.1
_DROPPABLE = PacketKind(droppable=True)


class _Bits:
    """Reads bits from the front of `data`. IndexError behind the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError("the header ends too soon")
        return self._value >> self._left & (1 << count) - 1

    def flag(self) -> bool:
        return bool(self.take(1))

    def golomb(self) -> int:
        """Unsigned Exp-Golomb code, H.264, 9.1."""
        zeros = self._left - (self._value & (1 << self._left) - 1).bit_length()
        return self.take(2 * zeros + 1) - 1

    def signed_golomb(self) -> int:
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


@dataclass(frozen=True)
class H264Sequence:
    """What a sequence parameter set (7.3.2.1) tells about frame numbers.

    Attributes:
        number_bits: length of frame_num in slice headers.
        gaps_allowed: pictures may be missing on purpose.
        separate_planes: slice headers name a colour plane.
    """

    number_bits: int
    gaps_allowed: bool
    separate_planes: bool

    @classmethod
    def of(cls, unit: bytes) -> "H264Sequence | None":
        """From a NAL unit of type 7; None if it does not parse."""
        bits = _Bits(unit[1:512].replace(b"\0\0\3", b"\0\0"))
        try:
            profile = bits.take(24) >> 16
            bits.golomb()
            separate = False
            if profile in _HIGH_PROFILES:
                chroma = bits.golomb()
                separate = chroma == 3 and bits.flag()
                bits.golomb()
                bits.golomb()
                bits.take(1)
                if bits.flag():
                    _skip_scaling_lists(bits, 12 if chroma == 3 else 8)
            number_bits = bits.golomb() + 4
            kind = bits.golomb()  # of picture order count
            if kind == 0:
                bits.golomb()
            elif kind == 1:
                bits.take(1)
                bits.golomb()
                bits.golomb()
                for _ in range(bits.golomb()):
                    bits.golomb()
            bits.golomb()
            return cls(number_bits, bits.flag(), separate) if number_bits <= 16 else None
        except IndexError:
            return None


def _skip_scaling_lists(bits: _Bits, count: int) -> None:
    """H.264, 7.3.2.1.1.1."""
    for number in range(count):
        if not bits.flag():
            continue
        last = following = 8
        for _ in range(16 if number < 6 else 64):
            if following:
                following = (last + bits.signed_golomb()) % 256
            last = following or last


@dataclass(frozen=True)
class Av1Sequence:
    """What a sequence header (AV1, 5.5) tells about frame headers.

    Attributes:
        time_bits: length of frame_presentation_time in frame headers; 0 if they have none.
        decoder_model: frame headers may tell when their buffers are freed.
        screen_tools, integer_mv: 0 or 1 for all frames, or 2: each frame tells.
        id_bits: length of frame ids; 0 if there are none.
        order_bits: length of order_hint.
    """

    time_bits: int
    decoder_model: bool
    screen_tools: int
    integer_mv: int
    id_bits: int
    order_bits: int

    @classmethod
    def of(cls, payload: bytes) -> "Av1Sequence | None":
        """From the payload of a sequence header OBU; None if it is unusual."""
        bits = _Bits(payload[:128])
        try:
            if bits.take(5) & 1:  # a still picture
                return None
            time_bits, model, delay_bits = _av1_timing(bits)
            initial_delay = bits.flag()
            if bits.take(5):  # several operating points: layers
                return None
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if model and bits.flag():
                bits.take(2 * delay_bits + 1)
            if initial_delay and bits.flag():
                bits.take(4)
            width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
            bits.take(width_bits + height_bits)
            id_bits = bits.take(4) + 2 + bits.take(3) + 1 if bits.flag() else 0
            bits.take(7)  # tools, up to dual filters
            order = bits.flag()
            bits.take(2 * order)
            screen = 2 if bits.flag() else bits.take(1)
            integer = 2 if not screen or bits.flag() else bits.take(1)
            return cls(time_bits, model, screen, integer, id_bits, bits.take(3) + 1 if order else 0)
        except IndexError:
            return None

    def refreshes(self, header: bytes) -> bool:
        """Whether a frame may be kept as a reference: refresh_frame_flags of its header (5.9.2) are not all zero."""
        bits = _Bits(header)
        try:
            if bits.flag():  # shows an earlier frame; a key frame shown so is kept anew
                return True
            kind, shown = bits.take(2), bits.flag()  # 0 key, 1 inter, 2 intra only, 3 switch
            if kind in (0, 3):
                return True
            bits.take(self.time_bits if shown else 1)
            resilient = bits.flag()
            bits.take(1)
            tools = self.screen_tools if self.screen_tools < 2 else bits.take(1)
            if tools and self.integer_mv == 2:
                bits.take(1)
            bits.take(self.id_bits + 1 + self.order_bits)
            if kind == 1 and not resilient:
                bits.take(3)
            if self.decoder_model and bits.flag():
                return True
            return bool(bits.take(8))
        except IndexError:
            return True


def _av1_timing(bits: _Bits) -> tuple[int, bool, int]:
    """Bits of a presentation time, whether there is a decoder model, and the bits of its delays (5.5.3, 5.5.4)."""
    if not bits.flag():
        return 0, False, 0
    bits.take(64)
    equal = bits.flag()
    if equal:
        bits.golomb()  # uvlc is the same code
    if not bits.flag():
        return 0, False, 0
    delay_bits = bits.take(5) + 1
    bits.take(32 + 5)
    time_bits = bits.take(5) + 1
    return 0 if equal else time_bits, True, delay_bits


def av1_units(data: bytes) -> list[tuple[int, bytes]]:
    """(type, start of the payload, up to 128 bytes) of the OBUs in a temporal unit (5.3)."""
    units = []
    at = 0
    while at < len(data):
        head = data[at]
        at += 2 if head & 4 else 1
        size = len(data) - at
        if head & 2:
            size = shift = 0
            while True:
                byte = data[at]
                at += 1
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128 or shift > 56:
                    break
        units.append((head >> 3 & 15, data[at : at + min(size, 128)]))
        at += size
    return units


class PacketScanner:
    """Looks at every packet of a stream, in file order.

    Args:
        codec: the decoder's name.
        extradata: the container's copy of the stream's headers.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._codec = codec
        self._length_bytes = nal_length_bytes(codec, extradata)
        self._idle = codec not in _LOOKED_INTO
        self._sequences: set[H264Sequence | None] = set()
        self._number = -1  # frame_num of the last reference picture
        self._av1: Av1Sequence | None = None
        if codec == "h264" and extradata and self._length_bytes:
            self._sequences = {H264Sequence.of(unit) for unit in _parameter_sets(extradata)}
        if "av1" in codec and extradata and extradata[0] == 0x81:
            self._look_at_av1(extradata[4:])

    def kind(self, data: memoryview) -> PacketKind:
        """What the packet's headers say."""
        if self._idle:
            return PLAIN
        if "av1" in self._codec:
            return _DROPPABLE if self._look_at_av1(bytes(data)) else PLAIN
        return packet_kind(self._codec, data, self._length_bytes)

    def _look_at_av1(self, data: bytes) -> bool:
        """Whether no frame in a temporal unit is kept as a reference."""
        frames = 0
        droppable = True
        try:
            for kind, payload in av1_units(data):
                if kind == 1:
                    self._av1 = Av1Sequence.of(payload)
                    droppable = False
                elif kind in (3, 6):
                    frames += 1
                    droppable = droppable and self._av1 is not None and not self._av1.refreshes(payload)
        except IndexError:
            return False
        return droppable and frames > 0

    def follows_a_gap(self, data: memoryview) -> bool:
        """Whether a picture is missing before this H.264 packet that later ones may refer to (7.4.3, frame_num)."""
        if self._codec != "h264":
            return False
        for at, head in nal_headers(data, self._length_bytes):
            unit = head & 31
            if unit == 7:
                self._sequences.add(H264Sequence.of(bytes(data[at : at + 512])))
            elif unit in (1, 2, 5):
                return self._number_gap(bytes(data[at + 1 : at + 24]), idr=unit == 5, kept=bool(head & 0x60))
        return False

    def _number_gap(self, header: bytes, *, idr: bool, kept: bool) -> bool:
        sequence = next(iter(self._sequences), None)
        if len(self._sequences) != 1 or sequence is None or sequence.gaps_allowed:
            return False
        bits = _Bits(header.replace(b"\0\0\3", b"\0\0"))
        try:
            for _ in range(3):
                bits.golomb()
            bits.take(2 * sequence.separate_planes)
            number = bits.take(sequence.number_bits)
        except IndexError:
            return False
        before = self._number
        if kept:
            self._number = number
        # Numbers may start again at 0 within a group of pictures (memory_management_control_operation 5).
        return not idr and before >= 0 and number > 1 and (number - before) % (1 << sequence.number_bits) > 1


def _parameter_sets(extradata: bytes) -> list[bytes]:
    """Sequence parameter sets in an avcC box (ISO/IEC 14496-15, 5.3.3.1)."""
    units = []
    at = 6
    for _ in range(extradata[5] & 31 if len(extradata) > 5 else 0):
        size = int.from_bytes(extradata[at : at + 2], "big")
        units.append(extradata[at + 2 : at + 2 + size])
        at += 2 + size
    return units
