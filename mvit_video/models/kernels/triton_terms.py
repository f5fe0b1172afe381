"""Products of queries with the relative tables of their coordinates, and the gradients, as Triton kernels.

A query at (t, h, w) is multiplied with the rows that belong to t, to h and to w: one matrix for each position, that all
clips and heads share. A program has one position of several clips and heads, so that one product of tiles gives the
terms of all axes, and queries are read once. They are written for the attention kernels
(:mod:`mvit_video.models.kernels.triton_attention`), or behind the queries for the library's: the wider operands of
:mod:`mvit_video.models.kernels.position_columns` in one pass over the queries.

The sum of the tables' gradients over positions is dealt out to programs for each coordinate; partial sums are added in
one reduction, without atomics: the same bits in every run.
"""

from __future__ import annotations  # the kernels' annotations name `tl`, which may be missing

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mvit_video.models.config import Triple
from mvit_video.models.kernels.gradient import once, run, runs_now
from mvit_video.models.kernels.triton_pool import DTYPES, INTERPRETED, _can_run, _jit, tl, triton

MAX_CHANNELS, MAX_TERMS = 128, 128
"""Widest head and most terms: more would not leave a program's tiles in registers."""

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
def _number(
    batch: tl.tensor, head: tl.tensor, token: tl.tensor, queries: tl.tensor, heads: tl.tensor, FIRST: tl.constexpr
) -> tl.tensor:  # fmt: skip
    """The row of a query among terms (B, N, heads, K), or, with FIRST > 0, extended queries (B, heads, N, WIDE)."""
    if FIRST > 0:
        number = (batch * heads + head) * queries + token
    else:
        number = (batch * queries + token) * heads + head
    return number


