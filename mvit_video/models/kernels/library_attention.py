"""PyTorch's fused attention: which of its kernels is asked, and what widths that kernel takes.

In half precision on CUDA devices PyTorch (2.11 and later, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp) chooses
among cuDNN's kernels, asked first on devices of compute capability 9 and 10; flash-attention 2, which takes one width
for queries, keys and values, and which PyTorch calls "universally faster" than the next; and the memory-efficient
kernels, which take narrower values and past 128 columns sum their results in memory. cuDNN's are the fastest on
capability 9, at two prices:

- A plan is built for every new shape of the operands: reports name 0.4 s forward and 0.6 s backward on a B200. A model
  has some ten shapes for each size of its batch and of its images.
- Past 128 columns only some pairs of widths have a backward pass, and a pair without one fails when it runs.
  PyTorch's own rules for that changed from release to release.

So cuDNN is asked where one shape is computed again and again: in training, on inputs of the nominal size, within 128
columns. Elsewhere values are made as wide as queries, and flash-attention takes them. Chosen from sources and reports,
not measured.
"""

import functools
import threading

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mvit_video.models.kernels.gradient import constant_in_graphs, wants_gradient

CUDNN_COLUMNS = 128
"""Up to this width of a head cuDNN has forward and backward kernels for all pairs of widths."""
CUDNN_VERSION = 91_500
"""PyTorch asks cuDNN first from the version behind this one on."""
FLASH_COLUMNS = 256
"""Widest head of flash-attention."""
_OTHERS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_FLAGS = threading.Lock()
"""Which kernels may run is a flag of the whole process, set and reset around a call."""


def library_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, cudnn: bool) -> Tensor:
    """`scaled_dot_product_attention` of q (B, heads, N, c), k (B, heads, M, c) and v (B, heads, M, d).

    Args:
        q: queries; k and v are keys and values.
        scale: of the products; None: c ** -0.5.
        cudnn: leave the choice to PyTorch (:func:`asks_cudnn`); else cuDNN is left out.

    Returns:
        (B, heads, N, d).
    """
    if cudnn or not _is_half_on_cuda(q):
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    if torch.compiler.is_compiling():  # the choice is made once, by the compiler
        with sdpa_kernel(_OTHERS):
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
    with _FLAGS:
        allowed = _allowed()
        if not allowed:  # the caller allows cuDNN alone
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        with sdpa_kernel(allowed):
            return F.scaled_dot_product_attention(q, k, v, scale=scale)


def asks_cudnn(q: Tensor, k: Tensor, v: Tensor, *, columns: int, steady: bool) -> bool:
    """Whether cuDNN is to be asked first for heads of so many columns.

    Args:
        q: queries; k and v are keys and values, before they are widened.
        columns: of the widened queries and keys.
        steady: the same shapes come again in the next steps.
    """
    if not _is_half_on_cuda(q) or not steady or columns > CUDNN_COLUMNS or not wants_gradient(q, k, v):
        return False
    return _is_first(q.device.index)


def takes_one_width(q: Tensor, *, columns: int, cudnn: bool) -> bool:
    """Whether values are to be as wide as queries of so many columns, for the flash kernel: in half precision on a CUDA
    device that has it, unless cuDNN is asked."""
    return not cudnn and columns <= FLASH_COLUMNS and _is_half_on_cuda(q) and _has_flash(q.device.index)


def _is_half_on_cuda(q: Tensor) -> bool:
    return q.is_cuda and torch.version.hip is None and q.dtype in (torch.float16, torch.bfloat16)


@constant_in_graphs
def _is_first(index: int | None) -> bool:
    """Whether PyTorch asks cuDNN before its own kernels on a device, as it is set up now."""
    if not torch.backends.cuda.cudnn_sdp_enabled() or torch.are_deterministic_algorithms_enabled():
        return False  # cuDNN's backward pass repeats no bits, so PyTorch takes another then
    return _capability(index)[0] in (9, 10) and (torch.backends.cudnn.version() or 0) > CUDNN_VERSION


@constant_in_graphs
def _has_flash(index: int | None) -> bool:
    return _capability(index) >= (8, 0)


@functools.cache
def _capability(index: int | None) -> tuple[int, int]:
    """Compute capability of a device; without any device (fake tensors, plans) that of an A100."""
    return torch.cuda.get_device_capability(index) if torch.cuda.is_available() else (8, 0)


def _allowed() -> list[SDPBackend]:
    """The other kernels, as far as the caller has not switched them off."""
    cuda = torch.backends.cuda
    switches = (cuda.flash_sdp_enabled, cuda.mem_efficient_sdp_enabled, cuda.math_sdp_enabled)
    return [backend for backend, enabled in zip(_OTHERS, switches) if enabled()]
