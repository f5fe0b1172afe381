"""Videos of scenes for these tests: several takes of each, re-encoded, of other sizes, slightly cropped."""

from pathlib import Path

import av
import numpy as np

from tests.preparation.videos import pictures

HEIGHT, WIDTH, FRAMES = 72, 96, 24


def scene(seed: int) -> np.ndarray:
    """The frames of a scene: uint8 (FRAMES, HEIGHT, WIDTH, 3)."""
    return pictures(seed, FRAMES, (HEIGHT, WIDTH))


def write_take(
    path: Path, seed: int, *, first: int = 0, last: int = FRAMES, cut: int = 0, size: int = HEIGHT, crf: int = 23
) -> Path:
    """Write frames `first` to `last` of a scene as H.264.

    Args:
        seed: of the scene.
        cut: pixels cut off each side.
        size: height of the file.
        crf: x264's constant rate factor; larger is worse.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = scene(seed)[first:last, cut : HEIGHT - cut, cut : WIDTH - cut]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=12)
        stream.height, stream.width, stream.pix_fmt = size, size * 4 // 3, "yuv420p"
        stream.options = {"preset": "ultrafast", "threads": "1", "crf": str(crf)}
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(stream.width, stream.height, "yuv420p", threads=1)
            picture.pts = number
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    return path
