"""Where and when a model looks: the maps of its clips, laid over their pictures, as a video and as a sheet."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from mvit_video.engine.contact_sheet import Row, Sheet, columns_that_fit, enlarged, enlargement, save_picture, spread
from mvit_video.prediction.words import QUALITY, draw_lines, joined, planes_of
from mvit_video.runtime.files import replacing, write_text
from mvit_video.video.index import Orientation

Pictures = npt.NDArray[np.uint8]

ROWS = 12  # clips that a sheet shows
_STRONGEST = 0.7  # how much of a pixel the colour of the strongest place covers
_BAR = 8  # pixels of the bar below a picture
_MIN_SIDE = 224  # smaller pictures are enlarged in a video
_TICKS = 1000  # of a second, in videos
_DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class ExplainedClip:
    """What the model saw at a time, and what of it spoke for a class.

    Attributes:
        name: of the class.
        score: of the class in this clip, from 0 to 1.
        pictures: uint8 (T, H, W, 3), as the model sees them: resized and cropped.
        maps: float32 (T, H, W), 0 or more; the sum is 1, or 0 where nothing speaks for the class.
        seconds: when each picture is shown, from the first one of the video; empty for an image.
    """

    name: str
    score: float
    pictures: Pictures
    maps: npt.NDArray[np.float32]
    seconds: tuple[float, ...] = ()

    @property
    def shares(self) -> npt.NDArray[np.float32]:
        """(T,): which part of the whole each picture has. It says when the model looks."""
        shares: npt.NDArray[np.float32] = self.maps.sum(axis=(1, 2))
        return shares

    def overlay(self) -> Pictures:
        """uint8 (T, H, W, 3): the pictures, the warmer the more a place speaks for the class.

        One scale for the whole clip, so that moments can be compared, too.
        """
        strongest = float(self.maps.max())
        heat = self.maps / strongest if strongest > 0 else self.maps
        colours = _colours()[np.rint(heat * 255).astype(np.uint8)]
        covered = (_STRONGEST * np.sqrt(heat))[..., None]
        return np.rint(self.pictures * (1 - covered) + colours * covered).astype(np.uint8)

    def to_json(self) -> dict[str, Any]:
        """Class, score, and the share of each picture with its time."""
        shares = [round(float(share), _DIGITS) for share in self.shares]
        frames = [{"second": round(second, _DIGITS), "share": share} for second, share in zip(self.seconds, shares)]
        return {"class": self.name, "score": round(self.score, _DIGITS), **({"frames": frames} if frames else {})}


@lru_cache(maxsize=1)
def _colours() -> npt.NDArray[np.float32]:
    """(256, 3): from cold to warm."""
    from matplotlib import colormaps

    return np.asarray(colormaps["turbo"](np.arange(256))[:, :3] * 255, np.float32)


def write_explanation(folder: Path, name: str, clips: Iterator[ExplainedClip], *, path: str, count: int) -> None:
    """Write `name`.json and `name`.png, and for a video `name`.mp4. One clip is held at a time, and those of the sheet.

    Args:
        folder: made if it is not there.
        name: of the files, without extension.
        clips: of one video or image.
        path: of that.
        count: of the clips; a sheet shows some of many, evenly spread.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = set(spread(count, ROWS))
    rows: list[ExplainedClip] = []
    lines: list[dict[str, Any]] = []
    first = next(clips)
    film = _film(folder / f"{name}.mp4", *first.pictures.shape[1:3]) if first.seconds else nullcontext()
    with film as video:
        for number, clip in enumerate(chain([first], clips)):
            lines.append(clip.to_json())
            if number in shown:
                rows.append(clip)
            if video is not None:
                video.add(clip)
    left_out = f"{count - len(rows)} of {count} clips are not shown here" if count > len(rows) else ""
    save_picture(_sheet(Path(path).name, rows, left_out), folder / f"{name}.png")
    text = json.dumps({"path": path, "clips": lines}, indent=1, ensure_ascii=False)
    write_text(folder / f"{name}.json", text + "\n")


