"""Bytes that the kernels of a compiled training step move, by kind, as Inductor's scheduler knows them.

    PYTHONPATH=scripts python -m gpu.null_gpu python -m gpu.compiled_bytes
    ... python -m gpu.compiled_bytes --model torchvision
    ... python -m gpu.compiled_bytes --attention triton_terms --list 30

Needs no card: on the null GPU everything is compiled and nothing computed. A kernel counts what it reads and writes
once each, which is the least that it can move; what it reads twice comes from a cache at best. Kernels that libraries
and this project bring (products, attention, pooling) count their operands and results. Loss and optimizer are not
compiled. Nothing is taken from Inductor's caches of graphs, so this compiles for minutes.
"""

import argparse
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpu import null_gpu
from gpu.context import Context
from gpu.null_gpu import cudnn_attention
from gpu.null_gpu.builder import CUDNN_ATTENTION
from gpu.workbench import COMPILED, TrainStep, config_of, pair, peak_gb, reset_peak
from mvit_video.models import MViT
from mvit_video.models.mvit.attention import MultiscaleAttention

FUSED = "fused by the compiler"


@dataclass(frozen=True)
class Moved:
    """What one kernel moves.

    Attributes:
        backward: whether it belongs to the backward pass.
        kind: the operator, or FUSED.
        what: of a fused kernel the operations that it does, of others "".
        count: bytes read and written.
    """

    backward: bool
    kind: str
    what: str
    count: int


def moved_by(nodes: Iterable[Any], *, backward: bool) -> Iterator[Moved]:
    """One for each kernel of a graph's schedule."""
    from torch._inductor import ir, scheduler

    for node in nodes:
        if isinstance(node, scheduler.NopKernelSchedulerNode):
            continue
        if not isinstance(node, scheduler.ExternKernelSchedulerNode):
            parts = [part.node for part in node.get_nodes() if part.node is not None]
            names = sorted({str(origin.target).removeprefix("aten.") for part in parts for origin in part.origins})
            yield Moved(backward, FUSED, ", ".join(names), node.get_read_write_buffers_sizes())
        elif not isinstance(node.node, ir.MultiOutput):  # one of several results, which the kernel itself counts
            buffer = node.node
            results = getattr(buffer, "outputs", None) or [buffer]
            kind = getattr(buffer, "python_kernel_name", None) or type(buffer).__name__
            yield Moved(backward, _operator(kind), "", sum(map(_bytes_of, [*buffer.inputs, *results])))


def _operator(name: str) -> str:
    return name.removeprefix("torch.ops.").removeprefix("extern_kernels.").removesuffix(".default")


def _bytes_of(buffer: Any) -> int:
    """Of a tensor; 0 of what is none: numbers, an argument left out, the list of several results."""
    from torch._inductor.ir import IRNode

    if not isinstance(buffer, IRNode) or not buffer.has_tensor_output():
        return 0
    return math.prod(int(size) for size in buffer.get_size()) * buffer.get_dtype().itemsize


@contextmanager
def collected() -> Iterator[list[Moved]]:
    """The kernels of all graphs that are compiled in the block."""
    import torch._functorch.config
    import torch._inductor.config
    from torch._inductor.graph import GraphLowering

    found: list[Moved] = []
    plain = GraphLowering.codegen

    def codegen(graph: Any) -> Any:
        code = plain(graph)
        found.extend(moved_by(graph.scheduler.nodes, backward=bool(graph.is_backward)))
        return code

    GraphLowering.codegen = codegen  # type: ignore[method-assign]
    try:
        with (
            torch._inductor.config.patch(fx_graph_cache=False),
            torch._functorch.config.patch(enable_autograd_cache=False),
        ):
            yield found
    finally:
        GraphLowering.codegen = plain  # type: ignore[method-assign]


def totals(kernels: Sequence[Moved]) -> list[str]:
    """A table of kinds, the largest first."""
    counts: Counter[tuple[str, bool]] = Counter()
    numbers: Counter[tuple[str, bool]] = Counter()
    for one in kernels:
        counts[one.kind, one.backward] += one.count
        numbers[one.kind, one.backward] += 1
    lines = ["| kind | pass | kernels | GB |", "| --- | --- | --- | --- |"]
    for (kind, backward), count in counts.most_common():
        if count >= 0.05e9:
            where = "backward" if backward else "forward"
            lines.append(f"| {kind} | {where} | {numbers[kind, backward]:,} | {count / 1e9:.1f} |")
    lines.append(f"| all | | {len(kernels):,} | {sum(counts.values()) / 1e9:.1f} |")
    return lines


def largest(kernels: Sequence[Moved], count: int) -> list[str]:
    """The kernels that move most; equal ones are one line."""
    alike = Counter(kernels)
    order = sorted(alike, key=lambda one: -one.count * alike[one])
    return [
        f"{one.count * alike[one] / 1e6:9.1f} MB  {alike[one]:3} x {one.count / 1e6:7.1f} MB  "
        f"{'backward' if one.backward else 'forward ':8}  {one.kind}  {one.what[:100]}"
        for one in order[:count]
    ]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Bytes that a compiled training step in bf16 moves.")
    parser.add_argument("--model", choices=["ours", "torchvision"], default="ours")
    parser.add_argument("--preset", default="mvitv2_s_16x4")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--attention", choices=["auto", "triton", "triton_terms"], default="auto", help="of ours")
    parser.add_argument("--list", type=int, default=0, metavar="N", help="the N kernels that move most")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if not torch.cuda.is_available():
        print(
            "this compiles for CUDA: start it as python -m gpu.null_gpu python -m gpu.compiled_bytes", file=sys.stderr
        )
        return 2
    os.environ[CUDNN_ATTENTION] = "1"
    cudnn_attention.install()
    never = time.monotonic() + 86_400
    context = Context(
        step="compiled_bytes", records=Path("/dev/null"), rehearse=False, deadline=never, part=0, parts=1,
        done=frozenset(), null_gpu=null_gpu.present(),
    )  # fmt: skip
    config = config_of(options.preset, context)
    ours = options.model == "ours"
    model = MViT(config) if ours else pair(config, context, ours="ours", theirs="torchvision")["torchvision"]
    step = TrainStep(model, config, options.batch, context)
    work = step.as_form(COMPILED)
    for module in model.modules():
        if isinstance(module, MultiscaleAttention):
            module.form = options.attention
    with collected() as kernels:
        work()
    work()
    reset_peak("cuda")
    work()
    print(
        f"{options.preset}, {options.model}, batch {options.batch}, attention {options.attention if ours else 'theirs'}"
    )
    print("\n".join([*totals(kernels), *largest(kernels, options.list)]))
    print(f"peak memory: {peak_gb('cuda'):.2f} GB, the whole step")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
