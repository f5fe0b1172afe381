"""Pooling attention with decomposed relative positions (MViTv2 paper, section 4.1), in an exact flash form.

The bias of a query at (t, h, w) towards a key at (t', h', w') is q . (R_t[d(t, t')] + R_h[d(h, h')] + R_w[d(w, w')]):
a sum of three out of the K_t + K_h + K_w products of q with the table rows of its distances to the key coordinates.
So it is itself a dot product, of those products with a vector that holds a one at t', h' and w'. With the products
appended to the query and the one-hot vectors to the key, plain attention computes the biased logits: no bias tensor, no
attention map, and any fused kernel applies.
"""

from collections.abc import Callable
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvit_video.models.config import AttentionForm, BlockGeometry, Initialisation, MViTConfig, Triple
from mvit_video.models.kernels.gradient import is_transformed
from mvit_video.models.kernels.library_attention import asks_cudnn, library_attention
from mvit_video.models.kernels.pooling import DepthwisePool, depthwise_pool, on_grid
from mvit_video.models.kernels.position_columns import columns_to_fill, queries_with_terms, values_padding
from mvit_video.models.kernels.position_rows import join_indices, pairs_of_rows, position_rows
from mvit_video.models.kernels.recompute import (
    Linear,
    LinearWeights,
    is_hooked,
    is_plain,
    layer_norm,
    merge_heads,
    with_zero_gradients,
)
from mvit_video.models.mvit.windows import cut_windows, join_windows

AXES = ("t", "h", "w")
SMALL_LOGITS = 100_000
"""Up to this many logits per head the CPU takes matrix products and a softmax instead of the fused kernel.

Forward and backward of the core on one AVX2 core in float32, relative to the fused kernel: 0.8 to 1.3 times as fast
with 5 to 150 thousand logits, 0.84 times with 600 thousand at batch 8. The gain is in bfloat16 on cores with native
products: the 0.7 M parameter model with plain products trained at 76 clips/s, with the fused kernel at 56 (AMX).
"""


