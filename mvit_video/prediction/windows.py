"""Long videos in windows: which of them make up a batch, and the results of a video as they come."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.segments import Segment
from mvit_video.data.loading.window_dataset import WindowDataset
from mvit_video.prediction.begun import BegunVideo, same_times
from mvit_video.prediction.results import FilePrediction, Window, best_classes
from mvit_video.prediction.scoring import ScoredViews
from mvit_video.video.index import VideoDecodeError

logger = logging.getLogger(__name__)

KeepWindows = Callable[[str, int, Sequence[Window], npt.NDArray[np.float64]], None]


class WindowPlan:
    """The windows of videos, in batches that are filled across videos.

    Videos are opened one by one, as their turn comes.

    Args:
        dataset: the videos.
        videos: the indices of those to look at.
        clips_per_batch: clips that a batch aims at; at least one group of windows.
        begun: what is done already, by the paths of the videos.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        videos: Sequence[int],
        *,
        clips_per_batch: int,
        begun: Mapping[str, BegunVideo] = MappingProxyType({}),
    ) -> None:
        self.dataset = dataset
        self.videos = videos
        self.clips_per_batch = clips_per_batch
        self.begun = begun
        self.collected: dict[int, CollectedWindows] = {}
        self.windows: dict[int, list[Segment]] = {}  # of the videos that are being looked at
        self.failed: list[tuple[int, str]] = []  # videos that could not be opened, and why

    def batches(self) -> Iterator[list[int]]:
        """Keys of the dataset."""
        batch: list[int] = []
        clips = 0
        for key, size in self._keys():
            if batch and clips + size > self.clips_per_batch:
                yield batch
                batch, clips = [], 0
            batch.append(key)
            clips += size
        if batch:
            yield batch

    def _keys(self) -> Iterator[tuple[int, int]]:
        """Each group of windows and its number of clips."""
        dataset = self.dataset
        group, spatial, files = dataset.temporal_views, dataset.spatial_views, len(dataset)
        for video in self.videos:
            try:
                self.windows[video] = dataset.windows_of(video)
            except VideoDecodeError as error:
                self.failed.append((video, error.reason))
                continue
            count = len(self.windows[video])
            collected = self.collected[video] = self._go_on(video)
            for first in range(len(collected.found), count, group):
                yield first // group * files + video, spatial * min(group, count - first)

    def _go_on(self, video: int) -> "CollectedWindows":
        """What is known of a video already; its last window is always looked at."""
        windows, path = self.windows[video], self.dataset.manifest.paths[video]
        begun = self.begun.get(path)
        if begun is None or not same_times(begun.windows, windows):
            return CollectedWindows()
        held = begun.up_to(len(windows) - 1, group=self.dataset.temporal_views)
        if held is None:
            return CollectedWindows()
        logger.info("%s: %d of %d windows are done already", path, len(held[0]), len(windows))
        return CollectedWindows(list(held[0]), held[1])


@dataclass
class CollectedWindows:
    """What is known of a video so far.

    Attributes:
        found: its first windows.
        total: the sum of their probabilities, float64 (classes,).
        features: of each group of them, float32 (windows, channels); empty where nobody asked.
    """

    found: list[Window] = field(default_factory=list)
    total: npt.NDArray[np.float64] | None = None
    features: list[npt.NDArray[np.float32]] = field(default_factory=list)


def window_predictions(
    plan: WindowPlan,
    views: Iterable[ScoredViews],
    *,
    class_names: Sequence[str],
    top_k: int,
    keep: KeepWindows | None = None,
) -> Iterator[tuple[FilePrediction, str]]:
    """A result for each video when its last window is scored, and what is worth knowing of it.

    Args:
        plan: whose batches were scored.
        views: the scores, in the order of the batches.
        class_names: of the model.
        top_k: classes for each window, and for the video: those of the mean over its windows.
        keep: takes the windows of a video of several groups as they are known, see BegunVideos.add.
    """
    spatial, paths = plan.dataset.spatial_views, plan.dataset.manifest.paths
    broken: set[int] = set()
    for scored in views:
        yield from ((FilePrediction(paths[video], error=why), "") for video, why in _taken(plan.failed))
        video = scored.video
        if video in broken:
            continue
        if scored.probabilities is None:
            broken.add(video)
            plan.collected.pop(video, None)
            yield FilePrediction(paths[video], error=scored.error), ""
            continue
        state, windows = plan.collected[video], plan.windows[video]
        rows = scored.probabilities.reshape(-1, spatial, len(class_names)).mean(1)
        known = len(state.found)
        for row, (start, end) in zip(rows, windows[known:]):
            state.found.append(Window(start, end, best_classes(row, class_names, top_k=top_k)))
        total = rows.sum(0, dtype=np.float64)
        state.total = total if state.total is None else state.total + total
        if scored.features is not None:
            state.features.append(scored.features.reshape(len(rows), spatial, -1).mean(1))
        if len(state.found) < len(windows):
            if keep is not None:
                keep(paths[video], known, state.found[known:], state.total)
        else:
            mean = state.total / len(state.found)
            del plan.collected[video], plan.windows[video]
            classes = best_classes(mean, class_names, top_k=top_k)
            features = np.concatenate(state.features) if state.features else None
            yield FilePrediction(paths[video], classes, tuple(state.found), features=features), scored.note
    yield from ((FilePrediction(paths[video], error=why), "") for video, why in _taken(plan.failed))


def _taken(failed: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """All entries, which are removed."""
    entries = failed[:]
    del failed[: len(entries)]
    return entries
