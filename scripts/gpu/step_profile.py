"""Where the time of a training step goes, by kind of kernel, beside what each kind must at least take."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu import counts
from gpu.context import Context
from gpu.counts import Card, Work
from gpu.workbench import COMPILED, EAGER, FUSED, TrainStep, config_of, copy_rate, matrix_rate
from mvit_video.models import MViT

PRESET, BATCH = "mvitv2_s_16x4", 16
VECTOR_SHARE = 60 / 989
"""Float32 operations outside of the matrix units per bf16 operation in them, by the data sheets of H100 and H200."""
KINDS: dict[str, tuple[str, ...]] = {
    counts.POOLING: ("PoolNorm", "pool_norm", "conv_depthwise3d"),
    counts.ATTENTION: (
        "scaled_dot_product",
        "_flash_attention",
        "_efficient_attention",
        "_cudnn_attention",
        "AttentionWithTerms",
    ),
    counts.TERMS: ("aten::bmm", "aten::baddbmm", "ExtendedQueries"),
    counts.PRODUCTS: ("aten::mm", "aten::addmm", "aten::linear"),
    counts.STEM: ("aten::cudnn_convolution", "aten::convolution", "aten::slow_conv", "aten::mkldnn_convolution"),
    counts.NORM: ("layer_norm", "NormLinears", "NormMlp"),
    counts.GELU: ("aten::gelu",),
    counts.MAXIMUM: ("max_pool",),
    counts.OPTIMIZER: ("_fused_adam", "aten::_foreach", "Optimizer"),
    counts.SUMS: ("aten::add", "aten::sum", "aten::mul", "aten::index_add", "aten::div"),
}
"""Operations of each kind, by a part of their names; the first that fits counts. Kernels of Triton count for the
autograd function that starts them; NormLinears and NormMlp start none but norms. Copies and casts are a kind of their
own here: they belong to norms, terms and weights, and profiles do not say to which."""
COPIES, OTHER = "copies, casts, fills", "other"
COPY_NAMES = (
    "aten::copy_",
    "aten::cat",
    "aten::fill_",
    "aten::zero_",
    "aten::index",
    "aten::clone",
)


def measure(context: Context) -> None:
    """Our eager step by kind; then the kernels of the eager and of the compiled step that take longest."""
    config = config_of(PRESET, context)
    batch = 2 if context.rehearse else BATCH
    rate = matrix_rate(context.device)
    card = Card(matrix=rate, copy=copy_rate(context.device), vector=VECTOR_SHARE * rate)
    torch.manual_seed(0)
    step = TrainStep(MViT(config), config, batch, context)
    work = counts.step_work(config, batch)
    for form in (EAGER, FUSED, COMPILED):
        needs = 30.0 if form == COMPILED and not context.rehearse else 0.0
        key = {"step": f"ours, {form}, batch {batch}"}
        context.case("profiled", key, lambda f=form: profiled(step, f, work, card, context), needs_s=needs)  # type: ignore[misc]


def profiled(step: TrainStep, form: str, work: dict[str, Work], card: Card, context: Context) -> dict[str, Any]:
    """Profile two steps; rows by kind (eager) and of the longest kernels."""
    run = step.as_form(form)
    for _ in range(3):
        run()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if context.device == "cuda" else [])
    with profile(activities=activities) as profiler:
        for _ in range(2):
            run()
        if context.device == "cuda":
            torch.cuda.synchronize()
    events = list(profiler.key_averages())
    operations = dict(_operations(events, context.device))
    if form != COMPILED:
        for row in by_kind(operations, work, card):
            context.row(f"ours, {form}: worst first", row)
    for row in longest(events, context.device):
        context.row(f"longest kernels, {form}", row)
    return {"ms on the device": sum(operations.values())}


def _operations(events: Iterable[Any], device: str) -> Iterator[tuple[str, float]]:
    """(operation, ms per step on the device) for those that started kernels; on the CPU, for all."""
    for event in events:
        if event.device_type != DeviceType.CPU:
            continue
        spent = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        if spent:
            yield event.key, spent / 2e3


def by_kind(operations: dict[str, float], work: dict[str, Work], card: Card) -> Iterator[dict[str, Any]]:
    """Rows: what each kind took, its limit, and how far it is away, the largest distance first."""
    spent: dict[str, float] = {}
    for name, milliseconds in operations.items():
        kind = kind_of(name)
        spent[kind] = spent.get(kind, 0.0) + milliseconds
    limits = {kind: 1e3 * counts.floor_s(count, card) for kind, count in work.items()}
    for kind in sorted(spent, key=lambda kind: limits.get(kind, 0.0) - spent[kind]):
        limit = limits.get(kind, 0.0)
        row: dict[str, Any] = {"kind": kind, "ms": spent[kind], "limit, ms": limit, "above it, ms": spent[kind] - limit}
        if kind in work:
            row |= {"least, GB": work[kind].least / 1e9, "matrix, TFLOP": work[kind].matrix / 1e12}
        yield row


def kind_of(name: str) -> str:
    """The kind of an operation of a profile."""
    for kind, parts in KINDS.items():
        if any(part in name for part in parts):
            return kind
    return COPIES if any(part in name for part in COPY_NAMES) else OTHER


def longest(events: Iterable[Any], device: str, most: int = 15) -> Iterator[dict[str, Any]]:
    """The kernels (on the CPU: operations) that take most time, per step."""
    wanted = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    found = []
    for event in events:
        if event.device_type == wanted and not getattr(event, "is_user_annotation", False):
            spent = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
            found.append((spent / 2e3, event.count // 2, event.key))
    for milliseconds, calls, name in sorted(found, reverse=True)[:most]:
        yield {"kernel": name[:90], "ms": milliseconds, "calls": calls}
