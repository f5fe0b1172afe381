"""The pictures that `ffmpeg -r` extracts: recorded from the program, and against the program where it is installed."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mvit_video.data.extraction import even_times, extracted_frames
from mvit_video.video.index import FrameTimes
from mvit_video.video.reader import VideoReader

NTSC = Fraction(30000, 1001)
# Pictures of each of 16 frames, as `ffmpeg -r 30` of release 5.1.9 wrote them; 4.1 and 4.2.2 write the same.
RECORDED = {
    ("mp4", Fraction(8)): "4443444344434443",
    ("mp4", Fraction(10)): "3333333333333333",
    ("mp4", Fraction(12)): "2323232323232323",
    ("mp4", Fraction(15)): "2222222222222222",
    ("mp4", Fraction(24)): "1121112111211121",
    ("mp4", Fraction(25)): "1112111121111211",
    ("mp4", NTSC): "1111111111111111",
    ("mp4", Fraction(30)): "1111111111111111",
    ("mp4", Fraction(50)): "1111110101101011",
    ("mp4", Fraction(60)): "1111010101010101",
    ("webm", Fraction(8)): "4443444344434443",
    ("webm", Fraction(10)): "3333333333333333",
    ("webm", Fraction(12)): "2233232233232233",
    ("webm", Fraction(15)): "2222222222222222",
    ("webm", Fraction(24)): "1112112111211112",
    ("webm", Fraction(25)): "1112111121111211",
    ("webm", NTSC): "1111111111111111",
    ("webm", Fraction(30)): "1111111111111111",
    ("webm", Fraction(50)): "1111110101101011",
    ("webm", Fraction(60)): "1111010101010101",
}
# Milliseconds, duration that the container states, average rate; pictures of each frame (5.1.9 and 4.2.2).
VARIABLE = [
    ([0, 40, 300, 310, 700, 750, 1200, 1240], 83, [2, 6, 3, 9, 3, 12, 3, 1]),
    ([0, 33, 67, 100, 1100, 1133, 2133, 2200, 3200], 33, [1, 1, 1, 29, 2, 29, 2, 30, 30]),
    ([0, 83, 90, 95, 100, 104, 400], 83, [2, 2, 1, 1, 1, 4, 3]),
    ([0, 500, 1000, 1500, 2000], 83, [14, 15, 15, 15, 15]),
]
LENGTHS = (2, 3, 5, 50, 119, 300)
BITS, BLOCK = 10, 16  # a frame's number in blocks of grey


def milliseconds(count: int, fps: Fraction) -> FrameTimes:
    """Times as WebM has them."""
    stamps = [int(1000 * frame / fps + Fraction(1, 2)) for frame in range(count)]
    return FrameTimes(Fraction(1, 1000), np.array(stamps), np.full(count, int(1000 / fps)))


def counts(shown: list[int], frames: int) -> list[int]:
    return [shown.count(frame) for frame in range(frames)]


@pytest.mark.parametrize(("container", "fps"), RECORDED)
def test_recorded_extractions(container: str, fps: Fraction) -> None:
    times = even_times(num_frames=16, fps=float(fps)) if container == "mp4" else milliseconds(16, fps)
    shown = extracted_frames(times, fps=float(fps), rate=30)
    assert shown == sorted(shown)
    assert "".join(map(str, counts(shown, 16))) == RECORDED[container, fps]


@pytest.mark.parametrize(("stamps", "duration", "expected"), VARIABLE)
def test_recorded_extractions_of_variable_rate(stamps: list[int], duration: int, expected: list[int]) -> None:
    times = FrameTimes(Fraction(1, 1000), np.array(stamps) + 70, np.full(len(stamps), duration))
    shown = extracted_frames(times, fps=(len(stamps) - 1) / (stamps[-1] / 1000), rate=30)
    assert counts(shown, len(stamps)) == expected


def test_fifty_frames_at_twelve_a_second_in_milliseconds() -> None:
    """The case of Something-Something v2: 124 pictures, of which frame i begins at floor(30 t[i - 1] + 0.5) + 2."""
    times = milliseconds(50, Fraction(12))
    shown = extracted_frames(times, fps=12.0, rate=30)
    assert len(shown) == 124
    seconds = times.stamps / 1000
    starts = [0] + [int(30 * seconds[frame - 1] + 0.5) + 2 for frame in range(1, 50)]
    assert [shown.index(frame) for frame in range(50)] == starts


def test_durations_that_are_not_stated_are_those_of_the_average_rate() -> None:
    times = FrameTimes(Fraction(1, 60), np.arange(6), np.zeros(6, np.int64))
    assert extracted_frames(times, fps=60.0, rate=30) == extracted_frames(
        even_times(num_frames=6, fps=60.0), fps=60.0, rate=30
    )


def test_other_rates_of_extraction() -> None:
    times = even_times(num_frames=6, fps=30.0)
    assert extracted_frames(times, fps=30.0, rate=30000 / 1001) == [0, 1, 2, 3, 4, 5]
    assert extracted_frames(times, fps=30.0, rate=60) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_bad_values() -> None:
    with pytest.raises(ValueError, match=r"a video of 0 frames: there is nothing to extract"):
        extracted_frames(even_times(num_frames=0, fps=12.0), fps=12.0, rate=30)
    with pytest.raises(ValueError, match=r"rate=0: must be a positive number"):
        extracted_frames(even_times(num_frames=2, fps=12.0), fps=12.0, rate=0)
    with pytest.raises(ValueError, match=r"fps=nan: must be a positive number"):
        extracted_frames(even_times(num_frames=2, fps=12.0), fps=float("nan"), rate=30)


@pytest.fixture(scope="module")
def ffmpeg() -> str:
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("the ffmpeg program is not installed; the recorded extractions are tested without it")
    text = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stdout
    release = re.match(r"ffmpeg version n?(\d+)", text)
    if release is None or int(release.group(1)) not in (4, 5):
        pytest.skip(f"{text.split(' Copyright')[0]}: the published rule is that of releases 4 and 5")
    return program


def numbered(path: Path, stamps: list[int], unit: Fraction, rate: Fraction) -> None:
    """A file whose frames carry their numbers, shown at `stamps` units."""
    codec = "libvpx" if path.suffix == ".webm" else "libx264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = BITS * BLOCK, BLOCK, "yuv420p"
        stream.codec_context.time_base = stream.time_base = unit
        stream.options = {"preset": "ultrafast"} if codec == "libx264" else {"deadline": "realtime", "cpu-used": "8"}
        for number, stamp in enumerate(stamps):
            blocks = np.array([28 + 200 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
            grey = np.tile(np.repeat(blocks, BLOCK), (BLOCK, 1))
            frame = av.VideoFrame.from_ndarray(
                np.vstack([grey, np.full((BLOCK // 2, BITS * BLOCK), 128, np.uint8)]), "yuv420p"
            )
            frame.pts, frame.time_base = stamp, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def by_program(program: str, paths: Sequence[Path]) -> list[list[int]]:
    """Numbers of the frames in the pictures that the program extracts of each file; most of its time it starts."""
    command = [program, "-v", "error", *(word for path in paths for word in ("-i", str(path)))]
    raw = [path.with_suffix(".raw") for path in paths]
    for number, output in enumerate(raw):
        command += ["-map", f"{number}:v", "-r", "30", "-f", "rawvideo", "-pix_fmt", "gray", str(output)]
    subprocess.run(command, capture_output=True, check=True)
    found = []
    for output in raw:
        data = np.fromfile(output, np.uint8)
        pictures = data.reshape(-1, BLOCK, BITS, BLOCK)[:, 4:12, :, 4:12]
        found.append(((pictures.mean((1, 3)) > 128) @ (1 << np.arange(BITS))).tolist())
    return found


def by_rule(path: Path) -> list[int]:
    with VideoReader(path) as video:
        assert video.times is not None
        return extracted_frames(video.times, fps=video.info.fps, rate=30)


@pytest.mark.parametrize("container", ["mp4", "webm"])
def test_the_program_extracts_the_same(ffmpeg: str, tmp_path: Path, container: str) -> None:
    files = {}
    for place, (kind, fps) in enumerate(RECORDED):
        for length in {LENGTHS[place % 3], LENGTHS[3 + place % 2], 300 if fps in (12, NTSC) else 16}:
            if kind == container:
                files[fps, length] = tmp_path / f"{float(fps):.2f}_{length}.{container}"
                numbered(files[fps, length], list(range(length)), 1 / fps, fps)
    for (fps, length), extracted in zip(files, by_program(ffmpeg, list(files.values()))):
        assert by_rule(files[fps, length]) == extracted, (fps, length)
        if length == 16:
            assert "".join(map(str, counts(extracted, 16))) == RECORDED[container, fps]


@pytest.mark.parametrize("container", ["mp4", "webm"])
def test_the_program_extracts_the_same_at_variable_rates(ffmpeg: str, tmp_path: Path, container: str) -> None:
    paths = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        steps = rng.choice([33, 40, 83, 83, 100, 250, 900], size=30)
        paths.append(tmp_path / f"variable_{seed}.{container}")
        numbered(paths[-1], [0, *np.cumsum(steps).tolist()], Fraction(1, 1000), Fraction(12 if seed % 2 else 30))
    for path, extracted in zip(paths, by_program(ffmpeg, paths)):
        assert by_rule(path) == extracted, path.name


def test_jpeg_files_are_the_same_pictures(ffmpeg: str, tmp_path: Path) -> None:
    path = tmp_path / "video.webm"
    numbered(path, list(range(20)), Fraction(1, 12), Fraction(12))
    subprocess.run(
        [ffmpeg, "-v", "error", "-i", str(path), "-r", "30", "-q:v", "1", str(tmp_path / "%06d.jpg")], check=True
    )
    numbers = []
    for file in sorted(tmp_path.glob("*.jpg")):
        with av.open(str(file)) as picture:
            grey = next(picture.decode(video=0)).to_ndarray(format="gray")
        blocks = grey.reshape(BLOCK, BITS, BLOCK)[4:12, :, 4:12].mean((0, 2)) > 128
        numbers.append(int(blocks @ (1 << np.arange(BITS))))
    assert numbers == by_rule(path)
