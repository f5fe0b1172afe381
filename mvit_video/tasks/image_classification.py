"""Classification of images: the task of clips with one frame, and its scores, one for each image."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvit_video.data.datasets.label_set_file import WITHOUT_LABEL
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.batch import Batch
from mvit_video.data.loading.image_dataset import ImageEvalDataset
from mvit_video.data.loading.loader import LoaderOptions
from mvit_video.engine.curves import LEARNING_RATE_PANEL, Curve, Panel, throughput_panel
from mvit_video.engine.task import Inputs
from mvit_video.metrics import (
    BoolArray,
    IntArray,
    bootstrap_ci95,
    macro_f1,
    mean_class_accuracy,
)
from mvit_video.runtime.files import write_text
from mvit_video.tasks.classification import CROSS_ENTROPY_PANEL, Classification, Normalization, prediction_lines
from mvit_video.tasks.confusion import drawn_counts, plot_confusion
from mvit_video.tasks.every_image import EveryImage
from mvit_video.tasks.image_scores import ImageScores, ImageScoresState

VALIDATION_METRICS = ("top1", "top5", "mean_class_top1", "macro_f1", "loss", "num_images", "num_failed")


class ImageClassification(Classification):
    """The task of naming the class of an image; a `Task` of engine/task.py. The arguments are Classification's."""

    item = "image"
    sample = "image"
    panels: Sequence[Panel] = (
        CROSS_ENTROPY_PANEL,
        Panel(
            title="Accuracy",
            unit="top-1 (%)",
            curves=(Curve("train", "top1", "training"), Curve("eval", "top1", "validation")),
            top=100.0,
        ),
        LEARNING_RATE_PANEL,
        throughput_panel(sample),
    )
    eval_metrics: Sequence[str] = VALIDATION_METRICS
    best_metric = "top1"

    def train_inputs(self, batch: Batch, *, seed: int) -> Inputs:
        """Mixed images, float (B, 3, H, W), and float32 (B, num_classes) targets."""
        made = super().train_inputs(batch, seed=seed)
        return Inputs((made.model_inputs[0].squeeze(2),), made.targets)

    def eval_inputs(self, batch: Batch) -> tuple[torch.Tensor]:
        """Normalised images, float (B, 3, H, W)."""
        return (self.normalization(batch).squeeze(2),)


class ImageEvaluation(EveryImage[ImageEvalDataset]):
    """Every image of a split; an `Evaluation` of engine/task.py.

    Args:
        dataset: the images and their test view.
        normalization: of the pixels, for the record.
        images_per_batch: what it says.
        loading: how batches are made beside the evaluating process.
        allowed: bool (classes,), those that may be named; None: all.
    """

    def __init__(
        self,
        dataset: ImageEvalDataset,
        *,
        normalization: Normalization,
        images_per_batch: int,
        loading: LoaderOptions,
        allowed: BoolArray | None = None,
    ) -> None:
        super().__init__(dataset, images_per_batch=images_per_batch, loading=loading)
        self.normalization = normalization
        self.allowed = allowed

    def scorer(self) -> "ImageScorer":
        """A scorer without scores."""
        return ImageScorer(self.dataset.manifest, allowed=self.allowed)

    def about(self) -> dict[str, Any]:
        """The protocol: how images are read, resized, cropped and normalised, and what counts as right."""
        resampling = self.dataset.resampling
        names = self.dataset.manifest.class_names
        chosen = names if self.allowed is None else list(compress(names, self.allowed))
        return {
            "crop_size": self.dataset.crop_size,
            "crop_ratio": self.dataset.crop_ratio,
            "interpolation": resampling.interpolation,
            "exact": resampling.exact,
            "reading": asdict(self.dataset.reading),
            "classes_to_choose_from": len(chosen),
            **({} if len(chosen) == len(names) else {"allowed_classes": list(chosen)}),
            "several_right_labels": self.dataset.manifest.label_sets is not None,
            "normalization": {"mean": [*self.normalization.mean], "std": [*self.normalization.std]},
        }


