"""`trainer.batch_size=auto`: the most videos per forward pass whose training fits into the memory of the device.

What a model keeps is counted on tensors without data (models/mvit/activation_checkpointing.py); nothing is tried out.
"""

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from mvit_video.build.common import build_model
from mvit_video.build.run_identity import recorded_options
from mvit_video.build.task_builder import TaskBuilder
from mvit_video.config import Train
from mvit_video.distributed.process_group import World, from_main, gather_to_all
from mvit_video.distributed.sharding import gathers_bf16
from mvit_video.engine.precision import autocast, uses_bf16
from mvit_video.models.mvit.activation_checkpointing import (
    BlockModel,
    block_model,
    choose_blocks,
    measure_blocks,
    peak_bytes,
)
from mvit_video.planning.costs import USABLE, TrainingState, state_bytes
from mvit_video.runtime import env
from mvit_video.runtime.memory import available_memory

logger = logging.getLogger(__name__)

AUTO = "auto"
GB = 1e9
USABLE_OF_HOST = 0.5
"""Share of a CPU's free memory to plan with; loader workers, clips and the file cache need some."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Memory of one process.

    Attributes:
        size: bytes to plan with.
        text: what they are, in words.
    """

    size: float
    text: str


def resolve_batch_size(config: Train, builder: TaskBuilder, model: nn.Module, world: World) -> None:
    """Replace `trainer.batch_size=auto` by a number, the same on all ranks. A run that goes on keeps its own.

    Raises:
        ValueError: the model is no MViT, no global batch is stated, or not even one video fits.
    """
    if config.trainer.batch_size != AUTO:
        return
    recorded = from_main(_recorded(config.run_dir) if world.is_main else None, world)
    if recorded is not None:
        config.trainer.batch_size = recorded
        logger.info("trainer.batch_size=auto: the run began with %d", recorded)
        return
    smallest = min(gather_to_all(room_on(world.device), world), key=lambda room: room.size)
    bf16 = uses_bf16(config.trainer.precision, world.device)  # type: ignore[arg-type]
    choose_batch_size(config, builder, model, processes=world.size, room=smallest, bf16=bf16)


def resolve_without_ranks(config: Train, builder: TaskBuilder, *, processes: int) -> None:
    """What `resolve_batch_size` would come to on this machine, for a command that trains nothing and has no model."""
    if config.trainer.batch_size != AUTO:
        return
    recorded = _recorded(config.run_dir)
    if recorded is not None:
        config.trainer.batch_size = recorded
        return
    with torch.device("meta"):
        model = build_model(config)
    device = env.choose_device(config.trainer.device)  # type: ignore[arg-type]
    bf16 = uses_bf16(config.trainer.precision, device)  # type: ignore[arg-type]
    choose_batch_size(
        config, builder, model.to_empty(device=device), processes=processes, room=room_on(device), bf16=bf16
    )