@_jit
def _terms_kernel(
    q: tl.tensor, tables: tl.tensor, target: tl.tensor, q_strides: tl.tuple, queries: tl.tensor, heads: tl.tensor,
    pairs: tl.tensor, grid: tl.tuple, keys: tl.tuple, CLS: tl.constexpr, FIRST: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_K: tl.constexpr, C: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, R: tl.constexpr,
) -> None:  # fmt: skip
    """Program (token, tile of R of the batch x heads), the tokens first: all terms of these queries.

    They go to the columns from FIRST to WIDE of `target`, and with FIRST > 0 the queries before them.
    """
    token = tl.program_id(0) % queries
    pair = tl.program_id(0) // queries * R + tl.arange(0, R)
    valid = pair < pairs
    batch, head = (pair // heads).to(tl.int64), pair % heads
    column = tl.arange(0, BLOCK_K)
    rows = _rows_of_position(tables, token - CLS, column, grid, keys, C, C1, C2)
    query = _read(q + batch * q_strides[0] + token * q_strides[1] + head * C, valid, C, C1, C2)
    products = _inner(query, rows, tl.zeros((R, BLOCK_K), tl.float32), C2)
    at = target + _number(batch, head, token, queries, heads, FIRST) * WIDE
    mask = valid[:, None] & (column < WIDE - FIRST)[None, :]
    tl.store((at + FIRST)[:, None] + column[None, :], products.to(target.dtype.element_ty), mask=mask)
    if FIRST > 0:
        _write(at, valid, query, C, C1, C2)


@_jit
def _query_gradient_kernel(
    given: tl.tensor, tables: tl.tensor, grad_q: tl.tensor, queries: tl.tensor, heads: tl.tensor, pairs: tl.tensor,
    grid: tl.tuple, keys: tl.tuple, CLS: tl.constexpr, FIRST: tl.constexpr, WIDE: tl.constexpr, BLOCK_K: tl.constexpr,
    C: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, R: tl.constexpr,
) -> None:  # fmt: skip
    """Programs as above: the queries' gradient from that of the target, `given`.

    What comes through the terms is added to what is in `grad_q` (B, N, heads, C), or, with FIRST > 0, to the first
    columns.
    """
    token = tl.program_id(0) % queries
    pair = tl.program_id(0) // queries * R + tl.arange(0, R)
    valid = pair < pairs
    batch, head = (pair // heads).to(tl.int64), pair % heads
    column = tl.arange(0, BLOCK_K)
    rows = _rows_of_position(tables, token - CLS, column, grid, keys, C, C1, C2)
    at = given + _number(batch, head, token, queries, heads, FIRST) * WIDE
    mask = valid[:, None] & (column < WIDE - FIRST)[None, :]
    of_terms = tl.load((at + FIRST)[:, None] + column[None, :], mask=mask, other=0.0)
    target = grad_q + ((batch * queries + token) * heads + head) * C
    if FIRST > 0:
        before = _read(at, valid, C, C1, C2)
    else:
        before = _read(target, valid, C, C1, C2)
    sums = (before[0].to(tl.float32), before[1].to(tl.float32))
    _write(target, valid, _weighted(of_terms, rows, sums, C2), C, C1, C2)


@_jit
def _table_gradient_kernel(
    given: tl.tensor, q: tl.tensor, partial: tl.tensor, q_strides: tl.tuple, queries: tl.tensor, heads: tl.tensor,
    count: tl.tensor, others: tl.tensor, inner: tl.tensor, size: tl.tensor, span: tl.tensor, first: tl.tensor,
    columns: tl.tensor, CLS: tl.constexpr, FIRST: tl.constexpr, WIDE: tl.constexpr, BLOCK_A: tl.constexpr,
    C: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, R: tl.constexpr,
) -> None:  # fmt: skip
    """Program (coordinate on one axis, `span` of the `count` queries at it): their share of the table's gradient.

    The axis has `size` coordinates, lies `inner` positions apart, and its terms begin at column `first` of the terms. A
    coordinate has `others` positions. `q` are the queries, or with FIRST > 0 the extended ones. `partial` is (spans,
    size, columns, C).
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
        number = _number(batch, head, token, queries, heads, FIRST)
        if FIRST > 0:
            query = _read(q + number * WIDE, valid, C, C1, C2)
        else:
            query = _read(q + batch * q_strides[0] + token * q_strides[1] + head * C, valid, C, C1, C2)
        row = given + number * WIDE + FIRST + first
        mask = valid[:, None] & (column < columns)[None, :]
        of_terms = tl.load(row[:, None] + column[None, :], mask=mask, other=0.0)
        sums = _weighted(tl.trans(of_terms), query, sums, C2)
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


def _shared(channels: int, cls: int, first: int, wide: int) -> dict[str, int | bool]:
    """What all kernels are compiled for."""
    low, high = split_width(channels)
    sizes = {"CLS": cls, "FIRST": first, "WIDE": wide, "C": channels, "C1": low, "C2": high}
    return {**sizes, "enable_fp_fusion": True}


def _block(count: int) -> int:
    return max(16, 1 << (count - 1).bit_length())


def _write_terms(
    q: Tensor, tables: Tensor, target: Tensor, grid: Sequence[int], keys: Keys, cls: int, first: int
) -> None:
    batch, queries, heads, channels = q.shape
    pairs, wide = batch * heads, target.shape[-1]
    tile = min(ROWS, _block(pairs))
    _terms_kernel[(queries * -(-pairs // tile),)](
        q, tables, target, q.stride()[:2], queries, heads, pairs, tuple(grid), keys,
        BLOCK_K=_block(wide - first), R=tile, **_shared(channels, cls, first, wide),
    )  # fmt: skip


def terms_of(q: Tensor, tables: Tensor, grid: Sequence[int], keys: Keys, cls: int) -> Tensor:
    """Terms of queries (B, N, heads, c), whose heads lie side by side: (B, N, heads, columns), zero for class tokens.

    Args:
        tables: (rows, c): for one axis after another the row for each coordinate of a query and each of a key.
        grid: (T, H, W) of the queries.
        cls: leading class tokens.
    """
    terms = q.new_empty(*q.shape[:3], columns(keys))
    _write_terms(q, tables, terms, grid, keys, cls, 0)
    return terms


def backward(
    given: Tensor, q: Tensor, tables: Tensor, grad_q: Tensor, grid: Sequence[int], keys: Keys, cls: int, first: int = 0
) -> Tensor:
    """From the gradient of the terms: add their share to `grad_q`, and give that of the tables (rows, c) in float32.

    Args:
        given: (B, N, heads, columns); with `first` columns before the terms (B, heads, N, wide), of extended queries.
        q: the queries, or the extended ones.
        grad_q: (B, N, heads, c), contiguous; with extended queries it is only written.
    """
    batch, queries, heads, channels = grad_q.shape
    pairs, shared = batch * heads, _shared(channels, cls, first, given.shape[-1])
    tile = min(ROWS, _block(pairs))
    _query_gradient_kernel[(queries * -(-pairs // tile),)](
        given, tables, grad_q, queries, heads, pairs, tuple(grid), keys,
        BLOCK_K=_block(given.shape[-1] - first), R=tile, **shared,
    )  # fmt: skip
    found, begin, inner = [], 0, grid[0] * grid[1] * grid[2]
    for size, count in zip(grid, (keys[3], keys[1], keys[2])):
        inner //= size
        if not count:
            continue
        others = (queries - cls) // size
        parts, span = deal(pairs * others, GRADIENT_ROWS, -(-PROGRAMS // size))
        partial = q.new_empty(parts, size, count, channels, dtype=torch.float32)
        _table_gradient_kernel[(size * parts,)](
            given, q, partial, q.stride()[:2], queries, heads, pairs * others, others, inner, size, span, begin, count,
            BLOCK_A=_block(count), R=GRADIENT_ROWS, **shared,
        )  # fmt: skip
        found.append(partial.sum(0).flatten(0, 1))
        begin += count
    return torch.cat(found)


def dense(tensor: Tensor) -> Tensor:
    """The tensor with heads and channels side by side in memory, as the kernels read them; tokens may lie anywhere."""
    return tensor if tensor.stride()[2:] == (tensor.shape[-1], 1) else tensor.contiguous()


def _launch(q: Tensor, tables: Tensor, grid: Sequence[int], keys: Sequence[int], cls: int, wide: int) -> Tensor:
    """The forward: (B, heads, N, wide)."""
    q = dense(q)
    batch, queries, heads, channels = q.shape
    extended = q.new_empty(batch, heads, queries, wide)
    with torch.cuda.device_of(q):
        _write_terms(q, tables, extended, grid, (keys[0], keys[1], keys[2], keys[3]), cls, channels)
    return extended


_extended_queries = torch.library.custom_op("mvit_video::extended_queries", _launch, mutates_args=())
"""The forward as one operator, opaque to the compiler."""


@_extended_queries.register_fake
def _(q: Tensor, tables: Tensor, grid: Sequence[int], keys: Sequence[int], cls: int, wide: int) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], wide)


def _launch_backward(
    grad: Tensor, extended: Tensor, tables: Tensor, grid: Sequence[int], keys: Sequence[int], cls: int
) -> tuple[Tensor, Tensor]:
    """Gradients of queries (B, N, heads, c) and of tables (float32)."""
    batch, heads, queries, _ = extended.shape
    grad_q = extended.new_empty(batch, queries, heads, tables.shape[1])
    with torch.cuda.device_of(extended):
        of_tables = backward(
            grad.contiguous(),
            extended,
            tables,
            grad_q,
            grid,
            (keys[0], keys[1], keys[2], keys[3]),
            cls,
            tables.shape[1],
        )
    return grad_q, of_tables


_extended_queries_backward = torch.library.custom_op(
    "mvit_video::extended_queries_backward", _launch_backward, mutates_args=()
)


@_extended_queries_backward.register_fake
def _(
    grad: Tensor, extended: Tensor, tables: Tensor, grid: Sequence[int], keys: Sequence[int], cls: int
) -> tuple[Tensor, Tensor]:
    batch, heads, queries, _ = extended.shape
    of_tables = tables.new_empty(tables.shape, dtype=torch.float32)
    return extended.new_empty(batch, queries, heads, tables.shape[1]), of_tables


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, tables, *ctx.geometry, _ = inputs
    ctx.save_for_backward(output, tables)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    extended, tables = ctx.saved_tensors
    run = _launch_backward if runs_now(grad, extended) else torch.ops.mvit_video.extended_queries_backward
    grad_q, of_tables = run(grad, extended, tables, *ctx.geometry)
    return grad_q, of_tables.to(tables.dtype), None, None, None, None


_extended_queries.register_autograd(_backward, setup_context=_setup_context)


class ExtendedQueries(torch.autograd.Function):
    """The operator and its gradient, called directly; see :func:`runs_now`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        extended = _launch(*inputs)
        _setup_context(ctx, inputs, extended)
        return extended

    backward = staticmethod(once(_backward))


def supports(q: Tensor, terms: int) -> bool:
    """Whether the kernels take queries of such a kind, (..., c), with so many position terms.

    They take float32, float16 and bfloat16 on CUDA devices from Ampere on (where a C compiler is installed), heads of
    at most MAX_CHANNELS channels, and 1 to MAX_TERMS terms: the coordinates of the keys on all axes. On the CPU they
    need Triton's interpreter.
    """
    on_device = triton is not None and q.device.type == ("cpu" if INTERPRETED else "cuda")
    fits = q.dtype in DTYPES and 0 < q.shape[-1] <= MAX_CHANNELS and 0 < terms <= MAX_TERMS
    return on_device and fits and (INTERPRETED or _can_run(q.device.index))


def check(q: Tensor, terms: int) -> None:
    """Refuse queries that the kernels do not take.

    Raises:
        ValueError: :func:`supports` is False.
    """
    if not supports(q, terms):
        raise ValueError(
            f"No Triton attention for {q.dtype} on {q.device.type}, heads of {q.shape[-1]} channels and {terms} "
            "position terms; ask supports() first, and use attention_form='flash' where it is False."
        )


def extended_queries(q: Tensor, tables: Sequence[Tensor], grid: Triple, *, cls: int, fill: int) -> Tensor:
    """What :func:`mvit_video.models.kernels.position_columns.queries_with_terms` gives, by one kernel.

    Raises:
        ValueError: :func:`supports` is False.
    """
    counts = [table.shape[1] for table in tables]
    check(q, sum(counts))
    keys = (*counts, counts[0]) if len(counts) == 3 else (1, *counts, 0)
    rows = torch.cat([table.flatten(0, 1) for table in tables])
    wide = q.shape[-1] + sum(counts) + fill
    inputs = q, rows, grid, keys, cls, wide
    extended: Tensor = run(
        inputs, operator=torch.ops.mvit_video.extended_queries, function=ExtendedQueries, launch=_launch
    )
    return extended
