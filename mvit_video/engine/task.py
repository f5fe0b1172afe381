"""What the loop asks of a task: the only thing that trainer, evaluator, checkpoints and tracking know of one.

A task says what a batch becomes before it enters the model, what loss the model's outputs have, how outputs are scored
on a split and which numbers are worth showing. `tasks/` holds the implementations; docs/extending.md adds one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from mvit_video.distributed.process_group import World
from mvit_video.engine.curves import Panel


class Batch(Protocol):
    """What the loop reads of a batch, and does with it.

    Attributes:
        paths: file of each sample.
        failures: (path, reason) of every file that could not be read for this batch.
        epoch: epoch the batch belongs to.
        position: place of its first sample in the epoch's order: with the epoch the key of all batch-wide draws.
    """

    paths: list[str]
    failures: list[tuple[str, str]]
    epoch: int
    position: int

    def __len__(self) -> int:
        """Samples in the batch."""
        ...

    def to(self, device: torch.device) -> "Batch":
        """The batch with what the model reads on `device`."""
        ...


class TrainBatches(Protocol):
    """Endless training batches of one rank.

    Attributes:
        accumulate: batches per optimizer step and rank.
    """

    accumulate: int

    @property
    def num_items(self) -> int:
        """Items (videos, pictures) of the training split."""
        ...

    @property
    def items_per_step(self) -> int:
        """Items of one optimizer step over all ranks."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        ...

    def batches(self, start_step: int) -> Iterator[Any]:
        """This rank's batches, `accumulate` to a step, from optimizer step `start_step` on."""
        ...


@dataclass(frozen=True)
class Inputs:
    """What a training step gives the model, and what its outputs are compared with.

    Attributes:
        model_inputs: positional arguments of the model.
        targets: whatever the task's loss needs besides the model's outputs.
    """

    model_inputs: tuple[Any, ...]
    targets: Any


@dataclass(frozen=True)
class StepLoss:
    """The loss of a batch.

    Attributes:
        loss: scalar tensor that is minimised, the mean over the samples of the batch.
        metrics: further scalar tensors, one for each of the task's `metrics`, averaged like the loss.
    """

    loss: torch.Tensor
    metrics: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LoggedMetric:
    """A number that the task's loss gives beside the loss.

    Attributes:
        name: its key in StepLoss.metrics and in metrics.jsonl.
        console: how a log line shows it, for example "top1 {:.1f}%".
        factor: what it is multiplied by when it is logged: 100 makes a share per cent.
    """

    name: str
    console: str
    factor: float = 1.0


class Scorer(Protocol):
    """Collects the outputs of a split, on one rank and then on the first one, and says how good they are."""

    def add(self, batch: Any, outputs: Any) -> None:
        """Take in the model's outputs for a batch that is on the device."""
        ...

    def state(self) -> Any:
        """What was collected, as something that travels between ranks."""
        ...

    def merge(self, state: Any) -> None:
        """Take in what another rank collected."""
        ...

    def metrics(self) -> dict[str, float]:
        """The numbers of a validation, which are logged: those that the task's `eval_metrics` names."""
        ...

    def write(self, folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        """Write results.json (with `about`) and whatever else shows the results; the content of results.json."""
        ...

    def summary(self, results: Mapping[str, Any]) -> str:
        """The results in one line, for people."""
        ...


class Evaluation(Protocol):
    """A split that is scored once, whatever the number of ranks."""

    def batches(self, world: World) -> Iterator[Any]:
        """This rank's share of the samples."""
        ...

    def count(self, world: World) -> int:
        """Samples in this rank's share."""
        ...

    def scorer(self) -> Scorer:
        """A new scorer for the split."""
        ...

    def about(self) -> dict[str, Any]:
        """How the samples are made (views, order of frames, ...), for the record."""
        ...


class Task(Protocol):
    """What differs between tasks.

    Attributes:
        class_names: stored in every checkpoint.
        item: what a data set is a set of, in the singular: "video".
        sample: what the model sees of an item, in the singular: "clip".
        metrics: what a step reports besides the loss.
        panels: what curves.png shows.
        eval_metrics: names of the numbers that a scorer's `metrics()` gives.
        best_metric: the one of them by which the best checkpoint is chosen unless the run names another.
    """

    class_names: Sequence[str]
    item: str
    sample: str
    metrics: Sequence[LoggedMetric]
    panels: Sequence[Panel]
    eval_metrics: Sequence[str]
    best_metric: str

    def train_inputs(self, batch: Any, *, seed: int) -> Inputs:
        """The model's input for a training batch on the device; draws depend on (seed, epoch, position) alone."""
        ...

    def loss(self, outputs: Any, targets: Any) -> StepLoss:
        """The loss of the model's outputs, in float32."""
        ...

    def eval_inputs(self, batch: Any) -> tuple[Any, ...]:
        """The model's positional arguments for an evaluation batch on the device."""
        ...