def relative_index(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """Row of the relative table for every (query, key) position on one axis, int64 (queries, keys).

    The published rule i * max(K/Q, 1) - j * max(Q/K, 1) + (K - 1) * max(Q/K, 1), truncated, in float32 as PySlowFast
    models/attention.py computes it. Where Q/K is not whole, float32 can fall just below a whole number, and the row is
    one less than exact arithmetic gives; published weights were trained so. Every step is computed in float64 (exactly)
    and rounded to float32, so that a compiler that fuses the steps cannot change a row.
    """

    def rounded(value: Tensor) -> Tensor:
        return value.float().double()

    def number(value: float) -> Tensor:
        # torch.full, unlike torch.tensor, takes the symbolic numbers of a compiler.
        return rounded(torch.full((), value, dtype=torch.float64, device=device))

    query_scale, key_scale = number(max(keys / queries, 1.0)), number(max(queries / keys, 1.0))
    offset = number((keys - 1) * max(queries / keys, 1.0))
    i = torch.arange(queries, dtype=torch.float64, device=device)[:, None]
    j = torch.arange(keys, dtype=torch.float64, device=device)[None, :]
    distance = rounded(rounded(rounded(i * query_scale) - rounded(j * key_scale)) + offset)
    return distance.long()


def _table_rows(queries: int, keys: int) -> int:
    """Distances between so many coordinates on one axis."""
    return 2 * max(queries, keys) - 1


def resize_table(table: Tensor, rows: int) -> Tensor:
    """Relative table (R, c) linearly interpolated to (rows, c); itself where R == rows."""
    if table.shape[0] == rows:
        return table
    if table.is_cuda and torch.are_deterministic_algorithms_enabled():
        return interpolate_by_sums(table, rows)
    return F.interpolate(table.t().unsqueeze(0), size=rows, mode="linear", align_corners=False)[0].t()


def interpolate_by_sums(table: Tensor, rows: int) -> Tensor:
    """What :func:`resize_table` gives, within rounding, with a gradient whose sums have a fixed order on a GPU."""
    eye = torch.eye(table.shape[0], device=table.device, dtype=table.dtype)
    weights = F.interpolate(eye.unsqueeze(0), size=rows, mode="linear", align_corners=False)[0].t()
    return (weights.unsqueeze(-1) * table).sum(1)  # no matrix product: autocast would run it in bf16


def one_hot_positions(grid: Triple, axes: tuple[int, ...], cls: int, device: torch.device | None = None) -> Tensor:
    """For every key, ones at its coordinates: float32 (cls + T*H*W, sum of grid[a] over axes); class rows are zero."""
    columns = []
    for axis in axes:
        shape = [1, 1, 1, grid[axis]]
        shape[axis] = grid[axis]
        eye = torch.eye(grid[axis], device=device).view(shape)
        columns.append(eye.expand(*grid, grid[axis]).reshape(-1, grid[axis]))
    return F.pad(torch.cat(columns, dim=1), (0, 0, cls, 0))


def position_terms(q: Tensor, tables: list[Tensor], axes: tuple[int, ...], grid: Triple) -> Tensor:
    """q . R[distance] for every query and every key coordinate of each axis.

    Args:
        q: (B, heads, T*H*W, c), pooled and normalised, unscaled, without class token.
        tables: per axis, (grid[axis], K, c): the row of the relative table for each query and key coordinate.

    Returns:
        (B, heads, T*H*W, sum of K over axes).
    """
    batch, heads, length, channels = q.shape
    on_axes = q.reshape(batch, heads, *grid, channels)
    equations = ("bnthwc,tkc->bnthwk", "bnthwc,hkc->bnthwk", "bnthwc,wkc->bnthwk")
    terms = [torch.einsum(equations[axis], on_axes, table) for axis, table in zip(axes, tables)]
    return torch.cat(terms, dim=-1).reshape(batch, heads, length, -1)


def choose_form(
    form: AttentionForm, queries: int, k: Tensor, terms: int = 0
) -> Literal["flash", "explicit", "matmul", "triton", "triton_terms"]:
    """The form that computes the attention of so many queries on keys (B, heads, M, c); all give the same values.

    "flash" and "explicit" are themselves. "triton" (attention in kernels of this project) and "triton_terms" (flash,
    with queries extended by one kernel) are themselves where the kernels take so many position terms, and not while
    `torch.jit.trace` records or `torch.func` transforms; elsewhere they are "auto". "auto" is flash, except on the CPU
    when a head has at most SMALL_LOGITS logits: there the fused kernel's backward loses to matrix products and a
    softmax on the same extended operands.
    """
    if form in ("triton", "triton_terms"):
        from mvit_video.models.kernels import triton_terms  # where it is used: importing Triton takes seconds

        if triton_terms.supports(k, terms) and not torch.jit.is_tracing() and not is_transformed():
            return form
    elif form != "auto":
        return form
    return "matmul" if k.device.type == "cpu" and queries * k.shape[2] <= SMALL_LOGITS else "flash"


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cls: int) -> Tensor:
    """softmax(q k^T / sqrt(c) + bias) v; the bias (B, heads, N - cls, M - cls) spares the class row and column."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + F.pad(bias.to(logits.dtype), (cls, 0, cls, 0))
    return logits.softmax(dim=-1).to(v.dtype) @ v


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, small: bool, padding: int = 0, cudnn: bool = True
) -> Tensor:
    """Attention on extended queries (B, heads, N, c + e) and keys (B, heads, M, c + e), values (B, heads, M, c).

    Args:
        q: extended queries; k and v are extended keys, and values.
        scale: of the products.
        small: by plain products and a softmax.
        padding: columns of zeros to add to the values.
        cudnn: see :func:`library_attention`.

    Returns:
        (B, heads, N, c + padding), zeros in the last `padding` columns, or none of them if small.
    """
    if small:
        logits = (q * scale) @ k.transpose(-2, -1)
        return logits.softmax(dim=-1).to(v.dtype) @ v
    return library_attention(q, k, F.pad(v, (0, padding)) if padding else v, scale=scale, cudnn=cudnn)


class MultiscaleAttention(nn.Module):
    """Multi-head attention over pooled queries, keys and values. Parameter names are PySlowFast's."""

    pool_q: DepthwisePool | None
    pool_k: DepthwisePool | None
    pool_v: DepthwisePool | None

    def __init__(self, config: MViTConfig, geometry: BlockGeometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.cls = int(config.cls_token)
        self.residual_pooling = config.residual_pooling
        self.spared = 0 if config.residual_with_cls else self.cls
        """Leading tokens that residual pooling adds nothing to."""
        self.form: AttentionForm = config.attention_form
        self.axes = tuple(axis for axis in range(3) if geometry.table_rows[axis])
        head_dim = geometry.head_dim
        self.qkv = nn.Linear(geometry.dim_in, 3 * geometry.dim_attn, bias=config.qkv_bias)
        self.proj = nn.Linear(geometry.dim_attn, geometry.dim_attn)
        for name in "qkv":
            kernel, stride = self._pooling_of(name)
            pool = norm = None
            if kernel is not None:
                pool = DepthwisePool(head_dim, kernel, stride, flat=config.is_image, form=config.pooling_form)
                norm = nn.LayerNorm(head_dim, eps=config.pool_norm_eps)
            setattr(self, f"pool_{name}", pool)
            setattr(self, f"norm_{name}", norm)
        for axis in self.axes:
            table = nn.Parameter(torch.empty(geometry.table_rows[axis], head_dim))
            setattr(self, f"rel_pos_{AXES[axis]}", table)
        self.build_buffers(torch.empty(0).device)  # the weights may have gone elsewhere already (accelerate)
        self.register_load_state_dict_post_hook(type(self)._fill_buffers)

    @property
    def nominal_grids(self) -> tuple[Triple, Triple]:
        """Grids of queries and keys that attend to each other in images of the nominal size: of a window, or of all."""
        geometry = self.geometry
        return geometry.window_q or geometry.grid_q, geometry.window_kv or geometry.grid_kv

    def _is_steady(self, grid_q: Triple, grid_kv: Triple) -> bool:
        """Whether operands have the shapes of the nominal size; the number of windows goes with the size of images."""
        return self.geometry.window_q is None and (grid_q, grid_kv) == self.nominal_grids

    def _sizes(self, grid_q: Triple, grid_kv: Triple) -> list[tuple[int, int]]:
        """Coordinates of queries and keys on each axis that has a table."""
        return [(grid_q[axis], grid_kv[axis]) for axis in self.axes]

    def _row_index(self, grid_q: Triple, grid_kv: Triple, device: torch.device) -> Tensor:
        """The row of the stacked tables for every pair of coordinates on every axis, int64 (pairs,)."""
        sizes = self._sizes(grid_q, grid_kv)
        return join_indices([relative_index(*pair, device) for pair in sizes], [_table_rows(*pair) for pair in sizes])

    def _pooling_of(self, name: str) -> tuple[Triple | None, Triple]:
        geometry = self.geometry
        return (geometry.kernel_q, geometry.stride_q) if name == "q" else (geometry.kernel_kv, geometry.stride_kv)

    def build_buffers(self, device: torch.device | None = None) -> None:
        """Index tables of the nominal grids, on a device (None: beside the weights): not saved.

        `to_empty` and `load_state_dict(..., assign=True)` call it for a model that was made on the meta device.

        Computed on the CPU whatever the device: the many small operations take tenfold the time on the meta device.
        """
        geometry, cpu = self.geometry, torch.device("cpu")
        device = self.qkv.weight.device if device is None else device
        if self.axes:
            index = self._row_index(*self.nominal_grids, cpu)
            rows = sum(_table_rows(*sizes) for sizes in self._sizes(*self.nominal_grids))
            self.register_buffer("row_index", index.to(device), persistent=False)
            self.register_buffer("row_pairs", pairs_of_rows(index, rows).to(device), persistent=False)
            one_hot = one_hot_positions(self.nominal_grids[1], self.axes, self.cls, cpu)
            self.register_buffer("one_hot", one_hot.to(device), persistent=False)
        if self.pool_k is not None and self.pool_k.skips_tokens():
            read = self.pool_k.read_tokens(geometry.grid_in, self.cls, cpu)
            self.register_buffer("read_tokens", read.to(device), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As nn.Module; index tables are computed where they or the weights come from the meta device (`to_empty`).

        Without `recurse` the weights, which are the layers', come later: the tables are not to wait for them.
        """
        were_meta = self.qkv.weight.is_meta or self._lacks_buffers()
        super()._apply(fn, recurse)
        if were_meta and not self._lacks_buffers():
            self.build_buffers(next((buffer.device for buffer in self.buffers(recurse=False)), None))
        return self

    def _lacks_buffers(self) -> bool:
        return any(buffer.is_meta for buffer in self.buffers(recurse=False))

    def _fill_buffers(self, *_: object) -> None:
        """Compute the index tables after a loading that gave the weights alone a device (`assign=True`)."""
        if not self.qkv.weight.is_meta and self._lacks_buffers():
            self.build_buffers()

    def reset_parameters(self, style: Initialisation) -> None:
        """Initialise the relative tables: normal (0.02), or zero in the style "zero_tables"."""
        for axis in self.axes:
            table = getattr(self, f"rel_pos_{AXES[axis]}")
            if style == "zero_tables":
                nn.init.zeros_(table)
            else:
                nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x: Tensor, grid: Triple) -> tuple[Tensor, Triple]:
        """(B, cls + T*H*W, dim_in) on its grid -> (B, cls + T'*H'*W', dim_attn) and the pooled grid."""
        width = self.geometry.dim_attn
        q, kv = self.qkv(x).split([width, 2 * width], dim=-1)
        return self.attend(q, kv, grid)

    def split_weights(self, qkv: Linear) -> list[tuple[Tensor, Tensor | None]]:
        """(weight, bias) of the linear layers that make queries, and keys with values, of qkv's."""
        width = self.geometry.dim_attn
        weights = qkv.weight.split([width, 2 * width])
        biases = (None, None) if qkv.bias is None else qkv.bias.split([width, 2 * width])
        return list(zip(weights, biases))

    def read_by_keys(self, grid: Triple) -> Tensor | None:
        """Indices of the class token and the tokens that the pooling of keys and values reads; None: (nearly) all."""
        if self.pool_k is None or not self.pool_k.skips_tokens():
            return None
        if grid == self.geometry.grid_in:
            return self.get_buffer("read_tokens")
        return self.pool_k.read_tokens(grid, self.cls, self.qkv.weight.device)

    def attend(
        self, q: Tensor, kv: Tensor, grid: Triple, *, picked: bool = False, proj: Linear | None = None
    ) -> tuple[Tensor, Triple]:
        """Pooling, attention and projection; with windows, attention within each window of the pooled maps.

        Args:
            q: (B, cls + T*H*W, heads * c), not pooled yet.
            kv: (B, cls + T*H*W, 2 * heads * c), or the tokens of :meth:`read_by_keys` alone if `picked`.
            proj: what the projection computes with; None: the layer is called.

        Returns:
            (B, cls + T'*H'*W', dim_attn) and the pooled grid (T', H', W').
        """
        k, v, grid_kv = self._pool_keys(kv, grid, picked)
        q, grid_q = self._pool_queries(q, grid)
        window_q, window_kv = self.geometry.window_q, self.geometry.window_kv
        if window_q is None or window_kv is None:
            return self._attend_pooled(q, k, v, grid_q, grid_kv, proj), grid_q
        # The queries of residual pooling and the projection come in the windows, too: each token has its own.
        q = cut_windows(q, grid_q, window_q)
        k, v = (cut_windows(x.transpose(1, 2), grid_kv, window_kv).transpose(1, 2) for x in (k, v))
        return join_windows(self._attend_pooled(q, k, v, window_q, window_kv, proj), grid_q, window_q), grid_q

    def _attend_pooled(
        self, q: Tensor, k: Tensor, v: Tensor, grid_q: Triple, grid_kv: Triple, proj: Linear | None
    ) -> Tensor:
        """Attention, residual pooling and projection: q (B, N, heads, c), k, v (B, heads, M, c) -> (B, N, dim_attn)."""
        form = choose_form(self.form, q.shape[1], k, sum(grid_kv[axis] for axis in self.axes))
        if form == "triton":
            return self._merge(*self._attend_in_kernels(q, k, v, grid_q, grid_kv), q, proj)
        if form != "explicit" and self.axes:
            return self._merge(*self._attend_fused(q, k, v, grid_q, grid_kv, form), q, proj)
        out = self._attend_plainly(q.transpose(1, 2), k, v, grid_q, grid_kv, form).transpose(1, 2)
        if self.residual_pooling:
            out = self._add_queries(out, q)
        return self._project(out, proj)

    def attend_cls(
        self, q: Tensor, kv: Tensor, grid: Triple, *, picked: bool = False, proj: Linear | None = None
    ) -> Tensor:
        """What :meth:`attend` gives for the class token, from its query (B, 1, heads * c) alone: (B, 1, dim_attn).

        The class token is not pooled, has no relative positions and, but for `residual_with_cls`, gets no query added.
        """
        k, v, _ = self._pool_keys(kv, grid, picked)
        q = q.unflatten(-1, (self.geometry.num_heads, -1))
        idle = [getattr(self, f"rel_pos_{AXES[axis]}") for axis in self.axes]
        if self.pool_q is not None:
            q = self._norm(q, "q", q.dtype)
            idle.append(self.pool_q.weight)
        out = fused_attention(q.transpose(1, 2), k, v, q.shape[-1] ** -0.5, small=True).transpose(1, 2)
        if self.residual_pooling:
            out = self._add_queries(out, q)
        return with_zero_gradients(self._project(out, proj), idle)

    def _fused_pool(self, tokens: Tensor, name: str, grid: Triple, stride: Triple) -> Tensor | None:
        """Convolution and norm in one Triton kernel, (B, N', heads, c), if that form is chosen and takes the tokens."""
        pool, norm = getattr(self, f"pool_{name}"), getattr(self, f"norm_{name}")
        chosen = pool.form == "triton" or (pool.form == "auto" and tokens.is_cuda and is_plain(norm))
        if not chosen or is_hooked(pool, norm) or is_transformed():
            return None
        from mvit_video.models.kernels import triton_pool  # imported where it is used: importing Triton takes seconds

        bank, heads = pool.bank(), self.geometry.num_heads
        if not triton_pool.supports(tokens, bank, stride):
            return None
        return triton_pool.pool_norm(
            tokens, bank, norm.weight, norm.bias, grid, stride, cls=self.cls, heads=heads, eps=norm.eps
        )

    def _norm(self, tokens: Tensor, name: str, dtype: torch.dtype) -> Tensor:
        """LayerNorm of (..., heads, c). Autocast may run it in float32; one cast here keeps the compute dtype."""
        normed = layer_norm(getattr(self, f"norm_{name}"), tokens)
        return normed.to(dtype)

    def _pool_queries(self, q: Tensor, grid: Triple) -> tuple[Tensor, Triple]:
        """(B, N, heads * c) -> (B, N', heads, c): convolution, then LayerNorm of all tokens; neither if not pooled."""
        heads = self.geometry.num_heads
        if self.pool_q is None:
            return q.unflatten(-1, (heads, -1)), grid
        fused = self._fused_pool(q, "q", grid, self.pool_q.stride)
        if fused is not None:
            return fused, self.pool_q.out_grid(grid)
        pooled = on_grid(q, grid, self.cls, self.pool_q)
        return self._norm(pooled.unflatten(-1, (heads, -1)), "q", q.dtype), self.pool_q.out_grid(grid)

    def _pool_keys(self, kv: Tensor, grid: Triple, picked: bool) -> tuple[Tensor, Tensor, Triple]:
        """Keys and values (B, M, 2 * heads * c), as channels of one convolution -> (B, heads, M', c) twice."""
        heads = self.geometry.num_heads
        pool_k, pool_v = self.pool_k, self.pool_v
        if pool_k is None or pool_v is None:
            k, v = kv.unflatten(-1, (2, heads, -1)).unbind(2)
            return k.transpose(1, 2), v.transpose(1, 2), grid
        on, stride = pool_k.condensed(grid) if picked else (grid, pool_k.stride)
        slots = kv.chunk(2, dim=-1)
        k, v = (self._fused_pool(slot, name, on, stride) for slot, name in zip(slots, "kv"))
        if k is not None and v is not None:
            return k.transpose(1, 2), v.transpose(1, 2), pool_k.out_grid(grid)
        if is_hooked(pool_k, pool_v):  # called each by itself; `picked` is for those without hooks
            k, v = (
                on_grid(slot, grid, self.cls, pool).unflatten(-1, (heads, -1))
                for slot, pool in zip(slots, (pool_k, pool_v))
            )
        else:
            bank = torch.cat([pool_k.bank().repeat(heads, 1, 1, 1, 1), pool_v.bank().repeat(heads, 1, 1, 1, 1)])
            pooled = on_grid(kv, on, self.cls, lambda maps: depthwise_pool(maps, bank, stride, form=pool_k.form))
            k, v = pooled.unflatten(-1, (2, heads, -1)).unbind(2)
        k, v = self._norm(k, "k", kv.dtype), self._norm(v, "v", kv.dtype)
        return k.transpose(1, 2), v.transpose(1, 2), pool_k.out_grid(grid)

    def _attend_fused(
        self, q: Tensor, k: Tensor, v: Tensor, grid_q: Triple, grid_kv: Triple, form: str
    ) -> tuple[Tensor, Tensor]:
        """Attention on extended operands, of q (B, N, heads, c) and k, v (B, heads, M, c).

        Returns:
            (B, heads, N, c + e), and the extended queries.
        """
        width, small = q.shape[-1], form == "matmul"
        scale = width**-0.5
        # The bias takes the unscaled query, so the terms are divided by the scale that the kernel multiplies with.
        tables = self._tables(grid_q, grid_kv, q.dtype, scale)
        terms = sum(table.shape[1] for table in tables)
        fill = 0 if small else columns_to_fill(width, terms, q.dtype)
        columns = width + terms + fill
        cudnn = asks_cudnn(q, k, v, columns=columns, steady=self._is_steady(grid_q, grid_kv))
        if form == "triton_terms":
            from mvit_video.models.kernels import triton_terms

            extended = triton_terms.extended_queries(q, tables, grid_q, cls=self.cls, fill=fill)
        else:
            extended = queries_with_terms(q, tables, self.axes, grid_q, cls=self.cls, fill=fill)
        one_hot = F.pad(self._one_hot(grid_kv).to(k.dtype), (0, fill))
        keys = torch.cat([k, one_hot.expand(*k.shape[:2], -1, -1)], dim=-1)
        padding = 0 if small else values_padding(q, columns, cudnn=cudnn)
        return fused_attention(extended, keys, v, scale, small=small, padding=padding, cudnn=cudnn), extended

    def _attend_in_kernels(
        self, q: Tensor, k: Tensor, v: Tensor, grid_q: Triple, grid_kv: Triple
    ) -> tuple[Tensor, Tensor]:
        """What :meth:`_attend_fused` gives, by Triton kernels on operands as they are."""
        from mvit_video.models.kernels import triton_attention

        scale = q.shape[-1] ** -0.5
        tables = self._tables(grid_q, grid_kv, q.dtype, scale)
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        out = triton_attention.attention(q, k, v, tables, grid_q, grid_kv, cls=self.cls, scale=scale)
        return out.transpose(1, 2), q.transpose(1, 2)

    def _merge(self, out: Tensor, extended: Tensor, q: Tensor, proj: Linear | None) -> Tensor:
        """Residual pooling and projection of (B, heads, N, c + e); `extended` has the queries in its first c."""
        if self.residual_pooling and is_plain(self.proj):
            return merge_heads(out, q, extended, self.proj if proj is None else proj, self.spared)
        out = out[..., : q.shape[-1]].transpose(1, 2)
        if self.residual_pooling:
            out = self._add_queries(out, q)
        return self._project(out, proj)

    def _project(self, out: Tensor, proj: Linear | None) -> Tensor:
        """(B, N, heads, c) -> (B, N, dim_attn)."""
        if isinstance(proj, LinearWeights):
            return F.linear(out.flatten(2).to(proj.weight.dtype), proj.weight, proj.bias)
        projected: Tensor = self.proj(out.flatten(2))
        return projected

    def _attend_plainly(self, q: Tensor, k: Tensor, v: Tensor, grid_q: Triple, grid_kv: Triple, form: str) -> Tensor:
        """Without relative positions, or with their bias written out: (B, heads, N, c) and twice (B, heads, M, c)."""
        if not self.axes:
            if form != "flash":
                return explicit_attention(q, k, v, None, 0)
            cudnn = asks_cudnn(q, k, v, columns=q.shape[-1], steady=self._is_steady(grid_q, grid_kv))
            return library_attention(q, k, v, cudnn=cudnn)
        tables = self._tables(grid_q, grid_kv, q.dtype)
        terms = position_terms(q[:, :, self.cls :], tables, self.axes, grid_q)
        one_hot = self._one_hot(grid_kv).to(k.dtype)
        return explicit_attention(q, k, v, terms @ one_hot[self.cls :].t(), self.cls)

    def _add_queries(self, out: Tensor, q: Tensor) -> Tensor:
        """Residual pooling: every token but (as a rule) the class token adds its query. Both (B, N, heads, c)."""
        if not self.spared:
            return out + q
        return torch.cat([out[:, : self.spared], out[:, self.spared :] + q[:, self.spared :]], dim=1)

    def _tables(self, grid_q: Triple, grid_kv: Triple, dtype: torch.dtype, scale: float = 1.0) -> list[Tensor]:
        """Per axis, the row for each pair of coordinates, divided by `scale`: (queries, keys, c) in a dtype."""
        sizes = self._sizes(grid_q, grid_kv)
        tables = [
            resize_table(getattr(self, f"rel_pos_{AXES[axis]}"), _table_rows(*pair))
            for axis, pair in zip(self.axes, sizes)
        ]
        index, pairs = self.get_buffer("row_index"), self.get_buffer("row_pairs")
        if (grid_q, grid_kv) == self.nominal_grids:
            rows = position_rows(tables, index, pairs, scale=scale, dtype=dtype)
        else:
            rows = position_rows(tables, self._row_index(grid_q, grid_kv, index.device), None, scale=scale, dtype=dtype)
        parts = rows.split([queries * keys for queries, keys in sizes])
        return [part.unflatten(0, pair) for part, pair in zip(parts, sizes)]

    def _one_hot(self, grid_kv: Triple) -> Tensor:
        one_hot: Tensor = self.get_buffer("one_hot")
        if grid_kv != self.nominal_grids[1]:
            return one_hot_positions(grid_kv, self.axes, self.cls, one_hot.device)
        return one_hot
