"""What is written for each file beside its line of results: a timeline, the words on it, where the model looks, and
the features that its classes come from."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvit_video.data.datasets.extensions import IMAGES, FileKind
from mvit_video.prediction.annotation import Captions, annotate_image, annotate_video, captions_of
from mvit_video.prediction.explanation import ExplainedClip, write_explanation
from mvit_video.prediction.results import ClassScore, FilePrediction
from mvit_video.prediction.timeline import TimelineSegment, write_timeline
from mvit_video.runtime.decode_error import DecodeError
from mvit_video.runtime.files import replacing

logger = logging.getLogger(__name__)

# Folders within that of the results.
TIMELINES, ANNOTATED, EXPLAINED, FEATURES = "timelines", "annotated", "explained", "features"
_LINES = 3  # classes that are drawn on a file that was looked at as a whole

Explain = Callable[[FilePrediction], tuple[int, Iterator[ExplainedClip]]]


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Where drawings go and how they are made.

    Attributes:
        folder: of the results.
        kind: of the files.
        names: of the drawings, by the path of the file.
        threshold, several: see timeline_segments.
        annotate: write each file again with the words on it, too.
        explain: how many clips a file has, and the clips with their maps; None: they are not drawn.
    """

    folder: Path
    kind: FileKind
    names: Mapping[str, str]
    threshold: float
    several: bool
    annotate: bool
    explain: Explain | None

    def draw(self, one: FilePrediction) -> str | None:
        """Draw a file's result, unless the file could not be read; the name of its drawings, None without any."""
        more = self.annotate or self.explain is not None or one.windows is not None or one.features is not None
        if one.error is not None or not more:
            return None
        name = self.names[one.path]
        if one.features is not None:
            (self.folder / FEATURES).mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / FEATURES / f"{name}.npy") as beside, beside.open("wb") as file:
                np.save(file, one.features)
        segments: list[TimelineSegment] | None = None
        if one.windows is not None:
            folder = self.folder / TIMELINES
            segments = write_timeline(folder, name, one, threshold=self.threshold, several=self.several)
        try:
            if self.annotate:
                self._annotate(one, name, segments)
            if self.explain is not None:
                count, clips = self.explain(one)
                write_explanation(self.folder / EXPLAINED, name, clips, path=one.path, count=count)
        except DecodeError as error:
            logger.warning("%s", error)
        return name

    def _annotate(self, one: FilePrediction, name: str, segments: list[TimelineSegment] | None) -> None:
        target = self.folder / ANNOTATED / (f"{name}.png" if self.kind is IMAGES else f"{name}.mp4")
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.kind is IMAGES:
            annotate_image(one.path, target, [_text(best) for best in one.predictions[:_LINES]])
        else:
            annotate_video(one.path, target, _captions(one, segments))


def _captions(one: FilePrediction, segments: list[TimelineSegment] | None) -> Captions:
    if segments is None:
        lines = [_text(best) for best in one.predictions[:_LINES]]
        return lambda second: lines
    return captions_of((part.start, part.end, _text(ClassScore(part.name, part.score))) for part in segments)


def _text(one: ClassScore) -> str:
    return f"{one.name}  {100 * one.score:.0f} %"
