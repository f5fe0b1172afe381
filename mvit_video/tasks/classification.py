"""Classification of clips: soft targets, mixing, and the scores of every view of every video.

The loss is the cross entropy with soft targets of PySlowFast (losses.py, "soft_cross_entropy"); a video's score is the
sum of its views' probabilities (utils/meters.py, DATA.ENSEMBLE_METHOD sum).
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from mvit_video.data.augmentation.mixing import MixDraw, Mixing, soft_cross_entropy
from mvit_video.data.augmentation.transforms import normalize_clips
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.batch import Batch
from mvit_video.data.loading.dataset import EvalDataset
from mvit_video.data.loading.loader import LoaderOptions, eval_loader
from mvit_video.distributed.process_group import World
from mvit_video.engine.curves import LEARNING_RATE_PANEL, Curve, Panel, throughput_panel
from mvit_video.engine.task import Inputs, LoggedMetric, StepLoss
from mvit_video.metrics import IntArray, ViewScores, ViewScoresState, best_classes
from mvit_video.runtime.env import rng_for
from mvit_video.runtime.files import write_text
from mvit_video.tasks.confusion import drawn_counts, plot_confusion

VALIDATION_METRICS = ("video_top1", "video_top5", "mean_class_top1", "macro_f1", "loss", "num_videos", "num_failed")
DRAW_MIXING = 1  # what the mixing draw of a batch is for, the first part of its key


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """From a uint8 batch to the model's input: normalised and, in training, erased.

    Attributes:
        mean, std: of R, G and B, for values from 0 to 1.
        channel_order: see transforms.normalize_clips.
    """

    mean: Sequence[float]
    std: Sequence[float]
    channel_order: Literal["rgb", "bgr"] = "rgb"

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Clips of a batch, float32 (B, 3, T, H, W), on the device of its labels."""
        batch = batch.to(batch.labels.device)  # makes the clips, unless that was done when the batch was moved
        return normalize_clips(
            batch.clips,
            mean=self.mean,
            std=self.std,
            erase=batch.erase,
            noise_seeds=batch.noise_seeds,
            channel_order=self.channel_order,
        )


def balanced_class_weights(counts: Sequence[int]) -> list[float]:
    """videos / (classes * videos of the class), over the classes that have videos; 0 for the others.

    The mean over the videos of their classes' weights is 1, so that the learning rate means the same with them.
    """
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 0.0 for count in counts]


