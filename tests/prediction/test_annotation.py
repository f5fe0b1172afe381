"""Annotated videos: every picture at its time, the words where they belong, the sound as it was."""

import resource
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from mvit_video.images import ImageDecodeError
from mvit_video.prediction.annotation import annotate_image, annotate_video, captions_of
from mvit_video.prediction.sound import SoundTrack
from mvit_video.video import VideoDecodeError, VideoReader
from tests.video.test_opening import cover_first
from tests.video_library import Library


def with_sound(path: Path, *, codec: str = "aac", seconds: int = 2) -> None:
    """A grey video of 96x64 at 10 frames/s with a tone."""
    with av.open(str(path), "w") as file:
        video, audio = file.add_stream("libx264", rate=10), file.add_stream(codec, rate=48000)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        audio.layout = "mono"
        for _ in range(10 * seconds):
            file.mux(video.encode(av.VideoFrame.from_ndarray(np.full((64, 96, 3), 90, np.uint8), format="rgb24")))
        time = np.arange(48000 * seconds, dtype=np.float32) / 48000
        kind = "s16" if codec.startswith("pcm") else "fltp"
        tone = (0.3 * np.sin(2 * np.pi * 440 * time))[None]
        samples = (tone * 32767).astype(np.int16) if kind == "s16" else tone.astype(np.float32)
        for first in range(0, samples.shape[1], 1024):
            part = samples[:, first : first + 1024]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format=kind, layout="mono")
            frame.sample_rate, frame.pts = 48000, first
            file.mux(audio.encode(frame))
        file.mux(video.encode(None))
        file.mux(audio.encode(None))


def packets(path: Path, kind: str) -> list[Any]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(**{kind: 0}) if packet.size]


def test_the_sound_is_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "a.mp4", tmp_path / "out.mp4"
    with_sound(source)
    annotate_video(str(source), target, lambda second: ["a word"])
    assert packets(target, "audio") == packets(source, "audio")
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_sound_of_a_codec_that_has_another_name_than_its_decoder_is_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "a.avi", tmp_path / "out.mp4"
    with_sound(source, codec="libmp3lame")
    with av.open(str(source)) as file:
        assert file.streams.audio[0].codec_context.name == "mp3float"
    annotate_video(str(source), target, lambda time: ["hello"])
    with av.open(str(target)) as file:
        assert file.streams.audio[0].codec_context.codec.canonical_name == "mp3"
    assert len(packets(target, "audio")) == len(packets(source, "audio"))


def test_sound_that_mp4_does_not_take_becomes_aac(tmp_path: Path) -> None:
    source, target = tmp_path / "a.avi", tmp_path / "out.mp4"
    with_sound(source, codec="pcm_s16le")
    annotate_video(str(source), target, lambda second: [])
    with av.open(str(target)) as file:
        assert file.streams.audio[0].codec_context.name == "aac"
        heard = sum(frame.samples for frame in file.decode(audio=0))
    assert heard == pytest.approx(96000, abs=3000)


def test_sound_with_odd_time_stamps_is_encoded(tmp_path: Path) -> None:
    """Stamps that stand still, run backwards and jump ahead; the sound waits where they jump."""
    target = tmp_path / "out.mp4"
    source = tmp_path / "a.avi"
    with_sound(source, codec="pcm_s16le")
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        video, heard = reader.streams.video[0], reader.streams.audio[0]
        copy = writer.add_stream_from_template(video)
        track = SoundTrack(writer, heard, "a.avi")
        for number, packet in enumerate(reader.demux(video, heard)):
            if packet.stream is video:
                if packet.dts is not None:
                    packet.stream = copy
                    writer.mux(packet)
                continue
            if packet.pts is not None:
                packet.pts = packet.dts = (
                    [3, 1, 3, packet.pts + 24000][number % 4] if number < 40 else packet.pts + 24000
                )
            track.add(packet)
        track.end()
    with av.open(str(target)) as file:
        frames = list(file.decode(audio=0))
    times = [float(frame.pts * frame.time_base) for frame in frames]
    assert times == sorted(times) and sum(frame.samples for frame in frames) == pytest.approx(96000, abs=3000)
    assert times[-1] == pytest.approx(2.5, abs=0.1)


def test_packets_out_of_order_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = tmp_path / "a.mp4", tmp_path / "out.mp4"
    with_sound(source)
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        track = SoundTrack(writer, reader.streams.audio[0], "a.mp4")
        for number, packet in enumerate(reader.demux(audio=0)):
            if number in (5, 6) and packet.dts is not None:
                packet.dts = packet.pts = 0
            track.add(packet)
        track.end()
    assert len(packets(target, "audio")) == len(packets(source, "audio")) - 2
    assert "a.mp4: 2 packets of its sound are damaged or out of order" in caplog.text


