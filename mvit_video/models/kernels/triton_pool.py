"""Pooling convolution and LayerNorm of the attention as one Triton kernel, forward and backward, for CUDA devices.

The plain form (:func:`mvit_video.models.kernels.pooling.depthwise_pool`, then LayerNorm) writes the pooled maps, a copy
with the class token and the normalised tokens to memory. This one reads the tokens where the qkv product left them and
writes the normalised tokens once. Every sum is taken in float32. A program holds a tile of positions with all channels
of one head and walks through the frames, each of which it adds to the three outputs that its temporal taps reach.

The backward keeps nothing but the inputs: it convolves again, which costs less than writing and reading the maps. Sums
over tokens (the gradients of the kernels and of the norm) are partial sums per program and one reduction, without
atomics: the same bits in every run.

Triton comes with PyTorch's CUDA builds; without it this module imports, and :func:`supports` is False.
"""

from __future__ import annotations  # the kernels' annotations name `tl`, which may be missing

import functools
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mvit_video.models.config import Triple, conv_grid, half_kernel
from mvit_video.models.kernels.gradient import constant_in_graphs, once, run, runs_now

try:
    import triton  # type: ignore[import-untyped]
    import triton.language as tl  # type: ignore[import-untyped]
except ImportError:
    triton = tl = None