class ImageScorer:
    """What the model says of every image, counted once; a `Scorer` of engine/task.py.

    Args:
        manifest: the images and their labels. Where it has several for an image, each of them is right, and the class
            of the image is the first.
        allowed: bool (classes,), those that may be named; None: all.
    """

    def __init__(self, manifest: Manifest, *, allowed: BoolArray | None = None) -> None:
        self.manifest = manifest
        self.allowed = allowed
        self.labels = np.asarray(self.manifest.labels)
        self.scores = ImageScores(manifest)

    def add(self, batch: Batch, outputs: torch.Tensor) -> None:
        """Take in logits (B, num_classes)."""
        logits = outputs.float()
        if self.allowed is not None:
            allowed = torch.from_numpy(self.allowed).to(logits.device)
            logits = logits.masked_fill(~allowed, -math.inf)
        self.scores.add(batch.videos.numpy(), torch.softmax(logits, dim=1), failed=batch.failed.numpy())

    def state(self) -> ImageScoresState:
        """The scores as plain arrays."""
        return self.scores.state()

    def merge(self, state: ImageScoresState) -> None:
        """Take in another rank's scores."""
        self.scores.merge(state)

    def hits(self, k: int) -> BoolArray:
        """bool (images,): whether a right class is among the k best; an unreadable image is wrong."""
        return self.scores.hits(k)

    def metrics(self) -> dict[str, float]:
        """Accuracies (per cent) of the images, and their number.

        An unreadable image counts as wrong. The loss is the mean log loss of the images' own labels; that of training
        images is not the same quantity: it has mixed and smoothed targets.
        """
        self.scores.check_complete()
        hits = self.hits(1)
        right, total = self._counts(hits)
        return {
            "top1": 100.0 * float(hits.mean()),
            "top5": 100.0 * float(self.hits(5).mean()),
            "mean_class_top1": mean_class_accuracy(right, total),
            "macro_f1": macro_f1(self.labels, self._named(hits), num_classes=self.manifest.num_classes),
            "loss": self.scores.log_loss(),
            "num_images": len(self.labels),
            "num_failed": int(self.scores.failed.sum()),
        }

    def write(self, folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        """Write results.json, predictions.jsonl and confusion.png, each beside and renamed; the results.

        Args:
            folder: made if it is not there.
            about: what was evaluated (checkpoint, split, crop ...), kept in results.json.
        """
        folder.mkdir(parents=True, exist_ok=True)
        names = self.manifest.class_names
        results = {**self.results(), **about}
        lines = prediction_lines(self.scores.answers(), self.manifest, item="image")
        write_text(folder / "predictions.jsonl", "".join(lines))
        named = self._named(self.hits(1))
        plot_confusion(
            drawn_counts(self.labels, named, num_classes=len(names)),
            names,
            folder / "confusion.png",
            item="image",
            unreadable=results["num_failed"],
            right=int((named == self.labels).sum()),
        )
        write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        return results

    def results(self) -> dict[str, Any]:
        """What `metrics` gives, with intervals and the accuracy of each class, ready for JSON."""
        hits = self.hits(1)
        right, total = self._counts(hits)
        intervals = bootstrap_ci95(hits, self.labels)
        shares = [100.0 * float(r) / float(t) if t else None for r, t in zip(right, total)]
        return {
            **{name: None if math.isnan(value) else value for name, value in self.metrics().items()},
            "top1_ci95": intervals["video_top1"],
            "mean_class_top1_ci95": intervals["mean_class_top1"],
            "num_left_out": len(self.manifest.left_out.get(WITHOUT_LABEL, ())),
            "per_class": dict(zip(self.manifest.class_names, shares, strict=True)),
            "per_class_count": dict(zip(self.manifest.class_names, total.tolist(), strict=True)),
        }

    def summary(self, results: Mapping[str, Any]) -> str:
        """Accuracies and counts in one line."""
        low, high = results["top1_ci95"]
        left_out = f", {results['num_left_out']} without a right label left out" if results["num_left_out"] else ""
        return (
            f"{results['num_images']} images{left_out}: top-1 {results['top1']:.2f} (95 % interval {low:.1f} to "
            f"{high:.1f}), top-5 {results['top5']:.2f}; mean over classes {results['mean_class_top1']:.2f}, "
            f"macro F1 {results['macro_f1']:.2f}; {results['num_failed']} unreadable"
        )

    def _named(self, hits: BoolArray) -> IntArray:
        """(images,) the class named, -1 if unreadable; for one that is right, too, the image's own stands."""
        return np.where(hits, self.labels, self.scores.predictions())

    def _counts(self, hits: BoolArray) -> tuple[IntArray, IntArray]:
        """(classes,) images of each class that are right, and all of them."""
        classes = self.manifest.num_classes
        return np.bincount(self.labels[hits], minlength=classes), np.bincount(self.labels, minlength=classes)
