"""The best of the validations, and the end of a run that gets no better."""

import math
from collections.abc import Mapping
from typing import Any

from mvit_video.engine.task import Task
from mvit_video.runtime.run_record import lower_is_better


class BestScore:
    """The best value of one metric.

    Args:
        metric: its name; a loss, an error or a count of failures is the better the lower it is, others the higher.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.lower = lower_is_better(metric)
        self.value = math.inf if self.lower else -math.inf

    def is_better(self, score: float) -> bool:
        """Whether a score beats the best one; NaN and an equal one do not."""
        return score < self.value if self.lower else score > self.value


class EarlyStopping:
    """Ends a run whose validations have not improved for a while.

    Every rank keeps one and sees the same validations, so all ranks end together. Unlike the best checkpoint, what is
    counted here does not depend on whether a checkpoint could be written.

    Args:
        metric: of the validation.
        patience: validations without improvement after which the run ends; None: it never does.
    """

    def __init__(self, metric: str, *, patience: int | None) -> None:
        self.best = BestScore(metric)
        self.patience = patience
        self.without_improvement = 0

    @property
    def is_due(self) -> bool:
        """Whether the run ends here."""
        return self.patience is not None and self.without_improvement >= self.patience

    def update(self, score: float) -> None:
        """Take in a validation."""
        if self.best.is_better(score):
            self.best.value, self.without_improvement = score, 0
        else:
            self.without_improvement += 1

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"metric": self.best.metric, "best": self.best.value, "without_improvement": self.without_improvement}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; another metric starts anew."""
        if state["metric"] == self.best.metric:
            self.best.value, self.without_improvement = state["best"], state["without_improvement"]


def best_metric_of(task: Task, chosen: str | None) -> str:
    """The number of a validation by which checkpoints are compared.

    Raises:
        ValueError: the task's validations have no such number.
    """
    if chosen is None:
        return task.best_metric
    if chosen not in task.eval_metrics:
        raise ValueError(
            f"trainer.best_metric={chosen}: a validation of this task has no such number; its numbers are "
            f"{', '.join(task.eval_metrics)}"
        )
    return chosen
