"""Learning rate as a pure function of the step: linear warm-up, then half a cosine, or steps."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Learning rate per optimizer step, in fractional epochs, as published (PySlowFast utils/lr_policy.py).

    The cosine runs from `base_lr` at epoch 0 to `end_lr` at epoch `epochs`. During warm-up the rate grows linearly from
    `warmup_start_lr` to the value which the cosine has at the end of warm-up, which is below `base_lr`. With
    `cosine_after_warmup` the cosine starts at the end of warm-up instead, so that `base_lr` is reached.

    Attributes:
        base_lr: peak of the cosine.
        epochs: length of the training.
        warmup_epochs: length of the warm-up, 0 for none.
        warmup_start_lr: rate of step 0 with a warm-up.
        end_lr: rate at the end of the last epoch.
        steps_per_epoch: optimizer steps (not micro-batches) in an epoch.
        cosine_after_warmup: start the cosine where the warm-up ends.
        milestones: shares of the training, rising; at each the rate is multiplied by `milestone_factor`. They take the
            place of the cosine (detectron2 fvcore's MultiStepParamScheduler, whose steps these are times the length).
        milestone_factor: see milestones.

    Raises:
        ValueError: for a length or rate out of its range.
    """

    base_lr: float
    epochs: float
    warmup_epochs: float
    warmup_start_lr: float
    end_lr: float
    steps_per_epoch: int
    cosine_after_warmup: bool = False
    milestones: tuple[float, ...] = ()
    milestone_factor: float = 0.1

    def __post_init__(self) -> None:
        if self.epochs <= 0:
            raise ValueError(f"epochs is {self.epochs}: it must be above 0")
        if self.steps_per_epoch < 1:
            raise ValueError(
                f"steps_per_epoch is {self.steps_per_epoch}: it must be at least 1; "
                "is the global batch larger than the training set?"
            )
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs}: it must be at least 0 and below epochs ({self.epochs})"
            )
        if not 0 <= self.end_lr <= self.base_lr:
            raise ValueError(f"end_lr is {self.end_lr}: it must lie between 0 and base_lr ({self.base_lr})")
        if self.warmup_start_lr < 0:
            raise ValueError(f"warmup_start_lr is {self.warmup_start_lr}: it must be at least 0")
        if list(self.milestones) != sorted(self.milestones) or not all(0 < share < 1 for share in self.milestones):
            raise ValueError(f"milestones are {self.milestones}: they must rise and lie between 0 and 1")

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the whole training."""
        return round(self.epochs * self.steps_per_epoch)

    def __call__(self, step: int) -> float:
        """Learning rate with which step number `step` (from 0) is taken; constant at `end_lr` past the end."""
        if step < 0:
            raise ValueError(f"step is {step}: steps count from 0")
        epoch = min(step / self.steps_per_epoch, self.epochs)
        if epoch < self.warmup_epochs:
            target = self._after_warmup(self.warmup_epochs)
            return self.warmup_start_lr + epoch * (target - self.warmup_start_lr) / self.warmup_epochs
        return self._after_warmup(epoch)

    def _after_warmup(self, epoch: float) -> float:
        if not self.milestones:
            return self._cosine(epoch)
        step = round(epoch * self.steps_per_epoch)
        passed = sum(step >= round(share * self.total_steps) for share in self.milestones)
        return self.base_lr * self.milestone_factor**passed

    def _cosine(self, epoch: float) -> float:
        start = self.warmup_epochs if self.cosine_after_warmup else 0.0
        progress = (epoch - start) / (self.epochs - start)
        return self.end_lr + (self.base_lr - self.end_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))


def scale_lr(lr: float, *, reference_batch: int, global_batch: int) -> float:
    """The rate for `global_batch` clips per step when `lr` is stated for `reference_batch` (linear scaling rule).

    Raises:
        ValueError: for a batch below 1.
    """
    if reference_batch < 1 or global_batch < 1:
        raise ValueError(
            f"reference_batch is {reference_batch} and global_batch {global_batch}: both must be at least 1 clip"
        )
    return lr * global_batch / reference_batch
