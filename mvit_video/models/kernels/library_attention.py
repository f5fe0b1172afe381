"""PyTorch's fused attention, kept from cuDNN's kernels where these would stall or might fail.

On GPUs of compute capability 9 and 10 PyTorch 2.11 and later asks cuDNN first (`check_prefer_cudnn_attention` in
aten/src/ATen/native/transformers/cuda/sdp_utils.cpp). Its kernels are the fastest there, at two prices:

- A plan is built for every new shape of the operands: reports name 0.4 s forward and 0.6 s backward on a B200. A model
  has some ten shapes for each size of its batch and of its images.
- Past 128 columns only some pairs of widths have a backward pass, and a pair without one fails when it runs.
  PyTorch's own rules for that changed from release to release.

So cuDNN is asked where one shape is computed again and again: in training, on inputs of the nominal size, within 128
columns. Elsewhere PyTorch chooses among its own kernels. Chosen from sources and reports, not measured.
"""

import threading

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mvit_video.models.kernels.gradient import wants_gradient

CUDNN_COLUMNS = 128
"""Up to this width of a head cuDNN has forward and backward kernels for all pairs of widths."""
_OTHERS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_FLAGS = threading.Lock()
"""Which kernels may run is a flag of the whole process, set and reset around a call."""


def library_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, steady: bool = True) -> Tensor:
    """`scaled_dot_product_attention` of q (B, heads, N, c), k (B, heads, M, c) and v (B, heads, M, d).

    Args:
        q: queries; k and v are keys and values.
        scale: of the products; None: c ** -0.5.
        steady: the same shapes come again in the next steps.

    Returns:
        (B, heads, N, d).
    """
    if asks_cudnn(q, k, v, steady=steady):
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


def asks_cudnn(q: Tensor, k: Tensor, v: Tensor, *, steady: bool) -> bool:
    """Whether PyTorch may ask cuDNN first, or would not ask it anyway: on other devices, and in float32."""
    if not q.is_cuda or torch.version.hip is not None or q.dtype not in (torch.float16, torch.bfloat16):
        return True
    return steady and max(q.shape[-1], v.shape[-1]) <= CUDNN_COLUMNS and wants_gradient(q, k, v)


def _allowed() -> list[SDPBackend]:
    """The other kernels, as far as the caller has not switched them off."""
    cuda = torch.backends.cuda
    switches = (cuda.flash_sdp_enabled, cuda.mem_efficient_sdp_enabled, cuda.math_sdp_enabled)
    return [backend for backend, enabled in zip(_OTHERS, switches) if enabled()]
