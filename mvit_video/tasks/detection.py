"""Detection of objects: losses of a detector, COCO's scores of boxes and masks, and what was found in each image."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mvit_video.data.detection.annotations import DetectionManifest
from mvit_video.data.detection.ground_truth import category_numbers, ground_truth
from mvit_video.data.detection.masks import encode_bitmap
from mvit_video.data.loading.detection_batch import DetectionBatch
from mvit_video.data.loading.detection_dataset import DetectionEvalDataset
from mvit_video.data.loading.loader import LoaderOptions
from mvit_video.engine.curves import LEARNING_RATE_PANEL, LOSS_PANEL, Curve, Panel, throughput_panel
from mvit_video.engine.task import Inputs, LoggedMetric, StepLoss
from mvit_video.runtime.files import write_text
from mvit_video.tasks.coco_scores import Annotation, CocoScores, Kind
from mvit_video.tasks.every_image import EveryImage

# Detectron2's names; a cascade's stages are added up.
LOSSES = ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask")
LOGGED = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""Numbers of each kind that a validation logs; results.json has all twelve."""

Outputs = Sequence[Mapping[str, torch.Tensor]]


class ResultsWriter(Protocol):
    """What else shows the results of a split, such as pictures."""

    def __call__(self, folder: Path, scorer: "DetectionScorer", /) -> list[Path]:
        """Write files into a folder; the files."""
        ...


class Detection:
    """The task of finding objects; a `Task` of engine/task.py.

    Args:
        class_names: in the order of the model's labels.
        has_masks: whether masks are scored, too.
    """

    item = "image"
    sample = "image"
    metrics: Sequence[LoggedMetric] = tuple(
        LoggedMetric(name=name, console=name.removeprefix("loss_") + " {:.3f}") for name in LOSSES
    )
    best_metric = "box_ap"

    def __init__(self, *, class_names: Sequence[str], has_masks: bool) -> None:
        self.class_names = class_names
        kinds = kinds_of(has_masks)
        self.eval_metrics: Sequence[str] = (
            *(f"{kind}_{name}" for kind in kinds for name in LOGGED),
            "num_images",
            "num_failed",
        )
        curves = tuple(Curve("eval", f"{kind}_ap", f"{kind}es" if kind == "box" else f"{kind}s") for kind in kinds)
        self.panels: Sequence[Panel] = (
            LOSS_PANEL,
            Panel(title="Average precision", unit="AP (%)", curves=curves, top=100.0),
            LEARNING_RATE_PANEL,
            throughput_panel(self.sample),
        )

    def train_inputs(self, batch: DetectionBatch, *, seed: int) -> Inputs:
        """Images and their targets; the detector computes the losses itself."""
        targets = [instances.target() for instances in batch.instances]
        return Inputs((batch.pictures(), targets), None)

    def loss(self, outputs: Mapping[str, torch.Tensor], targets: None) -> StepLoss:
        """The sum of the detector's losses."""
        total = torch.stack([loss.float() for loss in outputs.values()]).sum()
        metrics = {
            name: sum((loss.float() for key, loss in outputs.items() if key.startswith(name)), torch.zeros_like(total))
            for name in LOSSES
        }
        return StepLoss(total, metrics)

    def eval_inputs(self, batch: DetectionBatch) -> tuple[list[torch.Tensor]]:
        """Images."""
        return (batch.pictures(),)


def kinds_of(has_masks: bool) -> tuple[Kind, ...]:
    """What is scored."""
    return ("box", "mask") if has_masks else ("box",)


class DetectionEvaluation(EveryImage[DetectionEvalDataset]):
    """Every image of a split; an `Evaluation` of engine/task.py.

    Args:
        dataset: the images.
        images_per_batch: what it says.
        loading: how batches are made beside the evaluating process.
        protocol: how the detector sees images and what it answers, for the record.
        writers: of what is written beside the results.
    """

    def __init__(
        self,
        dataset: DetectionEvalDataset,
        *,
        images_per_batch: int,
        loading: LoaderOptions,
        protocol: Mapping[str, Any],
        writers: Sequence[ResultsWriter] = (),
    ) -> None:
        super().__init__(dataset, images_per_batch=images_per_batch, loading=loading)
        self.protocol = protocol
        self.writers = writers

    def scorer(self) -> "DetectionScorer":
        """A scorer without detections."""
        return DetectionScorer(self.dataset.manifest, writers=self.writers)

    def about(self) -> dict[str, Any]:
        """The protocol: how images are read and resized, and which detections count."""
        return {"reading": asdict(self.dataset.reading), **self.protocol}


@dataclass(frozen=True)
class Found:
    """What was found in an image.

    Attributes:
        boxes: float32 (n, 4), x1, y1, x2, y2 in its pixels, best first.
        scores: (n).
        labels: (n).
        masks: COCO's run lengths of each.
        failed: the image could not be read.
    """

    boxes: np.ndarray[Any, np.dtype[np.float32]]
    scores: list[float]
    labels: list[int]
    masks: list[dict[str, Any]]
    failed: bool = False


