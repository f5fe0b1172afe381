"""Products of queries with the relative tables of their coordinates, and the gradients, as Triton kernels.

A query at (t, h, w) is multiplied with the rows that belong to t, to h and to w: one matrix for each position, that all
clips and heads share. A program has one position of several clips and heads, so that one product of tiles gives the
terms of all axes, and queries are read once. The sum of the tables' gradients over positions is dealt out to programs
for each coordinate; partial sums are added in one reduction, without atomics: the same bits in every run.
"""

from __future__ import annotations  # the kernels' annotations name `tl`, which may be missing

from collections.abc import Sequence

import torch
from torch import Tensor

from mvit_video.models.kernels.triton_pool import INTERPRETED, _jit, tl, triton

ROWS, GRADIENT_ROWS = 64, 64
"""Clips x heads of a tile at most, and rows of a tile of the tables' gradient."""
PROGRAMS = 528
"""Programs wanted at least for the tables' gradient: four for each multiprocessor of an H100."""
Keys = tuple[int, int, int, int]
"""(T, H, W) of the keys, and their number of time columns: T, or 0 without positions on the time axis."""

WIDEN = None if triton is None else tl.constexpr(INTERPRETED)
"""In the interpreter factors of products are float32 first, which changes nothing but that it knows no bfloat16."""


