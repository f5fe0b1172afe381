"""Whether a file is as long as its own container says: a copy that broke off often reads without complaint up to there.

Matroska and WebM state the length of their one segment (RFC 8794, RFC 9559), MP4 and MOV that of each box (ISO/IEC
14496-12, 4.2). Other containers do not tell.
"""

import io
from typing import BinaryIO

from mvit_video.video.byte_source import ByteSource

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_MOST_BOXES = 100_000  # fragments of a day-long recording


def missing_bytes(source: ByteSource) -> int:
    """Bytes by which a video is shorter than its container states; 0 if it is whole or does not tell."""
    if source.data is not None:
        return _missing(io.BytesIO(source.data), 0, source.size)
    with open(source.path, "rb") as file:
        return _missing(file, source.start, source.size)


def _missing(file: BinaryIO, start: int, size: int) -> int:
    file.seek(start)
    head = file.read(12)
    if head.startswith(_EBML):
        return max(0, _segment_end(file, start) - size)
    if head[4:8] == b"ftyp":
        return max(0, _boxes_end(file, start, size) - size)
    return 0


def _segment_end(file: BinaryIO, start: int) -> int:
    """Where the segment of a Matroska file ends by its own account; 0 if its length is unknown."""
    file.seek(start + len(_EBML))
    header, _ = _ebml_number(file)
    file.seek(header, io.SEEK_CUR)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return 0
    length, unknown = _ebml_number(file)
    return 0 if unknown else file.tell() - start + length


def _ebml_number(file: BinaryIO) -> tuple[int, bool]:
    """A length of up to eight bytes (RFC 8794, 4), and whether it is the reserved one that stands for "unknown"."""
    first = file.read(1)
    if not first or not first[0]:
        return 0, True
    more = 8 - first[0].bit_length()
    rest = file.read(more)
    value = int.from_bytes(bytes([first[0] & (1 << (7 - more)) - 1]) + rest, "big")
    return value, value == (1 << 7 * (more + 1)) - 1


def _boxes_end(file: BinaryIO, start: int, size: int) -> int:
    """Where the last top-level box that begins in the file ends by its own account."""
    at = 0
    for _ in range(_MOST_BOXES):
        if at + 8 > size:
            break
        file.seek(start + at)
        length = int.from_bytes(file.read(4), "big")
        kind = file.read(4)
        if length == 1:  # a 64-bit length follows the type
            length = int.from_bytes(file.read(8), "big")
        if length < 8 or not kind.isalnum():  # 0: to the end of the file; else what follows the video is no box
            return 0
        at += length
    return at
