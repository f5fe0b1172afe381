"""Queries with their position terms appended, in one buffer; and how wide attention operands are made.

See :mod:`mvit_video.models.mvit.attention` for why these products make plain attention compute relative positions.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvit_video.models.config import Triple
from mvit_video.models.kernels.gradient import wants_gradient
from mvit_video.models.kernels.library_attention import takes_one_width


def columns_to_fill(width: int, terms: int, dtype: torch.dtype) -> int:
    """Columns of zeros behind queries and keys of `width` + `terms` columns, up to a multiple of 8.

    On the CPU that fills vectors, and CUDA's kernels in half precision want it (in float32 multiples of 4).
    """
    return 0 if dtype == torch.float64 else -(width + terms) % 8


def values_padding(q: Tensor, columns: int, *, cudnn: bool) -> int:
    """Columns of zeros behind values as wide as q (..., c), so that a fast attention kernel takes them.

    - CPU, other devices: the flash kernel takes one width for queries, keys and values.
    - CUDA in half precision: so does flash-attention 2; cuDNN's kernels take narrower values, which saves a quarter of
      the second product.
    - CUDA in float32: the memory-efficient kernels, the only ones there, take narrower values.

    Args:
        q: queries, before they are widened.
        columns: of the widened queries and keys.
        cudnn: see :func:`mvit_video.models.kernels.library_attention.asks_cudnn`.
    """
    width = q.shape[-1]
    if not q.is_cuda or takes_one_width(q, columns=columns, cudnn=cudnn):
        return columns - width
    return -width % 8


def _append_terms(
    q: Tensor, grid: Triple, cls: int, fill: int, axes: tuple[int, ...], tables: Sequence[Tensor]
) -> Tensor:
    """The values of :func:`queries_with_terms`, written into one buffer."""
    batch, length, heads, width = q.shape
    body = q[:, cls:].reshape(batch, *grid, heads, width)
    if torch.compiler.is_compiling():  # exporting is compiling, too
        return _joined_terms(q, body, cls, fill, axes, tables)
    total = width + sum(table.shape[1] for table in tables) + fill
    extended = q.new_empty(batch, heads, length, total)
    extended[..., :width] = q.transpose(1, 2)
    extended[:, :, :cls, width:] = 0
    if fill:
        extended[..., total - fill :] = 0
    start = width
    for axis, table in zip(axes, tables):
        terms = _products(body, table.transpose(1, 2), axis)
        stop = start + terms.shape[-1]
        extended[:, :, cls:, start:stop] = terms.flatten(1, 3).transpose(1, 2)
        start = stop
    return extended


def _joined_terms(
    q: Tensor, body: Tensor, cls: int, fill: int, axes: tuple[int, ...], tables: Sequence[Tensor]
) -> Tensor:
    """What :func:`_append_terms` writes, as one concatenation: a graph has no buffers that are written into.

    An exporter would turn each write into a scatter, which copies the whole of it and keeps its indices.
    """
    terms = torch.cat([_products(body, table.transpose(1, 2), axis) for axis, table in zip(axes, tables)], dim=-1)
    columns = F.pad(terms.flatten(1, 3).transpose(1, 2), (0, fill, cls, 0))
    return torch.cat([q.transpose(1, 2), columns], dim=-1)


class AppendTerms(torch.autograd.Function):
    """[q, q . R_t, q . R_h, q . R_w, zeros] for every query and key coordinate; keeps nothing but its result."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, grid: Triple, cls: int, fill: int, axes: tuple[int, ...], *tables: Tensor
    ) -> Tensor:
        """(B, heads, N, c + terms + fill) of q (B, N, heads, c); see :func:`queries_with_terms`."""
        extended = _append_terms(q, grid, cls, fill, axes, tables)
        ctx.save_for_backward(extended, *tables)
        ctx.grid, ctx.cls, ctx.axes = grid, cls, axes
        return extended

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q and of each axis's table (coordinates, K, c), as far as they are needed."""
        extended, *tables = ctx.saved_tensors
        cls, grid, needs = ctx.cls, ctx.grid, ctx.needs_input_grad
        batch, heads, _length, _total = extended.shape
        width = tables[0].shape[-1]
        by_token = grad.transpose(1, 2)
        grad_q = by_token[..., :width].clone(memory_format=torch.contiguous_format) if needs[0] else None
        body = (
            extended[:, :, cls:, :width].transpose(1, 2).reshape(batch, *grid, heads, width) if any(needs[5:]) else None
        )
        start, of_tables = width, []
        for index, (axis, table) in enumerate(zip(ctx.axes, tables)):
            stop = start + table.shape[1]
            terms = by_token[:, cls:, :, start:stop].reshape(batch, *grid, heads, -1)
            if grad_q is not None:
                grad_q[:, cls:] += _products(terms, table, axis).flatten(1, 3)
            needed = body is not None and needs[5 + index]
            of_tables.append(_table_gradient(terms, body, axis) if needed and body is not None else None)
            start = stop
        return grad_q, None, None, None, None, *of_tables


