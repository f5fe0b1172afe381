"""Scores every (video, view) once and reports clip- and video-level accuracy."""

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.batch import Batch
from mvit_video.distributed.process_group import World, gather_to_main
from mvit_video.engine.precision import autocast
from mvit_video.engine.tracking import plot_confusion
from mvit_video.metrics import ViewScores
from mvit_video.runtime.env import write_text

logger = logging.getLogger(__name__)


@torch.inference_mode()
def score_views(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    prepare: Callable[[Batch], torch.Tensor],
    manifest: Manifest,
    num_views: int,
    world: World,
    bf16: bool,
    on_progress: Callable[[int], None] | None = None,
) -> ViewScores | None:
    """Class probabilities of every view, gathered on rank 0; None on the other ranks.

    Args:
        model: in eval mode, (B, 3, T, H, W) -> logits.
        batches: this rank's views.
        prepare: batch on the device -> float (B, 3, T, H, W).
        manifest: the videos evaluated.
        num_views: views per video.
        world: this process among the others.
        bf16: compute in bf16 autocast.
        on_progress: called with the number of clips done after each batch.
    """
    scores = ViewScores(num_videos=len(manifest), num_views=num_views, num_classes=manifest.num_classes)
    failures: list[tuple[str, str]] = []
    for batch in batches:
        failures += batch.failures
        on_device = batch.to(world.device)
        with autocast(bf16, world.device):
            logits = model(prepare(on_device))
        probabilities = torch.softmax(logits.float(), dim=1).cpu().numpy()
        scores.add(batch.videos.numpy(), batch.views.numpy(), probabilities, failed=batch.failed.numpy())
        if on_progress:
            on_progress(len(batch.labels))
    for path, reason in failures:
        logger.warning("unreadable video, counted as failed: %s: %s", path, reason)
    gathered = gather_to_main(scores.state(), world)
    if not gathered:
        return None
    for state in gathered[1:]:
        scores.merge(ViewScores.from_state(state))
    return scores


def write_evaluation(folder: Path, scores: ViewScores, *, manifest: Manifest, about: dict[str, Any]) -> dict[str, Any]:
    """Write results.json, predictions.jsonl and confusion.png, each beside and renamed; returns the results.

    Args:
        folder: made if it is not there.
        scores: of all views.
        manifest: the videos evaluated.
        about: what was evaluated (checkpoint, split, views ...), kept in results.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.asarray(manifest.labels)
    results = {**scores.results(labels, manifest.class_names), **about}
    write_text(folder / "predictions.jsonl", "".join(_prediction_lines(scores, manifest)))
    plot_confusion(scores.confusion(labels), manifest.class_names, folder / "confusion.png")
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def _prediction_lines(scores: ViewScores, manifest: Manifest) -> Iterable[str]:
    """One JSON line per video: its label, its five best classes with their mean probability over the views."""
    video_scores = scores.video_scores()
    views = scores.views_per_video()
    for video, (path, label) in enumerate(zip(manifest.paths, manifest.labels, strict=True)):
        line: dict[str, Any] = {"video": path, "label": manifest.class_names[label]}
        if views[video] == 0:
            line["failed"] = True
        else:
            best = np.argsort(-video_scores[video], kind="stable")[:5]
            line["predicted"] = manifest.class_names[best[0]]
            line["top5"] = {
                manifest.class_names[c]: round(float(video_scores[video, c] / views[video]), 6) for c in best
            }
        yield json.dumps(line) + "\n"
