"""An own task: the rating of a clip as a number, its loss, its metrics, how it is scored and written."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mvit_video.build.clips import build_evaluation
from mvit_video.build.samples import build_normalization
from mvit_video.build.video_classification import VideoClassification
from mvit_video.config import Train
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.batch import Batch, FrameOrder
from mvit_video.distributed.process_group import World
from mvit_video.engine.curves import LEARNING_RATE_PANEL, LOSS_PANEL, Curve, Panel, throughput_panel
from mvit_video.engine.task import Inputs, LoggedMetric, StepLoss
from mvit_video.runtime.files import write_text
from mvit_video.tasks.classification import Normalization, ViewEvaluation


class Rating:
    """What the loop asks of a task; see mvit_video/engine/task.py."""

    item = "video"
    sample = "clip"
    metrics = (LoggedMetric(name="error", console="error {:.2f}"),)
    panels: Sequence[Panel] = (
        LOSS_PANEL,
        Panel(
            title="Error", unit="levels", curves=(Curve("train", "error", "training"), Curve("eval", "error", "val"))
        ),
        LEARNING_RATE_PANEL,
        throughput_panel(sample),
    )
    eval_metrics = ("error", "within_half", "num_failed")
    best_metric = "within_half"

    def __init__(self, *, class_names: Sequence[str], normalization: Normalization) -> None:
        self.class_names = list(class_names)
        self.normalization = normalization

    def train_inputs(self, batch: Batch, *, seed: int) -> Inputs:
        """Normalised clips, and ratings (B,)."""
        return Inputs((self.normalization(batch),), batch.labels.float())

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> StepLoss:
        """Mean squared error; beside it the mean absolute error."""
        return StepLoss(F.mse_loss(outputs.float(), targets), {"error": (outputs.float() - targets).abs().mean()})

    def eval_inputs(self, batch: Batch) -> tuple[torch.Tensor]:
        """Normalised clips."""
        return (self.normalization(batch),)


class RatingScorer:
    """The mean rating of each video over its views."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.ratings: dict[tuple[int, int], float] = {}  # by video and view: a view that comes twice counts once
        self.failed: set[int] = set()

    def add(self, batch: Batch, outputs: torch.Tensor) -> None:
        """Take in ratings (B,)."""
        for video, view, failed, rating in zip(batch.videos, batch.views, batch.failed, outputs.float().cpu()):
            if failed:
                self.failed.add(int(video))
            else:
                self.ratings[int(video), int(view)] = float(rating)

    def state(self) -> Any:
        """What travels to rank 0."""
        return self.ratings, self.failed

    def merge(self, state: Any) -> None:
        """Take in another rank's ratings."""
        ratings, failed = state
        self.ratings |= ratings
        self.failed |= failed

    def metrics(self) -> dict[str, float]:
        """Mean absolute error, and the share of videos (per cent) that are at most half a level off."""
        errors = [abs(rating - self.manifest.labels[video]) for video, rating in self._by_video().items()]
        within = sum(error <= 0.5 for error in errors)  # a video that could not be read counts as wrong
        error = float(np.mean(errors)) if errors else float("nan")
        return {"error": error, "within_half": 100 * within / len(self.manifest), "num_failed": len(self.failed)}

    def write(self, folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        """Write results.json and predictions.jsonl; the results."""
        folder.mkdir(parents=True, exist_ok=True)
        results = {**self.metrics(), **about}
        lines = [
            json.dumps({"video": self.manifest.paths[video], "rating": rating}, ensure_ascii=False) + "\n"
            for video, rating in self._by_video().items()
        ]
        write_text(folder / "predictions.jsonl", "".join(lines))
        write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        return results

    def summary(self, results: Mapping[str, Any]) -> str:
        """The results in one line."""
        return f"{results['within_half']:.1f} % within half a level, mean error {results['error']:.2f}"

    def _by_video(self) -> dict[int, float]:
        views: dict[int, list[float]] = {}
        for (video, _), rating in sorted(self.ratings.items()):
            views.setdefault(video, []).append(rating)
        return {video: float(np.mean(ratings)) for video, ratings in views.items()}


class RatingEvaluation(ViewEvaluation):
    """The views of videos, scored by their ratings."""

    def scorer(self) -> RatingScorer:  # type: ignore[override]
        """A new scorer."""
        return RatingScorer(self.dataset.manifest)


class RatingBuilder(VideoClassification):
    """Builds the task of the options; clips are read and shown as those of the classification are."""

    def task(self, config: Train, split: Manifest) -> Rating:  # type: ignore[override]
        """The task of the loop."""
        return Rating(class_names=split.class_names, normalization=build_normalization(config.data))

    def validation(self, config: Train, split: Manifest, world: World) -> RatingEvaluation:
        """One view of every video."""
        return _scored_by_rating(build_evaluation(config, split, world, temporal_views=1, spatial_views=1))

    def evaluation(self, config: Train, split: Manifest, world: World, *, frame_order: FrameOrder) -> RatingEvaluation:
        """The views that a test counts."""
        return _scored_by_rating(super().evaluation(config, split, world, frame_order=frame_order))


def _scored_by_rating(views: ViewEvaluation) -> RatingEvaluation:
    return RatingEvaluation(
        views.dataset,
        normalization=views.normalization,
        clips_per_batch=views.clips_per_batch,
        loading=views.loading,
    )
