"""LayerNorm to half precision in one Triton kernel, and its gradient in another, for CUDA devices.

Under autocast products are in half precision, and the stream between the blocks is float32 up to the first block whose
skip connection passes a linear layer, and half precision behind it. PyTorch's LayerNorm under autocast reads and writes
float32, casts go before and behind it, and backward all of this is repeated: 54 bytes a value of a float32 stream, 66
of another, where reading the input and writing what the products read takes 22 and 14. These kernels do the latter;
sums are taken in float32. A half precision input is kept as it is for the backward pass, not as a float32 copy.

The gradient keeps nothing but the input, whose mean and deviation it takes again. Sums over tokens (the gradients of
gain and shift) are partial sums per program and one reduction, without atomics: the same bits in every run.

Triton comes with PyTorch's CUDA builds; without it this module imports, and :func:`supports` is False.
"""

from __future__ import annotations  # the kernels' annotations name `tl`, which may be missing

import torch
from torch import Tensor

from mvit_video.models.kernels.gradient import runs_now
from mvit_video.models.kernels.triton_pool import INTERPRETED, _can_run, _jit, tl, triton

DTYPES = (torch.float16, torch.bfloat16)
MAX_CHANNELS = 4096
"""Widest token: a program holds whole tokens in registers."""
TILE = 2048
"""Values (tokens x channels, as a power of two) of a tile."""
PROGRAMS = 1024
"""Programs of the gradient at most: each goes through many tiles and leaves one partial sum."""


