"""Where our decoder's time goes: the same clips once untouched, for the whole, and once with a clock at every stage."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from unittest import mock

import numpy as np
from bench_data_peers import CROP_SIZE, File, centre_crop

from mvit_video.video import pictures
from mvit_video.video.backends import pyav_decoder
from mvit_video.video.container import VideoFile
from mvit_video.video.index import FrameIndex, plan
from mvit_video.video.location import VideoLocation
from mvit_video.video.reader import VideoReader

REPS = 3


@dataclass
class Split:
    """CPU seconds per clip by stage; the least of the repetitions of each clip.

    Attributes:
        total: of a read with a known index, the clock out of the way.
        seconds: by stage. "rest" is Python around the stages; "index, once" is what the first opening of a file takes
            besides; "crop+resize" is what takes the place of convert and copy when the crop is made while decoding.
        packets: from the key frames before the wanted frames to the last of them, per clip.
        fed: those of them that are decoded.
    """

    STAGES: ClassVar[tuple[str, ...]] = (
        "open",
        "demux",
        "decode",
        "convert",
        "copy",
        "rest",
        "index, once",
        "crop+resize",
    )
    total: float
    seconds: dict[str, float] = field(default_factory=dict)
    packets: float = 0.0
    fed: float = 0.0


class Stopwatch:
    """Adds up the CPU time of wrapped functions; the cost of the clock itself is taken off."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        empty = self.wrapped(lambda: None, "cost")
        for _ in range(2000):
            empty()
        self.cost = self.seconds.pop("cost") / self.calls.pop("cost")

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.calls[stage] = self.calls.get(stage, 0) + 1

    def wrapped(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                self.add(stage, time.process_time() - start)

        return timed

    def wrapped_iterator(self, function: Callable[..., Iterator[Any]], stage: str) -> Callable[..., Iterator[Any]]:
        def timed(*args: Any, **options: Any) -> Iterator[Any]:
            step = self.wrapped(function(*args, **options).__next__, stage)
            while True:
                try:
                    item = step()
                except StopIteration:
                    return
                yield item

        return timed

    def taken(self) -> dict[str, float]:
        """Seconds by stage since the last call."""
        seconds = {stage: max(0.0, s - self.calls[stage] * self.cost) for stage, s in self.seconds.items()}
        self.seconds, self.calls = {}, {}
        return seconds


def split_of(file: File, clips: Sequence[Sequence[int]]) -> Split:
    """The split of reading these clips of a file."""
    watch = Stopwatch()
    totals, colds, stages = [], [], []
    for frames in clips:
        totals.append(min(_seconds(file.location, frames) for _ in range(REPS)))
        colds.append(min(_seconds_cold(file.path, frames) for _ in range(REPS)))
        stages.append(_stages(watch, file, frames))
    split = Split(total=float(np.mean(totals)))
    for stage in ("open", "demux", "decode", "convert", "copy", "crop+resize"):
        split.seconds[stage] = float(np.mean([clip.get(stage, 0.0) for clip in stages]))
    known = ("open", "demux", "decode", "convert", "copy")
    split.seconds["rest"] = max(0.0, split.total - sum(split.seconds[stage] for stage in known))
    split.seconds["index, once"] = max(0.0, float(np.mean(colds)) - split.total)
    assert file.location.index is not None
    counts = [packets_of(file.location.index, frames) for frames in clips]
    split.packets, split.fed = (float(np.mean(column)) for column in zip(*counts))
    return split


def _seconds(video: VideoLocation | str, frames: Sequence[int]) -> float:
    start = time.process_time()
    with VideoReader(video) as reader:
        reader.read(frames)
    return time.process_time() - start


def _seconds_cold(path: str, frames: Sequence[int]) -> float:
    pyav_decoder.clear_cache()
    return _seconds(path, frames)


def _stages(watch: Stopwatch, file: File, frames: Sequence[int]) -> dict[str, float]:
    """Least seconds of each stage of one clip."""
    least: dict[str, float] = {}
    with (
        mock.patch.object(VideoFile, "__init__", watch.wrapped(VideoFile.__init__, "open")),
        mock.patch.object(VideoFile, "close", watch.wrapped(VideoFile.close, "open")),
        mock.patch.object(VideoFile, "seek", watch.wrapped(VideoFile.seek, "demux")),
        mock.patch.object(VideoFile, "packets", watch.wrapped_iterator(VideoFile.packets, "demux")),
        mock.patch.object(VideoFile, "feed", watch.wrapped(VideoFile.feed, "decode")),
        mock.patch.object(VideoFile, "drain", watch.wrapped(VideoFile.drain, "decode")),
        mock.patch.object(pictures, "reformat", watch.wrapped(pictures.reformat, "convert")),
        mock.patch.object(pictures.RgbCanvas, "draw", watch.wrapped(pictures.RgbCanvas.draw, "draw")),
    ):
        for _ in range(REPS):
            watch.taken()
            with VideoReader(file.location) as reader:
                reader.read(frames)
            seconds = watch.taken()
            seconds["copy"] = seconds.pop("draw", 0.0) - seconds.get("convert", 0.0)
            with VideoReader(file.location) as reader:
                reader.read(frames, crop=centre_crop(reader.info), size=(CROP_SIZE, CROP_SIZE))
            seconds["crop+resize"] = watch.taken().get("draw", 0.0)
            for stage, value in seconds.items():
                least[stage] = min(value, least.get(stage, value))
    return least


def packets_of(index: FrameIndex, frames: Sequence[int]) -> tuple[int, int]:
    """(packets from the key frames to the wanted frames, those that are decoded)."""
    if index.order is None:
        return max(frames) + 1, max(frames) + 1
    positions = sorted({int(index.order[frame]) for frame in frames})
    spanned = fed = 0
    for segment in plan(index.anchor, positions):
        run = slice(segment.first, segment.last + 1)
        spanned += segment.last + 1 - segment.first
        fed += segment.last + 1 - segment.first - int(index.droppable[run].sum())
        fed += sum(bool(index.droppable[position]) for position in segment.wanted)
    return spanned, fed
