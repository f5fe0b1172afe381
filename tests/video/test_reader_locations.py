"""Videos inside larger files and behind URLs, stored indexes, time limits."""

import dataclasses
import logging
import os
import shutil
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest

from mvit_video.video import byte_source
from mvit_video.video.byte_source import Deadline, locate
from mvit_video.video.container import VideoFile
from mvit_video.video.location import VideoLocation
from mvit_video.video.packets import PacketReader
from mvit_video.video.reader import VideoDecodeError, VideoReader, probe, read_frames
from tests.video_library import FRAMES, Library, patterns

pytestmark = pytest.mark.usefixtures("fresh_cache")

HEAD = b"other bytes, " * 77
KINDS = ["gop12.mp4", "open.mp4", "stream.ts", "clock.mkv", "asp.avi", "h264.avi", "vp9.webm", "av1.mp4", "raw.h264"]


def embedded(library: Library, name: str, folder: Path, file_name: str = "shard.tar") -> VideoLocation:
    """A video with other bytes before and behind it, in one file."""
    data = library.path(name).read_bytes()
    path = folder / file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(HEAD + data + HEAD)
    return VideoLocation(f"shard.tar/{name}", str(path), start=len(HEAD), size=len(data))


@pytest.fixture
def memory() -> str:
    """An empty place of fsspec's memory file system."""
    fsspec.filesystem("memory").store.clear()
    return "memory://bucket"


class TestStretchOfAFile:
    @pytest.mark.parametrize("name", KINDS)
    def test_equals_the_file(self, library: Library, tmp_path: Path, name: str) -> None:
        location = embedded(library, name, tmp_path)
        truth = library.truth(name)
        with VideoReader(location) as video:
            assert video.info == probe(library.path(name))
            for indices in patterns(len(truth), np.random.default_rng(5)):
                assert np.array_equal(video.read(indices).numpy(), truth[indices])

    @pytest.mark.parametrize(
        "file_name", ["a:b.tar", "subfile,,start,0,end,9,,:x.tar", "file:c,d,,.tar", "m p4/e,,:.t"]
    )
    def test_colons_and_commas_in_the_path(self, library: Library, tmp_path: Path, file_name: str) -> None:
        location = embedded(library, "gop12.mp4", tmp_path, file_name)
        assert np.array_equal(read_frames(location, [40, 2]).numpy(), library.truth("gop12.mp4")[[40, 2]])
        whole = tmp_path / (file_name + ".mp4")
        shutil.copy(library.path("gop12.mp4"), whole)
        assert np.array_equal(read_frames(whole, [40]).numpy(), library.truth("gop12.mp4")[[40]])

    def test_stretches_of_one_file_are_not_mistaken_for_each_other(self, library: Library, tmp_path: Path) -> None:
        first, second = (library.path(name).read_bytes() for name in ("gop12.mp4", "cut_gop.mp4"))
        (tmp_path / "shard.tar").write_bytes(first + second)
        url = str(tmp_path / "shard.tar")
        counts = [
            probe(VideoLocation("m", url, start=start, size=size)).num_frames
            for start, size in [(0, len(first)), (len(first), len(second)), (len(first), None), (0, len(first))]
        ]
        assert counts == [60, 41, 41, 60]

    def test_shard_that_ends_too_soon(self, library: Library, tmp_path: Path) -> None:
        location = embedded(library, "gop12.mp4", tmp_path)
        os.truncate(location.url, location.start + 100)
        reason = rf"^shard\.tar/gop12\.mp4: bytes 1001 to {1001 + (location.size or 0)} of .*shard\.tar are asked for"
        with pytest.raises(VideoDecodeError, match=reason + ", which has 1101; is the copy complete"):
            VideoReader(location)

    def test_empty_stretch(self, library: Library, tmp_path: Path) -> None:
        location = embedded(library, "gop12.mp4", tmp_path)
        with pytest.raises(VideoDecodeError, match="is empty: 0 bytes from byte 1001"):
            VideoReader(dataclasses.replace(location, size=0))
        with pytest.raises(VideoDecodeError, match="is empty: -1 bytes from byte"):
            VideoReader(VideoLocation("m", location.url, start=os.path.getsize(location.url) + 1))

    def test_not_a_video(self, library: Library, tmp_path: Path) -> None:
        location = embedded(library, "gop12.mp4", tmp_path)
        with pytest.raises(VideoDecodeError, match=r"^m: cannot be opened: Invalid data"):
            VideoReader(VideoLocation("m", location.url, start=0, size=500))


