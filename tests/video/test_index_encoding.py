import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvit_video.video.index import FrameIndex, Orientation, VideoInfo
from mvit_video.video.index_encoding import decode_frame_index, encode_frame_index

INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
TEXT = st.text(st.characters(), max_size=8)  # all characters, lone surrogates too


def frame_index(count: int = 250, **changes: object) -> FrameIndex:
    """What x264 makes of 250 frames: a P frame, then three B frames of which the first is referenced, GOPs of 100."""
    offsets = np.array([3, 1, -2, -2] * (count // 4 + 1))[:count]
    offsets[0] = 0
    rank = np.argsort(np.argsort(np.arange(count) + offsets, kind="stable"), kind="stable")
    values: dict[str, object] = {
        "info": VideoInfo(count, 30.0, 240, 320, "h264", count / 30.0),
        "stream": 0,
        "order": np.argsort(rank).astype(np.int32),
        "anchor": (np.arange(count) // 100 * 100).astype(np.int32),
        "droppable": np.arange(count) % 4 > 1,
        "shown": np.ones(count, bool),
        "stamps": 1024 + 512 * rank.astype(np.int64),
        "corrupt": (),
        "size": (240, 320),
        "orientation": Orientation(),
        "damage": "",
    }
    return FrameIndex(**{**values, **changes})  # type: ignore[arg-type]


def assert_same(one: FrameIndex, other: FrameIndex) -> None:
    for field in dataclasses.fields(FrameIndex):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            assert isinstance(theirs, np.ndarray), field.name
            assert (mine.dtype, mine.tolist()) == (theirs.dtype, theirs.tolist()), field.name
        else:
            assert mine == theirs, field.name


def test_an_ordinary_file_takes_a_quarter_of_a_byte_per_frame() -> None:
    data = encode_frame_index(frame_index(300))
    assert len(data) <= 75
    assert_same(decode_frame_index(data), frame_index(300))


@pytest.mark.parametrize(
    "changes",
    [
        {"order": None, "stamps": None},  # frames can only be counted
        {"order": np.arange(250, dtype=np.int32), "stamps": None},  # AVI without B-frames
        {"order": np.arange(249, -1, -1, dtype=np.int32)},  # an order that the stamps do not give
        {"order": np.flatnonzero(np.arange(250) % 5).astype(np.int32), "stamps": np.arange(250) * 40},  # hidden packets
        {"order": np.array([], np.int32)},
        {"stamps": np.cumsum(np.arange(250) % 7 + 33) - 2**40},  # variable rate, negative times
        {"stamps": np.array([-(2**63), 2**63 - 1] * 125)},  # differences beyond int64, equal stamps
        {"anchor": np.arange(250, dtype=np.int32)},  # key frames only
        {"anchor": np.repeat(np.array([-1, 3, 0, 9], np.int32), [3, 2, 20, 225])},  # unreachable, open GOP
        {"corrupt": (3, 17, 249)},
        {"single": True},
        {"durations": np.full(250, 1024), "time_base": (1, 12288)},
        {"durations": np.arange(250) % 7, "time_base": (1001, 30000)},
        {"numbered": True, "stamps": None},
        {"damage": "demuxing stopped: caf\udce9.mp4 é"},
        {"orientation": Orientation(transpose=True, flip_rows=True), "info": VideoInfo(250, 30.0, 320, 240, "h264", 9)},
        {"orientation": Orientation(flip_columns=True), "size": (241, 321), "stream": 3},
        {"info": VideoInfo(250, 29.97, 240, 320, "libvpx-vp9", 8.25)},
        {"info": VideoInfo(0, 0.0, 240, 320, "", 0.0)},
        {"droppable": np.zeros(250, bool), "shown": np.arange(250) != 7},
    ],
)
def test_every_field_comes_back(changes: dict[str, object]) -> None:
    index = frame_index(**changes)
    assert_same(decode_frame_index(encode_frame_index(index)), index)


@st.composite
def indexes(draw: st.DrawFn) -> FrameIndex:
    count = draw(st.integers(0, 40))

    def array(items: st.SearchStrategy[int], dtype: type, size: int = count) -> np.ndarray:
        return np.array(draw(st.lists(items, min_size=size, max_size=size)), dtype)

    order = st.none() if draw(st.booleans()) else st.just(array(INT32, np.int32, draw(st.integers(0, 40))))
    positive = st.integers(0, 2**31)
    info = VideoInfo(
        draw(positive), draw(st.floats(allow_nan=False)), draw(positive), draw(positive), draw(TEXT),
        draw(st.floats(allow_nan=False)),
    )  # fmt: skip
    return FrameIndex(
        info=info,
        stream=draw(positive),
        order=draw(order),
        anchor=array(INT32, np.int32),
        droppable=array(st.booleans(), bool),  # type: ignore[arg-type]
        shown=array(st.booleans(), bool),  # type: ignore[arg-type]
        stamps=array(INT64, np.int64) if draw(st.booleans()) else None,
        corrupt=tuple(draw(st.lists(INT64, max_size=4))),
        size=(draw(positive), draw(positive)),
        orientation=Orientation(draw(st.booleans()), draw(st.booleans()), draw(st.booleans())),
        damage=draw(TEXT),
        single=draw(st.booleans()),
        numbered=draw(st.booleans()),
    )


@settings(max_examples=200, deadline=None)
@given(indexes())
def test_anything_that_can_be_written_down_comes_back(index: FrameIndex) -> None:
    assert_same(decode_frame_index(encode_frame_index(index)), index)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 255), st.booleans())
def test_damaged_bytes_are_refused(place: int, change: int, cut: bool) -> None:
    data = bytearray(encode_frame_index(frame_index(60)))
    place %= len(data)
    if cut:
        del data[place:]
    else:
        data[place] ^= change
    with pytest.raises(ValueError, match=r"^damaged frame index: .*; prepare the data set again$"):
        decode_frame_index(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**16), st.binary(min_size=1, max_size=4))
def test_wrong_contents_under_a_right_checksum_are_an_index_or_a_value_error(place: int, change: bytes) -> None:
    """The checksum keeps damage out; what a faulty writer may leave must not be worse than an error either."""
    import zlib

    data = encode_frame_index(frame_index(60, corrupt=(1, 2)))
    payload = bytearray(zlib.decompress(data[5:], -15))
    place %= len(payload)
    payload[place : place + len(change)] = change
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(bytes(payload)) + deflate.flush()
    forged = data[:1] + zlib.crc32(body, 1).to_bytes(4, "little") + body
    try:
        decode_frame_index(forged)
    except ValueError as error:
        assert re.match("damaged frame index: ", str(error))


def test_another_version_is_named() -> None:
    import zlib

    data = encode_frame_index(frame_index(10))
    newer = b"\2" + zlib.crc32(data[5:], 2).to_bytes(4, "little") + data[5:]
    with pytest.raises(ValueError, match="frame index of version 2, this program reads version 1; prepare the data"):
        decode_frame_index(newer)
