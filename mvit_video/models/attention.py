"""Pooling attention with decomposed relative positions (MViTv2 paper, section 4.1), in an exact flash form.

The bias of a query at (t, h, w) towards a key at (t', h', w') is q . (R_t[d(t, t')] + R_h[d(h, h')] + R_w[d(w, w')]):
a sum of three out of the K_t + K_h + K_w products of q with the table rows of its distances to the key coordinates.
So it is itself a dot product, of those products with a vector that holds a one at t', h' and w'. With the products
appended to the query and the one-hot vectors to the key, plain attention computes the biased logits: no bias tensor, no
attention map, and any fused kernel applies.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvit_video.models.config import AttentionForm, BlockGeometry, MViTConfig, Triple
from mvit_video.models.pooling import DepthwisePool, on_grid

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

    query_scale = rounded(torch.tensor(max(keys / queries, 1.0), dtype=torch.float64, device=device))
    key_scale = rounded(torch.tensor(max(queries / keys, 1.0), dtype=torch.float64, device=device))
    offset = rounded(torch.tensor((keys - 1) * max(queries / keys, 1.0), dtype=torch.float64, device=device))
    i = torch.arange(queries, dtype=torch.float64, device=device)[:, None]
    j = torch.arange(keys, dtype=torch.float64, device=device)[None, :]
    distance = rounded(rounded(rounded(i * query_scale) - rounded(j * key_scale)) + offset)
    return distance.long()


def resize_table(table: Tensor, rows: int) -> Tensor:
    """Relative table (R, c) linearly interpolated to (rows, c); itself where R == rows."""
    if table.shape[0] == rows:
        return table
    return F.interpolate(table.t().unsqueeze(0), size=rows, mode="linear", align_corners=False)[0].t()


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


def choose_form(form: AttentionForm, q: Tensor, k: Tensor) -> Literal["flash", "explicit", "matmul"]:
    """The form that computes the attention; all give the same values.

    "flash" and "explicit" are themselves. "auto" is flash, except on the CPU when a head has at most SMALL_LOGITS
    logits: there the fused kernel's backward loses to matrix products and a softmax on the same augmented operands.
    """
    if form != "auto":
        return form
    return "matmul" if q.device.type == "cpu" and q.shape[2] * k.shape[2] <= SMALL_LOGITS else "flash"


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cls: int) -> Tensor:
    """softmax(q k^T / sqrt(c) + bias) v; the bias (B, heads, N - cls, M - cls) spares the class row and column."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + F.pad(bias.to(logits.dtype), (cls, 0, cls, 0))
    return logits.softmax(dim=-1).to(v.dtype) @ v


