"""The image model T: training step and inference beside timm's, in every form."""

from typing import Any

import torch
from torch import nn

from gpu.context import Context, free_memory
from gpu.counts import train_flops
from gpu.workbench import (
    COMPILED,
    COMPILED_GRAPH,
    EAGER,
    GRAPH,
    TrainStep,
    autocast,
    config_of,
    launches_of,
    matrix_rate,
    median_seconds,
    once,
    pair,
    peak_gb,
    reset_peak,
)
from mvit_video.models import MViTConfig

PRESET, BATCH = "mvitv2_t_image", 128
OURS, THEIRS = "ours", "timm"
TRAIN, INFER = f"T at 224, batch {BATCH}, bf16: training step", f"T at 224, batch {BATCH}, bf16: inference"
PLAN = ((OURS, EAGER), (THEIRS, EAGER), (OURS, GRAPH), (OURS, COMPILED), (THEIRS, COMPILED), (OURS, COMPILED_GRAPH))


def measure(context: Context) -> None:
    """Training in every form, then inference eager and compiled: each compiles for a minute."""
    rate = matrix_rate(context.device)
    config = config_of(PRESET, context)
    batch = 2 if context.rehearse else BATCH
    models = pair(config, context, ours=OURS, theirs=THEIRS)
    for whose, form in PLAN:
        if whose not in models:
            continue
        key = {"model": whose, "form": form}
        compiles = form in (COMPILED, COMPILED_GRAPH) and not context.rehearse
        needs = 30.0 if compiles else 0.0
        model = models[whose]
        context.case(TRAIN, key, lambda m=model, f=form: train_row(m, config, batch, f, context, rate), needs_s=needs)  # type: ignore[misc]
        free_memory()
    for whose, form in PLAN:
        if whose not in models or form not in (EAGER, COMPILED):
            continue
        key = {"model": whose, "form": form}
        needs = 30.0 if form == COMPILED and not context.rehearse else 0.0
        model = models[whose]
        context.case(INFER, key, lambda m=model, f=form: infer_row(m, config, batch, f, context), needs_s=needs)  # type: ignore[misc]
        free_memory()


def train_row(
    model: nn.Module, config: MViTConfig, batch: int, form: str, context: Context, rate: float
) -> dict[str, Any]:
    step = TrainStep(model, config, batch, context)
    reset_peak(context.device)
    work = step.as_form(form)
    first = once(work, context.device)
    seconds = median_seconds(work, context.device)
    return {
        "ms": 1e3 * seconds,
        "images/s": batch / seconds,
        "share of the matrix rate, %": 100 * batch * train_flops(config) / seconds / rate,
        "peak memory, GB": peak_gb(context.device),
        "first step, s": first,
        **launches_of(work),
    }


def infer_row(model: nn.Module, config: MViTConfig, batch: int, form: str, context: Context) -> dict[str, Any]:
    step = TrainStep(model, config, batch, context)
    if form == COMPILED:
        step.compile()
    model.eval()

    def infer() -> None:
        with torch.inference_mode(), autocast(context.device):
            step.forward(step.clips)

    first = once(infer, context.device)
    seconds = median_seconds(infer, context.device)
    return {"ms": 1e3 * seconds, "images/s": batch / seconds, "first call, s": first}