def choose_batch_size(
    config: Train, builder: TaskBuilder, model: nn.Module, *, processes: int, room: Room, bf16: bool
) -> None:
    """Set `trainer.batch_size` to the largest divisor of a process's share of the global batch that fits, and say so.

    Args:
        config: options, with trainer.batch_size=auto; changed in place.
        builder: of the task.
        model: on the device where it is trained, or on the CPU for a plan.
        processes: in the run.
        room: memory of each.
        bf16: computed in bf16.

    Raises:
        ValueError: as `resolve_batch_size` does.
    """
    trainer = config.trainer
    measured = block_model(model)
    if measured is None:
        raise ValueError(
            f"trainer.batch_size=auto: counts the memory of MViTs and detectors, and {type(model).__name__} is none: "
            "give a number, such as trainer.batch_size=2"
        )
    if trainer.global_batch is None:
        raise ValueError(
            "trainer.batch_size=auto: divides trainer.global_batch, which states nothing: give "
            "trainer.global_batch=NUMBER, or trainer.batch_size a number"
        )
    share = max(1, trainer.global_batch // (processes * (trainer.accumulate or 1)))
    sizes = [size for size in range(1, share + 1) if share % size == 0]

    model.train()

    @functools.cache
    def needed(size: int) -> tuple[float, float]:
        """State and activations; the latter infinite where no choice of blocks keeps to the activation budget."""
        accumulate = trainer.accumulate or share // size
        held = training_state(config, measured, accumulate=accumulate, bf16=bf16)
        state = state_bytes(held, processes, "fsdp" if trainer.strategy == "fsdp" else "ddp")
        return state, _activation_bytes(config, builder, measured, size, bf16=bf16)

    chosen = _largest_that_fits(sizes, lambda size: sum(needed(size)) <= room.size)
    state, activations = needed(chosen or 1)
    if chosen is None:
        raise ValueError(
            f"trainer.batch_size=auto: one video per forward pass takes {state / GB:.2f} GB of state and "
            f"{activations / GB:.2f} GB of activations, more than {room.text}: set "
            "model.activation_checkpointing=true, trainer.strategy=fsdp (several processes), data.num_frames or "
            "data.crop_size lower, or give trainer.batch_size a number to try it all the same"
        )
    trainer.batch_size = chosen
    logger.info(
        "trainer.batch_size=auto: %d, the largest divisor of each process's %d videos that fits: %.2f GB of state and "
        "%.2f GB of activations in %s",
        chosen,
        share,
        state / GB,
        activations / GB,
        room.text,
    )


def training_state(config: Train, model: BlockModel, *, accumulate: int, bf16: bool) -> TrainingState:
    """What is held between steps, in the terms of planning/costs.py."""
    return TrainingState(
        parameters=_size(model),
        blocks=tuple(_size(block) for block in model.blocks),
        accumulate=accumulate,
        moments=2 if config.optim.name == "adamw" else int(config.optim.momentum > 0),
        ema=config.trainer.ema_decay is not None,
        gathers_bf16=gathers_bf16(model, bf16=bf16),
        cuda_graphs=config.trainer.cuda_graphs in (True, AUTO) and config.trainer.strategy == "ddp",
    )


def room_on(device: torch.device) -> Room:
    """The memory of a process that trains on a device: of a GPU as a whole, of a CPU what is free now."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        size = properties.total_memory
        return Room(size=USABLE * size, text=f"{USABLE:.0%} of the {size / GB:.1f} GB of {properties.name}")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free = available_memory()
    shared = "" if processes == 1 else f", shared by {processes} processes"
    return Room(size=USABLE_OF_HOST * free / processes, text=f"{USABLE_OF_HOST:.0%} of {free / GB:.1f} GB free{shared}")


def _activation_bytes(config: Train, builder: TaskBuilder, model: BlockModel, size: int, *, bf16: bool) -> float:
    """Most bytes kept for the backward pass of `size` videos; infinite if that is more than the activation budget."""
    there = replace(config, trainer=replace(config.trainer, batch_size=size))
    with autocast(bf16, next(model.parameters()).device):
        costs, outside = measure_blocks(model, builder.input_shape(there, model.config))
    budget = model.config.activation_budget_gb
    if budget is None:
        return peak_bytes(costs, model.config.recomputed_blocks, outside)
    try:
        return peak_bytes(costs, choose_blocks(costs, int(budget * GB), outside), outside)
    except ValueError:
        return float("inf")


def _largest_that_fits(sizes: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The largest of ascending sizes that fits, by bisection; None if none does."""
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        if fits(sizes[middle]):
            low = middle + 1
        else:
            high = middle
    return sizes[low - 1] if low else None


def _recorded(run_dir: Path) -> int | None:
    """The batch size that the run in a directory was begun with; None if it has not begun."""
    options = recorded_options(run_dir)
    return None if options is None else int(options["trainer"]["batch_size"])


def _size(module: nn.Module | BlockModel) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
