"""Attention with relative positions as Triton kernels, forward and backward, for CUDA devices: no wider operands.

The flash form (:mod:`mvit_video.models.mvit.attention`) appends the position terms of a query to it and one-hot
vectors to the keys. Here queries, keys and values are read as pooling left them. The terms lie in a narrow tensor
beside them (:mod:`mvit_video.models.kernels.triton_terms`), and the one-hot vectors of a tile of keys are made in
registers from their coordinates: the terms are added to the logits by a product of tiles, which matrix units do
for less than additions and look-ups would take elsewhere. Logits, sums and the softmax are float32.

The backward takes the logits again, twice: one kernel goes through the keys of each tile of queries, one through the
queries of each tile of keys. No sum is taken by atomic additions, so the bits are the same in every run; it costs two
products of nine. Triton's tiles have powers of two as sizes: a head of 96 channels is a tile of 64 and one of 32,
36 terms are one of 32 and one of 16.

Triton comes with PyTorch's CUDA builds; without it this module imports, and
:func:`mvit_video.models.kernels.triton_terms.supports` is False.
"""

from __future__ import annotations  # the kernels' annotations name `tl`, which may be missing

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mvit_video.models.config import Triple
from mvit_video.models.kernels import triton_terms
from mvit_video.models.kernels.gradient import once, run, runs_now
from mvit_video.models.kernels.triton_pool import _jit, tl
from mvit_video.models.kernels.triton_terms import _inner, _read, _weighted, _write, dense, split_width

PROGRAMS = 264
"""Programs wanted at least, two for each multiprocessor of an H100: the queries that a tile of keys goes through are
dealt out to several programs until there are, and their sums added up."""


class Tiles(NamedTuple):
    """Queries and keys of a program's tiles, its warps, and the tiles that are loaded ahead."""

    queries: int
    keys: int
    warps: int
    stages: int


HALF = (Tiles(128, 64, 8, 3), Tiles(64, 64, 4, 2), Tiles(64, 64, 4, 2))
"""Of the forward kernel, of the gradient of queries and of that of keys and values, in half precision. Chosen so that
at 96 channels, compiled for sm_90, all sums stay in registers; not yet timed on a GPU."""
HALF_MANY = (Tiles(128, 64, 8, 3), Tiles(64, 32, 4, 3), Tiles(32, 64, 4, 2))
"""The same for more than FEW_TERMS columns of terms, whose sums need registers, too."""
FEW_TERMS = 32
SINGLE = (Tiles(32, 32, 4, 2), Tiles(32, 32, 4, 2), Tiles(32, 32, 4, 2))
"""The same in float32, whose products run on no matrix unit."""


@_jit
def _marks(key: tl.tensor, keys: tl.tensor, column: tl.tensor, grid: tl.tuple, CLS: tl.constexpr) -> tl.tensor:
    """(keys, columns): 1.0 at the coordinates of each key, else 0.0; class tokens have none.

    `grid` is (T, H, W) of the keys and the number of time columns, which is T or 0.
    """
    place = key - CLS
    t, h, w = place // (grid[1] * grid[2]), place // grid[2] % grid[1], place % grid[2]
    of_time = (column < grid[3])[None, :] & (column[None, :] == t[:, None])
    of_height = column[None, :] == grid[3] + h[:, None]
    of_width = column[None, :] == grid[3] + grid[1] + w[:, None]
    known = (place >= 0) & (key < keys)
    return ((of_time | of_height | of_width) & known[:, None]).to(tl.float32)


