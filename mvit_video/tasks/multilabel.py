"""Several classes a clip: each class by itself, with binary cross-entropy, scored by average precision.

The loss is the mean over clips and classes of the binary cross-entropy of sigmoids (PySlowFast losses.py, "bce_logit",
its loss for Charades). A video's score of a class is the mean of its views' sigmoids.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from mvit_video.data.augmentation.mixing import Mixing, smoothed_multi_hot
from mvit_video.data.datasets.label_sets import multi_hot
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.batch import Batch
from mvit_video.engine.curves import LEARNING_RATE_PANEL, Curve, Panel, throughput_panel
from mvit_video.engine.task import Inputs, LoggedMetric, StepLoss
from mvit_video.metrics import ViewScores, ViewScoresState, average_precision, best_classes, check_class_names
from mvit_video.runtime.files import write_text
from mvit_video.tasks.classification import Normalization, ViewEvaluation, entry_line, mixed_batch

# A sigmoid in float32 that is 1 stands for anything above 1 - 6e-8, so no probability of a loss is nearer to 0 or 1.
_LEAST = 2.0**-24


def label_sets_of(manifest: Manifest) -> Sequence[Sequence[int]]:
    """The classes of each video; one each where the source has one label a video."""
    return manifest.label_sets if manifest.label_sets is not None else [(label,) for label in manifest.labels]


def targets_of(manifest: Manifest, *, smoothing: float) -> Callable[[Batch], torch.Tensor]:
    """What gives the targets of a batch of the manifest's videos, float32 (B, num_classes), on the batch's device."""
    sets = label_sets_of(manifest)

    def targets(batch: Batch) -> torch.Tensor:
        hot = torch.from_numpy(multi_hot([sets[int(video)] for video in batch.videos], manifest.num_classes))
        return smoothed_multi_hot(hot.to(batch.labels.device, non_blocking=True), smoothing=smoothing)

    return targets


def balanced_pos_weight(counts: Sequence[int], *, videos: int) -> list[float]:
    """Videos without a class / videos with it, so that both weigh alike in its loss (torch.nn.BCEWithLogitsLoss).

    1 for a class that all videos have, or none.

    Args:
        counts: videos with each class.
        videos: in all.
    """
    return [(videos - count) / count if 0 < count < videos else 1.0 for count in counts]


class MultiLabel:
    """The task of naming all classes of a clip; a `Task` of engine/task.py.

    Args:
        manifest: of the training videos, whose classes these are.
        normalization: makes the model's input.
        mixing: mixup, cutmix and label smoothing of training batches; clips are mixed with their targets.
        pos_weight: of the training loss, one per class, for the class being there; None: 1 for all.
    """

    item = "video"
    sample = "clip"
    metrics: Sequence[LoggedMetric] = ()
    panels: Sequence[Panel] = (
        Panel(
            title="Loss",
            unit="binary cross-entropy",
            curves=(Curve("train", "loss", "training"), Curve("eval", "loss", "validation")),
            bottom=None,
        ),
        Panel(
            title="Mean average precision",
            unit="mAP (%)",
            curves=(Curve("eval", "map", "validation videos"),),
            top=100.0,
        ),
        LEARNING_RATE_PANEL,
        throughput_panel(sample),
    )
    eval_metrics: Sequence[str] = ("map", "loss", "num_videos", "num_failed")
    best_metric = "map"

    def __init__(
        self,
        manifest: Manifest,
        *,
        normalization: Normalization,
        mixing: Mixing,
        pos_weight: Sequence[float] | None = None,
    ) -> None:
        self.pos_weight = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float32)
        self.class_names = list(manifest.class_names)
        self.normalization = normalization
        self.mixing = mixing
        self.targets_of = targets_of(manifest, smoothing=mixing.smoothing)

    def train_inputs(self, batch: Batch, *, seed: int) -> Inputs:
        """Mixed clips, float (B, 3, T, H, W), and float32 (B, num_classes) targets from 0 to 1."""
        clips, targets, _ = mixed_batch(
            batch, normalization=self.normalization, mixing=self.mixing, seed=seed, targets_of=self.targets_of
        )
        return Inputs((clips,), targets)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> StepLoss:
        """Binary cross-entropy of logits (B, num_classes), the mean over clips and classes."""
        weight = None if self.pos_weight is None else self.pos_weight.to(outputs.device)
        return StepLoss(F.binary_cross_entropy_with_logits(outputs.float(), targets, pos_weight=weight))

    def eval_inputs(self, batch: Batch) -> tuple[torch.Tensor]:
        """Normalised clips, float (B, 3, T, H, W)."""
        return (self.normalization(batch),)

    def probabilities(self, outputs: torch.Tensor) -> torch.Tensor:
        """Of logits (B, num_classes): float32, each class by itself."""
        return torch.sigmoid(outputs.float())


class MultiLabelScorer:
    """Sigmoids of every (video, view), counted once; a `Scorer` of engine/task.py.

    Args:
        manifest: the videos and their classes.
        num_views: views per video.
    """

    def __init__(self, manifest: Manifest, *, num_views: int) -> None:
        self.manifest = manifest
        self.targets = multi_hot(label_sets_of(manifest), manifest.num_classes)
        self.scores = ViewScores(num_videos=len(manifest), num_views=num_views, num_classes=manifest.num_classes)

    def add(self, batch: Batch, outputs: torch.Tensor) -> None:
        """Take in logits (B, num_classes)."""
        probabilities = torch.sigmoid(outputs.float()).cpu().numpy()
        self.scores.add(batch.videos.numpy(), batch.views.numpy(), probabilities, failed=batch.failed.numpy())

    def state(self) -> ViewScoresState:
        """The scores as plain arrays."""
        return self.scores.state()

    def merge(self, state: ViewScoresState) -> None:
        """Take in another rank's scores."""
        self.scores.merge(ViewScores.from_state(state))

    def metrics(self) -> dict[str, float]:
        """mAP over the classes that have a video (per cent), the clips' mean binary cross-entropy, and counts.

        A video that could not be read ranks last in every class.

        Raises:
            ValueError: if views are missing.
        """
        self.scores.check_complete()
        precisions = [value for value in self._precisions() if not math.isnan(value)]
        return {
            "map": float(np.mean(precisions)) if precisions else math.nan,
            "loss": self._loss(),
            "num_videos": len(self.manifest),
            "num_failed": int(self.scores.failed_videos().sum()),
        }

    def write(self, folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        """Write results.json and predictions.jsonl, each beside and renamed; the results.

        Beside what `metrics` gives: per_class, class name -> average precision (per cent), None for a class without
        videos; per_class_count, class name -> number of videos.

        Args:
            folder: made if it is not there.
            about: what was evaluated, kept in results.json.
        """
        names = self.manifest.class_names
        check_class_names(names, self.manifest.num_classes)
        folder.mkdir(parents=True, exist_ok=True)
        results = {
            **{name: _json_number(value) for name, value in self.metrics().items()},
            "num_views": len(self.manifest) * self.scores.num_views,
            "views_per_video": self.scores.num_views,
            "per_class": {name: _json_number(value) for name, value in zip(names, self._precisions(), strict=True)},
            "per_class_count": dict(zip(names, self.targets.sum(0).astype(int).tolist(), strict=True)),
            **about,
        }
        write_text(folder / "predictions.jsonl", "".join(self._prediction_lines()))
        write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        return results

    def summary(self, results: Mapping[str, Any]) -> str:
        """mAP and counts in one line."""
        measured = sum(value is not None for value in results["per_class"].values())
        value = "none" if results["map"] is None else f"{results['map']:.2f}"
        return (
            f"{results['num_videos']} videos, {results['num_views']} views: mAP {value} over {measured} of "
            f"{len(results['per_class'])} classes; {results['num_failed']} unreadable"
        )

    def video_scores(self) -> npt.NDArray[np.float64]:
        """(videos, num_classes): mean of the views' sigmoids; -inf for a video without a readable view."""
        views = self.scores.views_per_video()[:, None]
        means = self.scores.video_scores() / np.maximum(views, 1)
        return np.where(views > 0, means, -np.inf).astype(np.float64)

    def _precisions(self) -> list[float]:
        """Average precision of each class, per cent."""
        scores = self.video_scores()
        return [100 * average_precision(scores[:, c], self.targets[:, c] > 0) for c in range(self.manifest.num_classes)]

    def _loss(self) -> float:
        videos, probabilities = self.scores.scored_views()
        if not len(videos):
            return math.nan
        p, t = np.clip(probabilities.astype(np.float64), _LEAST, 1 - _LEAST), self.targets[videos]
        return float(-(t * np.log(p) + (1 - t) * np.log1p(-p)).mean())

    def _prediction_lines(self) -> Iterator[str]:
        """One JSON line per video: its classes, and its five most likely ones with their mean sigmoid."""
        names, scores = self.manifest.class_names, self.video_scores()
        for video, labels in enumerate(label_sets_of(self.manifest)):
            line = {
                **entry_line(self.manifest, video, item="video"),
                "labels": [names[label] for label in labels],
            }
            if np.isneginf(scores[video]).all():
                line["failed"] = True
            else:
                best = best_classes(scores[video], 5)
                line["top5"] = {names[c]: round(float(scores[video, c]), 6) for c in best}
            yield json.dumps(line, ensure_ascii=False) + "\n"


class MultiLabelEvaluation(ViewEvaluation):
    """Every view of every video of a split, scored class by class."""

    def scorer(self) -> MultiLabelScorer:  # type: ignore[override]
        """A scorer without scores."""
        return MultiLabelScorer(self.dataset.manifest, num_views=self.dataset.num_views)


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else value
