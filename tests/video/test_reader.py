"""Exactness of the decoder, on files that carry their frame numbers in the picture, and the work it does."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from mvit_video.video import packets
from mvit_video.video.backends import pyav_decoder
from mvit_video.video.container import VideoFile
from mvit_video.video.index import (
    Orientation,
    PacketKind,
    PacketTable,
    orientation_from_matrix,
    plan,
    presentation_ranks,
)
from mvit_video.video.location import VideoLocation
from mvit_video.video.packets import OutOfStepError, PacketReader
from mvit_video.video.pictures import RgbCanvas
from mvit_video.video.reader import VideoDecodeError, VideoInfo, VideoReader, probe, read_frames
from tests.video_library import CLIPS, DERIVED, FRAMES, RECIPES, Library, decode_all, number_in, patterns

pytestmark = pytest.mark.usefixtures("fresh_cache")


def presented(name: str, clip: np.ndarray) -> np.ndarray:
    """Decoded pictures (N, H, W, 3) as the file wants them shown."""
    if name == "rotated.mp4":
        return np.rot90(clip, 1, (1, 2))
    if name == "upside_down.mp4":
        return np.rot90(clip, 2, (1, 2))
    return np.rot90(clip, -1, (1, 2))[:, :, ::-1] if name == "mirrored.mp4" else clip


@pytest.mark.parametrize("keep_bytes", [0, 2**23], ids=["seeking", "in_memory"])
@pytest.mark.parametrize("name", [recipe.name for recipe in RECIPES] + DERIVED)
def test_equals_full_decode(library: Library, monkeypatch: pytest.MonkeyPatch, name: str, keep_bytes: int) -> None:
    monkeypatch.setattr(packets, "KEEP_BYTES", keep_bytes)
    truth = library.truth(name)
    rng = np.random.default_rng(len(name))
    with VideoReader(library.path(name)) as video:
        assert video.info.num_frames == len(truth)
        assert video.damage == ""
        for indices in patterns(len(truth), rng):
            clip = video.read(indices)
            assert clip.dtype == torch.uint8 and clip.shape[0] == len(indices)
            assert clip.shape[1:3] == (video.info.height, video.info.width)
            assert np.array_equal(clip.numpy(), presented(name, truth[indices])), indices
    # A second reader works from the remembered index, and opens the file in another way.
    with VideoReader(library.path(name)) as again:
        for indices in patterns(len(truth), np.random.default_rng(len(name) + 1)):
            assert np.array_equal(again.read(indices).numpy(), presented(name, truth[indices])), indices


@pytest.mark.parametrize(
    ("name", "expected"),
    [(recipe.name, range(FRAMES)) for recipe in RECIPES if not recipe.rotation]
    + [("cut_gop.mp4", range(19, 60)), ("cut_open.mp4", range(20, 60)), ("cut_open.ts", range(12, 60))],
)
def test_shows_the_frame_asked_for(library: Library, name: str, expected: range) -> None:
    indices = list(range(0, len(expected), 5)) + [len(expected) - 1]
    clip = read_frames(library.path(name), indices).numpy()
    assert [number_in(picture) for picture in clip] == [expected[i] for i in indices]


@pytest.mark.parametrize("name", ["k400_arm_wrestling_demo.mp4", "kinetics_flipping_a_pancake.mkv"])
def test_real_clips_equal_full_decode(name: str) -> None:
    if not (CLIPS / name).exists():
        pytest.skip("the real clips are not here")
    truth = decode_all(CLIPS / name)
    rng = np.random.default_rng(3)
    with VideoReader(CLIPS / name) as video:
        assert video.info.num_frames == len(truth)
        for indices in patterns(len(truth), rng):
            assert np.array_equal(video.read(indices).numpy(), truth[indices])


def test_packed_b_frames_of_a_real_avi() -> None:
    """UCF101 files: two pictures in one packet, then an empty packet in the second one's place."""
    path = CLIPS / "ucf101_apply_eye_makeup_test.avi"
    if not path.exists():
        pytest.skip("the real clips are not here")
    truth = decode_all(path)
    assert probe(path) == VideoInfo(164, 25.0, 240, 320, "mpeg4", 6.56)
    for indices in patterns(len(truth), np.random.default_rng(4)):
        assert np.array_equal(read_frames(path, indices).numpy(), truth[indices])


