"""Video files for tests, made when asked for, that carry their frame numbers in the picture."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from tests.paths import SHARED_CLIPS

Picture = npt.NDArray[np.uint8]
HEIGHT, WIDTH, FRAMES = 64, 96, 60
CLIPS = SHARED_CLIPS


def barcode(number: int) -> Picture:
    """A picture with `number` as eight black or white bars above a moving texture."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    wave_ = np.sin((columns + 2 * number) / 5) + np.cos((rows - number) / 7)
    picture = np.stack([128 + 50 * wave_, 128 + 40 * np.roll(wave_, 9, 1), 128 - 50 * wave_], -1).astype(np.uint8)
    for bit in range(8):
        picture[:32, 12 * bit : 12 * bit + 12] = 255 * (number >> bit & 1)
    return picture


def number_in(picture: Picture) -> int:
    """The number that `barcode` drew."""
    return sum(int(picture[8:24, 12 * bit + 3 : 12 * bit + 9].mean() > 128) << bit for bit in range(8))


@dataclass(frozen=True)
class Recipe:
    """How a test file is made."""

    name: str
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    mux: dict[str, str] = field(default_factory=dict)
    ticks: Callable[[int], int] = lambda number: number  # presentation time of a frame in 1/25 s
    rotation: float = 0.0
    hflip: bool = False
    cover: bool = False


def x264(params: str) -> dict[str, str]:
    return {"preset": "veryfast", "crf": "28", "x264-params": params}


