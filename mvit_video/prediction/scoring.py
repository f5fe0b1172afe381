"""Scores of files as their batches come, so that memory does not grow with their number."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mvit_video.data.loading.batch import Batch
from mvit_video.engine.precision import autocast
from mvit_video.models.mvit.network import MViT


@runtime_checkable
class NamesClasses(Protocol):
    """A task whose outputs are classes of a file; those of tasks/ that classify are."""

    def eval_inputs(self, batch: Any) -> tuple[Any, ...]:
        """The model's positional arguments for a batch on the device."""
        ...

    def probabilities(self, outputs: torch.Tensor) -> torch.Tensor:
        """From 0 to 1, float32 (B, num_classes), of logits (B, num_classes)."""
        ...


@dataclass(frozen=True)
class ScoredViews:
    """The views of a file that one batch held.

    Attributes:
        video: place of the file in its manifest.
        views: (V,) their numbers.
        probabilities: float32 (V, num_classes); None where the file could not be read.
        error: why not.
        note: what is worth knowing of the file; empty if nothing is.
        features: float32 (V, channels), what entered the model's head; None where nobody asked.
    """

    video: int
    views: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32] | None
    error: str | None = None
    note: str = ""
    features: npt.NDArray[np.float32] | None = None


def check_is_mvit(model: nn.Module, what: str) -> None:
    """Refuse an option that looks into an MViT for a model of another kind.

    Args:
        model: whose inside may not be known.
        what: the option, and what it does.

    Raises:
        ValueError: it is no MViT.
    """
    if not isinstance(model, MViT):
        raise ValueError(f"{what} of an MViT, and the model is {type(model).__name__}: leave it out")


def scored_views(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    task: NamesClasses,
    device: torch.device,
    bf16: bool,
    features: bool = False,
) -> Iterator[ScoredViews]:
    """What the model makes of batches: for each file of a batch, in order, its views.

    Args:
        model: on the device, in eval mode.
        batches: the views of one file next to each other.
        task: makes inputs of batches, and probabilities of outputs.
        device: of the model.
        bf16: compute in bf16 autocast.
        features: keep what enters the head of the model, an MViT, too.

    Raises:
        ValueError: the model answers for a file with what is no number.
    """
    for batch in batches:
        probabilities, entering = _computed(model, batch, task=task, device=device, bf16=bf16, features=features)
        reasons, notes = dict(batch.failures), dict(batch.notes)
        videos, views, failed = batch.videos.numpy(), batch.views.numpy(), batch.failed.numpy()
        firsts = np.flatnonzero(np.diff(videos, prepend=-1))
        for first, end in zip(firsts, [*firsts[1:], len(videos)]):
            if failed[first]:
                reason = reasons.get(batch.paths[first], "could not be read")
                yield ScoredViews(int(videos[first]), views[first:end], None, reason)
            elif not np.isfinite(probabilities[first:end]).all():
                raise ValueError(
                    f"{batch.paths[first]}: the model's scores for it are not finite: its weights, or the precision "
                    "that it runs in, are broken; trainer.precision=fp32 computes with more digits, and of an exported "
                    "file one with --dtype fp32"
                )
            else:
                note = notes.get(batch.paths[first], "")
                own = None if entering is None else entering[first:end]
                yield ScoredViews(
                    int(videos[first]), views[first:end], probabilities[first:end], note=note, features=own
                )


@torch.inference_mode()
def _computed(
    model: nn.Module, batch: Batch, *, task: NamesClasses, device: torch.device, bf16: bool, features: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Probabilities of a batch, and what entered the head, if that is asked for."""
    inputs = task.eval_inputs(batch.to(device))
    entering: list[torch.Tensor] = []
    with ExitStack() as stack:
        if features:
            assert isinstance(model, MViT)
            watch = model.head.register_forward_pre_hook(lambda head, given: entering.append(given[0]))
            stack.callback(watch.remove)
        stack.enter_context(autocast(bf16, device))
        outputs = model(*inputs)
    found: npt.NDArray[np.float32] = task.probabilities(outputs).cpu().numpy()
    return found, entering[0].float().cpu().numpy() if entering else None
