"""Options of the group `schedule`."""

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import MISSING

from mvit_video.config.rules import option


@dataclass
class Schedule:
    """Linear warm-up, then half a cosine or steps; learning rates are for `optim.reference_batch`, like `optim.lr`."""

    epochs: float = option(MISSING, above=0, help="passes over the training split")
    warmup_epochs: float = option(0.0, at_least=0, help="epochs of linear warm-up; 0: none")
    warmup_start_lr: float = option(1e-8, at_least=0, help="learning rate of the first step of a warm-up")
    end_lr: float = option(1e-6, at_least=0, help="learning rate at the end")
    cosine_after_warmup: bool = option(
        False, help="the cosine starts where the warm-up ends, so that optim.lr is reached; false: at epoch 0"
    )
    milestones: list[float] = option(
        [],
        above=0,
        below=1,
        ascending=True,
        help="instead of the cosine: shares of the training at which the rate is multiplied by milestone_factor",
    )
    milestone_factor: float = option(0.1, above=0, below=1, help="see milestones")

    def problems(self) -> Iterator[str]:
        """Rules between two values."""
        if self.warmup_epochs >= self.epochs:
            yield f"schedule.warmup_epochs={self.warmup_epochs}: must be less than schedule.epochs={self.epochs}"