CLOSED = x264("keyint=250:bframes=3:b-adapt=0:scenecut=0")
GOP12 = x264("keyint=12:min-keyint=12:bframes=2:b-adapt=0:scenecut=0")
OPEN = x264("keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:open-gop=1")
X265 = "keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:log-level=none:pools=none:frame-threads=1"
RECIPES = [
    Recipe("closed.mp4", options=CLOSED),
    Recipe("gop12.mp4", options=GOP12),
    Recipe("open.mp4", options=OPEN),
    Recipe("no_b.mp4", options=x264("keyint=20:bframes=0:ref=1")),
    Recipe("pyramid.mp4", options=x264("keyint=30:bframes=7:b-pyramid=normal:b-adapt=0:scenecut=0")),
    Recipe("hevc.mp4", "libx265", {"preset": "ultrafast", "x265-params": X265 + ":open-gop=0"}),
    Recipe("hevc_open.mp4", "libx265", {"preset": "ultrafast", "x265-params": X265 + ":open-gop=1:b-pyramid=1"}),
    Recipe("hevc_layers.mp4", "libx265", {"preset": "ultrafast", "x265-params": X265 + ":temporal-layers=3"}),
    Recipe("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "15", "auto-alt-ref": "1"}),
    Recipe("vp8.webm", "libvpx", {"deadline": "good", "cpu-used": "5", "g": "20", "auto-alt-ref": "1"}),
    Recipe("av1.mp4", "libsvtav1", {"preset": "12", "crf": "40", "g": "15", "svtav1-params": "lp=1"}),
    Recipe("asp.avi", "mpeg4", {"bf": "2", "g": "15", "qscale": "4"}),
    Recipe("asp.mp4", "mpeg4", {"bf": "2", "g": "15", "qscale": "4"}),
    Recipe("h264.avi", options=GOP12),
    Recipe("mpeg2.mpg", "mpeg2video", {"bf": "2", "g": "12", "qscale": "4"}),
    Recipe("stream.ts", options=GOP12),
    Recipe("open.ts", options=OPEN),
    Recipe("hevc.ts", "libx265", {"preset": "ultrafast", "x265-params": X265 + ":open-gop=1"}),
    Recipe("raw.h264", options=GOP12),
    Recipe("clock.mkv", options=GOP12),
    Recipe("stream.flv", options=GOP12),
    Recipe("mjpeg.avi", "mjpeg", pix_fmt="yuvj420p"),
    Recipe("fragmented.mp4", options=GOP12, mux={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    Recipe("faststart.mp4", options=GOP12, mux={"movflags": "faststart"}),
    Recipe("variable.mp4", options=GOP12, ticks=lambda n: n + n // 7 * 3 + (n > 20) * 40),
    Recipe("late.mp4", options=GOP12, ticks=lambda n: n + 37),
    Recipe("late.mkv", options=GOP12, ticks=lambda n: n + 37),
    Recipe("ten_bit.mp4", options=GOP12, pix_fmt="yuv420p10le"),
    Recipe("full_chroma.mp4", options=GOP12, pix_fmt="yuv444p"),
    Recipe("interlaced.mp4", options=x264("keyint=12:bframes=2:tff=1")),
    Recipe("rotated.mp4", options=GOP12, rotation=90),
    Recipe("upside_down.mp4", options=GOP12, rotation=180),
    Recipe("mirrored.mp4", options=GOP12, rotation=-90, hflip=True),
    Recipe("cover.mp4", options=GOP12, cover=True),
]
DERIVED = ["cut_gop.mp4", "cut_open.mp4", "cut_open.ts", "packed.avi"]


def write_video(path: Path, recipe: Recipe, numbers: Sequence[int] = range(FRAMES)) -> None:
    """Encode the barcodes of `numbers`."""
    with av.open(str(path), "w", options=recipe.mux) as container:
        if recipe.cover:
            cover = container.add_stream("mjpeg", rate=25, width=32, height=32, pix_fmt="yuvj420p")
            cover.disposition = av.stream.Disposition.attached_pic
        stream = container.add_stream(recipe.codec, rate=25, options=recipe.options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, recipe.pix_fmt
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 25)
        if recipe.rotation or recipe.hflip:
            stream.set_display_rotation(recipe.rotation, hflip=recipe.hflip)
        if recipe.cover:
            container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = recipe.ticks(number), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def copy_from(source: Path, target: Path, first: int, shift: int) -> None:
    """Copy the packets from position `first` on, `shift` frames earlier: what cutting without re-encoding leaves."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        ticks = round(shift / 25 / stream.time_base)
        for position, packet in enumerate(old.demux(stream)):
            if packet.size and position >= first:
                packet.pts, packet.dts, packet.stream = packet.pts - ticks, packet.dts - ticks, copy
                new.mux(packet)


def pack(source: Path, target: Path) -> None:
    """Copy an MPEG-4 AVI as DivX and XviD wrote it: a P picture and the first B picture behind it share a packet.

    Further B pictures have their own, and an empty picture fills the place that the first one left.
    """
    note, empty = b"\0\0\1\xb2DivX503b1393p", b"\0\0\1\xb6\x51\x00\x00"
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        data = [bytes(packet) for packet in old.demux(stream) if packet.size]
        types = ["IPBS"[packet[packet.index(b"\0\0\1\xb6") + 4] >> 6] for packet in data]
        packed: list[tuple[bytes, bool]] = []
        for packet, before, kind, behind in zip(data, ["I", *types], types, [*types[1:], "I"]):
            if kind != "B" or before == "B":
                packed.append((packet, kind == "I"))
            else:
                packed[-1] = packed[-1][0] + packet, packed[-1][1]
            if kind == "B" and behind != "B":
                packed.append((empty, False))
        packed[0] = packed[0][0].replace(b"\0\0\1\xb6", note + b"\0\0\1\xb6", 1), True
        for number, (content, key) in enumerate(packed):
            packet = av.Packet(content)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = stream.time_base, copy, key
            new.mux(packet)


class Library:
    """The test files, each made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._truth: dict[str, Picture] = {}

    def path(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            if name == "cut_gop.mp4":  # starts in the middle of a GOP: 7 decoded frames are not shown
                copy_from(self.path("gop12.mp4"), path, 12, 19)
            elif name == "cut_open.mp4":  # the first key frame's leading pictures have lost what they refer to
                copy_from(self.path("open.mp4"), path, self.keys("open.mp4")[1], 20)
            elif name == "packed.avi":
                pack(self.path("asp.avi"), path)
            elif name == "cut_open.ts":
                copy_from(self.path("open.ts"), path, self.keys("open.ts")[1], 0)
            else:
                write_video(path, next(r for r in RECIPES if r.name == name))
        return path

    def keys(self, name: str) -> list[int]:
        """Packet positions of the key frames."""
        with av.open(str(self.path(name))) as container:
            return [i for i, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]

    def truth(self, name: str) -> Picture:
        """All frames in order, by plain decoding from start to end; rotation not applied."""
        if name not in self._truth:
            self._truth[name] = decode_all(self.path(name))
        return self._truth[name]


def decode_all(path: Path) -> Picture:
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
        stream.thread_count, stream.thread_type = 1, "NONE"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def patterns(count: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Index lists of every kind a caller may think of."""
    yield [count - 1]
    yield [0]
    yield list(range(count))
    yield list(range(count - 1, -1, -7))
    for _ in range(4):
        start = int(rng.integers(0, max(1, count - 16)))
        yield [min(count - 1, start + step * 2) for step in range(8)]
        yield rng.integers(0, count, 6).tolist()
        yield rng.integers(0, count, 2).tolist() * 2