class TestRemote:
    @pytest.mark.parametrize("name", KINDS)
    def test_equals_the_file(self, library: Library, memory: str, name: str) -> None:
        with fsspec.open(f"{memory}/{name}", "wb") as file:
            file.write(library.path(name).read_bytes())
        truth = library.truth(name)
        with VideoReader(f"{memory}/{name}") as video:
            for indices in patterns(len(truth), np.random.default_rng(5)):
                assert np.array_equal(video.read(indices).numpy(), truth[indices])

    def test_stretch_of_an_object(self, library: Library, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
        data = library.path("gop12.mp4").read_bytes()
        with fsspec.open(f"{memory}/shard.tar", "wb") as file:
            file.write(HEAD + data + HEAD)
        location = VideoLocation("shard.tar/a.mp4", f"{memory}/shard.tar", start=len(HEAD), size=len(data))
        assert len(locate(location).read()) == len(data)
        assert np.array_equal(read_frames(location, [33]).numpy(), library.truth("gop12.mp4")[[33]])
        monkeypatch.setattr(VideoFile, "scan", lambda *a: pytest.fail("scanned again"))
        assert np.array_equal(read_frames(location, [7]).numpy(), library.truth("gop12.mp4")[[7]])

    def test_file_url(self, library: Library) -> None:
        clip = read_frames(library.path("gop12.mp4").as_uri(), [5, 50])
        assert np.array_equal(clip.numpy(), library.truth("gop12.mp4")[[5, 50]])

    def test_object_is_missing(self, memory: str) -> None:
        with pytest.raises(
            VideoDecodeError, match=r"^a\.mp4: memory://bucket/none\.tar cannot be read: there is no such file$"
        ):
            VideoReader(VideoLocation("a.mp4", f"{memory}/none.tar", start=5, size=10))

    def test_object_ends_too_soon_or_is_empty(self, memory: str) -> None:
        with fsspec.open(f"{memory}/shard.tar", "wb") as file:
            file.write(b"short")
        with pytest.raises(VideoDecodeError, match=r"^a\.mp4: 10 bytes from byte 2 of .* are asked for, it has 3"):
            VideoReader(VideoLocation("a.mp4", f"{memory}/shard.tar", start=2, size=10))
        with pytest.raises(VideoDecodeError, match=r"^a\.mp4: is empty: 0 bytes from byte 5"):
            VideoReader(VideoLocation("a.mp4", f"{memory}/shard.tar", start=5, size=10))

    def test_protocol_nobody_knows(self) -> None:
        with pytest.raises(RuntimeError, match=r"nfs5://a/b\.mp4: Protocol not known: nfs5"):
            VideoReader("nfs5://a/b.mp4")

    def test_bytes_cannot_open_other_files(self, library: Library, memory: str) -> None:
        """A play list is no video, and must not make the decoder read files of this machine."""
        with fsspec.open(f"{memory}/list.m3u8", "wb") as file:
            file.write(f"#EXTM3U\n#EXTINF:2,\nfile:{library.path('stream.ts')}\n#EXT-X-ENDLIST\n".encode())
        with pytest.raises(VideoDecodeError):
            probe(f"{memory}/list.m3u8")


class TestStoredIndex:
    def with_index(self, path: Path) -> VideoLocation:
        with VideoReader(path) as video:
            file_stat = path.stat()
            return VideoLocation(
                "v", str(path), size=file_stat.st_size, mtime_ns=file_stat.st_mtime_ns, index=video.frame_index
            )

    @pytest.mark.parametrize("name", [*KINDS, "cut_open.mp4", "late.mkv", "rotated.mp4"])
    def test_spares_the_scan(
        self, library: Library, monkeypatch: pytest.MonkeyPatch, fresh_cache: None, name: str
    ) -> None:
        location = self.with_index(library.path(name))
        video_bytes_cache_is_not_used(monkeypatch)
        truth = read_frames(library.path(name), range(probe(library.path(name)).num_frames)).numpy()
        monkeypatch.setattr(VideoFile, "scan", lambda *a: pytest.fail("scanned again"))
        monkeypatch.setattr(PacketReader, "reopen", lambda *a, **k: pytest.fail("read once more"))
        for indices in patterns(len(truth), np.random.default_rng(6)):
            assert np.array_equal(read_frames(location, indices).numpy(), truth[indices])

    def test_in_a_shard(self, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        location = embedded(library, "open.mp4", tmp_path)
        with VideoReader(location) as video:
            location = dataclasses.replace(location, index=video.frame_index)
        video_bytes_cache_is_not_used(monkeypatch)
        monkeypatch.setattr(VideoFile, "scan", lambda *a: pytest.fail("scanned again"))
        assert np.array_equal(read_frames(location, [59, 13]).numpy(), library.truth("open.mp4")[[59, 13]])

    @pytest.mark.parametrize("change", ["size", "mtime_ns"])
    def test_changed_file_is_indexed_anew(
        self,
        library: Library,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        change: str,
    ) -> None:
        monkeypatch.setattr(byte_source, "_warned_of_change", False)
        path = tmp_path / "v.mp4"
        shutil.copy(library.path("gop12.mp4"), path)
        location = self.with_index(path)
        if change == "size":
            shutil.copy(library.path("cut_gop.mp4"), path)
        else:
            os.utime(path, ns=(1, 1))
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                assert probe(location).num_frames == (41 if change == "size" else 60)
        assert [r.getMessage()[:40] for r in caplog.records] == ["v has changed since it was indexed; it i"]

    def test_file_that_changed_unnoticed(self, library: Library, tmp_path: Path) -> None:
        """Same size and time, other content: refused, not read by an index that is not its own."""
        path = tmp_path / "v.mp4"
        shutil.copy(library.path("gop12.mp4"), path)
        location = self.with_index(path)
        other = library.path("cut_gop.mp4").read_bytes()
        path.write_bytes(other[: location.size].ljust(location.size or 0, b"\0"))
        os.utime(path, ns=(0, location.mtime_ns or 0))
        with pytest.raises(VideoDecodeError, match="v: does not fit its index: the file has changed; index it again"):
            read_frames(location, [50])

    def test_too_many_pixels(self, library: Library) -> None:
        location = self.with_index(library.path("gop12.mp4"))
        with pytest.raises(VideoDecodeError, match="pictures of 96x64 exceed max_pixels=6000"):
            VideoReader(location, max_pixels=6000)

    def test_other_backends_have_none(self, library: Library) -> None:
        pytest.importorskip("decord")
        with (
            VideoReader(library.path("gop12.mp4"), backend="decord") as video,
            pytest.raises(ValueError, match="frame_index: only the backend 'pyav' makes one"),
        ):
            _ = video.frame_index


def video_bytes_cache_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was indexed before is not remembered."""
    monkeypatch.setattr("mvit_video.video.backends.pyav_decoder.IndexCache.get", lambda *a: None)


class Clock:
    """A clock that moves by one second whenever somebody looks at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


class TestTimeLimit:
    def test_reading_takes_too_long(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock()
        with VideoReader(library.path("gop12.mp4"), time_limit_s=30) as video:
            monkeypatch.setattr(byte_source, "time", clock)
            with pytest.raises(VideoDecodeError, match=r"gop12\.mp4: took more than 30 s \(time_limit_s\)$"):
                video.read(range(FRAMES))
            # The time is per read, and what was left in the decoder does no harm.
            assert np.array_equal(video.read([13, 2]).numpy(), library.truth("gop12.mp4")[[13, 2]])

    @pytest.mark.parametrize("known", [False, True])
    def test_decoding_takes_too_long(self, library: Library, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
        """Also where all packets were read before the first is decoded."""
        if known:
            probe(library.path("gop12.mp4"))
        clock = Clock()
        monkeypatch.setattr(clock, "monotonic", lambda: clock.now)
        fed = []
        feed = VideoFile.feed

        def slow(self: VideoFile, packet: av.Packet) -> list[av.VideoFrame]:
            fed.append(packet.pts)
            clock.now += 10
            return feed(self, packet)

        with VideoReader(library.path("gop12.mp4"), time_limit_s=25) as video:
            monkeypatch.setattr(byte_source, "time", clock)
            monkeypatch.setattr(VideoFile, "feed", slow)
            with pytest.raises(VideoDecodeError, match="took more than 25 s"):
                video.read(range(FRAMES))
        assert len(fed) == 3

    @pytest.mark.parametrize("name", ["gop12.mp4", "h264.avi"])
    def test_indexing_takes_too_long(self, library: Library, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(byte_source, "time", Clock())
        with pytest.raises(VideoDecodeError, match="took more than 20 s"):
            VideoReader(library.path(name), time_limit_s=20)

    def test_ffmpeg_is_interrupted(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        given = []
        opened = av.open
        monkeypatch.setattr(av, "open", lambda *a, **k: (given.append(k["timeout"]), opened(*a, **k))[1])
        probe(library.path("gop12.mp4"), time_limit_s=7.5)
        assert given == [7.5]

    def test_off_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock()
        monkeypatch.setattr(byte_source, "time", clock)
        deadline = Deadline("v", None)
        clock.now = 1e9
        deadline.check()
        assert not deadline.passed

    def test_arguments(self, library: Library) -> None:
        with pytest.raises(ValueError, match="time_limit_s=0: must be positive, or None"):
            VideoReader(library.path("gop12.mp4"), time_limit_s=0)
        with pytest.raises(ValueError, match="time_limit_s=1: backend 'decord' cannot be stopped; use 'pyav'"):
            VideoReader(library.path("gop12.mp4"), time_limit_s=1, backend="decord")