def _sheet(heading: str, clips: Sequence[ExplainedClip], left_out: str) -> Image.Image:
    frames, height, width = clips[0].pictures.shape[:3]
    factor = enlargement(min(height, width))
    columns = min(frames, columns_that_fit(width * factor))
    rows = []
    for clip in clips:
        chosen = spread(frames, columns)
        bars = _bars(clip.shares, width)[chosen]
        pictures = np.concatenate([clip.pictures[chosen], clip.overlay()[chosen], bars], axis=1)
        marks = [f"{100 * clip.shares[place]:.0f} %" for place in chosen] if clip.seconds else []
        if clip.seconds:
            marks = [f"{clip.seconds[place]:.2f} s  {mark}" for place, mark in zip(chosen, marks)]
        rows.append(Row(caption=[_text(clip)], pictures=pictures, marks=marks))
    about = ["above what the model sees, below how much each place speaks for the class: the warmer, the more"]
    if clips[0].seconds:
        about.append("bars and per cent: the share of each picture in the clip")
    return Sheet(heading, rows, columns, about=about, notes=[left_out] if left_out else [], enlarge=factor).draw()


def _bars(shares: npt.NDArray[np.float32], width: int) -> Pictures:
    """uint8 (T, _BAR, width, 3): bars as long as the share, the largest as wide as the picture."""
    bars = np.full((len(shares), _BAR, width, 3), 255, np.uint8)
    largest = float(shares.max())
    for bar, share in zip(bars, shares / largest if largest > 0 else shares):
        bar[2:-1, : round(float(share) * width)] = (60, 60, 60)
    return bars


def _text(clip: ExplainedClip) -> str:
    when = f"{clip.seconds[0]:.2f} s to {clip.seconds[-1]:.2f} s: " if clip.seconds else ""
    return f"{when}{clip.name}  {100 * clip.score:.0f} %"


@contextmanager
def _film(path: Path, height: int, width: int) -> Iterator["_Film"]:
    """An MP4 file for clips of pictures of a size, made whole or not at all."""
    factor = max(1, -(-_MIN_SIDE // min(height, width)))
    with replacing(path) as beside, av.open(f"file:{beside}", "w", format="mp4") as writer:
        stream = writer.add_stream("libx264", rate=_TICKS, options=dict(QUALITY))
        stream.height, stream.width = height * factor // 2 * 2, 2 * width * factor // 2 * 2
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        yield _Film(writer, stream, factor)
        writer.mux(stream.encode(None))


class _Film:
    """Clips one after the other: the pictures at the left, with their maps at the right."""

    def __init__(self, writer: Any, stream: Any, factor: int) -> None:
        self._writer, self._stream, self._factor = writer, stream, factor
        self._tick = 0

    def add(self, clip: ExplainedClip) -> None:
        """Write a clip, at the pace of the video."""
        both = np.concatenate([clip.pictures, clip.overlay()], axis=2)
        shown = zip(both, clip.seconds, clip.shares, _durations(clip.seconds), strict=True)
        for picture, second, share, ticks in shown:
            large = av.VideoFrame.from_ndarray(enlarged(picture, self._factor), format="rgb24")
            planes = planes_of(large, Orientation())
            about = f"{second:.2f} s  {100 * share:.0f} % of the clip"
            draw_lines(planes, [f"{clip.name}  {100 * clip.score:.0f} %", about])
            frame = joined(planes)
            frame.pts, frame.time_base = self._tick, Fraction(1, _TICKS)
            self._writer.mux(self._stream.encode(frame))
            self._tick += ticks


def _durations(seconds: Sequence[float]) -> list[int]:
    """Ticks for which each picture is shown: until the next one; the last as long as the one before."""
    gaps = [max(1, round((after - before) * _TICKS)) for before, after in pairwise(seconds)]
    return [*gaps, gaps[-1] if gaps else _TICKS]
