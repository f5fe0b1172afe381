"""scripts/gpu/compiled_bytes.py: what the kernels of a compiled step move, counted from the compiler's own schedule."""

from gpu.compiled_bytes import FUSED, Moved, largest, totals

from tests.null_gpu import NullGPU

COUNTED = r"""
import dataclasses
import json
import torch
from gpu.compiled_bytes import collected

def work(x, w):
    return ((x * 2).relu() @ w).sum()

x, w = (torch.randn(64, 64, device="cuda", requires_grad=True) for _ in range(2))
with collected() as kernels:
    torch.compile(work)(x, w).backward()
print(json.dumps([dataclasses.astuple(one) for one in kernels]))
"""
MATRIX = 64 * 64 * 4


def test_every_kernel_counts_what_it_reads_and_writes(null_gpu: NullGPU) -> None:
    kernels = [Moved(*one) for one in null_gpu.run(COUNTED)]
    forward = [one for one in kernels if not one.backward]
    assert [one.count for one in forward if one.kind == "mm"] == [3 * MATRIX]
    pointwise = next(one for one in forward if "relu" in one.what)
    assert (pointwise.kind, pointwise.count) == (FUSED, 2 * MATRIX)
    assert sum(one.kind == "mm" for one in kernels if one.backward) == 2


def test_tables() -> None:
    kernels = [Moved(False, "mm", "", 10**9), *[Moved(True, FUSED, "relu", 3 * 10**9)] * 2, Moved(True, "bmm", "", 1)]
    assert totals(kernels)[2:] == [
        f"| {FUSED} | backward | 2 | 6.0 |",
        "| mm | forward | 1 | 1.0 |",
        "| all | | 4 | 7.0 |",
    ]
    first, second = largest(kernels, 2)
    assert first.split()[:5] == ["6000.0", "MB", "2", "x", "3000.0"] and first.endswith("relu")
    assert second.split()[-1] == "mm"