INTERPRETED = triton is not None and bool(triton.knobs.runtime.interpret)
"""Whether TRITON_INTERPRET=1 was set on import: the kernels then run on the CPU, slowly, for tests."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_CHANNELS = 256
"""Widest head: wider ones would leave too few positions to a tile."""
PROGRAMS = 512
"""Programs wanted at least, to fill a large GPU: the frames are dealt out in more, shorter chunks until there are."""
TILE, WEIGHT_TILE = 4096, 1024
"""Values (positions x channels) of one sum of a program, which holds three to five, or one per tap for the gradient of
the kernels. Compiled for sm_90, in bfloat16 and with 96 channels, all stay in registers; not yet timed on a GPU."""


def _jit(function: Callable[..., Any]) -> Any:
    """triton.jit; where Triton is missing the function itself, which is then never called."""
    return function if triton is None else triton.jit(function)


# In the kernels: `grid` is (T, H, W) of the tokens, `plane` (H', W') of the pooled maps (time is never strided). KERNEL
# and STRIDE are triples. Tiles are (positions, channels); `channel` runs to a power of two, of which C are real.


@_jit
def _read_tap(
    frame: tl.tensor, y: tl.tensor, x: tl.tensor, inside: tl.tensor, channel: tl.tensor, plane: tl.tuple,
    token_stride: tl.tensor, DY: tl.constexpr, DX: tl.constexpr, STRIDE: tl.constexpr, C: tl.constexpr,
    SPREAD: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """What the tap at offset (DY, DX) of a plane brings to positions (y, x), in float32; zero outside the plane.

    The convolution gathers from (y * stride + DY, x * stride + DX). Its transpose (SPREAD) gathers from the one output,
    if any, that read (y, x) through this tap.
    """
    if SPREAD:
        from_y, from_x = (y - DY) // STRIDE[1], (x - DX) // STRIDE[2]
        read = (y >= DY) & (x >= DX) & (from_y * STRIDE[1] == y - DY) & (from_x * STRIDE[2] == x - DX)
    else:
        from_y, from_x = y * STRIDE[1] + DY, x * STRIDE[2] + DX
        read = (from_y >= 0) & (from_x >= 0)
    read = read & inside & (from_y < plane[0]) & (from_x < plane[1])
    offset = (from_y * plane[1] + from_x) * token_stride
    mask = read[:, None] & (channel < C)[None, :]
    return tl.load(frame + offset[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)


@_jit
def _add_frame(
    sums: tl.tuple, frame: tl.tensor, taps: tl.tensor, y: tl.tensor, x: tl.tensor, inside: tl.tensor,
    channel: tl.tensor, plane: tl.tuple, token_stride: tl.tensor, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    C: tl.constexpr, SPREAD: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """Add one frame's share to the sums of the output frames before it, at it and after it.

    A kernel without time taps (KERNEL[0] == 1) reaches one output frame, and uses the first sum for it.
    """
    earlier, same, later = sums
    known = channel < C
    # Entries of a tuple are plain numbers in Triton 3.6, and no bounds for its loops.
    height: tl.constexpr = KERNEL[1]
    width: tl.constexpr = KERNEL[2]
    area: tl.constexpr = KERNEL[1] * KERNEL[2]
    for kh in tl.static_range(height):
        for kw in tl.static_range(width):
            values = _read_tap(
                frame, y, x, inside, channel, plane, token_stride,
                kh - KERNEL[1] // 2, kw - KERNEL[2] // 2, STRIDE, C, SPREAD,
            )  # fmt: skip
            tap = taps + (kh * KERNEL[2] + kw) * C + channel
            first = tl.load(tap, mask=known, other=0.0).to(tl.float32)
            if KERNEL[0] == 1:
                earlier += values * first[None, :]
            else:
                middle = tl.load(tap + area * C, mask=known, other=0.0).to(tl.float32)
                last = tl.load(tap + 2 * area * C, mask=known, other=0.0).to(tl.float32)
                same += values * middle[None, :]
                if SPREAD:
                    earlier += values * first[None, :]
                    later += values * last[None, :]
                else:
                    earlier += values * last[None, :]
                    later += values * first[None, :]
    return earlier, same, later


@_jit
def _standardise(values: tl.tensor, channel: tl.tensor, eps: tl.tensor, C: tl.constexpr) -> tl.tuple:
    """A tile with mean 0 and variance 1 over the channels, and the factor (positions,) that made it so."""
    mean = tl.sum(values, axis=1) / C
    centred = tl.where((channel < C)[None, :], values - mean[:, None], 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / C + eps)
    return centred * factor[:, None], factor


@_jit
def _store_normed(
    values: tl.tensor, target: tl.tensor, valid: tl.tensor, channel: tl.tensor, gain: tl.tensor, shift: tl.tensor,
    eps: tl.tensor, C: tl.constexpr,
) -> None:  # fmt: skip
    """LayerNorm of a tile, written to the tokens that `target` (positions,) points to."""
    standard, _ = _standardise(values, channel, eps, C)
    normed = standard * gain[None, :] + shift[None, :]
    mask = valid[:, None] & (channel < C)[None, :]
    tl.store(target[:, None] + channel[None, :], normed.to(target.dtype.element_ty), mask=mask)


@_jit
def _norm_gradient(
    values: tl.tensor, after: tl.tensor, target: tl.tensor, valid: tl.tensor, channel: tl.tensor, gain: tl.tensor,
    eps: tl.tensor, C: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """From the gradient after the norm (pointers, as `target`) write the one before it.

    Returns the tile's summands of the gradients of the norm's gain and shift.
    """
    mask = valid[:, None] & (channel < C)[None, :]
    grad = tl.load(after[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    standard, factor = _standardise(values, channel, eps, C)
    scaled = grad * gain[None, :]
    mean = tl.sum(scaled, axis=1) / C
    along = tl.sum(scaled * standard, axis=1) / C
    before = (scaled - mean[:, None] - standard * along[:, None]) * factor[:, None]
    tl.store(target[:, None] + channel[None, :], before.to(target.dtype.element_ty), mask=mask)
    return grad * standard, grad


@_jit
def _read_leading(
    source: tl.tensor, channel: tl.tensor, token_stride: tl.tensor, CLS: tl.constexpr, C: tl.constexpr, N: tl.constexpr
) -> tl.tuple:  # fmt: skip
    """The class tokens as a tile in float32, the numbers of its rows, and which of them are tokens."""
    leading = tl.arange(0, N)
    mask = (leading < CLS)[:, None] & (channel < C)[None, :]
    values = tl.load(source + leading[:, None] * token_stride + channel[None, :], mask=mask, other=0.0)
    return values.to(tl.float32), leading, leading < CLS


@_jit
def _which(area: tl.tensor, heads: tl.tensor, N: tl.constexpr) -> tl.tuple:
    """Tile of N of the positions, clip and head of a program, the tiles first.

    All are on the first axis of a launch: CUDA starts no more than 65,535 programs on another, and a large batch of
    images has more heads.
    """
    tiles = tl.cdiv(area, N)
    pair = tl.program_id(0) // tiles
    return tl.program_id(0) % tiles, (pair // heads).to(tl.int64), pair % heads


@_jit
def _forward_kernel(
    tokens: tl.tensor, taps: tl.tensor, gain: tl.tensor, shift: tl.tensor, out: tl.tensor, batch_stride: tl.tensor,
    token_stride: tl.tensor, grid: tl.tuple, plane: tl.tuple, heads: tl.tensor, chunk: tl.tensor, eps: tl.tensor,
    CLS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, C: tl.constexpr, N: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    """Program (tile of pooled positions and batch x head, chunk of frames): convolve, normalise, write."""
    start = tl.program_id(1) * chunk
    tile, batch, head = _which(plane[0] * plane[1], heads, N)
    channel = tl.arange(0, BLOCK_C)
    place = tile * N + tl.arange(0, N)
    inside = place < plane[0] * plane[1]
    y, x = place // plane[1], place % plane[1]
    scale = tl.load(gain + channel, mask=channel < C, other=0.0).to(tl.float32)
    offset = tl.load(shift + channel, mask=channel < C, other=0.0).to(tl.float32)
    source = tokens + batch * batch_stride + head * C
    target = out + (batch * (CLS + grid[0] * plane[0] * plane[1]) * heads + head) * C
    if CLS > 0:  # noqa: SIM102 - decided when compiling
        if (tile == 0) & (start == 0):
            values, leading, valid = _read_leading(source, channel, token_stride, CLS, C, N)
            _store_normed(values, target + leading * heads * C, valid, channel, scale, offset, eps, C)
    zeros = tl.zeros((N, BLOCK_C), tl.float32)
    sums = (zeros, zeros, zeros)
    end = tl.minimum(start + chunk, grid[0])
    for frame in range(start - KERNEL[0] // 2, end + KERNEL[0] // 2):
        if (frame >= 0) & (frame < grid[0]):
            at = source + (CLS + frame * grid[1] * grid[2]) * token_stride
            sums = _add_frame(
                sums, at, taps, y, x, inside, channel, (grid[1], grid[2]), token_stride, KERNEL, STRIDE, C, False
            )
        done = frame - KERNEL[0] // 2
        if done >= start:
            row = target + (CLS + done * plane[0] * plane[1] + place) * heads * C
            _store_normed(sums[0], row, inside, channel, scale, offset, eps, C)
        sums = (sums[1], sums[2], zeros)


@_jit
def _norm_backward_kernel(
    tokens: tl.tensor, taps: tl.tensor, gain: tl.tensor, grad: tl.tensor, grad_pooled: tl.tensor,
    grad_tokens: tl.tensor, partial: tl.tensor, batch_stride: tl.tensor, token_stride: tl.tensor,
    grad_strides: tl.tuple, grid: tl.tuple, plane: tl.tuple, heads: tl.tensor, chunk: tl.tensor, eps: tl.tensor,
    CLS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, C: tl.constexpr, N: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    """Programs as in the forward: convolve again, write the gradient of the pooled maps.

    Class tokens have no maps: their gradient goes straight to `grad_tokens`. `partial` (programs, 2, C) takes each
    program's share of the gradients of the norm's gain and shift.
    """
    start = tl.program_id(1) * chunk
    area = plane[0] * plane[1]
    tile, batch, head = _which(area, heads, N)
    channel = tl.arange(0, BLOCK_C)
    place = tile * N + tl.arange(0, N)
    inside = place < area
    y, x = place // plane[1], place % plane[1]
    scale = tl.load(gain + channel, mask=channel < C, other=0.0).to(tl.float32)
    source = tokens + batch * batch_stride + head * C
    after = grad + batch * grad_strides[0] + head * grad_strides[2]
    target = grad_pooled + (batch * grid[0] * area * heads + head) * C
    zeros = tl.zeros((N, BLOCK_C), tl.float32)
    gain_sum, shift_sum = zeros, zeros
    if CLS > 0:  # noqa: SIM102 - decided when compiling
        if (tile == 0) & (start == 0):
            values, leading, valid = _read_leading(source, channel, token_stride, CLS, C, N)
            row = grad_tokens + (batch * (CLS + grid[0] * grid[1] * grid[2]) * heads + head) * C + leading * heads * C
            gain_sum, shift_sum = _norm_gradient(
                values, after + leading * grad_strides[1], row, valid, channel, scale, eps, C
            )
    sums = (zeros, zeros, zeros)
    end = tl.minimum(start + chunk, grid[0])
    for frame in range(start - KERNEL[0] // 2, end + KERNEL[0] // 2):
        if (frame >= 0) & (frame < grid[0]):
            at = source + (CLS + frame * grid[1] * grid[2]) * token_stride
            sums = _add_frame(
                sums, at, taps, y, x, inside, channel, (grid[1], grid[2]), token_stride, KERNEL, STRIDE, C, False
            )
        done = frame - KERNEL[0] // 2
        if done >= start:
            token = done * area + place
            of_gain, of_shift = _norm_gradient(
                sums[0], after + (CLS + token) * grad_strides[1], target + token * heads * C,
                inside, channel, scale, eps, C,
            )  # fmt: skip
            gain_sum += of_gain
            shift_sum += of_shift
        sums = (sums[1], sums[2], zeros)
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(partial + program * 2 * C + channel, tl.sum(gain_sum, axis=0), mask=channel < C)
    tl.store(partial + (program * 2 + 1) * C + channel, tl.sum(shift_sum, axis=0), mask=channel < C)


@_jit
def _input_gradient_kernel(
    grad_pooled: tl.tensor, taps: tl.tensor, grad_tokens: tl.tensor, grid: tl.tuple, plane: tl.tuple,
    heads: tl.tensor, chunk: tl.tensor, CLS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    C: tl.constexpr, N: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    """Program (tile of token positions and batch x head, chunk of frames): the transposed convolution, as a gather."""
    start = tl.program_id(1) * chunk
    tile, batch, head = _which(grid[1] * grid[2], heads, N)
    channel = tl.arange(0, BLOCK_C)
    place = tile * N + tl.arange(0, N)
    inside = place < grid[1] * grid[2]
    y, x = place // grid[2], place % grid[2]
    mask = inside[:, None] & (channel < C)[None, :]
    area = plane[0] * plane[1]
    source = grad_pooled + (batch * grid[0] * area * heads + head) * C
    target = grad_tokens + (batch * (CLS + grid[0] * grid[1] * grid[2]) * heads + head) * C
    zeros = tl.zeros((N, BLOCK_C), tl.float32)
    sums = (zeros, zeros, zeros)
    end = tl.minimum(start + chunk, grid[0])
    for frame in range(start - KERNEL[0] // 2, end + KERNEL[0] // 2):
        if (frame >= 0) & (frame < grid[0]):
            at = source + frame * area * heads * C
            sums = _add_frame(sums, at, taps, y, x, inside, channel, plane, heads * C, KERNEL, STRIDE, C, True)
        done = frame - KERNEL[0] // 2
        if done >= start:
            row = target + (CLS + done * grid[1] * grid[2] + place) * heads * C
            tl.store(row[:, None] + channel[None, :], sums[0].to(grad_tokens.dtype.element_ty), mask=mask)
        sums = (sums[1], sums[2], zeros)


@_jit
def _weight_gradient_kernel(
    tokens: tl.tensor, grad_pooled: tl.tensor, partial: tl.tensor, batch_stride: tl.tensor, token_stride: tl.tensor,
    grid: tl.tuple, plane: tl.tuple, heads: tl.tensor, CLS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    C: tl.constexpr, N: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    """Program (batch x head, every n-th tile of pooled positions): its share of the kernels' gradient.

    A frame of tokens is read once for each spatial tap and meets the gradients of the pooled frames around it, which
    stay in registers, as do the sums of all taps. `partial` is (programs, taps, C).
    """
    batch, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    channel = tl.arange(0, BLOCK_C)
    area = plane[0] * plane[1]
    source = tokens + batch * batch_stride + head * C
    grads = grad_pooled + (batch * grid[0] * area * heads + head) * C
    zeros = tl.zeros((N, BLOCK_C), tl.float32)
    depth: tl.constexpr = KERNEL[0]
    height: tl.constexpr = KERNEL[1]
    width: tl.constexpr = KERNEL[2]
    taps: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
    sums: tl.tuple = ()  # ordered (kh, kw, kt): what one read serves lies together
    for _ in tl.static_range(taps):
        sums = sums + (zeros,)
    for tile in range(tl.program_id(1), tl.cdiv(area, N), tl.num_programs(1)):
        place = tile * N + tl.arange(0, N)
        inside = place < area
        y, x = place // plane[1], place % plane[1]
        mask = inside[:, None] & (channel < C)[None, :]
        here = grads + place[:, None] * heads * C + channel[None, :]
        around = (zeros, zeros, tl.load(here, mask=mask, other=0.0).to(tl.float32))
        for frame in range(grid[0]):
            following = zeros
            if frame + 1 < grid[0]:
                following = tl.load(here + (frame + 1) * area * heads * C, mask=mask, other=0.0).to(tl.float32)
            around = (around[1], around[2], following)
            at = source + (CLS + frame * grid[1] * grid[2]) * token_stride
            grown: tl.tuple = ()
            for kh in tl.static_range(height):
                for kw in tl.static_range(width):
                    values = _read_tap(
                        at, y, x, inside, channel, (grid[1], grid[2]), token_stride,
                        kh - KERNEL[1] // 2, kw - KERNEL[2] // 2, STRIDE, C, False,
                    )  # fmt: skip
                    for kt in tl.static_range(depth):
                        old = sums[(kh * KERNEL[2] + kw) * KERNEL[0] + kt]
                        grown = grown + (old + values * around[1 + KERNEL[0] // 2 - kt],)
            sums = grown
    program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    for tap in tl.static_range(taps):
        row = (tap % KERNEL[0]) * KERNEL[1] * KERNEL[2] + tap // KERNEL[0]
        at = partial + (program * KERNEL[0] * KERNEL[1] * KERNEL[2] + row) * C
        tl.store(at + channel, tl.sum(sums[tap], axis=0), mask=channel < C)


def _tile(values: int, channels: int) -> tuple[int, int]:
    """Positions and channels, both powers of two, of a tile of about `values` values."""
    block = max(16, 1 << (channels - 1).bit_length())
    return values // block, block


def _warps(block: int) -> int:
    """Warps of a program: more threads than channels, else Triton passes the taps through shared memory."""
    return 8 if block <= 128 else 16


def _programs(positions: int, tile: int, frames: int, batch_heads: int) -> tuple[tuple[int, int], int]:
    """Launch grid (tiles x batch x heads, chunks) and the frames of a chunk."""
    tiles = -(-positions // tile)
    chunks = min(frames, -(-PROGRAMS // (tiles * batch_heads)))
    chunk = -(-frames // chunks)
    return (tiles * batch_heads, -(-frames // chunk)), chunk


def _out_grid(grid: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> Triple:
    k: Triple = (kernel[0], kernel[1], kernel[2])
    return conv_grid((grid[0], grid[1], grid[2]), k, (stride[0], stride[1], stride[2]), half_kernel(k))


def _rows(tensor: Tensor) -> Tensor:
    """The tensor with its channels side by side in memory, as the kernels read them; tokens may lie anywhere."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _launch(
    tokens: Tensor, taps: Tensor, gain: Tensor, shift: Tensor, grid: Sequence[int], kernel: Sequence[int],
    stride: Sequence[int], cls: int, heads: int, eps: float,
) -> Tensor:  # fmt: skip
    """The forward; `taps` is (kt * kh * kw, c)."""
    tokens = _rows(tokens)
    channels = taps.shape[1]
    t, h, w = _out_grid(grid, kernel, stride)
    out = tokens.new_empty(tokens.shape[0], cls + t * h * w, heads, channels)
    tile, block = _tile(TILE, channels)
    launch, chunk = _programs(h * w, tile, t, tokens.shape[0] * heads)
    with torch.cuda.device_of(tokens):
        _forward_kernel[launch](
            tokens, taps, gain, shift, out, tokens.stride(0), tokens.stride(1), tuple(grid), (h, w), heads, chunk, eps,
            CLS=cls, KERNEL=tuple(kernel), STRIDE=tuple(stride), C=channels, N=tile, BLOCK_C=block,
            num_warps=_warps(block), enable_fp_fusion=True,
        )  # fmt: skip
    return out