def test_sound_that_cannot_be_written_is_left_out_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise av.error.ArgumentError(22, "Invalid argument")

    source, target = tmp_path / "a.avi", tmp_path / "out.mp4"
    with_sound(source, codec="pcm_s16le")
    monkeypatch.setattr(SoundTrack, "_encode", refuse)
    annotate_video(str(source), target, lambda second: [])
    assert "the sound (pcm_s16le) cannot be written on (Invalid argument): none of its sound is in" in caplog.text
    assert len(packets(target, "video")) == 20


def test_sound_of_an_unknown_codec_does_not_cost_the_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = tmp_path / "a.mkv", tmp_path / "out.mp4"
    with_sound(source)
    source.write_bytes(source.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    annotate_video(str(source), target, lambda second: [])
    assert "the sound (of an unknown codec) cannot be written on (no decoder for it is known here)" in caplog.text
    assert len(packets(target, "video")) == 20


@pytest.mark.parametrize("rotation", [0.0, 90.0])
def test_pixels_keep_their_shape(rotation: float, tmp_path: Path) -> None:
    """DV and DVD have pixels that are no squares; turned by a quarter, their sides change places."""
    source, target = tmp_path / "a.mp4", tmp_path / "out.mp4"
    with av.open(str(source), "w") as file:
        video = file.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(16, 15)
        if rotation:
            video.set_display_rotation(rotation)
        for _ in range(3):
            file.mux(video.encode(av.VideoFrame.from_ndarray(np.full((64, 96, 3), 90, np.uint8), format="rgb24")))
        file.mux(video.encode(None))
    annotate_video(str(source), target, lambda second: [])
    with av.open(str(target)) as file:
        assert file.streams.video[0].sample_aspect_ratio == (Fraction(15, 16) if rotation else Fraction(16, 15))


def test_a_cover_picture_is_not_what_is_annotated(library: Library, tmp_path: Path) -> None:
    source, target = tmp_path / "a.mp4", tmp_path / "out.mp4"
    cover_first(library.path("cover.mp4"), source)
    annotate_video(str(source), target, lambda second: [])
    assert len(packets(target, "video")) == len(packets(library.path("gop12.mp4"), "video"))


def test_a_colon_in_the_name_of_the_folder_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    target = Path("2026-11-28T10:30") / "out.mp4"
    target.parent.mkdir()
    with_sound(tmp_path / "a.mp4")
    annotate_video("a.mp4", target, lambda second: [])
    assert target.is_file()


def test_words_stand_on_an_image(tmp_path: Path) -> None:
    source, target = tmp_path / "a.png", tmp_path / "out.png"
    Image.fromarray(np.full((81, 121, 3), 200, np.uint8)).save(source)
    annotate_image(str(source), target, ["two", "lines"])
    pixels = np.asarray(Image.open(target)).astype(int)
    assert pixels.shape == (81, 121, 3) and (pixels[-20:] == 200).all()
    assert pixels[:30, :30].min() < 100 and pixels[:30, :40].max() > 230
    with pytest.raises(ImageDecodeError, match="No such file"):
        annotate_image(str(tmp_path / "absent.png"), target, [])


def test_words_stand_at_their_times(tmp_path: Path) -> None:
    source, target = tmp_path / "a.mp4", tmp_path / "out.mp4"
    with_sound(source)
    annotate_video(str(source), target, captions_of([(0.0, 1.0, "run"), (1.5, 9.0, "a longer name")]))
    with VideoReader(target) as video:
        frames = video.read(range(20)).numpy()
    ranges = np.ptp(frames.reshape(20, -1).astype(int), axis=1)
    assert (ranges[:10] > 90).all() and (ranges[10:15] < 25).all() and (ranges[15:] > 90).all()
    assert np.abs(frames[:, 40:].astype(int) - 90).max() < 12  # below the plate nothing changes


@pytest.mark.parametrize("name", ["rotated.mp4", "upside_down.mp4", "mirrored.mp4", "variable.mp4", "ten_bit.mp4"])
def test_pictures_are_those_that_the_model_sees(name: str, library: Library, tmp_path: Path) -> None:
    source, target = library.path(name), tmp_path / "out.mp4"
    annotate_video(str(source), target, lambda second: [])
    with VideoReader(source) as before, VideoReader(target) as after:
        assert after.info.num_frames == before.info.num_frames
        assert (after.info.height, after.info.width) == (before.info.height, before.info.width)
        places = range(0, before.info.num_frames, 7)
        difference = before.read(places).float() - after.read(places).float()
        assert difference.abs().mean() < 6
        assert before.times is not None and after.times is not None
        shown = [(times.stamps - times.stamps[0]) * float(times.unit) for times in (before.times, after.times)]
        np.testing.assert_allclose(shown[0], shown[1], atol=1e-3)


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"\0" * 100)
    with pytest.raises(VideoDecodeError, match="no annotated video can be made of it"):
        annotate_video(str(tmp_path / "a.mp4"), tmp_path / "out.mp4", lambda second: [])
    assert not (tmp_path / "out.mp4").exists()


def test_a_full_disk_is_no_damage_of_the_video(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    with_sound(source)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            annotate_video(str(source), tmp_path / "out.mp4", lambda second: [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "out.mp4").exists()
