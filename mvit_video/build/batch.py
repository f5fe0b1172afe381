"""The batch of the recipe on any hardware: how the videos of an optimizer step are cut into forward passes.

A recipe states its global batch. How many processes there are, and how many videos one takes at a time, is a matter of
the hardware; accumulation makes up the rest.
"""

from dataclasses import dataclass

from mvit_video.config import Optim, Trainer
from mvit_video.optim import scale_lr


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """The videos of one optimizer step.

    Attributes:
        batch_size: videos of one process and forward pass.
        accumulate: forward passes of a step.
        processes: in the run.
        recipe: videos of a step that the recipe states; None where it states none.
        reason: why the real number is another; "" where it is not.
    """

    batch_size: int
    accumulate: int
    processes: int
    recipe: int | None
    reason: str = ""

    @property
    def videos(self) -> int:
        """Of one step, over all processes."""
        return self.batch_size * self.accumulate * self.processes

    def text(self, optim: Optim, *, item: str = "video") -> str:
        """The step in one line, with what differs from the recipe and the learning rate that follows from it.

        Args:
            optim: the optimizer's options.
            item: what the data set is a set of, in the singular.
        """
        rate = _rate(optim, self.videos)
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        product = f"trainer.batch_size={self.batch_size} x {processes} x trainer.accumulate={self.accumulate}"
        if self.recipe is None or self.recipe == self.videos:
            stated = "no global batch is stated" if self.recipe is None else "the recipe's global batch"
            return f"{self.videos} {item}s per optimizer step ({stated}) = {product}; learning rate {rate}"
        return (
            f"global batch {self.recipe} -> {self.videos} {item}s per optimizer step ({self.reason}) = {product}; "
            f"learning rate {_rate(optim, self.recipe)} -> {rate}"
        )


def step_batch(trainer: Trainer, *, processes: int, items: int) -> StepBatch:
    """How a step is cut: `trainer.accumulate` if it is given, else what makes up `trainer.global_batch`.

    Args:
        trainer: options; `batch_size` is a number.
        processes: in the run.
        items: videos of the training split, of which a step takes no more by itself.
    """
    size, recipe = int(trainer.batch_size), trainer.global_batch
    at_once = size * processes
    accumulate, reason = 1, ""
    if trainer.accumulate is not None:
        accumulate, reason = trainer.accumulate, "trainer.accumulate is given"
    elif recipe is not None:
        accumulate = max(1, recipe // at_once)
        reason = "the nearest below it" if at_once <= recipe else f"one forward pass of all takes {at_once}"
        if accumulate * at_once > items >= at_once:
            accumulate, reason = items // at_once, f"the split has {items}"
    same = recipe is None or size * accumulate * processes == recipe
    return StepBatch(
        batch_size=size, accumulate=accumulate, processes=processes, recipe=recipe, reason="" if same else reason
    )


def mixes_nothing(batch_size: int, *, repeats: int, item: str) -> str:
    """A warning, for a training with mixing, where a forward pass holds one item alone; else empty.

    Args:
        batch_size: items of a forward pass of one process.
        repeats: augmented copies of each.
        item: what the data set is a set of, in the singular.
    """
    if batch_size > 1:
        return ""
    alone = "nothing is mixed" if repeats == 1 else f"copies of the same {item} alone are"
    return (
        f"trainer.batch_size=1: mixup and CutMix mix the {item}s of one forward pass with each other, so {alone}. "
        "trainer.batch_size=2 mixes pairs; augment.mix_prob=0 says that nothing is to be mixed"
    )


def _rate(optim: Optim, videos: int) -> str:
    return f"{scale_lr(optim.lr, reference_batch=optim.reference_batch, global_batch=videos):.4g}"