@_jit
def _normalise(
    x: tl.tensor, rows: tl.tensor, channel: tl.tensor, mask: tl.tensor, eps: tl.tensor, C: tl.constexpr
) -> tl.tuple:
    """Tokens with mean 0 and variance 1 over the channels, and the factor (tokens,) that made it so."""
    values = tl.load(x + rows[:, None] * C + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(values, axis=1) / C
    centred = tl.where(mask, values - mean[:, None], 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / C + eps)
    return centred * factor[:, None], factor


@_jit
def _forward_kernel(
    x: tl.tensor, gain: tl.tensor, shift: tl.tensor, out: tl.tensor, count: tl.tensor, eps: tl.tensor,
    C: tl.constexpr, N: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    """Program (tile of N tokens)."""
    rows = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    channel = tl.arange(0, BLOCK_C)
    mask = (rows < count)[:, None] & (channel < C)[None, :]
    standard, _ = _normalise(x, rows, channel, mask, eps, C)
    scale = tl.load(gain + channel, mask=channel < C, other=0.0).to(tl.float32)
    offset = tl.load(shift + channel, mask=channel < C, other=0.0).to(tl.float32)
    normed = standard * scale[None, :] + offset[None, :]
    tl.store(out + rows[:, None] * C + channel[None, :], normed.to(out.dtype.element_ty), mask=mask)


@_jit
def _backward_kernel(
    grad: tl.tensor, x: tl.tensor, gain: tl.tensor, grad_x: tl.tensor, partial: tl.tensor, count: tl.tensor,
    eps: tl.tensor, C: tl.constexpr, N: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    """Program (every n-th tile): the gradient of its tokens; `partial` (programs, 2, C) takes gain's and shift's."""
    channel = tl.arange(0, BLOCK_C)
    scale = tl.load(gain + channel, mask=channel < C, other=0.0).to(tl.float32)
    gain_sum = tl.zeros((BLOCK_C,), tl.float32)
    shift_sum = tl.zeros((BLOCK_C,), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(count, N), tl.num_programs(0)):
        rows = (tile * N + tl.arange(0, N)).to(tl.int64)
        mask = (rows < count)[:, None] & (channel < C)[None, :]
        standard, factor = _normalise(x, rows, channel, mask, eps, C)
        place = rows[:, None] * C + channel[None, :]
        given = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
        scaled = given * scale[None, :]
        mean = tl.sum(scaled, axis=1) / C
        along = tl.sum(scaled * standard, axis=1) / C
        before = (scaled - mean[:, None] - standard * along[:, None]) * factor[:, None]
        tl.store(grad_x + place, before.to(grad_x.dtype.element_ty), mask=mask)
        gain_sum += tl.sum(given * standard, axis=0)
        shift_sum += tl.sum(given, axis=0)
    row = partial + tl.program_id(0) * 2 * C
    tl.store(row + channel, gain_sum, mask=channel < C)
    tl.store(row + C + channel, shift_sum, mask=channel < C)


def _tile(channels: int) -> tuple[int, int, int]:
    """Tokens and channels of a tile, both powers of two, and the warps of a program."""
    block = max(16, 1 << (channels - 1).bit_length())
    return max(1, TILE // block), block, 4 if block <= 2048 else 8


def _launch(x: Tensor, gain: Tensor, shift: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    x = x.contiguous()
    channels, out = x.shape[-1], torch.empty_like(x, dtype=dtype)
    count = x.numel() // channels
    tokens, block, warps = _tile(channels)
    with torch.cuda.device_of(x):
        _forward_kernel[(-(-count // tokens),)](
            x, gain, shift, out, count, eps, C=channels, N=tokens, BLOCK_C=block, num_warps=warps, enable_fp_fusion=True
        )
    return out


_layer_norm = torch.library.custom_op("mvit_video::layer_norm", _launch, mutates_args=())
"""The forward as one operator, opaque to the compiler."""


@_layer_norm.register_fake
def _(x: Tensor, gain: Tensor, shift: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)


def _launch_backward(grad: Tensor, x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of x (its dtype) and of [gain, shift] (float32, (2, C))."""
    grad, x = grad.contiguous(), x.contiguous()
    channels, grad_x = x.shape[-1], torch.empty_like(x)
    count = x.numel() // channels
    tokens, block, warps = _tile(channels)
    programs = min(-(-count // tokens), PROGRAMS)
    partial = x.new_empty(programs, 2, channels, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _backward_kernel[(programs,)](
            grad,
            x,
            gain,
            grad_x,
            partial,
            count,
            eps,
            C=channels,
            N=tokens,
            BLOCK_C=block,
            num_warps=warps,
            enable_fp_fusion=True,
        )
    return grad_x, partial.sum(0)


_layer_norm_backward = torch.library.custom_op("mvit_video::layer_norm_backward", _launch_backward, mutates_args=())


@_layer_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    of_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    return of_x, x.new_empty(2, x.shape[-1], dtype=torch.float32)


def supports(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernels take tokens x (..., C) to a dtype: to half precision, on CUDA devices from Ampere on.

    x is float32, or of the dtype itself.

    On the CPU they need Triton's interpreter.
    """
    on_device = triton is not None and x.device.type == ("cpu" if INTERPRETED else "cuda")
    fits = dtype in DTYPES and x.dtype in (torch.float32, dtype) and 0 < x.shape[-1] <= MAX_CHANNELS and x.numel() > 0
    return on_device and fits and (INTERPRETED or _can_run(x.device.index))


def layer_norm(x: Tensor, gain: Tensor, shift: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm of tokens (..., C) over their channels, in `dtype`; has no gradient of its own.

    Raises:
        ValueError: :func:`supports` is False.
    """
    _check(x, dtype)
    run = _launch if runs_now(x, gain) else torch.ops.mvit_video.layer_norm
    normed: Tensor = run(x, gain, shift, eps, dtype)
    return normed


def layer_norm_backward(grad: Tensor, x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gain and shift from the one of :func:`layer_norm`'s result.

    Raises:
        ValueError: :func:`supports` is False.
    """
    _check(x, grad.dtype)
    run = _launch_backward if runs_now(grad, x) else torch.ops.mvit_video.layer_norm_backward
    of_x, of_norm = run(grad, x, gain, eps)
    return of_x, of_norm[0].to(gain.dtype), of_norm[1].to(gain.dtype)


def _check(x: Tensor, dtype: torch.dtype) -> None:
    if not supports(x, dtype):
        raise ValueError(
            f"No Triton LayerNorm from {x.dtype} to {dtype} on {x.device.type}, {x.shape[-1]} channels; ask supports() "
            "first, and use torch.native_layer_norm where it is False."
        )