class TestInfo:
    def test_facts(self, library: Library) -> None:
        assert probe(library.path("gop12.mp4")) == VideoInfo(60, 25.0, 64, 96, "h264", 2.4)

    def test_rotation_swaps_height_and_width(self, library: Library) -> None:
        info = probe(library.path("rotated.mp4"))
        assert (info.height, info.width) == (96, 64)

    def test_fps_of_a_variable_rate_is_the_average(self, library: Library) -> None:
        assert probe(library.path("variable.mp4")).fps == pytest.approx(60 / 4.96)  # the last frame ends at 124/25 s

    def test_millisecond_clock_does_not_blur_the_rate(self, library: Library) -> None:
        assert probe(library.path("clock.mkv")).fps == 25.0

    def test_edit_list_hides_frames(self, library: Library) -> None:
        assert probe(library.path("cut_gop.mp4")).num_frames == 41


class TestWork:
    """What is decoded and opened for a read, not how long it takes."""

    @pytest.fixture
    def fed(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        positions: list[int] = []
        feed = VideoFile.feed

        def counting(self: VideoFile, packet: av.Packet) -> list[av.VideoFrame]:
            positions.append(packet.pts)
            return feed(self, packet)

        monkeypatch.setattr(VideoFile, "feed", counting)
        return positions

    @pytest.mark.parametrize("keep_bytes", [0, 2**23], ids=["seeking", "in_memory"])
    def test_only_one_group_of_pictures_is_decoded(
        self, library: Library, monkeypatch: pytest.MonkeyPatch, fed: list[int], keep_bytes: int
    ) -> None:
        monkeypatch.setattr(packets, "KEEP_BYTES", keep_bytes)
        with VideoReader(library.path("gop12.mp4")) as video:
            fed.clear()
            video.read([30])
        assert fed == [24, 25, 26, 28]  # I, P, referenced B, P; 27 is a B picture of no use to others

    def test_short_gaps_are_read_over(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packets, "KEEP_BYTES", 0)
        sought: list[int] = []
        seek = VideoFile.seek
        truth = library.truth("gop12.mp4")
        with VideoReader(library.path("gop12.mp4")) as video:
            stamps = video.frame_index.stamps
            assert stamps is not None
            video.read([0])
            monkeypatch.setattr(VideoFile, "seek", lambda self, stamp: (sought.append(stamp), seek(self, stamp))[1])
            assert np.array_equal(video.read([8, 20, 56]).numpy(), truth[[8, 20, 56]])
        assert sought == [stamps[48]]  # from the first group to the second it is not worth it

    @pytest.mark.parametrize("keep_bytes", [0, 2**23], ids=["counting", "in_memory"])
    def test_packed_pictures_are_left_out(
        self, library: Library, monkeypatch: pytest.MonkeyPatch, fed: list[int], keep_bytes: int
    ) -> None:
        """Most files of UCF101 are like this; two of three of their pictures are B pictures."""
        monkeypatch.setattr(packets, "KEEP_BYTES", keep_bytes)
        with VideoReader(library.path("packed.avi")) as video:
            fed.clear()
            assert number_in(video.read([11])[0].numpy()) == 11
            assert fed == [0, 1, 4, 7, 10, 12]  # I, the P pictures, and the second B picture before the last of them

    @pytest.mark.parametrize("keep_bytes", [0, 2**23], ids=["counting", "in_memory"])
    def test_pictures_in_packets_of_their_own_are_not_unpacked(
        self, library: Library, monkeypatch: pytest.MonkeyPatch, fed: list[int], keep_bytes: int
    ) -> None:
        monkeypatch.setattr(packets, "KEEP_BYTES", keep_bytes)
        unpacked: list[VideoFile] = []
        unpack = VideoFile.unpacked
        monkeypatch.setattr(VideoFile, "unpacked", lambda self, some: (unpacked.append(self), unpack(self, some))[1])
        for name, single in (("asp.avi", True), ("packed.avi", False)):
            truth = library.truth(name)
            with VideoReader(library.path(name)) as video:
                assert video.frame_index.single is single
                fed.clear()
                assert np.array_equal(video.read([11, 40, 3]).numpy(), truth[[11, 40, 3]])
                assert len(fed) < 30  # B pictures are left out
            assert bool(unpacked) is not single

    @pytest.mark.parametrize("name", ["asp.avi", "packed.avi", "mjpeg.avi"])
    def test_avi_is_sought_by_its_own_index(self, library: Library, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """A clip from the end of an hour must not cost reading the hour."""
        monkeypatch.setattr(packets, "KEEP_BYTES", 0)
        monkeypatch.setattr(PacketReader, "reopen", lambda *a, **k: pytest.fail("read once more"))
        read = []
        demux = VideoFile._demux

        def counting(self: VideoFile) -> Iterator[av.Packet]:
            for packet in demux(self):
                read.append(packet.dts)
                yield packet

        monkeypatch.setattr(VideoFile, "_demux", counting)
        truth = library.truth(name)
        with VideoReader(library.path(name)) as video:
            index = video.frame_index
            assert index.numbered
            assert index.stamps is None
            for frames in ([50], [55, 57], [20], [0, 59], [31, 58]):
                read.clear()
                assert np.array_equal(video.read(frames).numpy(), truth[frames])
                if frames[0] >= 50:
                    assert len(read) <= 20
                    assert read[0] >= 40

    @pytest.mark.parametrize(
        "name",
        [
            "gop12.mp4",
            "open.mp4",
            "fragmented.mp4",
            "hevc_open.mp4",
            "cut_open.mp4",
            "clock.mkv",
            "stream.ts",
            "asp.avi",
            "packed.avi",
        ],
    )
    def test_sound_files_need_no_second_attempt(
        self, library: Library, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """Neither by the reader that made the index nor by one that remembers it."""
        truth, attempts = library.truth(name), []
        again = PacketReader.reopen
        with VideoReader(library.path(name)) as first, VideoReader(library.path(name)) as second:
            monkeypatch.setattr(PacketReader, "reopen", lambda self, **k: (attempts.append(self), again(self, **k))[1])
            for indices in patterns(len(truth), np.random.default_rng(0)):
                for video in (first, second):
                    assert np.array_equal(video.read(indices).numpy(), truth[indices])
        assert attempts == []

    def test_repeated_frames_are_converted_once(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        written = []
        draw = RgbCanvas.draw
        monkeypatch.setattr(RgbCanvas, "draw", lambda *a: (written.append(1), draw(*a)))
        clip = read_frames(library.path("gop12.mp4"), [7, 3, 7, 7])
        assert len(written) == 2
        assert [number_in(picture) for picture in clip.numpy()] == [7, 3, 7, 7]

    def test_remembered_index_saves_the_scan(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        read_frames(library.path("gop12.mp4"), [0])
        monkeypatch.setattr(VideoFile, "scan", lambda *a: pytest.fail("scanned again"))
        assert number_in(read_frames(library.path("gop12.mp4"), [33])[0].numpy()) == 33

    @pytest.mark.parametrize(
        ("name", "parsed"),
        [
            ("gop12.mp4", False),
            ("fragmented.mp4", False),
            ("asp.avi", False),
            ("packed.avi", False),
            ("hevc_open.mp4", True),
            ("av1.mp4", True),
            ("h264.avi", True),
            ("clock.mkv", True),
            ("stream.ts", True),
        ],
    )
    def test_packets_of_an_indexed_stream_are_parsed_only_where_that_tells_something(
        self, library: Library, monkeypatch: pytest.MonkeyPatch, name: str, parsed: bool
    ) -> None:
        with VideoReader(library.path(name)) as video:
            index = video.frame_index
        flags: list[str | None] = []
        original = av.open

        def opening(*args: Any, options: dict[str, str], **kwargs: Any) -> Any:
            flags.append(options.get("fflags"))
            return original(*args, options=options, **kwargs)

        monkeypatch.setattr(av, "open", opening)
        with VideoReader(library.path(name)) as video:
            assert flags == [None if parsed else "noparse"]
            source = video._decoder
            assert isinstance(source, pyav_decoder.PyAVDecoder) and source.index is index
            source._make_index_anew()  # from parsed packets again
            assert flags[1:] in ([None], [None, None])
            assert vars(source.index).keys() == vars(index).keys()
            for field, value in vars(index).items():
                assert np.array_equal(vars(source.index)[field], value), field

    def test_changed_file_is_indexed_again(self, library: Library, tmp_path: Path) -> None:
        path = tmp_path / "video.mp4"
        shutil.copy(library.path("gop12.mp4"), path)
        assert probe(path).num_frames == 60
        shutil.copy(library.path("cut_gop.mp4"), path)
        assert probe(path).num_frames == 41

    def test_cache_forgets_the_oldest(self, library: Library) -> None:
        cache = pyav_decoder.IndexCache(2)
        read_frames(library.path("gop12.mp4"), [0])
        index = next(iter(pyav_decoder._cache._entries.values()))
        for name in "abac":
            cache.put((name, 0, 1, 1), index)
        assert cache.get(("b", 0, 1, 1)) is None
        assert cache.get(("a", 0, 1, 1)) is index


class TestReadAhead:
    class Packet:
        size = 2**19

    def packets(self, error: Exception, read: list[int]) -> Iterator[tuple[int, Any]]:
        for position in range(5):
            read.append(position)
            yield position, self.Packet()
        raise error

    def test_no_more_than_a_little_is_read_ahead(self) -> None:
        read: list[int] = []
        ahead = packets.read_ahead(self.packets(OutOfStepError(), read))
        assert next(ahead)[0] == 0
        assert read == [0, 1]  # 1 MiB
        assert [next(ahead)[0] for _ in range(2)] == [1, 2]
        assert read == [0, 1, 2, 3]

    def test_an_error_comes_behind_the_packets_before_it(self) -> None:
        ahead = packets.read_ahead(self.packets(OutOfStepError(), []))
        assert [next(ahead)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(OutOfStepError):
            next(ahead)

    def test_the_end_of_the_time_does_not_wait(self) -> None:
        ahead = packets.read_ahead(self.packets(VideoDecodeError("a.mp4", "took too long"), []))
        assert [next(ahead)[0] for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(VideoDecodeError):
            next(ahead)


class TestPlan:
    def test_runs(self) -> None:
        anchor = np.array([0, 0, 0, 0, 4, 4, 4, 4, 8, 8], np.int32)
        runs = [(s.first, s.last, sorted(s.wanted)) for s in plan(anchor, [9, 2, 1])]
        assert runs == [(0, 2, [1, 2]), (8, 9, [9])]

    def test_adjacent_groups_are_one_run(self) -> None:
        anchor = np.array([0, 0, 0, 3, 3], np.int32)
        assert [(s.first, s.last) for s in plan(anchor, [2, 3])] == [(0, 3)]

    def test_leading_picture_pulls_the_start_back(self) -> None:
        anchor = np.array([0, 0, 0, 3, 0, 3], np.int32)  # packet 4 follows key frame 3 and is shown before it
        assert [(s.first, s.last, sorted(s.wanted)) for s in plan(anchor, [3, 4])] == [(0, 4, [3, 4])]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 0, 1, 0), Orientation()),
        ((0, 1, 0, -1, 0, 0), Orientation(transpose=True, flip_columns=True)),
        ((-1, 0, 0, 0, -1, 0), Orientation(flip_rows=True, flip_columns=True)),
        ((0, -1, 0, 1, 0, 0), Orientation(transpose=True, flip_rows=True)),
        ((-1, 0, 0, 0, 1, 0), Orientation(flip_columns=True)),
        ((46341, 46341, 0, -46341, 46341, 0), Orientation()),  # 45 degrees
    ],
)
def test_orientation_from_matrix(matrix: tuple[int, ...], expected: Orientation) -> None:
    assert orientation_from_matrix([*matrix, 0, 0, 1]) == expected


@pytest.mark.parametrize(
    ("vops", "expected"),
    [
        (["I", "P", "B", "B", "P"], [0, 3, 1, 2, 4]),
        (["I", "PB", "B", "", "P"], [0, 3, 1, 2, 4]),  # packed: the empty packet takes the place of the second picture
        (["I", "PB", "B", "", "PB"], [0, 3, 1, 2, 4]),
        (["I", "", "P"], None),  # a repeated frame: only decoding tells what is shown
    ],
)
def test_mpeg4_pictures_in_order_of_presentation(vops: list[str], expected: list[int] | None) -> None:
    table = PacketTable(pts=[None] * len(vops), kinds=[PacketKind(vops=v) for v in vops])
    assert presentation_ranks(table, codec="mpeg4", container="avi") == expected


def test_times_of_the_frames(library: Library) -> None:
    with VideoReader(library.path("variable.mp4")) as video:
        times = video.times
        assert times is not None
        index = video.frame_index
        assert len(times.stamps) == len(times.durations) == video.info.num_frames
        assert (np.diff(times.stamps) > 0).all()
        assert len(set(np.diff(times.stamps).tolist())) > 1
        with av.open(str(library.path("variable.mp4"))) as container:
            assert times.unit == container.streams.video[0].time_base
            stated = {p.pts: p.duration for p in container.demux(video=0) if p.size}
        assert [stated[stamp] for stamp in times.stamps.tolist()] == times.durations.tolist()
    # An index of a program that did not keep them costs a pass over the packets.
    old = dataclasses.replace(index, durations=None, time_base=(0, 1))
    assert old.times() is None
    pyav_decoder.clear_cache()
    path = str(library.path("variable.mp4"))
    with VideoReader(VideoLocation(path, path, mtime_ns=os.stat(path).st_mtime_ns, index=old)) as video:
        again = video.times
        assert again is not None
        assert again.unit == times.unit
        assert again.stamps.tolist() == times.stamps.tolist()


def test_avi_has_no_times(library: Library) -> None:
    with VideoReader(library.path("asp.avi")) as video:
        assert video.times is None