@_jit
def _dot(a: tl.tensor, b: tl.tensor, sums: tl.tensor) -> tl.tensor:
    """sums + a b, summed in float32."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision="ieee")


@_jit
def _inner(a: tl.tuple, b: tl.tuple, sums: tl.tensor, C2: tl.constexpr) -> tl.tensor:
    """sums + the products of the rows of two tiles over all channels."""
    sums = _dot(a[0], tl.trans(b[0]), sums)
    if C2 > 0:
        sums = _dot(a[1], tl.trans(b[1]), sums)
    return sums


@_jit
def _read(at: tl.tensor, valid: tl.tensor, C: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr) -> tl.tuple:
    """Rows of C channels that begin `at` (rows,), as a tile of C1 and one of C2 channels (the first again, if 0)."""
    first = tl.arange(0, C1)
    low = tl.load(at[:, None] + first[None, :], mask=valid[:, None] & (first < C)[None, :], other=0.0)
    high = low
    if C2 > 0:
        second = C1 + tl.arange(0, C2)
        high = tl.load(at[:, None] + second[None, :], mask=valid[:, None] & (second < C)[None, :], other=0.0)
    return low, high


@_jit
def _write(
    at: tl.tensor, valid: tl.tensor, values: tl.tuple, C: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr
) -> None:
    """The counterpart of _read."""
    first = tl.arange(0, C1)
    mask = valid[:, None] & (first < C)[None, :]
    tl.store(at[:, None] + first[None, :], values[0].to(at.dtype.element_ty), mask=mask)
    if C2 > 0:
        second = C1 + tl.arange(0, C2)
        mask = valid[:, None] & (second < C)[None, :]
        tl.store(at[:, None] + second[None, :], values[1].to(at.dtype.element_ty), mask=mask)


@_jit
def _weighted(weights: tl.tensor, rows: tl.tuple, sums: tl.tuple, C2: tl.constexpr) -> tl.tuple:
    """sums + weights x rows, for both tiles of channels."""
    low = _dot(weights, rows[0], sums[0])
    high = sums[1]
    if C2 > 0:
        high = _dot(weights, rows[1], sums[1])
    return low, high


@_jit
def _rows_of_position(
    tables: tl.tensor, place: tl.tensor, column: tl.tensor, grid: tl.tuple, keys: tl.tuple, C: tl.constexpr,
    C1: tl.constexpr, C2: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """The row of the tables for each column of the terms of a position; zeros for a class token (place < 0)."""
    h, w = place // grid[2] % grid[1], place % grid[2]
    t = place // (grid[1] * grid[2])
    over_time, over_height = keys[3], keys[3] + keys[1]
    behind_time = grid[0] * keys[3]
    behind_height = behind_time + grid[1] * keys[1]
    row = tl.where(
        column < over_time,
        t * keys[3] + column,
        tl.where(
            column < over_height,
            behind_time + h * keys[1] + column - over_time,
            behind_height + w * keys[2] + column - over_height,
        ),
    )
    known = tl.where(place >= 0, over_height + keys[2], 0)
    return _read(tables + row * C, column < known, C, C1, C2)


@_jit
def _terms_kernel(
    q: tl.tensor, tables: tl.tensor, terms: tl.tensor, q_strides: tl.tuple, queries: tl.tensor, heads: tl.tensor,
    pairs: tl.tensor, grid: tl.tuple, keys: tl.tuple, CLS: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr,
    C: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, R: tl.constexpr,
) -> None:  # fmt: skip
    """Program (token, tile of R of the batch x heads), the tokens first: all terms of these queries."""
    token = tl.program_id(0) % queries
    pair = tl.program_id(0) // queries * R + tl.arange(0, R)
    valid = pair < pairs
    batch, head = (pair // heads).to(tl.int64), pair % heads
    column = tl.arange(0, BLOCK_K)
    rows = _rows_of_position(tables, token - CLS, column, grid, keys, C, C1, C2)
    query = _read(q + batch * q_strides[0] + token * q_strides[1] + head * C, valid, C, C1, C2)
    products = _inner(query, rows, tl.zeros((R, BLOCK_K), tl.float32), C2)
    at = terms + ((batch * queries + token) * heads + head) * K
    mask = valid[:, None] & (column < K)[None, :]
    tl.store(at[:, None] + column[None, :], products.to(terms.dtype.element_ty), mask=mask)


@_jit
def _query_gradient_kernel(
    grad_terms: tl.tensor, tables: tl.tensor, grad_q: tl.tensor, queries: tl.tensor, heads: tl.tensor,
    pairs: tl.tensor, grid: tl.tuple, keys: tl.tuple, CLS: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr,
    C: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, R: tl.constexpr,
) -> None:  # fmt: skip
    """Program (token, tile of R of the batch x heads): add what comes through the terms to the queries' gradient."""
    token = tl.program_id(0) % (queries - CLS) + CLS
    pair = tl.program_id(0) // (queries - CLS) * R + tl.arange(0, R)
    valid = pair < pairs
    column = tl.arange(0, BLOCK_K)
    rows = _rows_of_position(tables, token - CLS, column, grid, keys, C, C1, C2)
    number = ((pair // heads).to(tl.int64) * queries + token) * heads + pair % heads
    mask = valid[:, None] & (column < K)[None, :]
    given = tl.load(grad_terms + (number * K)[:, None] + column[None, :], mask=mask, other=0.0)
    before = _read(grad_q + number * C, valid, C, C1, C2)
    sums = (before[0].to(tl.float32), before[1].to(tl.float32))
    _write(grad_q + number * C, valid, _weighted(given, rows, sums, C2), C, C1, C2)


@_jit
def _table_gradient_kernel(
    grad_terms: tl.tensor, q: tl.tensor, partial: tl.tensor, q_strides: tl.tuple, queries: tl.tensor, heads: tl.tensor,
    count: tl.tensor, others: tl.tensor, inner: tl.tensor, size: tl.tensor, span: tl.tensor, first: tl.tensor,
    columns: tl.tensor, CLS: tl.constexpr, K: tl.constexpr, BLOCK_A: tl.constexpr, C: tl.constexpr, C1: tl.constexpr,
    C2: tl.constexpr, R: tl.constexpr,
) -> None:  # fmt: skip
    """Program (coordinate on one axis, `span` of the `count` queries at it): their share of the table's gradient.

    The axis has `size` coordinates, lies `inner` positions apart, and its terms begin at column `first`. A coordinate
    has `others` positions. `partial` is (spans, size, columns, C).
    """
    at, part = tl.program_id(0) % size, tl.program_id(0) // size
    column = tl.arange(0, BLOCK_A)
    sums = (tl.zeros((BLOCK_A, C1), tl.float32), tl.zeros((BLOCK_A, C2 if C2 > 0 else C1), tl.float32))
    for start in range(part * span, tl.minimum(part * span + span, count), R):
        index = start + tl.arange(0, R)
        valid = index < count
        pair, other = index // others, index % others
        batch, head = (pair // heads).to(tl.int64), pair % heads
        token = CLS + other // inner * size * inner + at * inner + other % inner
        query = _read(q + batch * q_strides[0] + token * q_strides[1] + head * C, valid, C, C1, C2)
        row = grad_terms + ((batch * queries + token) * heads + head) * K + first
        given = tl.load(row[:, None] + column[None, :], mask=valid[:, None] & (column < columns)[None, :], other=0.0)
        sums = _weighted(tl.trans(given), query, sums, C2)
    target = partial + ((part * size + at) * columns + column) * C
    _write(target, column < columns, sums, C, C1, C2)


def split_width(channels: int) -> tuple[int, int]:
    """Sizes of two tiles, powers of two, that hold so many channels with the least left over; the second may be 0."""
    whole = max(16, 1 << (channels - 1).bit_length())
    half = whole // 2
    if half < 16 or channels <= half:
        return whole, 0
    rest = max(16, 1 << (channels - half - 1).bit_length())
    return (whole, 0) if rest == half else (half, rest)


def columns(keys: Keys) -> int:
    """Columns of the terms: one for each coordinate, and zeros up to a multiple of 8, for aligned reads."""
    return -(-(keys[3] + keys[1] + keys[2]) // 8) * 8


def deal(rows: int, tile: int, wanted: int) -> tuple[int, int]:
    """Number of parts, at most `wanted`, and rows of each, whole tiles, that hold all rows."""
    tiles = -(-rows // tile)
    span = -(-tiles // min(tiles, wanted))
    return -(-tiles // span), span * tile


def _shared(q: Tensor, cls: int, terms: int) -> dict[str, int | bool]:
    first, second = split_width(q.shape[-1])
    return {"CLS": cls, "K": terms, "C": q.shape[-1], "C1": first, "C2": second, "enable_fp_fusion": True}


def _block(count: int) -> int:
    return max(16, 1 << (count - 1).bit_length())


def terms_of(q: Tensor, tables: Tensor, grid: Sequence[int], keys: Keys, cls: int) -> Tensor:
    """Terms of queries (B, N, heads, c), whose heads lie side by side: (B, N, heads, columns), zero for class tokens.

    Args:
        tables: (rows, c): for one axis after another the row for each coordinate of a query and each of a key.
        grid: (T, H, W) of the queries.
        cls: leading class tokens.
    """
    batch, queries, heads, _ = q.shape
    terms = q.new_empty(batch, queries, heads, columns(keys))
    pairs = batch * heads
    tile = min(ROWS, _block(pairs))
    _terms_kernel[(queries * -(-pairs // tile),)](
        q, tables, terms, q.stride()[:2], queries, heads, pairs, tuple(grid), keys,
        BLOCK_K=_block(columns(keys)), R=tile, **_shared(q, cls, columns(keys)),
    )  # fmt: skip
    return terms


def backward(
    grad_terms: Tensor, q: Tensor, tables: Tensor, grad_q: Tensor, grid: Sequence[int], keys: Keys, cls: int
) -> Tensor:
    """Add the terms' share to `grad_q` (contiguous, as q) in place; the gradient of the tables (rows, c) in float32."""
    batch, queries, heads, channels = q.shape
    pairs, shared = batch * heads, _shared(q, cls, grad_terms.shape[-1])
    tile = min(ROWS, _block(pairs))
    _query_gradient_kernel[((queries - cls) * -(-pairs // tile),)](
        grad_terms, tables, grad_q, queries, heads, pairs, tuple(grid), keys,
        BLOCK_K=_block(grad_terms.shape[-1]), R=tile, **shared,
    )  # fmt: skip
    found, first, inner = [], 0, grid[0] * grid[1] * grid[2]
    for size, count in zip(grid, (keys[3], keys[1], keys[2])):
        inner //= size
        if not count:
            continue
        others = (queries - cls) // size
        parts, span = deal(pairs * others, GRADIENT_ROWS, -(-PROGRAMS // size))
        partial = q.new_empty(parts, size, count, channels, dtype=torch.float32)
        _table_gradient_kernel[(size * parts,)](
            grad_terms, q, partial, q.stride()[:2], queries, heads, pairs * others, others, inner, size, span, first,
            count, BLOCK_A=_block(count), R=GRADIENT_ROWS, **shared,
        )  # fmt: skip
        found.append(partial.sum(0).flatten(0, 1))
        first += count
    return torch.cat(found)
