"""The files that bench_data.py decodes: moving textures in the codecs, group lengths and containers people have.

A scene is a large noise texture that the camera pans over, two textured ellipses that move on their own, a cut, and
sensor noise; at the encoders' default quality that gives the bit rates of web videos of the same size. Every file is
the same for everyone up to the encoder's version.
"""

import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
CUT = 190  # frame at which the scene changes
FPS = 30


@dataclass(frozen=True)
class Recipe:
    """How a file is made: name (with its container), encoder and options, picture size."""

    name: str
    codec: str
    options: dict[str, str] = field(default_factory=dict)
    size: tuple[int, int] = (256, 340)


RECIPES = (
    Recipe("h264_default.mp4", "libx264"),  # groups of up to 250 pictures, 3 B-frames, pyramid: most of Kinetics
    Recipe("h264_gop12.mp4", "libx264", {"x264-params": "keyint=12:min-keyint=12:scenecut=0"}),
    Recipe("h264_gop32_no_b.mp4", "libx264", {"tune": "fastdecode", "x264-params": "keyint=32:bframes=0"}),
    Recipe("hevc_default.mp4", "libx265", {"x265-params": "log-level=none:pools=none:frame-threads=1"}),
    Recipe("vp9.webm", "libvpx-vp9", {"crf": "33", "b": "0", "deadline": "good", "cpu-used": "4", "g": "128"}),
    Recipe("mpeg4_b.avi", "mpeg4", {"bf": "2", "g": "250", "b": "700k"}),  # the kind of UCF101 and HMDB51
    Recipe("h264_gop50.ts", "libx264", {"x264-params": "keyint=50"}),
    Recipe("h264_720p.mp4", "libx264", size=(720, 1280)),
)
QUICK = ("h264_default.mp4", "h264_gop32_no_b.mp4", "mpeg4_b.avi")


def texture(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Fractal noise in colour, float32 (height, width, 3) around 128."""
    out = np.full((height, width, 3), 128.0, np.float32)
    for cell in (128, 64, 32, 16, 8, 4, 2):
        rows, columns = height // cell + 2, width // cell + 2
        grid = rng.normal(size=(rows, columns, 1)) + 0.4 * rng.normal(size=(rows, columns, 3))
        out += 5.5 * np.sqrt(cell / 4) * _enlarged(grid.astype(np.float32), cell)[:height, :width]
    return out


def _enlarged(grid: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float32]:
    """`grid` with (factor - 1) points put between its own, by linear interpolation."""
    for axis in (0, 1):
        grid = np.moveaxis(grid, axis, 0).astype(np.float32)
        share = (np.arange(factor, dtype=np.float32) / factor)[None, :, None, None]
        between = grid[:-1, None] * (1 - share) + grid[1:, None] * share
        grid = np.moveaxis(between.reshape(-1, *grid.shape[1:]), 0, axis).astype(np.float32)
    return grid


class Scene:
    """Frames of a moving scene, each drawn from its number."""

    def __init__(self, height: int, width: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.size = height, width
        self.zoom = height / 256
        margin = round(96 * self.zoom)
        self.wall = texture(height + 2 * margin, width + 2 * margin, rng)
        self.cloth = texture(height, width, rng) + np.array([40, -25, -35], np.float32)
        self.margin = margin
        self.phase = rng.uniform(0, 2 * np.pi, 6)
        grain = rng.normal(0, 3.5, (height + 64, width + 64, 1)).astype(np.float32)
        self.grain = np.repeat(grain, 3, axis=2)
        self.seed = seed

    def frame(self, number: int) -> Picture:
        """uint8 (H, W, 3) of frame `number`."""
        height, width = self.size
        turn = 2 * np.pi * number / FPS
        top = round(self.margin * (1 + 0.9 * np.sin(turn / 7 + self.phase[0])))
        left = round(self.margin * (1 + 0.9 * np.sin(turn / 5 + self.phase[1])))
        picture = self.wall[top : top + height, left : left + width].copy()
        rows, columns = np.ogrid[:height, :width]
        for part in (0, 1):
            y = round(height * (0.5 + 0.25 * np.sin(turn / (1.1 + part) + self.phase[2 + part])))
            x = round(width * (0.5 + 0.3 * np.cos(turn / (1.7 + part) + self.phase[4 + part])))
            inside = ((rows - y) / (60 * self.zoom)) ** 2 + ((columns - x) / ((30 + 20 * part) * self.zoom)) ** 2 < 1
            moved = np.roll(self.cloth, (y, x), (0, 1))
            picture[inside] = moved[inside]
        dy, dx = np.random.default_rng([self.seed, number]).integers(0, 64, 2)
        return np.clip(picture + self.grain[dy : dy + height, dx : dx + width], 0, 255).astype(np.uint8)


def write_file(path: Path, recipe: Recipe, *, frames: int) -> None:
    """Encode `frames` frames beside `path`, then rename."""
    height, width = recipe.size
    part = path.with_name(f".{os.getpid()}.{path.name}")
    scenes = Scene(height, width, 1), Scene(height, width, 2)
    with av.open(str(part), "w") as container:
        stream = container.add_stream(recipe.codec, rate=FPS, options=recipe.options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, FPS)
        for number in range(frames):
            picture = scenes[number >= min(CUT, frames * 2 // 3)].frame(number)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    os.replace(part, path)


def make_files(folder: Path, names: tuple[str, ...], *, frames: int) -> list[Path]:
    """The files of those names, made where they are not there yet; those without an encoder are left out."""
    folder = folder / f"{frames}_frames"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for recipe in RECIPES:
        path = folder / recipe.name
        if recipe.name not in names:
            continue
        if not path.exists():
            if recipe.codec not in av.codecs_available:
                print(f"{recipe.name} is left out: this FFmpeg has no encoder {recipe.codec}", flush=True)
                continue
            print(f"writing {path}", flush=True)
            write_file(path, recipe, frames=frames)
        paths.append(path)
    return paths