def mixed_batch(
    batch: Batch,
    *,
    normalization: Normalization,
    mixing: Mixing,
    seed: int,
    targets_of: Callable[[Batch], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, MixDraw]:
    """What a training step gives the model for a batch on its device, and what it is compared with.

    The mixing draw depends on the run's seed and on the batch's place in the epoch alone.

    Args:
        batch: on its device.
        normalization, mixing: of the task.
        seed: of the run.
        targets_of: gives float32 (B, num_classes) targets of a batch before mixing; None: those of its labels.

    Returns:
        Mixed clips, float (B, 3, T, H, W); float32 (B, num_classes) targets; and what was drawn.
    """
    clips = normalization(batch)
    rng = rng_for(DRAW_MIXING, seed, batch.epoch, batch.position)
    draw = mixing.draw(rng, height=clips.shape[-2], width=clips.shape[-1])
    if targets_of is None:
        return *mixing.apply(clips, batch.labels, draw), draw
    return *mixing.mix(clips, targets_of(batch), draw), draw


CROSS_ENTROPY_PANEL = Panel(
    title="Loss",
    unit="cross entropy",
    curves=(Curve("train", "loss", "training"), Curve("eval", "loss", "validation")),
    bottom=None,
)


class Classification:
    """The task of naming the class of a clip; a `Task` of engine/task.py.

    Args:
        class_names: in the order of the model's outputs.
        normalization: makes the model's input.
        mixing: mixup, cutmix and label smoothing of training batches.
        class_weights: of the training loss, one per class; None: 1 for all.
    """

    item = "video"
    sample = "clip"
    metrics = (LoggedMetric(name="top1", console="top1 {:.1f}%", factor=100.0),)
    panels: Sequence[Panel] = (
        CROSS_ENTROPY_PANEL,
        Panel(
            title="Accuracy",
            unit="top-1 (%)",
            curves=(
                Curve("train", "top1", "training clips"),
                Curve("eval", "clip_top1", "validation clips"),
                Curve("eval", "video_top1", "validation videos"),
            ),
            top=100.0,
        ),
        LEARNING_RATE_PANEL,
        throughput_panel(sample),
    )
    eval_metrics: Sequence[str] = VALIDATION_METRICS
    best_metric = "video_top1"

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        normalization: Normalization,
        mixing: Mixing,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.class_names = list(class_names)
        self.normalization = normalization
        self.mixing = mixing

    def train_inputs(self, batch: Batch, *, seed: int) -> Inputs:
        """Mixed clips, float (B, 3, T, H, W), and float32 (B, num_classes) targets."""
        clips, targets, _ = mixed_batch(batch, normalization=self.normalization, mixing=self.mixing, seed=seed)
        return Inputs((clips,), targets)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> StepLoss:
        """Cross entropy of logits (B, num_classes), and the share of samples whose largest target they name."""
        correct = (outputs.detach().argmax(1) == targets.argmax(1)).float().mean()
        loss = soft_cross_entropy(outputs.float(), targets, class_weights=self.class_weights)
        return StepLoss(loss, {"top1": correct})

    def eval_inputs(self, batch: Batch) -> tuple[torch.Tensor]:
        """Normalised clips, float (B, 3, T, H, W)."""
        return (self.normalization(batch),)

    def probabilities(self, outputs: torch.Tensor) -> torch.Tensor:
        """Of logits (B, num_classes): float32, the sum of a row is 1."""
        return torch.softmax(outputs.float(), dim=1)


class ViewEvaluation:
    """Every view of every video of a split; an `Evaluation` of engine/task.py.

    Args:
        dataset: the videos and their views.
        normalization: of their clips, for the record.
        clips_per_batch: clips a batch aims at; at least one video.
        loading: how batches are made beside the evaluating process.
    """

    def __init__(
        self, dataset: EvalDataset, *, normalization: Normalization, clips_per_batch: int, loading: LoaderOptions
    ) -> None:
        self.dataset = dataset
        self.normalization = normalization
        self.clips_per_batch = clips_per_batch
        self.loading = loading

    def batches(self, world: World) -> Iterator[Batch]:
        """Every view of this rank's videos once."""
        return eval_loader(
            self.dataset,
            clips_per_batch=self.clips_per_batch,
            rank=world.rank,
            world_size=world.size,
            loading=self.loading,
        )

    def count(self, world: World) -> int:
        """Clips in this rank's share."""
        return len(range(world.rank, len(self.dataset), world.size)) * self.dataset.num_views

    def scorer(self) -> "ViewScorer":
        """A scorer without scores."""
        return ViewScorer(self.dataset.manifest, num_views=self.dataset.num_views)

    def about(self) -> dict[str, Any]:
        """The protocol: how clips are taken, resized, cropped and normalised, and how many views a video has."""
        return {
            "frame_order": self.dataset.frame_order,
            "temporal_views": self.dataset.temporal_views,
            "spatial_views": self.dataset.spatial_views,
            "sampling": asdict(self.dataset.sampler),
            "short_side": self.dataset.short_side,
            "crop_size": self.dataset.crop_size,
            "normalization": {**asdict(self.normalization), "mean": [*self.normalization.mean]}
            | {"std": [*self.normalization.std]},
        }


class ViewScorer:
    """Class probabilities of every (video, view), counted once; a `Scorer` of engine/task.py.

    Args:
        manifest: the videos and their labels.
        num_views: views per video.
    """

    def __init__(self, manifest: Manifest, *, num_views: int) -> None:
        self.manifest = manifest
        self.scores = ViewScores(num_videos=len(manifest), num_views=num_views, num_classes=manifest.num_classes)

    def add(self, batch: Batch, outputs: torch.Tensor) -> None:
        """Take in logits (B, num_classes)."""
        probabilities = torch.softmax(outputs.float(), dim=1).cpu().numpy()
        self.scores.add(batch.videos.numpy(), batch.views.numpy(), probabilities, failed=batch.failed.numpy())

    def state(self) -> ViewScoresState:
        """The scores as plain arrays."""
        return self.scores.state()

    def merge(self, state: ViewScoresState) -> None:
        """Take in another rank's scores."""
        self.scores.merge(ViewScores.from_state(state))

    def metrics(self) -> dict[str, float]:
        """Accuracies of videos and classes (per cent), the clips' mean log loss, and how many videos they are of.

        The loss of training clips is not the same quantity: it has mixed and smoothed targets.
        """
        numbers = self.scores.metrics(self.manifest.labels)
        return {name: numbers[name] for name in VALIDATION_METRICS}

    def write(self, folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        """Write results.json, predictions.jsonl and confusion.png, each beside and renamed; the results.

        Args:
            folder: made if it is not there.
            about: what was evaluated (checkpoint, split, views ...), kept in results.json.
        """
        folder.mkdir(parents=True, exist_ok=True)
        labels = np.asarray(self.manifest.labels)
        results = {**self.scores.results(labels, self.manifest.class_names), **about}
        write_text(
            folder / "predictions.jsonl", "".join(prediction_lines(self._answers(), self.manifest, item="video"))
        )
        named = self.scores.predictions()
        plot_confusion(
            drawn_counts(labels, named, num_classes=self.manifest.num_classes),
            self.manifest.class_names,
            folder / "confusion.png",
            unreadable=results["num_failed"],
            right=int((named == labels).sum()),
        )
        write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        return results

    def _answers(self) -> Iterator[tuple[IntArray, npt.NDArray[np.floating]] | None]:
        """For each video its best classes and their mean probabilities; None for one of which nothing could be read."""
        for scores, views in zip(self.scores.video_scores(), self.scores.views_per_video(), strict=True):
            best = best_classes(scores, 5)
            yield (best, scores[best] / views) if views else None

    def summary(self, results: Mapping[str, Any]) -> str:
        """Accuracies and counts in one line."""
        low, high = results["video_top1_ci95"]
        class_low, class_high = results["mean_class_top1_ci95"]
        return (
            f"{results['num_videos']} videos, {results['num_views']} views: "
            f"clip top-1 {results['clip_top1']:.2f}, top-5 {results['clip_top5']:.2f}; "
            f"video top-1 {results['video_top1']:.2f} (95 % interval {low:.1f} to {high:.1f}), "
            f"top-5 {results['video_top5']:.2f}; "
            f"mean over classes {results['mean_class_top1']:.2f} ({class_low:.1f} to {class_high:.1f}), "
            f"macro F1 {results['macro_f1']:.2f}; {results['num_failed']} unreadable"
        )


def entry_line(manifest: Manifest, index: int, *, item: str) -> dict[str, Any]:
    """What a line of predictions says of an entry: its path (as `item`), and the stretch of it in seconds.

    Whole files have no `start` and `end`; an `end` of None is the last frame.
    """
    segment = manifest.segment(index)
    if segment.whole:
        return {item: manifest.paths[index]}
    end = None if math.isinf(segment.end) else segment.end
    return {item: manifest.paths[index], "start": segment.start, "end": end}


def prediction_lines(
    answers: Iterable[tuple[IntArray, npt.NDArray[np.floating]] | None], manifest: Manifest, *, item: str
) -> Iterable[str]:
    """One JSON line per video or image: path (as `item`), label, best classes with their mean probability.

    Where several labels are right, `labels` has all of them, and `label` the first.

    Args:
        answers: of each entry of the manifest the best classes, the best first, and their probabilities; None for one
            that could not be read.
        manifest: the entries and their labels.
        item: what they are.
    """
    sets = manifest.label_sets
    names = manifest.class_names
    for entry, (label, answer) in enumerate(zip(manifest.labels, answers, strict=True)):
        line = {**entry_line(manifest, entry, item=item), "label": names[label]}
        if sets is not None:
            line["labels"] = [names[one] for one in sets[entry]]
        if answer is None:
            line["failed"] = True
        else:
            line["predicted"] = names[answer[0][0]]
            line["top5"] = {names[c]: round(float(share), 6) for c, share in zip(*answer, strict=True)}
        yield json.dumps(line, ensure_ascii=False) + "\n"