def fused_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, *, small: bool) -> Tensor:
    """Attention on augmented queries (B, heads, N, c + e) and keys (B, heads, M, c + e), values (B, heads, M, c)."""
    if small:
        logits = (q * scale) @ k.transpose(-2, -1)
        return logits.softmax(dim=-1).to(v.dtype) @ v
    extra = q.shape[-1] - v.shape[-1]
    if extra:  # flash kernels take one width for queries, keys and values
        v = F.pad(v, (0, extra))
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return out[..., : out.shape[-1] - extra] if extra else out


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
                norm = nn.LayerNorm(head_dim, eps=1e-6)
            setattr(self, f"pool_{name}", pool)
            setattr(self, f"norm_{name}", norm)
        for axis in self.axes:
            table = nn.Parameter(torch.empty(geometry.table_rows[axis], head_dim))
            setattr(self, f"rel_pos_{AXES[axis]}", table)
        if self.axes:
            self._register_position_buffers()

    def _pooling_of(self, name: str) -> tuple[Triple | None, Triple]:
        geometry = self.geometry
        return (geometry.kernel_q, geometry.stride_q) if name == "q" else (geometry.kernel_kv, geometry.stride_kv)

    def _register_position_buffers(self, device: torch.device | None = None) -> None:
        """Index tables of the nominal grids: not saved, and rebuilt after a model was made on the meta device."""
        geometry = self.geometry
        for axis in self.axes:
            index = relative_index(geometry.grid_q[axis], geometry.grid_kv[axis], device)
            self.register_buffer(f"index_{AXES[axis]}", index, persistent=False)
        one_hot = one_hot_positions(geometry.grid_kv, self.axes, self.cls, device)
        self.register_buffer("one_hot", one_hot, persistent=False)

    def reset_parameters(self) -> None:
        """Initialise the relative tables (normal, 0.02) and rebuild the index buffers on the present device."""
        for axis in self.axes:
            nn.init.trunc_normal_(getattr(self, f"rel_pos_{AXES[axis]}"), std=0.02)
        if self.axes:
            self._register_position_buffers(self.qkv.weight.device)

    def forward(self, x: Tensor, grid: Triple) -> tuple[Tensor, Triple]:
        """(B, cls + T*H*W, dim_in) on its grid -> (B, cls + T'*H'*W', dim_attn) and the pooled grid."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, grid_q = self._pool(q, grid, "q")
        k, grid_kv = self._pool(k, grid, "k")
        v, _ = self._pool(v, grid, "v")
        out = self._attend(q, k, v, grid_q, grid_kv).transpose(1, 2)
        if self.residual_pooling:
            out = self._add_queries(out, q.transpose(1, 2))
        return self.proj(out.flatten(2)), grid_q

    def _pool(self, tokens: Tensor, grid: Triple, name: str) -> tuple[Tensor, Triple]:
        """(B, N, heads * c) -> (B, heads, N', c): convolution, then LayerNorm of all tokens; neither if not pooled."""
        pool, norm = getattr(self, f"pool_{name}"), getattr(self, f"norm_{name}")
        heads = self.geometry.num_heads
        if pool is None:
            return tokens.unflatten(-1, (heads, -1)).transpose(1, 2), grid
        pooled = on_grid(tokens, grid, self.cls, pool)
        # Autocast may run the norm in float32; one cast here keeps the attention operands in the compute dtype.
        normed = norm(pooled.unflatten(-1, (heads, -1))).to(tokens.dtype)
        return normed.transpose(1, 2), pool.out_grid(grid)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, grid_q: Triple, grid_kv: Triple) -> Tensor:
        """(B, heads, N, c) and (B, heads, M, c) twice -> (B, heads, N, c)."""
        form = choose_form(self.form, q, k)
        if not self.axes:
            if form == "flash":
                return F.scaled_dot_product_attention(q, k, v)
            return explicit_attention(q, k, v, None, self.cls)
        scale = q.shape[-1] ** -0.5
        tables = self._tables(grid_q, grid_kv)
        one_hot = self._one_hot(grid_kv).to(k.dtype)
        if form == "explicit":
            terms = position_terms(q[:, :, self.cls :], [t.to(q.dtype) for t in tables], self.axes, grid_q)
            return explicit_attention(q, k, v, terms @ one_hot[self.cls :].t(), self.cls)
        # The bias takes the unscaled query, so the terms are divided by the scale that the kernel multiplies with.
        terms = position_terms(q[:, :, self.cls :], [(t / scale).to(q.dtype) for t in tables], self.axes, grid_q)
        small = form == "matmul"
        fill = 0 if small else -(q.shape[-1] + terms.shape[-1]) % 8
        terms = F.pad(terms.to(q.dtype), (0, fill, self.cls, 0))
        one_hot = F.pad(one_hot, (0, fill)).expand(*k.shape[:2], -1, -1)
        return fused_attention(torch.cat([q, terms], -1), torch.cat([k, one_hot], -1), v, scale, small=small)

    def _add_queries(self, out: Tensor, q: Tensor) -> Tensor:
        """Residual pooling: every token but the class token adds its pooled query. Both (B, N, heads, c)."""
        if not self.cls:
            return out + q
        return torch.cat([out[:, : self.cls], out[:, self.cls :] + q[:, self.cls :]], dim=1)

    def _tables(self, grid_q: Triple, grid_kv: Triple) -> list[Tensor]:
        """Per axis, the row for each pair of coordinates: (queries, keys, c)."""
        gathered = []
        for axis in self.axes:
            queries, keys = grid_q[axis], grid_kv[axis]
            table = resize_table(getattr(self, f"rel_pos_{AXES[axis]}"), 2 * max(queries, keys) - 1)
            index = getattr(self, f"index_{AXES[axis]}")
            if index.shape != (queries, keys):
                index = relative_index(queries, keys, table.device)
            gathered.append(table[index])
        return gathered

    def _one_hot(self, grid_kv: Triple) -> Tensor:
        one_hot: Tensor = self.get_buffer("one_hot")
        if grid_kv != self.geometry.grid_kv:
            return one_hot_positions(grid_kv, self.axes, self.cls, one_hot.device)
        return one_hot
