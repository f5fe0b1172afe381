"""Everything a file can do wrong, and the one error it leads to."""

import os
import pickle
import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import resident_memory

from mvit_video.video import packets
from mvit_video.video.container import VideoFile
from mvit_video.video.reader import VideoDecodeError, VideoReader, probe, read_frames
from tests.video_library import FRAMES, HEIGHT, WIDTH, Library

pytestmark = pytest.mark.usefixtures("fresh_cache")


class TestRefusals:
    def test_frame_that_does_not_exist(self, library: Library) -> None:
        with pytest.raises(VideoDecodeError, match=r"gop12\.mp4: asked for frame 60 of 60$"):
            read_frames(library.path("gop12.mp4"), [0, 60])
        with pytest.raises(VideoDecodeError, match="asked for frame -1 of 60"):
            read_frames(library.path("gop12.mp4"), [-1])

    def test_no_indices(self, library: Library) -> None:
        with pytest.raises(ValueError, match="indices is empty"):
            read_frames(library.path("gop12.mp4"), [])

    def test_unknown_backend(self, library: Library) -> None:
        with pytest.raises(ValueError, match="backend='opencv': must be 'pyav', 'decord' or 'torchcodec'"):
            VideoReader(library.path("gop12.mp4"), backend="opencv")  # type: ignore[arg-type]

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(VideoDecodeError, match="No such file") as caught:
            probe(tmp_path / "none.mp4")
        assert caught.value.path == str(tmp_path / "none.mp4")
        assert caught.value.reason == "No such file or directory"

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(VideoDecodeError, match="is a directory"):
            probe(tmp_path)

    def test_fifo_does_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.mp4")
        with pytest.raises(VideoDecodeError, match="not a regular file"):
            probe(tmp_path / "pipe.mp4")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"", "empty"), (b"no video\n" * 100, "Invalid data"), (b"<html><body>404</body></html>", "Invalid data")],
        ids=["empty", "text", "html"],
    )
    def test_not_a_video(self, tmp_path: Path, content: bytes, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "video.mp4"
        path.write_bytes(content)
        with pytest.raises(VideoDecodeError, match=reason):
            probe(path)
        assert capfd.readouterr() == ("", "")

    def test_no_video_stream(self, tmp_path: Path) -> None:
        with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(bytes(16000))
        with pytest.raises(VideoDecodeError, match=r"no video stream that can be decoded \(streams: audio\)"):
            probe(tmp_path / "sound.wav")

    def test_moov_lost(self, library: Library, tmp_path: Path) -> None:
        data = library.path("gop12.mp4").read_bytes()
        (tmp_path / "video.mp4").write_bytes(data[: len(data) * 2 // 3])
        with pytest.raises(VideoDecodeError, match="cannot be opened"):
            probe(tmp_path / "video.mp4")

    def test_too_many_pixels(self, library: Library) -> None:
        path = library.path("gop12.mp4")
        for _ in range(2):  # without and with a remembered index
            with pytest.raises(VideoDecodeError, match="pictures of 96x64 exceed max_pixels=6000"):
                VideoReader(path, max_pixels=6000)
            probe(path)
        with pytest.raises(ValueError, match="max_pixels=0: must be positive"):
            VideoReader(path, max_pixels=0)

    def test_header_that_claims_huge_pictures_is_not_believed(self, library: Library, tmp_path: Path) -> None:
        size = struct.pack(">HH", WIDTH, HEIGHT)
        data = library.path("gop12.mp4").read_bytes()
        at = data.index(size, data.index(b"avc1", data.index(b"stsd")))
        (tmp_path / "video.mp4").write_bytes(data[:at] + struct.pack(">HH", 60000, 60000) + data[at + 4 :])
        clip = read_frames(tmp_path / "video.mp4", [9]).numpy()
        assert np.array_equal(clip, library.truth("gop12.mp4")[[9]])

    def test_errors_survive_pickling(self) -> None:
        error = pickle.loads(pickle.dumps(VideoDecodeError("a.mp4", "is broken")))
        assert (type(error), error.path, error.reason, str(error)) == (
            VideoDecodeError,
            "a.mp4",
            "is broken",
            "a.mp4: is broken",
        )


class TestTooLarge:
    """Pictures of 16000x16000 are refused before they take memory (a frame would take 366 MiB)."""

    def refused(self, path: Path, match: str) -> None:
        resident_memory.forget_peak()  # else what other tests took would hide what this one takes
        before = resident_memory.peak_bytes()
        with pytest.raises(VideoDecodeError, match=match):
            read_frames(path, [0])
        assert resident_memory.peak_bytes() - before < 100 * 2**20

    def test_sequence_header(self, library: Library, tmp_path: Path) -> None:
        """The size stands in the header that the container copies from the stream."""
        data = library.path("gop12.mp4").read_bytes()
        with av.open(str(library.path("gop12.mp4"))) as container:
            extra = container.streams.video[0].codec_context.extradata
        assert extra is not None
        length = int.from_bytes(extra[6:8], "big")
        sps = sequence_header(1000).ljust(length, b"\0")
        assert len(sps) == length
        (tmp_path / "video.mp4").write_bytes(data.replace(extra, extra[:8] + sps + extra[8 + length :]))
        self.refused(
            tmp_path / "video.mp4", r"pictures of 16000x16000 exceed max_pixels=35389440; raise it to read them"
        )

    def test_within_the_stream(self, library: Library, tmp_path: Path) -> None:
        data = library.path("mjpeg.avi").read_bytes()
        frame_header = b"\xff\xc0\x00\x11\x08"  # SOF0, its length, 8 bit
        honest, huge = (frame_header + struct.pack(">HH", *size) for size in ((HEIGHT, WIDTH), (16000, 16000)))
        assert data.count(honest) == FRAMES
        (tmp_path / "video.avi").write_bytes(data.replace(honest, huge))
        self.refused(tmp_path / "video.avi", "no key frame of its mjpeg stream can be decoded")


def sequence_header(macroblocks: int) -> bytes:
    """An H.264 sequence parameter set (7.3.2.1) for square pictures of so many macroblocks a side."""

    def golomb(value: int) -> str:
        return format(value + 1, "b").zfill(2 * (value + 1).bit_length() - 1)

    side = golomb(macroblocks - 1)
    fields = [golomb(0), golomb(0), golomb(2), golomb(1), "0", side, side, "1100", "1"]
    bits = "".join(fields)
    bits += "0" * (-len(bits) % 8)
    return bytes([0x67, 66, 0, 51]) + int(bits, 2).to_bytes(len(bits) // 8, "big")


class TestOddButSound:
    @pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "ts", "VIDEO", ""])
    @pytest.mark.parametrize("name", ["open.mp4", "clock.mkv", "packed.avi", "stream.ts", "vp9.webm", "stream.flv"])
    def test_name_that_tells_of_another_container(
        self, library: Library, tmp_path: Path, name: str, ending: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / f"video.{ending}"
        path.write_bytes(library.path(name).read_bytes())
        assert np.array_equal(read_frames(path, [31, 2, 50]).numpy(), library.truth(name)[[31, 2, 50]])
        assert capfd.readouterr().err == ""

    def test_stream_that_appears_on_the_way(self, library: Library, tmp_path: Path) -> None:
        """A broadcast may get a sound track in its middle."""
        later = tmp_path / "later.ts"
        with av.open(str(library.path("stream.ts"))) as old, av.open(str(later), "w") as new:
            copy = new.add_stream_from_template(old.streams.video[0])
            sound = new.add_stream("mp2", rate=48000)
            for packet in old.demux(video=0):
                if packet.size:
                    packet.pts, packet.dts, packet.stream = packet.pts + 900000, packet.dts + 900000, copy
                    new.mux(packet)
            for start in range(0, 48000, 1152):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), "s16", "stereo")
                frame.sample_rate, frame.pts, frame.time_base = 48000, start + 480000, Fraction(1, 48000)
                new.mux(sound.encode(frame))
        path = tmp_path / "both.ts"
        path.write_bytes(library.path("stream.ts").read_bytes() + later.read_bytes())
        truth = library.truth("stream.ts")
        with VideoReader(path) as video:
            assert video.info.num_frames == 120
            assert np.array_equal(
                video.read(range(58)).numpy(), truth[:58]
            )  # the join is a gap: what lies at it is lost
            assert np.array_equal(video.read(range(60, 120)).numpy(), truth)

    @pytest.mark.parametrize("keep_bytes", [0, 2**23], ids=["seeking", "in_memory"])
    def test_invalid_extras_in_every_key_frame(
        self, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_bytes: int
    ) -> None:
        """Supplemental information (SEI) of three bytes where at least 16 are due: a strict decoder refuses it."""
        monkeypatch.setattr(packets, "KEEP_BYTES", keep_bytes)
        invalid = b"\x06\x05\x03abc\x80"
        with av.open(str(library.path("gop12.mp4"))) as old, av.open(str(tmp_path / "v.mp4"), "w") as new:
            copy = new.add_stream_from_template(old.streams.video[0])
            for packet in old.demux(video=0):
                if packet.size:
                    head = len(invalid).to_bytes(4, "big") + invalid if packet.is_keyframe else b""
                    other = av.Packet(head + bytes(packet))
                    other.pts, other.dts, other.stream = packet.pts, packet.dts, copy
                    other.time_base, other.is_keyframe = packet.time_base, packet.is_keyframe
                    new.mux(other)
        with VideoReader(tmp_path / "v.mp4") as video:
            for indices in (range(FRAMES), [31], [2, 50]):
                assert np.array_equal(video.read(indices).numpy(), library.truth("gop12.mp4")[indices])

    @pytest.mark.parametrize("lie", ["moved", "missing"])
    @pytest.mark.parametrize("name", ["asp.avi", "packed.avi"])
    def test_avi_whose_index_is_wrong_is_read_from_its_start(
        self, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lie: str
    ) -> None:
        monkeypatch.setattr(packets, "KEEP_BYTES", 0)
        data = bytearray(library.path(name).read_bytes())
        at = data.rindex(b"idx1")
        if lie == "missing":
            data[at : at + 4] = b"JUNK"
        else:  # the entries of the second and the third key frame point at each other's chunk
            entries = range(at + 8, len(data) - 15, 16)
            keys = [e for e in entries if data[e : e + 4] == b"00dc" and data[e + 4] & 0x10]
            one, other = (slice(keys[n] + 8, keys[n] + 16) for n in (1, 2))
            data[one], data[other] = data[other], data[one]
        path = tmp_path / "lie.avi"
        path.write_bytes(data)
        with VideoReader(path) as video:
            assert not video.frame_index.numbered
            for frames in ([31], [2, 50], [59, 0]):
                assert np.array_equal(video.read(frames).numpy(), library.truth(name)[frames])


class TestDamage:
    @pytest.mark.parametrize("name", ["faststart.mp4", "fragmented.mp4", "asp.avi", "h264.avi"])
    @pytest.mark.parametrize("share", [0.6, 0.75, 0.9])
    def test_truncated_file(self, library: Library, tmp_path: Path, name: str, share: float) -> None:
        """What comes before the cut is exact; what may have other numbers than it should cannot be asked for."""
        path = tmp_path / name
        data = library.path(name).read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        try:
            video = VideoReader(path)
        except VideoDecodeError:
            assert name == "h264.avi" and share == 0.6  # fewer frames than a decoder may reorder
            return
        with video:
            count = video.info.num_frames
            assert 0 < count < FRAMES
            assert np.array_equal(video.read(range(count)).numpy(), library.truth(name)[:count])
            with pytest.raises(VideoDecodeError, match=rf"asked for frame 59 of {count} \(damaged: "):
                video.read([59])
            assert video.damage

    @pytest.mark.parametrize("keep_bytes", [0, 2**23], ids=["seeking", "in_memory"])
    @pytest.mark.parametrize(("name", "group"), [("faststart.mp4", range(24, 36)), ("hevc.mp4", range(24, 36))])
    def test_damaged_key_frame_spoils_its_group_alone(
        self,
        library: Library,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        group: range,
        keep_bytes: int,
    ) -> None:
        monkeypatch.setattr(packets, "KEEP_BYTES", keep_bytes)
        with av.open(str(library.path(name))) as container:
            key = [packet for packet in container.demux(video=0) if packet.is_keyframe][2]
        data = bytearray(library.path(name).read_bytes())
        data[key.pos + 4 : key.pos + key.size] = bytes(key.size - 4)
        path = tmp_path / name
        path.write_bytes(data)
        truth = library.truth(name)
        with VideoReader(path) as video:
            assert video.info.num_frames == FRAMES
            for frame in range(FRAMES):
                if frame in group:
                    with pytest.raises(VideoDecodeError, match=f"frame {frame} cannot be decoded"):
                        video.read([frame])
                else:
                    assert np.array_equal(video.read([frame])[0].numpy(), truth[frame])
            with pytest.raises(VideoDecodeError, match="frame 24 and 11 more cannot be decoded"):
                video.read(range(FRAMES))

    @pytest.mark.parametrize("keep_bytes", [0, 2**23], ids=["seeking", "in_memory"])
    @pytest.mark.parametrize("name", ["v.mkv", "v.ts", "v.h264"])
    def test_missing_packet(
        self, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, keep_bytes: int
    ) -> None:
        """A picture that others refer to is gone: H.264 numbers tell. Frames are refused up to the next key frame."""
        monkeypatch.setattr(packets, "KEEP_BYTES", keep_bytes)
        lost = 40 if name == "v.h264" else 16  # a P picture, shown two frames later, and the two before lean on it
        with av.open(str(library.path("gop12.mp4"))) as old, av.open(str(tmp_path / name), "w") as new:
            copy = new.add_stream_from_template(old.streams.video[0])
            for position, packet in enumerate(old.demux(video=0)):
                if packet.size and position != lost:
                    packet.stream = copy
                    new.mux(packet)
        truth = np.delete(library.truth("gop12.mp4"), 18, 0)
        with VideoReader(tmp_path / name) as video:
            if name == "v.h264":  # frames can only be counted: nothing behind the gap can be had
                count = video.info.num_frames
                assert 0 < count <= 40 and "packet 40 is damaged, or one before it is missing" in video.damage
                assert np.array_equal(video.read(range(count)).numpy(), library.truth("gop12.mp4")[:count])
                return
            assert video.info.num_frames == FRAMES - 1
            for frames in (range(16), range(23, 59)):
                assert np.array_equal(video.read(frames).numpy(), truth[frames.start : frames.stop])
            for frame in (16, 17, 18, 19, 22):
                with pytest.raises(
                    VideoDecodeError, match=rf"frame {frame} cannot be decoded: the data it needs is da"
                ):
                    video.read([frame])

    def test_nothing_can_be_decoded(self, library: Library, tmp_path: Path) -> None:
        data = bytearray(library.path("faststart.mp4").read_bytes())
        at = data.index(b"mdat") + 4
        data[at:] = bytes(len(data) - at)
        (tmp_path / "video.mp4").write_bytes(data)
        with pytest.raises(VideoDecodeError, match=r"no picture can be decoded \(no key frame\)"):
            probe(tmp_path / "video.mp4")


@pytest.mark.parametrize("refused", [(True,), (True, False)], ids=["strictly", "ever"])
def test_no_decoder_is_opened_again_after_a_refusal(
    library: Library, monkeypatch: pytest.MonkeyPatch, refused: tuple[bool, ...]
) -> None:
    """FFmpeg 9 crashes there. A decoder that opens only with errors allowed reads the file."""
    real, opened = VideoFile._prepare, []

    def prepare(self: VideoFile, decoder: av.VideoCodecContext, codec: str, *, strict: bool) -> None:
        assert not any(decoder is another for another in opened)
        opened.append(decoder)
        if strict in refused:
            raise av.error.InvalidDataError(1094995529, "Invalid data")
        real(self, decoder, codec, strict=strict)

    monkeypatch.setattr(VideoFile, "_prepare", prepare)
    if False in refused:
        with pytest.raises(VideoDecodeError, match="the h264 decoder refuses it"):
            VideoReader(library.path("gop12.mp4"))
    else:
        assert VideoReader(library.path("gop12.mp4")).info.num_frames > 1
    assert len(opened) >= 3
