"""`trainer.compile=auto`: whether the steps of a run are compiled, measured where the run begins, and kept by it.

A compiled model sums in another order, so a run that chose anew after a restart would not go on with the same bits.
"""

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mvit_video.build.run_identity import recorded_options
from mvit_video.build.task_builder import TaskBuilder
from mvit_video.config import Train
from mvit_video.distributed.process_group import World, from_main
from mvit_video.engine.precision import autocast, uses_bf16
from mvit_video.models import MViT

logger = logging.getLogger(__name__)

AUTO = "auto"
STEPS = 5
"""Timed steps of each form, after two that are not."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Whether to compile, and why."""

    compile: bool
    reason: str


def resolve_compile(config: Train, builder: TaskBuilder, model: nn.Module, world: World) -> None:
    """Replace `trainer.compile=auto` by true or false, the same on all ranks. A run that goes on keeps its own.

    To be called with the model on its device, its recomputed blocks chosen, and `trainer.batch_size` a number. Weights,
    gradients and random state are left as they are.
    """
    if config.trainer.compile != AUTO:
        config.trainer.compile = bool(config.trainer.compile)
        return
    recorded = from_main(_recorded(config.run_dir) if world.is_main else None, world)
    if recorded is not None:
        config.trainer.compile = recorded
        logger.info("trainer.compile=auto: the run began with %s", str(recorded).lower())
        return
    choice = from_main(_choose(config, builder, model, world) if world.is_main else None, world)
    config.trainer.compile = choice.compile
    logger.info("trainer.compile=auto: %s, %s", str(choice.compile).lower(), choice.reason)


def _choose(config: Train, builder: TaskBuilder, model: nn.Module, world: World) -> Choice:
    if world.device.type == "cpu":
        return Choice(
            compile=False,
            reason="because it is measured on GPUs alone: on a CPU most of a step is the libraries' matrix products, "
            "compiled or not, and compiling takes minutes",
        )
    if not isinstance(model, MViT):
        return Choice(
            compile=False,
            reason=f"because {type(model).__name__} is no MViT model, whose inputs all have one shape",
        )
    if config.trainer.strategy == "fsdp" and world.size > 1:
        return Choice(compile=False, reason="because it is not measured for models that are divided among the ranks")
    bf16 = uses_bf16(config.trainer.precision, world.device)  # type: ignore[arg-type]
    return fastest(model, builder.input_shape(config, model.config), bf16=bf16)


def fastest(model: nn.Module, shape: tuple[int, ...], *, bf16: bool) -> Choice:
    """Time forward and backward passes of a batch of noise, as they are and compiled.

    Args:
        model: on its device; takes one tensor and gives one.
        shape: of the batch.
        bf16: computed in bf16.
    """
    device = next(model.parameters()).device
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    was_training = model.training
    model.train()

    def step(forward: Callable[[Tensor], Tensor]) -> None:
        with autocast(bf16, device):
            outputs = forward(inputs)
        outputs.float().square().mean().backward()
        model.zero_grad(set_to_none=True)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            plain = median_s(lambda: step(model), device)
            start = time.perf_counter()
            compiled_model = torch.compile(model)
            step(compiled_model)
            compiling = time.perf_counter() - start
            compiled = median_s(lambda: step(compiled_model), device)
        except Exception as error:  # compilers and memory fail in many ways; the run can go on without
            model.zero_grad(set_to_none=True)
            text = next((line for line in str(error).splitlines() if line.strip()), "")
            return Choice(compile=False, reason=f"because the measurement failed: {type(error).__name__}: {text[:200]}")
        finally:
            model.train(was_training)
    times = f"{1e3 * compiled:.1f} ms compiled and {1e3 * plain:.1f} ms as it is"
    return Choice(
        compile=compiled < plain,
        reason=f"because forward and backward pass take {times}; compiling took {compiling:.0f} s",
    )


def median_s(step: Callable[[], None], device: torch.device) -> float:
    """Median seconds of a step."""
    for _ in range(2):
        step()
    times = []
    for _ in range(STEPS):
        _synchronise(device)
        start = time.perf_counter()
        step()
        _synchronise(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _recorded(run_dir: Path) -> bool | None:
    """What the run in a directory was begun with; None if it has not begun."""
    options = recorded_options(run_dir)
    return None if options is None else bool(options["trainer"]["compile"])