@_jit
def _one_hot(
    key: tl.tensor, keys: tl.tensor, grid: tl.tuple, like: tl.tensor, CLS: tl.constexpr, K1: tl.constexpr,
    K2: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """The one-hot vectors of the keys as a tile of K1 and one of K2 columns, in the dtype that `like` points to."""
    low = _marks(key, keys, tl.arange(0, K1), grid, CLS).to(like.dtype.element_ty)
    high = low
    if K2 > 0:
        high = _marks(key, keys, K1 + tl.arange(0, K2), grid, CLS).to(like.dtype.element_ty)
    return low, high


@_jit
def _forward_kernel(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, terms: tl.tensor, out: tl.tensor, level: tl.tensor,
    q_strides: tl.tuple, k_strides: tl.tuple, v_strides: tl.tuple, queries: tl.tensor, keys: tl.tensor,
    heads: tl.tensor, grid: tl.tuple, scale: tl.tensor, CLS: tl.constexpr, K: tl.constexpr, K1: tl.constexpr,
    K2: tl.constexpr, C: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
) -> None:  # fmt: skip
    """Program (tile of N queries, batch x head), the tiles first: through all keys, M at once.

    `level` takes log2 of each query's sum of exponentials; `scale` is that of the logits times log2(e).
    """
    tiles = tl.cdiv(queries, N)
    pair = tl.program_id(0) // tiles
    batch, head = (pair // heads).to(tl.int64), pair % heads
    row = tl.program_id(0) % tiles * N + tl.arange(0, N)
    valid = row < queries
    token = (batch * queries + row) * heads + head
    query = _read(q + batch * q_strides[0] + row * q_strides[1] + head * C, valid, C, C1, C2)
    added = _read(terms + token * K, valid, K, K1, K2)
    of_keys, of_values = (
        k + batch * k_strides[0] + head * C,
        v + batch * v_strides[0] + head * C,
    )
    highest = tl.full((N,), float("-inf"), tl.float32)
    total = tl.zeros((N,), tl.float32)
    sums = (tl.zeros((N, C1), tl.float32), tl.zeros((N, C2 if C2 > 0 else C1), tl.float32))
    for start in range(0, keys, M):
        place = start + tl.arange(0, M)
        known = place < keys
        key = _read(of_keys + place * k_strides[1], known, C, C1, C2)
        marks = _one_hot(place, keys, grid, k, CLS, K1, K2)
        logits = _inner(query, key, _inner(added, marks, tl.zeros((N, M), tl.float32), K2), C2)
        logits = tl.where(known[None, :], logits * scale, float("-inf"))
        peak = tl.maximum(highest, tl.max(logits, axis=1))
        shrink = tl.exp2(highest - peak)
        weights = tl.exp2(logits - peak[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        value = _read(of_values + place * v_strides[1], known, C, C1, C2)
        kept = (sums[0] * shrink[:, None], sums[1] * shrink[:, None])
        sums = _weighted(weights.to(v.dtype.element_ty), value, kept, C2)
        highest = peak
    _write(out + token * C, valid, (sums[0] / total[:, None], sums[1] / total[:, None]), C, C1, C2)
    tl.store(level + (batch * heads + head) * queries + row, highest + tl.log2(total), mask=valid)


@_jit
def _query_gradient_kernel(
    grad: tl.tensor, q: tl.tensor, k: tl.tensor, v: tl.tensor, terms: tl.tensor, out: tl.tensor, level: tl.tensor,
    along: tl.tensor, grad_q: tl.tensor, grad_terms: tl.tensor, grad_strides: tl.tuple, q_strides: tl.tuple,
    k_strides: tl.tuple, v_strides: tl.tuple, queries: tl.tensor, keys: tl.tensor, heads: tl.tensor, grid: tl.tuple,
    scale: tl.tensor, factor: tl.tensor, CLS: tl.constexpr, K: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr,
    C: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
) -> None:  # fmt: skip
    """Programs as in the forward: gradients of the queries and of their terms.

    `along` takes the product of each query's result with its gradient. `factor` is the scale of the logits.
    """
    tiles = tl.cdiv(queries, N)
    pair = tl.program_id(0) // tiles
    batch, head = (pair // heads).to(tl.int64), pair % heads
    row = tl.program_id(0) % tiles * N + tl.arange(0, N)
    valid = row < queries
    token = (batch * queries + row) * heads + head
    query = _read(q + batch * q_strides[0] + row * q_strides[1] + head * C, valid, C, C1, C2)
    given = _read(grad + batch * grad_strides[0] + row * grad_strides[1] + head * C, valid, C, C1, C2)
    result = _read(out + token * C, valid, C, C1, C2)
    added = _read(terms + token * K, valid, K, K1, K2)
    mean = tl.sum(given[0].to(tl.float32) * result[0].to(tl.float32), axis=1)
    if C2 > 0:
        mean += tl.sum(given[1].to(tl.float32) * result[1].to(tl.float32), axis=1)
    place_of_rows = (batch * heads + head) * queries + row
    tl.store(along + place_of_rows, mean, mask=valid)
    above = tl.load(level + place_of_rows, mask=valid, other=float("inf"))
    of_keys, of_values = (
        k + batch * k_strides[0] + head * C,
        v + batch * v_strides[0] + head * C,
    )
    sums = (tl.zeros((N, C1), tl.float32), tl.zeros((N, C2 if C2 > 0 else C1), tl.float32))
    of_terms = (tl.zeros((N, K1), tl.float32), tl.zeros((N, K2 if K2 > 0 else K1), tl.float32))
    for start in range(0, keys, M):
        place = start + tl.arange(0, M)
        known = place < keys
        key = _read(of_keys + place * k_strides[1], known, C, C1, C2)
        value = _read(of_values + place * v_strides[1], known, C, C1, C2)
        marks = _one_hot(place, keys, grid, k, CLS, K1, K2)
        logits = _inner(query, key, _inner(added, marks, tl.zeros((N, M), tl.float32), K2), C2)
        logits = tl.where(known[None, :], logits * scale, float("-inf"))
        weights = tl.exp2(logits - above[:, None])
        before = (weights * (_inner(given, value, tl.zeros((N, M), tl.float32), C2) - mean[:, None])).to(
            k.dtype.element_ty
        )
        sums = _weighted(before, key, sums, C2)
        of_terms = _weighted(before, marks, of_terms, K2)
    _write(grad_q + token * C, valid, (sums[0] * factor, sums[1] * factor), C, C1, C2)
    _write(grad_terms + token * K, valid, (of_terms[0] * factor, of_terms[1] * factor), K, K1, K2)


@_jit
def _key_gradient_kernel(
    grad: tl.tensor, q: tl.tensor, k: tl.tensor, v: tl.tensor, terms: tl.tensor, level: tl.tensor, along: tl.tensor,
    grad_k: tl.tensor, grad_v: tl.tensor, grad_strides: tl.tuple, q_strides: tl.tuple, k_strides: tl.tuple,
    v_strides: tl.tuple, queries: tl.tensor, keys: tl.tensor, heads: tl.tensor, pairs: tl.tensor, span: tl.tensor,
    grid: tl.tuple, scale: tl.tensor, factor: tl.tensor, CLS: tl.constexpr, K: tl.constexpr, K1: tl.constexpr,
    K2: tl.constexpr, C: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
) -> None:  # fmt: skip
    """Program (tile of M keys, batch x head, `span` of the queries), the tiles first: gradients of keys and values.

    Tiles of logits lie as (keys, queries). `grad_k` and `grad_v` are (spans, B, keys, heads, C).
    """
    tiles = tl.cdiv(keys, M)
    pair = tl.program_id(0) // tiles % pairs
    part = tl.program_id(0) // tiles // pairs
    batch, head = (pair // heads).to(tl.int64), pair % heads
    place = tl.program_id(0) % tiles * M + tl.arange(0, M)
    known = place < keys
    key = _read(k + batch * k_strides[0] + place * k_strides[1] + head * C, known, C, C1, C2)
    value = _read(v + batch * v_strides[0] + place * v_strides[1] + head * C, known, C, C1, C2)
    marks = _one_hot(place, keys, grid, k, CLS, K1, K2)
    of_queries, of_grads = (
        q + batch * q_strides[0] + head * C,
        grad + batch * grad_strides[0] + head * C,
    )
    of_key = (tl.zeros((M, C1), tl.float32), tl.zeros((M, C2 if C2 > 0 else C1), tl.float32))
    of_value = (tl.zeros((M, C1), tl.float32), tl.zeros((M, C2 if C2 > 0 else C1), tl.float32))
    for start in range(part * span, tl.minimum(part * span + span, queries), N):
        row = start + tl.arange(0, N)
        valid = row < queries
        query = _read(of_queries + row * q_strides[1], valid, C, C1, C2)
        given = _read(of_grads + row * grad_strides[1], valid, C, C1, C2)
        added = _read(terms + ((batch * queries + row) * heads + head) * K, valid, K, K1, K2)
        place_of_rows = (batch * heads + head) * queries + row
        above = tl.load(level + place_of_rows, mask=valid, other=float("inf"))
        mean = tl.load(along + place_of_rows, mask=valid, other=0.0)
        logits = _inner(key, query, _inner(marks, added, tl.zeros((M, N), tl.float32), K2), C2)
        weights = tl.exp2(logits * scale - above[None, :])
        of_value = _weighted(weights.to(v.dtype.element_ty), given, of_value, C2)
        before = weights * (_inner(value, given, tl.zeros((M, N), tl.float32), C2) - mean[None, :])
        of_key = _weighted(before.to(k.dtype.element_ty), query, of_key, C2)
    token = ((part * (pairs // heads) + batch) * keys + place) * heads + head
    _write(grad_k + token * C, known, (of_key[0] * factor, of_key[1] * factor), C, C1, C2)
    _write(grad_v + token * C, known, of_value, C, C1, C2)


def _shared(q: Tensor, terms: Tensor, cls: int, tiles: Tiles) -> dict[str, Any]:
    """What all kernels are compiled for."""
    channels, columns = split_width(q.shape[-1]), split_width(terms.shape[-1])
    return {
        "CLS": cls, "K": terms.shape[-1], "K1": columns[0], "K2": columns[1], "C": q.shape[-1], "C1": channels[0],
        "C2": channels[1],
        "N": tiles.queries, "M": tiles.keys, "num_warps": tiles.warps, "num_stages": tiles.stages,
        "enable_fp_fusion": True,
    }  # fmt: skip


def _tiles(q: Tensor, columns: int) -> tuple[Tiles, Tiles, Tiles]:
    if q.dtype == torch.float32:
        return SINGLE
    return HALF if columns <= FEW_TERMS else HALF_MANY


def _grid(grid: Sequence[int], with_time: bool) -> tuple[int, int, int, int]:
    """(T, H, W) and the number of time columns."""
    return grid[0], grid[1], grid[2], grid[0] * with_time


def _launch(
    q: Tensor, k: Tensor, v: Tensor, tables: Tensor, grid_q: Sequence[int], grid_kv: Sequence[int], with_time: bool,
    cls: int, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The forward: result, level (B, heads, N) and terms (B, N, heads, K)."""
    q, k, v = dense(q), dense(k), dense(v)
    batch, queries, heads, channels = q.shape
    grid, keys = _grid(grid_kv, with_time), k.shape[1]
    tiles = _tiles(q, triton_terms.columns(grid))[0]
    with torch.cuda.device_of(q):
        terms = triton_terms.terms_of(q, tables, grid_q, grid, cls)
        out = q.new_empty(batch, queries, heads, channels)
        level = q.new_empty(batch, heads, queries, dtype=torch.float32)
        _forward_kernel[(-(-queries // tiles.queries) * batch * heads,)](
            q, k, v, terms, out, level, q.stride()[:2], k.stride()[:2], v.stride()[:2], queries, keys, heads,
            grid, scale * math.log2(math.e), **_shared(q, terms, cls, tiles),
        )  # fmt: skip
    return out, level, terms


_attention = torch.library.custom_op("mvit_video::attention", _launch, mutates_args=())
"""The forward as one operator, opaque to the compiler."""


@_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, tables: Tensor, grid_q: Sequence[int], grid_kv: Sequence[int], with_time: bool,
    cls: int, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    batch, queries, heads, channels = q.shape
    columns = triton_terms.columns(_grid(grid_kv, with_time))
    level = q.new_empty(batch, heads, queries, dtype=torch.float32)
    return q.new_empty(batch, queries, heads, channels), level, q.new_empty(batch, queries, heads, columns)


def _launch_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, tables: Tensor, out: Tensor, level: Tensor, terms: Tensor,
    grid_q: Sequence[int], grid_kv: Sequence[int], with_time: bool, cls: int, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of queries, keys and values in their dtype, and of the tables in float32."""
    grad, q, k, v = dense(grad), dense(q), dense(k), dense(v)
    (batch, queries, heads, channels), keys = q.shape, k.shape[1]
    _, of_queries, of_keys = _tiles(q, terms.shape[-1])
    sizes, grid = (queries, keys, heads), _grid(grid_kv, with_time)
    strides = grad.stride()[:2], q.stride()[:2], k.stride()[:2], v.stride()[:2]
    scales = scale * math.log2(math.e), scale
    grad_q, grad_terms, along = q.new_empty(q.shape), torch.empty_like(terms), torch.empty_like(level)
    with torch.cuda.device_of(q):
        _query_gradient_kernel[(-(-queries // of_queries.queries) * batch * heads,)](
            grad, q, k, v, terms, out, level, along, grad_q, grad_terms, *strides, *sizes, grid, *scales,
            **_shared(q, terms, cls, of_queries),
        )  # fmt: skip
        tiles = -(-keys // of_keys.keys) * batch * heads
        parts, span = triton_terms.deal(queries, of_keys.queries, -(-PROGRAMS // tiles))
        dtype = q.dtype if parts == 1 else torch.float32
        partial = [q.new_empty(parts, batch, keys, heads, channels, dtype=dtype) for _ in range(2)]
        _key_gradient_kernel[(tiles * parts,)](
            grad, q, k, v, terms, level, along, *partial, *strides, *sizes, batch * heads, span, grid, *scales,
            **_shared(q, terms, cls, of_keys),
        )  # fmt: skip
        grad_tables = triton_terms.backward(grad_terms, q, tables, grad_q, grid_q, grid, cls)
    grad_k, grad_v = (sums[0] if parts == 1 else sums.sum(0).to(q.dtype) for sums in partial)
    return grad_q, grad_k, grad_v, grad_tables


_attention_backward = torch.library.custom_op("mvit_video::attention_backward", _launch_backward, mutates_args=())


@_attention_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, tables: Tensor, out: Tensor, level: Tensor, terms: Tensor,
    grid_q: Sequence[int], grid_kv: Sequence[int], with_time: bool, cls: int, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    of_tables = tables.new_empty(tables.shape, dtype=torch.float32)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), of_tables


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, tables, *ctx.geometry = inputs
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(q, k, v, tables, *output)


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, tables, *output = ctx.saved_tensors
    run = _launch_backward if runs_now(grad, q) else torch.ops.mvit_video.attention_backward
    *grads, of_tables = run(grad, q, k, v, tables, *output, *ctx.geometry)
    return *grads, of_tables.to(tables.dtype), *([None] * len(ctx.geometry))


_attention.register_autograd(_backward, setup_context=_setup_context)


class AttentionWithTerms(torch.autograd.Function):
    """The operator and its gradient, called directly; see :func:`runs_now`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        output = _launch(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    backward = staticmethod(once(_backward))


def attention(
    q: Tensor, k: Tensor, v: Tensor, tables: Sequence[Tensor], grid_q: Triple, grid_kv: Triple, *, cls: int,
    scale: float,
) -> Tensor:  # fmt: skip
    """softmax(scale * (q k^T + position terms)) v; differentiable, once.

    Args:
        q: (B, cls + T*H*W, heads, c).
        k, v: (B, cls + T'*H'*W', heads, c).
        tables: for each axis of height and width, or of time, height and width, (coordinates of queries, coordinates of
            keys, c) of q's dtype: what a query at the one is multiplied with for its term towards keys at the other.
        grid_q, grid_kv: (T, H, W) and (T', H', W').
        cls: leading tokens, whose logits get no terms.

    Returns:
        (B, cls + T*H*W, heads, c), contiguous.

    Raises:
        ValueError: :func:`mvit_video.models.kernels.triton_terms.supports` is False.
    """
    triton_terms.check(q, sum(table.shape[1] for table in tables))
    rows = torch.cat([table.flatten(0, 1) for table in tables])
    inputs = q, k, v, rows, grid_q, grid_kv, len(tables) == 3, cls, scale
    out: Tensor = run(
        inputs, operator=torch.ops.mvit_video.attention, function=AttentionWithTerms, launch=_launch
    )[0]  # fmt: skip
    return out
