"""Conversion straight into a clip: PyAV's bytes, nothing beside them, and PyAV's way where anything is amiss."""

import threading
from collections.abc import Iterator

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from mvit_video.data import straight
from mvit_video.data.decode import read_frames
from mvit_video.data.straight import ClipWriter, Kind, Way, noise, way_of
from tests.data.video_library import Library

SIZES = [(240, 320), (256, 340), (256, 341), (224, 398), (130, 350), (48, 64), (64, 96), (90, 34), (6, 18), (4, 8)]
# The matrices and ranges that pictures may have by the time they are converted.
COLOURS = [(space, range_) for space in (0, 1, 2, 4, 5, 6, 7, 9) for range_ in (0, 1, 2)]


@pytest.fixture
def _forgetful() -> Iterator[None]:
    """What is found out about the library in a test is forgotten after it."""

    def forget() -> None:
        straight._library.cache_clear()
        way_of.cache_clear()
        straight._local = threading.local()

    forget()
    yield
    forget()


def by_pyav(frame: av.VideoFrame) -> np.ndarray:
    return VideoReformatter().reformat(frame, format="rgb24", threads=1).to_ndarray()


def test_this_library_is_used() -> None:
    """Else the other tests would pass without testing anything."""
    for pixels in ("yuv420p", "yuvj420p"):
        for height, width in SIZES:
            assert way_of(Kind(pixels, height, width, 2, 2)) is not None, (pixels, height, width)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_pyavs_whatever_their_order(size: tuple[int, int]) -> None:
    height, width = size
    clip = np.full((4, height, width, 3), 77, np.uint8)
    writer = ClipWriter(clip)
    expected = {}
    rng = np.random.default_rng(0)
    for space, range_ in COLOURS:
        frame = noise(Kind("yuv420p", height, width, space, range_))
        for plane in frame.planes:
            plane.update(rng.bytes(plane.buffer_size))
        row = int(rng.integers(0, 4))
        if writer.write(frame, row):
            expected[row] = by_pyav(frame)
        else:  # behind the last row there is no room for what some sizes write there
            assert row == 3 and way_of(Kind("yuv420p", height, width, space, range_)) != Way(width, 0)
            expected.pop(row, None)
        for drawn, picture in expected.items():
            assert np.array_equal(clip[drawn], picture), (space, range_, row, drawn)
    assert len(expected) >= 3


def test_ranges_and_matrices_differ() -> None:
    """The noise by which a way is judged shows each difference that a kind may state."""
    pictures = {by_pyav(noise(Kind("yuv420p", 16, 16, space, range_))).tobytes() for space, range_ in COLOURS}
    assert len(pictures) == 2 * 5  # 2, 5 and 6 are one matrix; 0 is read as that, too; so are ranges 0 and 1


def test_odd_heights_are_left_to_pyav() -> None:
    """What is made of them depends on what noise does not show; so with fields (interlaced.mp4 in test_decode)."""
    assert way_of(Kind("yuv420p", 15, 32, 2, 1)) is None


def test_other_memory_is_left_to_pyav() -> None:
    frame = noise(Kind("yuv420p", 16, 32, 2, 1))
    whole = np.zeros((2, 16, 64, 3), np.uint8)
    assert not ClipWriter(whole[:, :, ::2]).write(frame, 0)
    assert not ClipWriter(whole).write(frame, 0)
    assert not whole.any()


def test_lines_that_are_too_short_to_be_read_are_left_to_pyav() -> None:
    """Where more of each line is converted than there is in the picture, the decoder must have left room for it."""
    assert way_of(Kind("yuv420p", 256, 340, 2, 1)) == Way(352, 64)
    planes = np.zeros((256 * 3 // 2, 340), np.uint8)
    frame = av.VideoFrame.from_numpy_buffer(planes, "yuv420p")
    assert frame.planes[0].line_size == 340
    assert not ClipWriter(np.zeros((2, 256, 340, 3), np.uint8)).write(frame, 0)


class TestAnotherLibrary:
    """Whatever is different in another build, pictures stay the same."""

    def check(self, library: Library, *, used: bool) -> None:
        kind = Kind("yuv420p", 64, 96, 2, 0)
        assert (way_of(kind) is not None) == used
        frames = read_frames(library.path("gop12.mp4"), [30, 7, 8])
        assert np.array_equal(frames.numpy(), library.truth("gop12.mp4")[[30, 7, 8]])

    @pytest.mark.usefixtures("_forgetful")
    def test_this_one(self, library: Library) -> None:
        self.check(library, used=True)

    @pytest.mark.usefixtures("_forgetful")
    def test_that_lacks_a_function(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(straight._SIGNATURES, "sws_of_another_century", (None, ()))
        self.check(library, used=False)

    @pytest.mark.usefixtures("_forgetful")
    def test_that_cannot_be_looked_into(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(av.video.reformatter, "__file__", "/nowhere.so")
        self.check(library, used=False)

    @pytest.mark.usefixtures("_forgetful")
    def test_that_computes_otherwise(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(straight, "_ONE", (1 << 16) + 2000)
        self.check(library, used=False)

    @pytest.mark.usefixtures("_forgetful")
    @pytest.mark.parametrize(("function", "answer"), [("sws_getContext", None), ("sws_scale", -1)])
    def test_that_refuses(
        self, library: Library, monkeypatch: pytest.MonkeyPatch, function: str, answer: int | None
    ) -> None:
        monkeypatch.setattr(straight._library(), function, lambda *a: answer)
        self.check(library, used=False)

    @pytest.mark.usefixtures("_forgetful")
    def test_that_writes_far_beyond(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(straight, "_MOST_OVER", 1)
        assert way_of(Kind("yuv420p", 256, 344, 2, 1)) is None


def test_only_some_conversions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(straight, "_local", threading.local())
    monkeypatch.setattr(straight, "_KEPT", 3)
    kinds = [Kind("yuv420p", 16, 16 * n, 2, 1) for n in range(1, 6)]
    for kind in [*kinds, kinds[3], kinds[0]]:
        assert straight._conversion(kind) is not None
    assert list(straight._local.conversions) == [kinds[4], kinds[3], kinds[0]]


def test_threads_have_their_own() -> None:
    kind = Kind("yuv420p", 32, 48, 2, 1)
    frame = noise(kind)
    expected = by_pyav(frame)
    clips = [np.zeros((20, 32, 48, 3), np.uint8) for _ in range(4)]

    def fill(clip: np.ndarray) -> None:
        writer = ClipWriter(clip)
        for row in range(20):
            assert writer.write(frame, row)

    threads = [threading.Thread(target=fill, args=(clip,)) for clip in clips]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(picture, expected) for clip in clips for picture in clip)
