"""A GPU that computes nothing: PyTorch's CUDA build runs on a machine without a card, kernels and all.

One library takes the place of CUDA's runtime, of cuBLAS, of NCCL and of the driver. Memory of the "card" is memory of
the host that is reserved and not filled; kernels and matrix products are checked, counted and do nothing. All else is
real: PyTorch's allocator and autograd, Triton's compiler for sm_90, Inductor, the capture of CUDA graphs. So errors of
host code show, peak memory is what the allocator says, and launches can be counted. No time and no value means
anything. Ranks are processes of one host with a device each, and collectives move and add up what lies in their memory.

    python -m gpu.null_gpu python train.py ...    # from scripts/: any command, on the null GPU

Not replaced: cuDNN, which is switched off (convolutions go another way, with other memory; attention is chosen as on a
card where `cudnn_attention.py` is installed, as the kit does), cuFFT, cuSOLVER and cuSPARSE, which fail. Not seen:
what kernels read and write, how many registers they need, how far a stream has got with its kernels.
"""

import ctypes
import sys
from dataclasses import dataclass, fields

from gpu.null_gpu.builder import NullGPUError, build, environment

__all__ = ["Counts", "NullGPUError", "build", "counts", "environment", "present"]


@dataclass(frozen=True)
class Counts:
    """How often this process has started each kind of work.

    Attributes:
        kernels: by their launch, captured ones included.
        products: calls of cuBLAS; on a card some take more than one kernel.
        copies, fills: asynchronous or not.
        graphs: launches of whole CUDA graphs.
        collectives: calls of NCCL, those of a group as one.
    """

    kernels: int
    products: int
    copies: int
    fills: int
    graphs: int
    collectives: int

    @property
    def launches(self) -> int:
        """All of them: each costs the host its time."""
        return self.kernels + self.products + self.copies + self.fills + self.graphs + self.collectives

    def __sub__(self, earlier: "Counts") -> "Counts":
        return Counts(*(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self)))


def present() -> bool:
    """Whether this process runs on the null GPU."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "null_gpu_counts")


def counts() -> Counts:
    """What this process has started so far.

    Raises:
        NullGPUError: it does not run on the null GPU.
    """
    if not present():
        raise NullGPUError("launches are counted on the null GPU alone: start the process with its environment()")
    found = (ctypes.c_ulonglong * len(fields(Counts)))()
    ctypes.CDLL(None).null_gpu_counts(found)
    return Counts(*found)