class DetectionScorer:
    """What was found in each image, counted once; a `Scorer` of engine/task.py.

    Args:
        manifest: the images and their instances.
        writers: of what is written beside the results.
    """

    def __init__(self, manifest: DetectionManifest, *, writers: Sequence[ResultsWriter] = ()) -> None:
        self.manifest = manifest
        self.writers = writers
        self.found: dict[int, Found] = {}

    def add(self, batch: DetectionBatch, outputs: Outputs) -> None:
        """Take in the detections of a batch. An image that could not be read has none."""
        for index, failed, output in zip(batch.images, batch.failed, outputs, strict=True):
            masks = output["masks"].cpu().numpy()
            kept = 0 if failed else len(output["scores"])
            self.found[index] = Found(
                boxes=output["boxes"][:kept].float().cpu().numpy(),
                scores=output["scores"][:kept].float().tolist(),
                labels=output["labels"][:kept].tolist(),
                masks=[encode_bitmap(mask) for mask in masks[:kept]] if self.manifest.has_masks else [],
                failed=failed,
            )

    def state(self) -> dict[int, Found]:
        """The detections by image."""
        return self.found

    def merge(self, state: Mapping[int, Found]) -> None:
        """Take in another rank's detections."""
        self.found.update(state)

    def scores(self) -> CocoScores:
        """COCO's numbers of all images.

        Raises:
            RuntimeError: some image was not scored.
        """
        missing = len(self.manifest) - len(self.found)
        if missing:
            raise RuntimeError(f"{missing} of {len(self.manifest)} images were not scored: a rank has left some out")
        truth = ground_truth(self.manifest)
        return CocoScores(
            images=truth["images"],
            categories=truth["categories"],
            annotations=truth["annotations"],
            detections=self.predictions(),
            kinds=kinds_of(self.manifest.has_masks),
        )

    def metrics(self) -> dict[str, float]:
        """Average precisions (per cent), and the number of images. NaN where there is nothing to find."""
        scores = self.scores()
        kinds = kinds_of(self.manifest.has_masks)
        chosen = {f"{kind}_{name}": scores.numbers[f"{kind}_{name}"] for kind in kinds for name in LOGGED}
        return {**chosen, **self._counts()}

    def write(self, folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        """Write results.json, predictions.json in COCO's format, and what `writers` add; the results.

        Args:
            folder: made if it is not there.
            about: what was evaluated (checkpoint, split, ...), kept in results.json.
        """
        folder.mkdir(parents=True, exist_ok=True)
        scores = self.scores()
        results = {**_plain(scores.numbers), **self._counts(), "per_class": self._per_class(scores), **about}
        write_text(folder / "predictions.json", json.dumps(self.predictions()))
        for writer in self.writers:
            writer(folder, self)
        write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        return results

    def predictions(self) -> list[Annotation]:
        """All detections in COCO's format, with the numbers that the split's file gives images and classes."""
        numbers = category_numbers(self.manifest)
        return [
            {"image_id": int(self.manifest.image_ids[row]), "category_id": numbers[label], **entry}
            for row in sorted(self.found)
            for label, entry in _entries(self.found[row])
        ]

    def summary(self, results: Mapping[str, Any]) -> str:
        """The averages in one line."""
        parts = [
            f"{kind} AP {_shown(results[f'{kind}_ap'])} (at .50 {_shown(results[f'{kind}_ap50'])}, at .75 "
            f"{_shown(results[f'{kind}_ap75'])}; small {_shown(results[f'{kind}_ap_small'])}, medium "
            f"{_shown(results[f'{kind}_ap_medium'])}, large {_shown(results[f'{kind}_ap_large'])})"
            for kind in kinds_of(self.manifest.has_masks)
        ]
        return f"{results['num_images']} images: {', '.join(parts)}; {results['num_failed']} unreadable"

    def _counts(self) -> dict[str, int]:
        failed = sum(found.failed for found in self.found.values())
        return {"num_images": len(self.manifest), "num_failed": failed}

    def _per_class(self, scores: CocoScores) -> dict[str, dict[str, float | int | None]]:
        counts = self.manifest.instance_counts()
        return {
            name: {**_plain(scores.per_class[name]), "instances": count}
            for name, count in zip(self.manifest.class_names, counts, strict=True)
        }


def _entries(found: Found) -> Iterator[tuple[int, Annotation]]:
    """Label, and score, box and mask in COCO's format, of each detection of an image."""
    corners = found.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    for place, (label, score, box) in enumerate(zip(found.labels, found.scores, boxes, strict=True)):
        entry: Annotation = {"score": score, "bbox": box}
        yield label, {**entry, "segmentation": found.masks[place]} if found.masks else entry


def _plain(numbers: Mapping[str, float]) -> dict[str, float | int | None]:
    """Numbers as JSON has them: null for NaN."""
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
