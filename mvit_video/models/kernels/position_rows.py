"""Rows of the relative tables for every pair of query and key coordinates, and sums of their gradients.

Published code indexes a table for each axis. The gradient of an index is a sorted sum: a dozen kernels for each table
on a GPU, and atomic additions, in any order, where it is compiled. Here the axes share one index, and every row knows
its pairs, so that its gradient is a plain sum of them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mvit_video.models.kernels.gradient import is_fake, wants_gradient


def join_indices(indices: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
    """Indices (queries, keys) into several tables of so many rows -> int64 (pairs,) into the tables stacked."""
    starts = [sum(rows[:number]) for number in range(len(rows))]
    return torch.cat([index.flatten() + start for index, start in zip(indices, starts)])


def pairs_of_rows(index: Tensor, rows: int) -> Tensor:
    """For every row, the places in the index (pairs,) that name it, ascending: int64 (rows, most).

    Behind the last of a row the number of pairs, one more than there are places, fills up.
    """
    counts = index.new_zeros(rows).scatter_add_(0, index, torch.ones_like(index))
    order = torch.argsort(index, stable=True)
    place = torch.arange(len(index), device=index.device) - (counts.cumsum(0) - counts)[index[order]]
    most = 1 if is_fake() else int(counts.max())  # fake tensors have no values, and their size does not count
    pairs = torch.full((rows, most), len(index), device=index.device)
    pairs[index[order], place] = order
    return pairs


def _gather(tables: Sequence[Tensor], index: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return (torch.cat(list(tables)) / scale).to(dtype).index_select(0, index)


class PositionRows(torch.autograd.Function):
    """`_gather`, whose gradient is a sum over the pairs of each row."""

    @staticmethod
    def forward(ctx: Any, index: Tensor, pairs: Tensor, scale: float, dtype: torch.dtype, *tables: Tensor) -> Tensor:
        """(pairs, c) of tables (rows, c); see :func:`position_rows`."""
        ctx.save_for_backward(pairs)
        ctx.scale, ctx.rows, ctx.dtype = scale, [len(table) for table in tables], tables[0].dtype
        return _gather(tables, index, scale, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The sum of (pairs, c) over the pairs of each row, in the dtype of the tables."""
        (pairs,) = ctx.saved_tensors
        padded = grad.new_zeros(grad.shape[0] + 1, grad.shape[1], dtype=ctx.dtype)
        padded[:-1] = grad
        sums = padded.index_select(0, pairs.flatten()).view(*pairs.shape, -1).sum(1) / ctx.scale
        return None, None, None, None, *sums.split(ctx.rows)


def position_rows(
    tables: Sequence[Tensor], index: Tensor, pairs: Tensor | None, *, scale: float, dtype: torch.dtype
) -> Tensor:
    """The rows of the stacked tables that an index names, divided by `scale`, in a dtype.

    Args:
        tables: (rows, c) each.
        index: int64 (pairs,), of :func:`join_indices`.
        pairs: :func:`pairs_of_rows` of it; None: the gradient is that of the library, in the dtype of the tables.

    Returns:
        (pairs, c).
    """
    if pairs is not None and wants_gradient(*tables):
        rows: Tensor = PositionRows.apply(index, pairs, scale, dtype, *tables)
        return rows
    if wants_gradient(*tables):  # sums of gradients not in bf16
        return (torch.cat(list(tables))[index] / scale).to(dtype)
    return _gather(tables, index, scale, dtype)
