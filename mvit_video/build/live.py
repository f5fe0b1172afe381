"""A prediction of a camera, a pipe or a network stream, from its options to the lines that are written as it goes."""

import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from mvit_video.build.class_prediction import ClassPredictor
from mvit_video.build.clips import build_window_dataset
from mvit_video.build.evaluation import free_folder
from mvit_video.build.file_predictor import FilePredictor
from mvit_video.build.prediction import naming_classes
from mvit_video.config import VideoData
from mvit_video.data.augmentation.clip_views import ClipSource, eval_view
from mvit_video.data.loading.batch import Batch, Sample
from mvit_video.data.loading.collation import collate
from mvit_video.data.loading.window_dataset import WindowDataset
from mvit_video.prediction.lines import writing
from mvit_video.prediction.live_reader import LiveReader
from mvit_video.prediction.live_results import LiveResults
from mvit_video.prediction.live_source import LiveSource, is_live, live_source
from mvit_video.prediction.live_windows import LiveWindow
from mvit_video.prediction.results import Window, best_classes
from mvit_video.prediction.timeline import SegmentJoiner
from mvit_video.runtime import interruption
from mvit_video.runtime.formatting import one_line
from mvit_video.runtime.output import write_out
from mvit_video.video.container import orientation_of
from mvit_video.video.pictures import RgbCanvas

logger = logging.getLogger(__name__)

_NO_DETECTOR = (
    "a stream is looked at in windows, by models that name classes, and the weights are a detector's: give it files, "
    "or weights of a classification of videos"
)


def wants_live(sources: list[str], *, live: bool) -> bool:
    """Whether the sources are looked at as they arrive.

    Raises:
        ValueError: more than one of them.
    """
    streams = [source for source in sources if live or is_live(source)]
    if streams and len(sources) > 1:
        raise ValueError(
            f"{len(sources)} sources, and {streams[0]} is looked at as it arrives: start a command for each of them, "
            "with an output=FOLDER of its own"
        )
    return bool(streams)


def predict_live(answers: FilePredictor) -> list[Window]:
    """Look at a stream until it ends or this process is asked to stop; nothing is kept beside what is written.

    Raises:
        ValueError: the model is for images or a detector, there are several ranks, or the stream cannot be opened.
    """
    predictor = naming_classes(answers, refused=_NO_DETECTOR)
    predictor = replace(predictor, config=replace(predictor.config, windows=True))
    config, world = predictor.config, predictor.world
    if world.size > 1:
        raise ValueError(f"{world.size} processes for one stream: give launcher.processes=1")
    for name in ("annotate", "explain", "features"):
        if getattr(config, name):
            raise ValueError(f"{name}=true is for files, and {config.sources[0]} is a stream: leave it out")
    source = live_source(config.sources[0])
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    about = {**predictor.protocol([source.name]), "stream": source.name, "started": started}
    folder = free_folder(Path(config.output or "predictions"), about)
    joiner = SegmentJoiner(threshold=config.threshold, several=predictor.several)
    interruption.install()
    try:
        with LiveResults(folder, source.name, about, joiner) as results:
            reader = _reader(predictor, source)
            for window in _windows(predictor, reader):
                with writing(folder):
                    results.add(window)
                _print(window)
            stopped = interruption.received()
            counts = asdict(reader.counts)
            results.finish({"ended_by": stopped or reader.ended_by or "the end of the stream", **counts})
    finally:
        interruption.uninstall()
    _say(results, reader, stopped)
    return []


def live_windows(answers: FilePredictor, source: str) -> Iterator[Window]:
    """The windows of a stream as they are known; see predict_live. In Python, where nothing is written."""
    predictor = naming_classes(answers, refused=_NO_DETECTOR)
    return _windows(predictor, _reader(predictor, live_source(source)))


def _reader(predictor: ClassPredictor, source: LiveSource) -> LiveReader[torch.Tensor]:
    dataset = _dataset(predictor)
    return LiveReader(source, dataset.windows, make=lambda window: _clips(window, dataset))


def _dataset(predictor: ClassPredictor) -> WindowDataset:
    """How windows of any video are taken; none is opened."""
    if not isinstance(predictor.config.data, VideoData):
        raise ValueError("a stream is a video, and the model looks at images: give weights=NAME of a model for videos")
    manifest, _ = predictor.split(["stream"])
    return build_window_dataset(predictor.config, manifest)


def _clips(window: LiveWindow, dataset: WindowDataset) -> torch.Tensor:
    """The views of a window, uint8 (spatial views, T, S, S, 3), as WindowDataset makes them of a file."""
    places = dataset.sampler.test(len(window.frames), window.fps, 0, 1)
    distinct = sorted(set(places))
    first = window.frames[distinct[0]]
    orientation = orientation_of(first)
    size = (first.width, first.height) if orientation.transpose else (first.height, first.width)
    pictures = np.empty((len(distinct), *size, 3), np.uint8)
    canvas = RgbCanvas(pictures, coded=(first.height, first.width), orientation=orientation)
    for row, place in enumerate(distinct):
        canvas.draw(window.frames[place], row)
    views = [
        eval_view(
            [distinct.index(place) for place in places],
            *size,
            short_side=dataset.short_side,
            crop_size=dataset.crop_size,
            spatial_view=view,
            num_spatial=dataset.spatial_views,
            decode_short_side=dataset.decode_short_side,
        )
        for view in range(dataset.spatial_views)
    ]
    return ClipSource(torch.from_numpy(pictures), tuple(views)).clips()


def _windows(predictor: ClassPredictor, reader: LiveReader[torch.Tensor]) -> Iterator[Window]:
    """Each window when its classes are known."""
    _, task = predictor.split(["stream"])
    segments = []

    def batches() -> Iterator[Batch]:
        for segment, clips in reader.read():
            segments.append(segment)
            yield _batch(clips, reader.source.name)

    for scored in predictor.scored(batches(), task):
        assert scored.probabilities is not None
        segment = segments.pop(0)
        mean = scored.probabilities.mean(0)
        yield Window(
            segment.start, segment.end, best_classes(mean, predictor.class_names, top_k=predictor.config.top_k)
        )


def _batch(clips: torch.Tensor, name: str) -> Batch:
    count = len(clips)
    sample = Sample(
        clips=clips,
        label=0,
        video=0,
        views=torch.arange(count),
        erase=torch.zeros(count, 4, dtype=torch.int32),
        noise_seeds=torch.zeros(count, dtype=torch.int64),
        path=name,
    )
    return collate([sample])


def _print(window: Window) -> None:
    best = "   ".join(f"{100 * one.score:5.1f} %  {one_line(one.name)}" for one in window.predictions[:3])
    code = write_out(f"{window.start:9.2f} s to {window.end:9.2f} s   {best}\n", sys.stdout)
    if code:
        sys.exit(code)


def _say(results: LiveResults, reader: LiveReader[torch.Tensor], stopped: str | None) -> None:
    counts = reader.counts
    notes = [
        (counts.dropped, "windows were left out because the model was still busy with the one before"),
        (counts.empty, "windows had no picture"),
        (counts.damaged, "pictures could not be decoded"),
        (counts.jumps, "pictures had no time, or one before the last: they count as the next ones"),
    ]
    for count, text in notes:
        if count:
            logger.warning("%s: %d %s", reader.source.name, count, text)
    why = f"stopped by {stopped}" if stopped else reader.ended_by or "the stream ended"
    logger.info("%s: %d windows, written to %s", why, results.windows, results.folder)
