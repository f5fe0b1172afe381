"""Small videos for these tests, sound and broken."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CODED = (48, 64)  # height, width


def pictures(seed: int, count: int, size: tuple[int, int] = CODED) -> np.ndarray:
    """Smooth random pictures that drift: uint8 (count, H, W, 3)."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.integers(0, 256, (7, 9, 3)).astype(np.float64)
    rows = np.linspace(0, 6, height)[:, None]
    columns = np.linspace(0, 8, width + count)[None, :]
    r, c = np.minimum(rows.astype(int), 5), np.minimum(columns.astype(int), 7)
    fr, fc = (rows - r)[..., None], (columns - c)[..., None]
    wide = (1 - fr) * ((1 - fc) * coarse[r, c] + fc * coarse[r, c + 1])
    wide = wide + fr * ((1 - fc) * coarse[r + 1, c] + fc * coarse[r + 1, c + 1])
    return np.stack([wide[:, i : i + width] for i in range(count)]).astype(np.uint8)


def write_video(
    path: Path,
    *,
    seed: int = 0,
    frames: int = 12,
    size: tuple[int, int] = CODED,
    fps: int = 10,
    times: Sequence[int] | None = None,
    tick: Fraction | None = None,
    options: dict[str, str] | None = None,
    pixels: str = "yuv420p",
    matrix: int | None = None,
    full_range: bool = False,
    codec: str = "libx264",
) -> Path:
    """Write an H.264 file; `times` are presentation times in units of `tick` (default: one frame after the other)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    container_options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=container_options) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.options = {"preset": "ultrafast", "threads": "1", **(options or {})}
        if tick is not None:
            stream.time_base = stream.codec_context.time_base = tick
        if matrix is not None:
            stream.codec_context.colorspace = matrix
        if full_range:
            stream.codec_context.color_range = 2
        for number, picture in enumerate(pictures(seed, frames, size)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(
                format=pixels, dst_colorspace=matrix, dst_color_range=2 if full_range else None, threads=1
            )
            frame.pts = number if times is None else times[number]
            frame.time_base = tick or Fraction(1, fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def rotate(path: Path, *, a: int, b: int, c: int, d: int) -> None:
    """State a display matrix in an MP4 file (ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def truncate(path: Path, share: float) -> None:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def damage(path: Path, *, at: float, size: int = 400) -> None:
    """Overwrite a stretch in the middle of a file's pictures."""
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + int((len(content) - content.index(b"mdat")) * at)
    content[start : start + size] = bytes(255 - byte for byte in content[start : start + size])
    path.write_bytes(content)
