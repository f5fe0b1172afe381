"""What is drawn for each file beside its line of results: a timeline, a video with the words on it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mvit_video.prediction.annotation import Captions, annotate_video, captions_of
from mvit_video.prediction.results import ClassScore, FilePrediction
from mvit_video.prediction.timeline import TimelineSegment, write_timeline
from mvit_video.video.index import VideoDecodeError

logger = logging.getLogger(__name__)

TIMELINES, ANNOTATED = "timelines", "annotated"  # folders within that of the results
_LINES = 3  # classes that are drawn on a video that was looked at as a whole


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Where drawings go and how they are made.

    Attributes:
        folder: of the results.
        names: of the drawings, by the path of the video.
        threshold, several: see timeline_segments.
        annotate: write annotated videos, too.
    """

    folder: Path
    names: Mapping[str, str]
    threshold: float
    several: bool
    annotate: bool

    def draw(self, one: FilePrediction) -> None:
        """Draw a file's result, unless the file could not be read."""
        if one.error is not None:
            return
        name = self.names[one.path]
        segments: list[TimelineSegment] | None = None
        if one.windows is not None:
            folder = self.folder / TIMELINES
            segments = write_timeline(folder, name, one, threshold=self.threshold, several=self.several)
        if not self.annotate:
            return
        target = self.folder / ANNOTATED / f"{name}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            annotate_video(one.path, target, _captions(one, segments))
        except VideoDecodeError as error:
            logger.warning("%s", error)


def _captions(one: FilePrediction, segments: list[TimelineSegment] | None) -> Captions:
    if segments is None:
        lines = [_text(best) for best in one.predictions[:_LINES]]
        return lambda second: lines
    return captions_of((part.start, part.end, _text(ClassScore(part.name, part.score))) for part in segments)


def _text(one: ClassScore) -> str:
    return f"{one.name}  {100 * one.score:.0f} %"
