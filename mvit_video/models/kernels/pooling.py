"""Pooling of tokens on their space-time grid, without leaving the token layout.

Tokens stay (B, T, H, W, channels) in memory; the permuted view is what libraries call channels-last, so neither the
depthwise convolution nor the maximum needs a transposed copy. All heads share one bank of kernels: heads are treated as
further channels and the bank is repeated.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvit_video.models.config import Initialisation, PoolingForm, Triple, conv_grid, half_kernel
from mvit_video.models.kernels.gradient import wants_gradient
from mvit_video.models.kernels.recompute import compute_dtype

TAP_STRIDE = 4
"""From this spatial stride on, weight gradients are summed tap by tap: few positions are touched."""


def _channels_first(maps: Tensor) -> Tensor:
    return maps.permute(0, 4, 1, 2, 3)


def _channels_last(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 4, 1)


def _depthwise(maps: Tensor, weight: Tensor, stride: Triple, padding: Triple) -> Tensor:
    """Depthwise convolution of (B, T, H, W, heads * c) with a bank (c, 1, kt, kh, kw) shared by the heads."""
    if torch.is_grad_enabled() and needs_float32(maps, maps.shape[1:4], weight.shape[2:], stride):
        with torch.autocast("cpu", enabled=False):  # it would cast the maps back
            return _convolved(maps.float(), weight, stride, padding).to(torch.bfloat16)
    return _convolved(maps, weight, stride, padding)


def _convolved(maps: Tensor, weight: Tensor, stride: Triple, padding: Triple) -> Tensor:
    channels = maps.shape[-1]
    bank = weight.to(maps.dtype).repeat(channels // weight.shape[0], 1, 1, 1, 1)
    return _channels_last(F.conv3d(_channels_first(maps), bank, None, stride, padding, 1, channels))


def _input_gradient(grad: Tensor, weight: Tensor, size: Triple, stride: Triple, padding: Triple) -> Tensor:
    """Gradient of the input (B, T, H, W, channels) of :func:`_depthwise`.

    Libraries have fast forward kernels for depthwise 3-D convolutions, and backward kernels tens of times slower; their
    2-D backward kernels are fast. Without strides a flipped forward convolution is the faster way round; with strides,
    where it multiplies mostly zeros, 2-D input gradients are (measured on an AVX2 core in float32: 1.2 to 2.4 times).
    In half precision the latter was not measured on a core with native products.
    """
    if max(stride) > 1 and grad.device.type == "cpu" and grad.dtype in (torch.float32, torch.float64):
        return _input_gradient_2d(grad, weight, size, stride, padding)
    return _input_gradient_flipped(grad, weight, size, stride, padding)


def _input_gradient_flipped(grad: Tensor, weight: Tensor, size: Triple, stride: Triple, padding: Triple) -> Tensor:
    """Gradient of the input, as a forward convolution of the zero-stuffed gradient with the flipped kernel."""
    kernel: Triple = (weight.shape[2], weight.shape[3], weight.shape[4])
    if stride != (1, 1, 1):
        t, h, w = (n + 2 * p - k + 1 for n, p, k in zip(size, padding, kernel))
        stuffed = grad.new_zeros(grad.shape[0], t, h, w, grad.shape[-1])
        written = stuffed[:, :: stride[0], :: stride[1], :: stride[2]]
        written[:, : grad.shape[1], : grad.shape[2], : grad.shape[3]] = grad
        grad = stuffed
    flipped_padding: Triple = (kernel[0] - 1 - padding[0], kernel[1] - 1 - padding[1], kernel[2] - 1 - padding[2])
    return _depthwise(grad, weight.flip(2, 3, 4), (1, 1, 1), flipped_padding)


def _input_gradient_2d(grad: Tensor, weight: Tensor, size: Triple, stride: Triple, padding: Triple) -> Tensor:
    """Gradient of the input, as the sum over temporal taps of one 2-D input gradient each."""
    batch, channels, taps = grad.shape[0], grad.shape[-1], weight.shape[2]
    bank = weight.to(grad.dtype).repeat(channels // weight.shape[0], 1, 1, 1, 1)
    total: Tensor | None = None
    for tap in sorted(range(taps), key=lambda tap: abs(tap - padding[0])):  # the tap that reaches all frames first
        read, written = _time_slices(tap, size[0], grad.shape[1], stride[0], padding[0])
        if written.stop <= written.start:
            continue
        grads = grad[:, written].flatten(0, 1).permute(0, 3, 1, 2)
        images = grad.new_empty(grads.shape[0], size[1], size[2], channels).permute(0, 3, 1, 2)  # only its shape counts
        gradient: Tensor = torch.ops.aten.convolution_backward(
            grads, images, bank[:, :, tap], None, stride[1:], padding[1:], (1, 1), False, (0, 0), channels,
            (True, False, False),
        )[0]  # fmt: skip
        maps = gradient.permute(0, 2, 3, 1).unflatten(0, (batch, -1))
        if total is None and maps.shape[1] == size[0]:
            total = maps
            continue
        total = grad.new_zeros(batch, *size, channels) if total is None else total
        total[:, read] += maps
    assert total is not None
    return total


def _time_slices(tap: int, frames: int, out_frames: int, stride: int, padding: int) -> tuple[slice, slice]:
    """Frames of the input that temporal tap `tap` reads, and the output frames they go to (padding left out)."""
    first = max(0, -(-(padding - tap) // stride))
    last = min(out_frames - 1, (frames - 1 + padding - tap) // stride)
    start = first * stride + tap - padding
    return slice(start, start + max(last - first, 0) * stride + 1, stride), slice(first, last + 1)


def _weight_gradient_2d(maps: Tensor, grad: Tensor, kernel: Triple, stride: Triple, padding: Triple) -> Tensor:
    """Per-channel weight gradient (channels, kt, kh, kw), as one 2-D weight gradient for each temporal tap."""
    channels = maps.shape[-1]
    bank = maps.new_zeros(channels, 1, kernel[1], kernel[2])
    taps = []
    for tap in range(kernel[0]):
        read, written = _time_slices(tap, maps.shape[1], grad.shape[1], stride[0], padding[0])
        if written.stop <= written.start:
            taps.append(bank)
            continue
        images = maps[:, read].flatten(0, 1).permute(0, 3, 1, 2)
        grads = grad[:, written].flatten(0, 1).permute(0, 3, 1, 2)
        gradient: Tensor = torch.ops.aten.convolution_backward(
            grads, images, bank, None, stride[1:], padding[1:], (1, 1), False, (0, 0), channels, (False, True, False)
        )[1]
        taps.append(gradient)
    return torch.stack(taps, dim=2)[:, 0]


def _weight_gradient_taps(maps: Tensor, grad: Tensor, kernel: Triple, stride: Triple, padding: Triple) -> Tensor:
    """Per-channel weight gradient (channels, kt, kh, kw), as one product and sum for each tap of the kernel."""
    _, t, h, w, channels = grad.shape
    (kt, kh, kw), (st, sh, sw), (pt, ph, pw) = kernel, stride, padding
    padded = F.pad(maps, (0, 0, pw, pw, ph, ph, pt, pt))
    dtype = torch.float64 if maps.dtype == torch.float64 else torch.float32
    taps = []
    for a in range(kt):
        for b in range(kh):
            for c in range(kw):
                on_t, on_h = slice(a, a + (t - 1) * st + 1, st), slice(b, b + (h - 1) * sh + 1, sh)
                on_w = slice(c, c + (w - 1) * sw + 1, sw)
                taps.append((padded[:, on_t, on_h, on_w] * grad).sum((0, 1, 2, 3), dtype=dtype))
    return torch.stack(taps, dim=1).view(channels, kt, kh, kw)


class FlippedBackwardPool(torch.autograd.Function):
    """Depthwise pooling convolution whose backward avoids the library's slow depthwise backward kernels."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, stride: Triple, padding: Triple) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.stride, ctx.padding = stride, padding
        return _depthwise(maps, weight, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        maps, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        kernel: Triple = (weight.shape[2], weight.shape[3], weight.shape[4])
        grad_maps = grad_weight = None
        if ctx.needs_input_grad[0]:
            size: Triple = (maps.shape[1], maps.shape[2], maps.shape[3])
            grad_maps = _input_gradient(grad, weight, size, stride, padding)
        if ctx.needs_input_grad[1]:
            few = max(stride) >= TAP_STRIDE or _is_small(maps.shape[2:4], kernel[1:], stride[1:])
            rule = _weight_gradient_taps if few else _weight_gradient_2d
            per_channel = rule(maps, grad, kernel, stride, padding)
            heads = per_channel.shape[0] // weight.shape[0]
            shared = per_channel.view(heads, weight.shape[0], *kernel).sum(0, dtype=weight.dtype)
            grad_weight = shared.view_as(weight)
        return grad_maps, grad_weight, None, None


def depthwise_pool(maps: Tensor, weight: Tensor, stride: Triple, *, form: PoolingForm = "auto") -> Tensor:
    """Pool (B, T, H, W, heads * c) by a depthwise convolution with padding k // 2.

    Args:
        maps: tokens on their grid; views into a larger tensor are fine.
        weight: (c, 1, kt, kh, kw), shared by the heads.
        stride: on (time, height, width).
        form: "library" differentiates with the library's own backward; "flipped" with flipped forward convolutions
            and 2-D weight gradients, for kernels of 1 or 3 on each axis (others fall back to "library"); "auto" is
            "flipped" on the CPU and "library" elsewhere. Values and gradients are the same. "triton" is a form of
            the convolution and the norm behind it together (MultiscaleAttention); here it is "auto".

    Returns:
        (B, T', H', W', heads * c) with sizes (n + 2p - k) // s + 1.
    """
    kernel: Triple = (weight.shape[2], weight.shape[3], weight.shape[4])
    small = all(k in (1, 3) for k in kernel)
    if (
        small
        and wants_gradient(maps, weight)
        and (form == "flipped" or (form in ("auto", "triton") and maps.device.type == "cpu"))
    ):
        pooled: Tensor = FlippedBackwardPool.apply(maps, weight, stride, half_kernel(kernel))
        return pooled
    return _depthwise(maps, weight, stride, half_kernel(kernel))


def needs_float32(x: Tensor, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether a convolution of x, whose maps have these sizes, would run in bf16 and must not.

    On CPUs with native bf16 the library leaves part of what it returns unwritten where the maps are small: of the
    weight gradient, and of a convolution with several input channels of the result, too (seen with PyTorch 2.15).
    """
    return x.device.type == "cpu" and compute_dtype(x) == torch.bfloat16 and _is_small(sizes, kernel, stride)


def _is_small(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether maps are so short on some axis that part of the kernel may see padding alone."""
    return any(k > 1 and size < max(k, s + 1) for size, k, s in zip(sizes, kernel, stride))


def read_count(size: int, kernel: int, stride: int) -> int:
    """Number of positions on an axis that some kernel (padding k // 2) reads; see :func:`read_positions`."""
    if stride <= kernel:
        return size
    padding = kernel // 2
    outputs = (size + 2 * padding - kernel) // stride + 1
    beyond = (outputs - 1) * stride - padding + kernel - size
    return outputs * kernel - padding - max(beyond, 0)


def read_positions(size: int, kernel: int, stride: int, device: torch.device | None = None) -> Tensor:
    """Positions on an axis that some kernel (padding k // 2) reads, int64; all unless the stride exceeds the kernel.

    A kernel of 3 at stride 8 reads 0, 1, then 7, 8, 9, then 15, ...: as many positions as a kernel of 3 at stride 3
    reads when the others are taken out, and the same ones fall on the padding.
    """
    if stride <= kernel:
        return torch.arange(size, device=device)
    padding, count = kernel // 2, read_count(size, kernel, stride)
    starts = torch.arange((size + 2 * padding - kernel) // stride + 1, device=device) * stride - padding
    return (starts[:, None] + torch.arange(kernel, device=device)).flatten()[padding : padding + count]


class DepthwisePool(nn.Module):
    """The learnt pooling of queries, keys or values: a bank of depthwise kernels, one per channel of a head, no bias.

    Image models store the bank without the time axis, (head_dim, 1, kh, kw), as the published image weights do.
    """

    def __init__(self, head_dim: int, kernel: Triple, stride: Triple, *, flat: bool, form: PoolingForm) -> None:
        super().__init__()
        shape = (head_dim, 1, *kernel[1:]) if flat else (head_dim, 1, *kernel)
        self.weight = nn.Parameter(torch.empty(shape))
        self.kernel, self.stride, self.form = kernel, stride, form

    def reset_parameters(self, style: Initialisation) -> None:
        """Normal (0.02) in PySlowFast's style, else as PyTorch makes convolutions."""
        if style == "pyslowfast":
            nn.init.trunc_normal_(self.weight, std=0.02)
        else:
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def out_grid(self, grid: Triple) -> Triple:
        return conv_grid(grid, self.kernel, self.stride, half_kernel(self.kernel))

    def bank(self) -> Tensor:
        """The kernels as (head_dim, 1, kt, kh, kw)."""
        return self.weight.unsqueeze(2) if self.weight.dim() == 4 else self.weight

    def skips_tokens(self) -> bool:
        """Whether strides are so wide that a good part of the tokens is read by no kernel."""
        return any(s > k for s, k in zip(self.stride, self.kernel))

    def read_tokens(self, grid: Triple, cls: int, device: torch.device | None = None) -> Tensor:
        """Indices of the class tokens and of all tokens on the grid that some kernel reads, int64, rising."""
        t, h, w = (read_positions(n, k, s, device) for n, k, s in zip(grid, self.kernel, self.stride, strict=True))
        positions = (t[:, None, None] * grid[1] + h[:, None]) * grid[2] + w
        return torch.cat([torch.arange(cls, device=device), positions.flatten() + cls])

    def condensed(self, grid: Triple) -> tuple[Triple, Triple]:
        """The grid of the tokens of :meth:`read_tokens`, and the stride that pools it as `stride` pools the whole."""
        t, h, w = (read_count(n, k, s) for n, k, s in zip(grid, self.kernel, self.stride))
        st, sh, sw = (min(k, s) for k, s in zip(self.kernel, self.stride))
        return (t, h, w), (st, sh, sw)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, T, H, W, heads * head_dim) -> (B, T', H', W', heads * head_dim)."""
        return depthwise_pool(maps, self.bank(), self.stride, form=self.form)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, kernel={self.kernel}, stride={self.stride}"


def on_grid(tokens: Tensor, grid: Triple, cls: int, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `pool` to the tokens on their grid; the `cls` leading tokens pass by.

    Args:
        tokens: (B, cls + T * H * W, C).
        pool: (B, T, H, W, C) -> (B, T', H', W', C).

    Returns:
        (B, cls + T' * H' * W', C).
    """
    batch, length, channels = tokens.shape
    if not cls:
        return pool(tokens.reshape(batch, *grid, channels)).reshape(batch, -1, channels)
    # split, not two slices: its backward is one concatenation instead of two zero-filled tensors and a sum.
    head, rest = tokens.split([cls, length - cls], dim=1)
    pooled = pool(rest.reshape(batch, *grid, channels)).reshape(batch, -1, channels)
    return torch.cat([head.to(pooled.dtype), pooled], dim=1)


def max_pool_skip(tokens: Tensor, grid: Triple, stride: Triple, *, cls: int) -> Tensor:
    """Max pooling of the skip connection: kernel stride + 1, padding k // 2, height and width only.

    The kernel is 1 on the time axis, so it is a 2-D pool over frames on the channels-last view of the tokens.
    """
    assert stride[0] == 1, "queries are never strided in time"
    kernel = (stride[1] + 1, stride[2] + 1)

    def pool(maps: Tensor) -> Tensor:
        frames = maps.flatten(0, 1).permute(0, 3, 1, 2)
        pooled = F.max_pool2d(frames, kernel, stride[1:], (kernel[0] // 2, kernel[1] // 2))
        return pooled.permute(0, 2, 3, 1).unflatten(0, (maps.shape[0], maps.shape[1]))

    return on_grid(tokens, grid, cls, pool)