_pool_norm = torch.library.custom_op("mvit_video::pool_norm", _launch, mutates_args=())
"""The forward as one operator, opaque to the compiler."""


@_pool_norm.register_fake
def _(
    tokens: Tensor, taps: Tensor, gain: Tensor, shift: Tensor, grid: Sequence[int], kernel: Sequence[int],
    stride: Sequence[int], cls: int, heads: int, eps: float,
) -> Tensor:  # fmt: skip
    t, h, w = _out_grid(grid, kernel, stride)
    return tokens.new_empty(tokens.shape[0], cls + t * h * w, heads, taps.shape[1])


def _launch_backward(
    grad: Tensor, tokens: Tensor, taps: Tensor, gain: Tensor, grid: Sequence[int], kernel: Sequence[int],
    stride: Sequence[int], cls: int, heads: int, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of tokens (their dtype), taps and [gain, shift] (float32) from the one of the normalised tokens."""
    grad, tokens = _rows(grad), _rows(tokens)
    batch, channels = tokens.shape[0], taps.shape[1]
    t, h, w = _out_grid(grid, kernel, stride)
    grad_pooled = tokens.new_empty(batch, t * h * w, heads, channels)
    grad_tokens = tokens.new_empty(tokens.shape)
    strides, sizes = (tokens.stride(0), tokens.stride(1)), (tuple(grid), (h, w), heads)
    tile, block = _tile(TILE, channels)
    shared = {"CLS": cls, "KERNEL": tuple(kernel), "STRIDE": tuple(stride), "C": channels, "BLOCK_C": block}
    shared |= {"num_warps": _warps(block), "enable_fp_fusion": True}
    with torch.cuda.device_of(tokens):
        launch, chunk = _programs(h * w, tile, t, batch * heads)
        of_norm = taps.new_empty(launch[0] * launch[1], 2, channels, dtype=torch.float32)
        _norm_backward_kernel[launch](
            tokens, taps, gain, grad, grad_pooled, grad_tokens, of_norm, *strides, grad.stride()[:3], *sizes, chunk,
            eps, N=tile, **shared,
        )  # fmt: skip
        launch, chunk = _programs(grid[1] * grid[2], tile, t, batch * heads)
        _input_gradient_kernel[launch](grad_pooled, taps, grad_tokens, *sizes, chunk, N=tile, **shared)
        tile, _ = _tile(WEIGHT_TILE, channels)
        tiles = min(-(-h * w // tile), -(-2 * PROGRAMS // (batch * heads)))
        of_taps = taps.new_empty(tiles * batch * heads, taps.shape[0], channels, dtype=torch.float32)
        _weight_gradient_kernel[batch * heads, tiles](tokens, grad_pooled, of_taps, *strides, *sizes, N=tile, **shared)
    return grad_tokens, _sum_of_taps(of_taps), of_norm.sum(0)


def _sum_of_taps(partial: Tensor) -> Tensor:
    """The sum over the programs of (programs, taps, c), laid out as the weight (c, taps) is, which saves a copy."""
    total = partial.new_empty(partial.shape[2], partial.shape[1]).t()
    return torch.sum(partial, 0, out=total)


_pool_norm_backward = torch.library.custom_op("mvit_video::pool_norm_backward", _launch_backward, mutates_args=())


@_pool_norm_backward.register_fake
def _(
    grad: Tensor, tokens: Tensor, taps: Tensor, gain: Tensor, grid: Sequence[int], kernel: Sequence[int],
    stride: Sequence[int], cls: int, heads: int, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    of_taps = taps.new_empty(taps.shape[::-1], dtype=torch.float32).t()
    return tokens.new_empty(tokens.shape), of_taps, taps.new_empty(2, taps.shape[1], dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tokens, taps, gain, shift, *ctx.geometry = inputs
    ctx.save_for_backward(tokens, taps, gain)
    ctx.shift_dtype = shift.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tokens, taps, gain = ctx.saved_tensors
    backward = _launch_backward if runs_now(grad, tokens) else torch.ops.mvit_video.pool_norm_backward
    grad_tokens, of_taps, of_norm = backward(grad, tokens, taps, gain, *ctx.geometry)
    of_gain, of_shift = of_norm[0].to(gain.dtype), of_norm[1].to(ctx.shift_dtype)
    return grad_tokens, of_taps.to(taps.dtype), of_gain, of_shift, *([None] * len(ctx.geometry))


_pool_norm.register_autograd(_backward, setup_context=_setup_context)


class PoolNorm(torch.autograd.Function):
    """The operator and its gradient, called directly; see :func:`runs_now`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        normed = _launch(*inputs)
        _setup_context(ctx, inputs, normed)
        return normed

    backward = staticmethod(once(_backward))


@constant_in_graphs
def _can_run(index: int | None) -> bool:
    """Whether a CUDA device is an Ampere or later, and the C compiler is there that Triton builds its launchers with.

    Without any device there is nothing to ask, and nothing will run (fake tensors): True.
    """
    return not torch.cuda.is_available() or _is_able(index)


@functools.cache
def _is_able(index: int | None) -> bool:
    """:func:`_can_run` where there are devices. Asked once: looking for the compiler takes 0.1 ms, and a step asks it
    some hundred times."""
    compiler = os.environ.get("CC") or shutil.which("clang") or shutil.which("gcc")
    return compiler is not None and torch.cuda.get_device_capability(index) >= (8, 0)


def supports(tokens: Tensor, weight: Tensor, stride: Triple) -> bool:
    """Whether :func:`pool_norm` takes these tokens (B, L, heads * c) and this bank (c, 1, kt, kh, kw).

    It takes float32, float16 and bfloat16 on CUDA devices from Ampere on (where a C compiler is installed), kernels of
    1 or 3 on each axis, no stride in time, and heads of at most MAX_CHANNELS channels. On the CPU it needs Triton's
    interpreter.
    """
    on_device = triton is not None and tokens.device.type == ("cpu" if INTERPRETED else "cuda")
    small = weight.dim() == 5 and weight.shape[0] <= MAX_CHANNELS and all(k in (1, 3) for k in weight.shape[2:])
    known = on_device and small and stride[0] == 1 and tokens.dtype in DTYPES
    return known and (INTERPRETED or _can_run(tokens.device.index))


def pool_norm(
    tokens: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, grid: Triple, stride: Triple, *,
    cls: int, heads: int, eps: float,
) -> Tensor:  # fmt: skip
    """Depthwise pooling (padding k // 2) and LayerNorm over each head, of tokens on their grid; differentiable, once.

    Args:
        tokens: (B, cls + T * H * W, heads * c); a third of the qkv product is read in place.
        weight: (c, 1, kt, kh, kw), shared by the heads.
        norm_weight, norm_bias: (c,) of the LayerNorm.
        grid: (T, H, W).
        stride: on (time, height, width).
        cls: leading tokens that are normalised but not pooled.
        eps: of the LayerNorm.

    Returns:
        (B, cls + T' * H' * W', heads, c) in the dtype of the tokens, contiguous.

    Raises:
        ValueError: :func:`supports` is False.
    """
    if not supports(tokens, weight, stride):
        raise ValueError(
            f"No Triton pooling for {tokens.dtype} on {tokens.device.type}, weight {tuple(weight.shape)} and stride "
            f"{stride}; ask supports() first, and use depthwise_pool and LayerNorm where it is False."
        )
    taps = weight.flatten(1).t().contiguous()
    kernel: Triple = (weight.shape[2], weight.shape[3], weight.shape[4])
    inputs = tokens, taps, norm_weight, norm_bias, grid, kernel, stride, cls, heads, eps
    normed: Tensor = run(inputs, operator=torch.ops.mvit_video.pool_norm, function=PoolNorm, launch=_launch)
    return normed
