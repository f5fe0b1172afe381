"""Every form of attention and of pooling, block by block: which "auto" should choose on this card."""

import math
from typing import Any

import torch
from bench_forms import AttentionCore, Pooling, Timing, compare, what
from bench_model import Clock, block_kinds

from gpu import null_gpu
from gpu.context import FATAL, Context, free_memory
from gpu.workbench import config_of
from mvit_video.models import MViT
from mvit_video.models.mvit.attention import MultiscaleAttention

PRESET, BATCH = "mvitv2_s_16x4", 16
ATTENTION, POOLING, FLEX = "attention, forward and backward", "pooling, forward and backward", "FlexAttention"
PLAN = ((ATTENTION, AttentionCore, False), (POOLING, Pooling, False), (ATTENTION, AttentionCore, True))


def measure(context: Context) -> None:
    """Library kernels of all kinds of blocks, then FlexAttention, which compiles for each."""
    config = config_of(PRESET, context)
    torch.manual_seed(0)
    model = MViT(config).to(context.device)
    for table, kind, flex in PLAN:
        for index, _ in block_kinds(config):
            attention = model.get_submodule(f"blocks.{index}.attn")
            assert isinstance(attention, MultiscaleAttention)
            block = what(config.blocks[index])

            def work(a: MultiscaleAttention = attention, block: str = block) -> dict[str, Any]:
                core = kind(a, 2 if context.rehearse else BATCH, context.device, torch.bfloat16)  # noqa: B023
                return compared(core, table, block, flex, context)  # noqa: B023

            key = {"block": block, "forms": FLEX if flex else "of libraries"}
            context.case(f"{table}: fastest", key, work, needs_s=15.0 if flex and not context.rehearse else 0.0)
            free_memory()


def compared(core: AttentionCore | Pooling, table: str, block: str, flex: bool, context: Context) -> dict[str, Any]:
    """Rows of all forms of one block; the fastest as the result of the case."""
    reps = 1 if context.rehearse else 10
    literal = next(iter(core.forms()))
    # The literal form is timed each time: the others are compared with its result.
    timings = compare(
        core, Clock(context.device), reps, True, lambda name: name == literal or name.startswith(FLEX) == flex
    )
    for name, timing in timings.items():
        if not (flex and name == literal):
            context.row(table, {"block": block, "form": name, **_values(timing, timings[literal])})
    lost = [timing.reason for timing in timings.values() if any(text in timing.reason for text in FATAL)]
    if lost:
        raise RuntimeError(lost[0])
    # A form that gives no numbers is not the fastest.
    measured = {name: t.seconds for name, t in timings.items() if usable(t) and name != "default"}
    if not measured:
        raise RuntimeError(f"no form ran: {timings[literal].reason[:120]}")
    fastest = min(measured, key=lambda name: measured[name])
    default = timings.get("default")
    return {
        "fastest": fastest,
        "default over it": default.seconds / measured[fastest] if default and default.result is not None else None,
    }


def usable(timing: Timing) -> bool:
    """Whether a form gave a result that is finite; on the null GPU, whether it ran."""
    return timing.result is not None and (null_gpu.present() or bool(timing.result.isfinite().all()))


def _values(timing: Timing, literal: Timing) -> dict[str, Any]:
    """What was measured of a form.

    Raises:
        ValueError: the literal form gave nothing that the others could be compared with.
    """
    if timing.result is None:
        return {"remark": f"not offered: {timing.reason[:120]}"}
    values = {"ms": 1e3 * timing.seconds, "kept, MB": timing.kept / 1e6}
    if null_gpu.present():
        return values
    if literal.result is None:
        raise ValueError(f"the literal form failed: {literal.reason[:120]}")
    exact = literal.result.float()
    largest = float(exact.abs().max())
    if not math.isfinite(largest) or largest == 0.0:
        raise ValueError(f"the largest value of the literal form is {largest}: nothing can be compared with it")
    difference = float((timing.result.float() - exact).abs().max()) / largest
    return {**values, "difference": difference if math.isfinite(difference) else math.inf}
