"""What to do when the memory of a device is not enough, instead of an allocator's figures alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mvit_video.build.batch import step_batch
from mvit_video.config import Train
from mvit_video.distributed.process_group import World

_OF_THE_CPU = "DefaultCPUAllocator: can't allocate memory"


class OutOfMemoryError(RuntimeError):
    """The device's memory is not enough for the run as it is configured."""


@contextmanager
def explained(config: Train, world: World, *, items: int) -> Iterator[None]:
    """Turn running out of memory in the block into one message that names the options to lower.

    Args:
        config: of the training; `trainer.batch_size` is a number.
        world: this process.
        items: videos of the training split.

    Raises:
        OutOfMemoryError: the device has too little memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise OutOfMemoryError(
            f"{world.device} is out of memory: {first[0]}\nWays out, most of them without another result:\n"
            + "\n".join(f"  {way}" for way in ways_out(config, world, items=items))
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had; on a CPU that has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or _OF_THE_CPU in str(error)


def ways_out(config: Train, world: World, *, items: int) -> list[str]:
    """Options that lower what a training needs, with their present values."""
    trainer = config.trainer
    batch = step_batch(trainer, processes=world.size, items=items)
    ways = []
    if batch.batch_size > 1:
        smaller = max(size for size in range(1, batch.batch_size) if batch.batch_size % size == 0)
        automatic = trainer.accumulate is None and trainer.global_batch is not None
        times = batch.accumulate * batch.batch_size // smaller
        by_hand = f"trainer.accumulate={times} makes up for it"
        more = "accumulation makes up for it; or trainer.batch_size=auto" if automatic else by_hand
        ways.append(f"trainer.batch_size={smaller} instead of {batch.batch_size}: {more}")
    ways.append(f"trainer.eval_batch_size below {trainer.eval_batch_size}, if a validation was going on")
    ways.append(
        "model.activation_checkpointing=true, or model.activation_budget_gb=NUMBER (MViT): blocks are computed again "
        "in the backward pass instead of kept"
    )
    if trainer.cuda_graphs:
        ways.append("trainer.cuda_graphs=false: the graphs keep the memory of a whole pass, also during validations")
    if trainer.strategy != "fsdp":
        ways.append(
            "trainer.strategy=fsdp with several processes: they divide weights, gradients and optimizer among them"
        )
    if trainer.precision != "bf16":
        ways.append(f"trainer.precision=bf16 instead of {trainer.precision}: half the bytes for most activations")
    ways.append(" or ".join(f"{name} below {size}" for name, size in config.data.sizes().items()))
    return ways
