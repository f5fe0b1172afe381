"""The training step of MViTv2-S 16x4 in bf16: ours and torchvision's, in every form, at several batch sizes."""

import importlib.util
from typing import Any

from torch import nn

from gpu.context import Context, free_memory
from gpu.counts import train_flops
from gpu.workbench import (
    COMPILED,
    COMPILED_ATTENTION,
    COMPILED_GRAPH,
    COMPILED_TERMS,
    COMPILES,
    EAGER,
    FUSED,
    FUSED_ATTENTION,
    FUSED_GRAPH,
    FUSED_TERMS,
    GRAPH,
    GRAPH_ATTENTION,
    GRAPH_TERMS,
    TRAINER_GRAPHS,
    TrainStep,
    allocated_gb,
    bytes_of,
    config_of,
    host_seconds,
    launches_of,
    matrix_rate,
    median_seconds,
    once,
    pair,
    peak_gb,
    reset_peak,
)
from mvit_video.models import MViTConfig

PRESET = "mvitv2_s_16x4"
TABLE = "S 16x4, bf16: forward, loss, backward, AdamW"
AHEAD = "compiled ahead of the step training"
OURS, THEIRS = "ours", "torchvision"
PLAN: tuple[tuple[int, str, str], ...] = (
    (16, OURS, EAGER),
    (16, THEIRS, EAGER),
    (16, OURS, GRAPH),
    (16, OURS, TRAINER_GRAPHS),
    (16, OURS, FUSED),
    (16, OURS, FUSED_GRAPH),
    (16, OURS, COMPILED),
    (16, OURS, COMPILED_GRAPH),
    (16, THEIRS, COMPILED),
    (16, OURS, FUSED_ATTENTION),
    (16, OURS, FUSED_TERMS),
    (16, OURS, GRAPH_ATTENTION),
    (16, OURS, GRAPH_TERMS),
    (8, OURS, EAGER),
    (8, OURS, GRAPH),
    (8, OURS, TRAINER_GRAPHS),
    (1, OURS, EAGER),
    (1, OURS, GRAPH),
    (1, THEIRS, EAGER),
    (8, THEIRS, EAGER),
    (32, OURS, EAGER),
    (32, OURS, GRAPH),
    (32, THEIRS, EAGER),
    (16, OURS, COMPILED_TERMS),
    (8, OURS, COMPILED),
    (8, OURS, COMPILED_GRAPH),
    (32, OURS, COMPILED),
    (1, OURS, COMPILED_GRAPH),
    (8, THEIRS, COMPILED),
    (32, THEIRS, COMPILED),
    (1, THEIRS, COMPILED),
    (16, OURS, COMPILED_ATTENTION),
    # Last: a capture that fails may take the process's GPU with it.
    (16, THEIRS, GRAPH),
)
"""(batch, whose, form), the most valuable first. The headline is compiled against compiled."""


def measure(context: Context) -> None:
    """A row for each entry of the plan, then the ratios of batch 16 as notes."""
    rate = matrix_rate(context.device)
    config = config_of(PRESET, context)
    # Made once: a model that was compiled keeps its compiled code for its other forms.
    models = pair(config, context, ours=OURS, theirs=THEIRS)
    compile_s: dict[str, float] = {OURS: 45.0, THEIRS: 45.0}
    rows: dict[tuple[int, str, str], dict[str, Any]] = {}
    for batch, whose, form in PLAN:
        if whose not in models:
            continue
        compiles = form in COMPILES and not context.rehearse
        key = {"batch": batch, "model": whose, "form": form}
        row = context.case(
            TABLE,
            key,
            lambda b=batch, w=whose, f=form: measure_form(models[w], config, b, f, context, rate),  # type: ignore[misc]
            needs_s=1.1 * compile_s[whose] if compiles else 8.0 * (not context.rehearse),
        )
        free_memory()
        if row is not None:
            rows[batch, whose, form] = row
            if form == COMPILED:
                compile_s[whose] = float(row["first step, s"])
    for text in ratios(rows) if not context.null_gpu else ():
        context.note(text)


def compile_ahead(context: Context) -> None:
    """Compile what the headline is about, so that the timed step finds it in Inductor's cache.

    One process needs minutes of its processor for that; here several do it at once, beside whatever else runs.
    """
    config = config_of(PRESET, context)
    batch = next(batch for batch, _, form in PLAN if form == COMPILED)
    # Theirs first: it takes longer.
    for whose in (THEIRS, OURS) if importlib.util.find_spec("torchvision") else (OURS,):
        key = {"model": whose, "batch": batch, "form": COMPILED}
        context.case(AHEAD, key, lambda w=whose: compiled_row(w, config, batch, context), needs_s=5.0)  # type: ignore[misc]
        free_memory()  # other parts of the step need it


def compiled_row(whose: str, config: MViTConfig, batch: int, context: Context) -> dict[str, Any]:
    """The first compiled step of a model, which fills the cache."""
    model = pair(config, context, ours=OURS, theirs=THEIRS)[whose]
    step = TrainStep(model, config, min(batch, 2) if context.rehearse else batch, context)
    return {"first step, s": once(step.as_form(COMPILED), context.device)}


def measure_form(
    model: nn.Module, config: MViTConfig, batch: int, form: str, context: Context, rate: float
) -> dict[str, Any]:
    """Times and memory of one form. Memory that the other model holds is not counted."""
    batch = min(batch, 2) if context.rehearse else batch
    model.to(context.device)
    others = allocated_gb(context.device) - bytes_of(model) / 1e9
    step = TrainStep(model, config, batch, context)
    reset_peak(context.device)
    work = step.as_form(form)
    first = once(work, context.device)
    seconds = median_seconds(work, context.device)
    return {
        "ms": 1e3 * seconds,
        "clips/s": batch / seconds,
        "share of the matrix rate, %": 100 * batch * train_flops(config) / seconds / rate,
        "host busy, ms": 1e3 * host_seconds(work, context.device),
        "peak memory, GB": max(peak_gb(context.device) - others, 0.0),
        "first step, s": first,
        **launches_of(work),
    }


def ratios(rows: dict[tuple[int, str, str], dict[str, Any]]) -> list[str]:
    """The targets of batch 16 in sentences, as far as they were measured."""
    wanted = (
        (EAGER, EAGER, "eager against eager"),
        (FUSED, EAGER, "eager with fused norms against eager"),
        (FUSED_ATTENTION, EAGER, "eager with Triton attention against eager"),
        (FUSED_TERMS, EAGER, "eager with Triton terms against eager"),
        (TRAINER_GRAPHS, EAGER, "ours as the trainer's graphs against torchvision's eager"),
        (COMPILED, COMPILED, "compiled against compiled"),
        (COMPILED_TERMS, COMPILED, "compiled with Triton terms against compiled"),
        (COMPILED, EAGER, "ours compiled against torchvision's eager"),
        (COMPILED_GRAPH, COMPILED, "ours compiled, as a CUDA graph, against torchvision's compiled"),
    )
    texts = []
    for mine, other, words in wanted:
        ours, theirs = rows.get((16, OURS, mine)), rows.get((16, THEIRS, other))
        if ours and theirs:
            memory = ours["peak memory, GB"] / theirs["peak memory, GB"] if theirs["peak memory, GB"] else 0.0
            texts.append(f"Batch 16, {words}: {theirs['ms'] / ours['ms']:.2f}x as fast, {memory:.2f}x the peak memory.")
    return texts
