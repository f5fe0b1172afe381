"""Options of the group `trainer`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mvit_video.config.nearest import did_you_mean
from mvit_video.config.rules import option

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


@dataclass
class Trainer:
    """The loop: batch, precision, what is kept and how often."""

    batch_size: Any = option(
        2,
        at_least=1,
        word="auto",
        help="videos or images per process and forward pass; auto: as many as fit into memory, dividing global_batch",
    )
    global_batch: int | None = option(
        None,
        at_least=1,
        neutral=True,
        help="videos or images per optimizer step of the recipe, over all processes; null: none is stated",
    )
    accumulate: int | None = option(
        None,
        at_least=1,
        neutral=True,
        help="forward passes per optimizer step; null: as many as make up global_batch, or 1 where none is stated",
    )
    eval_batch_size: int = option(
        8, at_least=1, neutral=True, help="clips or images per process in validation and evaluation"
    )
    num_workers: int = option(
        4, at_least=0, neutral=True, help="loader processes per training process; 0: it loads by itself"
    )
    device: str = option("auto", choices=("auto", "cpu", "cuda"), neutral=True, help="auto: a GPU where there is one")
    precision: str = option(
        "auto", choices=("auto", "fp32", "bf16"), help="auto: bf16 where the machine is fast at it, else fp32"
    )
    threads: int | None = option(
        None, at_least=1, neutral=True, help="CPU threads per process; null: cores / processes"
    )
    strategy: str = option(
        "ddp",
        choices=("ddp", "fsdp"),
        neutral=True,
        help="several processes: ddp, the model whole in each; fsdp, divided among them (for L and H)",
    )
    deterministic: bool = option(
        False,
        help="on a GPU, take only algorithms that give the same bits on every run; an operation without one is refused",
    )
    compile: Any = option(
        False,
        choices=(True, False, "auto"),
        neutral=True,
        help="compile the model with torch.compile; auto: if that is faster on the GPU where the run begins, and as it "
        "began when it goes on",
    )
    cuda_graphs: Any = option(
        False,
        choices=(True, False, "auto"),
        neutral=True,
        help="replay forward and backward pass of an MViT from CUDA graphs, whose kernels the host does not start; "
        "auto: if that is faster on the GPU where the run begins, and as it began when it goes on",
    )
    ema_decay: float | None = option(
        None, at_least=0, below=1, help="keep an average of the weights with this decay per step; null: none"
    )
    max_steps: int | None = option(
        None, at_least=1, neutral=True, help="stop after so many steps, the schedule unchanged; null: never"
    )
    eval_every: int = option(
        1, at_least=1, neutral=True, help="epochs from one validation to the next; the last epoch is always validated"
    )
    checkpoint_every: int | None = option(
        None, at_least=1, neutral=True, help="steps from one checkpoint to the next; null: one every epoch"
    )
    checkpoint_async: bool = option(True, neutral=True, help="write checkpoints while training goes on")
    keep_last: int = option(2, at_least=1, neutral=True, help="newest checkpoints that are kept, besides the best")
    best_metric: str | None = option(
        None, help="number of a validation by which best.pt is chosen: loss, mean_class_top1, ...; null: the task's own"
    )
    early_stopping: int | None = option(
        None,
        at_least=1,
        neutral=True,
        help="end after so many validations in a row that do not improve best_metric; null: train to the last epoch",
    )
    log_every: int = option(10, at_least=1, neutral=True, help="steps from one log line to the next")
    trackers: list[str] = option(
        ["tensorboard"],
        neutral=True,
        help="where metrics go beside metrics.jsonl: some of tensorboard, wandb, mlflow, trackio, or MODULE.FUNCTION",
    )
    tracker_project: str = option(
        "mvit_video", neutral=True, help="project (MLflow: experiment) under which trackers file the run"
    )
    tracker_timeout_s: float = option(
        60.0, at_least=0, neutral=True, help="the end of a run waits so long for its trackers, all together"
    )
    stall_timeout_s: float = option(
        1800.0,
        at_least=0,
        neutral=True,
        help="a process in which no step or validation batch ends for so long exits; 0: never",
    )
    collective_timeout_s: float = option(600.0, at_least=0, neutral=True, help="ranks wait so long for one another")
    max_failed: float = option(
        0.01, at_least=0, at_most=1, neutral=True, help="share of unreadable training files above which the run stops"
    )

    def problems(self) -> Iterator[str]:
        """Names of trackers, which may also be dotted paths."""
        for name in self.trackers:
            if name not in TRACKERS and "." not in name:
                yield (
                    f"trainer.trackers={self.trackers}: {name} is unknown; {did_you_mean(name, TRACKERS)}, or the "
                    "dotted path of a function of your own (docs/extending.md)"
                )
