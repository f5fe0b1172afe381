"""B 32x3 and L 40x3 at 312 pixels: the largest batch of each form that fits, and its speed."""

from typing import Any

import torch
from torch import nn

from gpu.context import Context, free_memory
from gpu.counts import train_flops
from gpu.workbench import TrainStep, config_of, matrix_rate, median_seconds, once, peak_gb, reset_peak, torchvision_twin
from mvit_video.models import MViT, MViTConfig

TABLE = "largest batch that fits, eager, bf16, forward, loss, backward, AdamW"
OURS, RECOMPUTED, THEIRS = "ours", "ours, all blocks recomputed", "torchvision"
PLAN = (
    ("mvitv2_l_40x3", OURS),
    ("mvitv2_b_32x3", OURS),
    ("mvitv2_b_32x3", THEIRS),
    ("mvitv2_l_40x3", RECOMPUTED),
    ("mvitv2_l_40x3", THEIRS),
    ("mvitv2_b_32x3", RECOMPUTED),
)
USED = 0.92
"""Share of the card's memory to aim at; the rest is for what the allocator cannot give away and for libraries."""
REHEARSED = 2
"""Clips that fit in a rehearsal."""


def measure(context: Context) -> None:
    """One row for each model and form."""
    rate = matrix_rate(context.device)
    for preset, form in PLAN:
        key = {"model": preset, "form": form}
        needs = 0.0 if context.rehearse else 12.0
        context.case(TABLE, key, lambda p=preset, f=form: largest_row(p, f, context, rate), needs_s=needs)  # type: ignore[misc]
        free_memory()


def model_of(config: MViTConfig, form: str) -> nn.Module:
    torch.manual_seed(0)
    return torchvision_twin(config) if form == THEIRS else MViT(config)


def largest_row(preset: str, form: str, context: Context, rate: float) -> dict[str, Any]:
    """Find the batch from the memory of one and two clips, go down until it fits, and time it."""
    changes = {"activation_checkpointing": True} if form == RECOMPUTED else {}
    config = config_of(preset, context, **changes)
    model = model_of(config, form)
    one = peak_if_it_fits(model, config, 1, context)
    if one is None:
        return {"largest batch": 0, "remark": "not one clip fits, in the pieces that the allocator has left"}
    two = peak_if_it_fits(model, config, 2, context)
    batch = 1 if two is None else fitting(one, two, total_gb(context))
    while True:
        try:
            step = TrainStep(model, config, batch, context)
            reset_peak(context.device)
            once(step, context.device)
            break
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        # Outside of the handler, whose error holds the tensors.
        step = None  # type: ignore[assignment]
        free_memory()
        batch = max(1, int(batch * 0.93))
    seconds = median_seconds(step, context.device, most=5)
    return {
        "largest batch": batch,
        "clips/s": batch / seconds,
        "ms a clip": 1e3 * seconds / batch,
        "share of the matrix rate, %": 100 * batch * train_flops(config) / seconds / rate,
        "peak memory, GB": peak_gb(context.device),
        "GB a further clip": None if two is None else two - one,
    }


def total_gb(context: Context) -> float:
    return torch.cuda.get_device_properties(0).total_memory / 1e9 if context.device == "cuda" else 0.0


def peak_if_it_fits(model: nn.Module, config: MViTConfig, batch: int, context: Context) -> float | None:
    """As `peak_of`; None where the memory does not suffice."""
    try:
        return peak_of(model, config, batch, context)
    except torch.OutOfMemoryError:
        pass
    # Outside of the handler, whose error holds the tensors.
    model.zero_grad(set_to_none=True)
    free_memory()
    return None


def peak_of(model: nn.Module, config: MViTConfig, batch: int, context: Context) -> float:
    """Peak memory of a second step in 10^9 bytes: in the first the optimizer has no state yet."""
    step = TrainStep(model, config, batch, context)
    step()
    reset_peak(context.device)
    once(step, context.device)
    return peak_gb(context.device)


def fitting(one: float, two: float, total: float) -> int:
    """Clips that fit into USED of the memory, if each further one takes what the second took."""
    if two <= one:
        return REHEARSED
    return max(1, int((USED * total - one) / (two - one)) + 1)