def _products(body: Tensor, matrices: Tensor, axis: int) -> Tensor:
    """(B, T, H, W, heads, a) times the matrix (a, b) of the coordinate on one axis -> (B, T, H, W, heads, b).

    Batched products on views: no axis is moved in memory but the width axis of the result.
    """
    batch, t, h, w, heads, _ = body.shape
    if axis == 0:
        repeated = matrices.expand(batch, *matrices.shape).flatten(0, 1)
        out = torch.bmm(body.reshape(batch * t, h * w * heads, -1), repeated)
    elif axis == 1:
        repeated = matrices.expand(batch * t, *matrices.shape).flatten(0, 1)
        out = torch.bmm(body.reshape(batch * t * h, w * heads, -1), repeated)
    else:
        repeated = matrices.unsqueeze(1).expand(-1, heads, -1, -1).flatten(0, 1)
        out = torch.bmm(body.reshape(batch * t * h, w * heads, -1).transpose(0, 1), repeated).transpose(0, 1)
    return out.reshape(batch, t, h, w, heads, -1)


def _table_gradient(terms: Tensor, body: Tensor, axis: int) -> Tensor:
    """Sum of terms^T body over all tokens of each coordinate on one axis: (coordinates, K, c)."""
    batch, t, h, w, heads, _ = body.shape
    if axis == 2:
        left = terms.reshape(batch * t * h, w * heads, -1).permute(1, 2, 0)
        right = body.reshape(batch * t * h, w * heads, -1).transpose(0, 1)
        return torch.bmm(left, right).unflatten(0, (w, heads)).sum(1)
    inner = h * w * heads if axis == 0 else w * heads
    left = terms.reshape(-1, inner, terms.shape[-1]).transpose(1, 2)
    products = torch.bmm(left, body.reshape(-1, inner, body.shape[-1]))
    return products.unflatten(0, (-1, t) if axis == 0 else (-1, h)).sum(0)


def queries_with_terms(
    q: Tensor, tables: list[Tensor], axes: tuple[int, ...], grid: Triple, *, cls: int, fill: int
) -> Tensor:
    """Queries with their products with the table rows of every key coordinate, and `fill` columns of zeros.

    Args:
        q: (B, cls + T*H*W, heads, c), pooled and normalised, unscaled.
        tables: per axis, (grid[axis], K, c): the row of the relative table for each query and key coordinate, of q's
            dtype.

    Returns:
        (B, heads, cls + T*H*W, c + sum of K over axes + fill); the terms of class tokens are zero.
    """
    if not wants_gradient(q, *tables):
        return _append_terms(q, grid, cls, fill, axes, tables)
    extended: Tensor = AppendTerms.apply(q, grid, cls, fill, axes, *tables)
    return extended
