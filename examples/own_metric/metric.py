"""An own metric: the expected calibration error (Guo et al. 2017, arXiv 1706.04599) of videos, in per cent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mvit_video.build.video_classification import VideoClassification
from mvit_video.config import Train
from mvit_video.data import Manifest
from mvit_video.data.loading.batch import FrameOrder
from mvit_video.distributed.process_group import World
from mvit_video.tasks.classification import Classification, ViewEvaluation, ViewScorer

BINS = 10


class CalibratedScorer(ViewScorer):
    """The scores of the classification, and `calibration_error`."""

    def calibration_error(self) -> float:
        """Mean distance of confidence and accuracy over ten ranges of confidence, weighted by their videos."""
        views = self.scores.views_per_video()
        seen = views > 0
        if not seen.any():
            return float("nan")
        probabilities = self.scores.video_scores()[seen] / views[seen, None]
        right = probabilities.argmax(1) == np.asarray(self.manifest.labels)[seen]
        confidence = probabilities.max(1)
        ranges = np.minimum((confidence * BINS).astype(int), BINS - 1)
        gaps = [abs(np.sum(confidence[ranges == one]) - np.sum(right[ranges == one])) for one in range(BINS)]
        return float(100 * sum(gaps) / seen.sum())

    def metrics(self) -> dict[str, float]:
        """What a validation logs."""
        return {**super().metrics(), "calibration_error": self.calibration_error()}

    def write(self, folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        """results.json gets the number, too."""
        return super().write(folder, {"calibration_error": self.calibration_error(), **about})


class CalibratedEvaluation(ViewEvaluation):
    """The views of videos, scored with the metric."""

    def scorer(self) -> CalibratedScorer:
        """A new scorer."""
        return CalibratedScorer(self.dataset.manifest, num_views=self.dataset.num_views)


class CalibratedClassification(VideoClassification):
    """The task `video_classification` with the metric."""

    def task(self, config: Train, split: Manifest) -> Classification:
        """The task names the numbers that its validations give."""
        task = super().task(config, split)
        task.eval_metrics = (*task.eval_metrics, "calibration_error")
        return task

    def validation(self, config: Train, split: Manifest, world: World) -> CalibratedEvaluation:
        """One view of every video."""
        return _with_metric(super().validation(config, split, world))

    def evaluation(
        self, config: Train, split: Manifest, world: World, *, frame_order: FrameOrder
    ) -> CalibratedEvaluation:
        """The views that a test counts."""
        return _with_metric(super().evaluation(config, split, world, frame_order=frame_order))


def _with_metric(views: ViewEvaluation) -> CalibratedEvaluation:
    return CalibratedEvaluation(
        views.dataset,
        normalization=views.normalization,
        clips_per_batch=views.clips_per_batch,
        loading=views.loading,
    )
