"""How long a file should be by its own account."""

import struct

import pytest

from mvit_video.preparation.truncation import missing_bytes
from mvit_video.video.byte_source import locate
from mvit_video.video.location import VideoLocation

EBML = b"\x1a\x45\xdf\xa3\x84abcd"  # a header of four bytes
SEGMENT = b"\x18\x53\x80\x67"


def box(kind: bytes, content: int, length: int | None = None) -> bytes:
    return struct.pack(">I4s", length or content + 8, kind) + bytes(content)


@pytest.mark.parametrize(("content", "missing"), [
    (EBML + SEGMENT + b"\x8a" + bytes(10), 0),
    (EBML + SEGMENT + b"\x8a" + bytes(7), 3),
    (EBML + SEGMENT + b"\x8a" + bytes(12), 0),  # something follows the segment
    (EBML + SEGMENT + b"\x40\x0a" + bytes(6), 4),
    (EBML + SEGMENT + b"\x01\x00\x00\x00\x00\x00\x00\x0a" + bytes(8), 2),
    (EBML + SEGMENT + b"\x01\xff\xff\xff\xff\xff\xff\xff" + bytes(8), 0),  # a live recording: length unknown
    (EBML + SEGMENT + b"\xff" + bytes(8), 0),
    (EBML + b"abcd", 0),
    (EBML[:6], 0),
    (box(b"ftyp", 8) + box(b"moov", 20) + box(b"mdat", 30), 0),
    (box(b"ftyp", 8) + box(b"mdat", 30)[:-5], 5),
    (box(b"ftyp", 8) + struct.pack(">I4sQ", 1, b"mdat", 50) + bytes(30), 4),
    (box(b"ftyp", 8) + box(b"mdat", 30, length=2) + bytes(9), 0),  # nonsense tells nothing
    (box(b"ftyp", 8) + b"\0\0\0\0mdat" + bytes(9), 0),  # to the end of the file
    (box(b"ftyp", 8) + box(b"mdat", 30) + b"1234567", 0),
    (box(b"ftyp", 8) + box(b"mdat", 30) + b"\xff" * 100, 0),  # padding behind the video is no box
    (b"RIFF" + bytes(40), 0),
])  # fmt: skip
def test_missing_bytes(tmp_path, content, missing):
    path = tmp_path / "v"
    path.write_bytes(content)
    assert missing_bytes(locate(VideoLocation.of(path))) == missing
    path.write_bytes(b"x" * 100 + content + b"y" * 100)
    assert missing_bytes(locate(VideoLocation("v", str(path), start=100, size=len(content)))) == missing
