"""One block of an MViT: pooling attention and MLP."""

from typing import NamedTuple

from torch import Tensor, nn

from mvit_video.models.config import BlockGeometry, MViTConfig, Triple, pooled_grid
from mvit_video.models.kernels.casting import cast_layers
from mvit_video.models.kernels.pooling import max_pool_skip
from mvit_video.models.kernels.recompute import (
    Linear,
    compute_dtype,
    is_hooked,
    is_plain,
    layer_norm,
    norm_linears,
    norm_mlp,
)
from mvit_video.models.mvit.attention import MultiscaleAttention
from mvit_video.models.mvit.layers import DropPath, Mlp


class Linears(NamedTuple):
    """The linear layers of a block that are not called, but computed with; None: it is called, or there is none."""

    qkv: Linear | None
    widening: Linear | None
    proj: Linear | None
    fc1: Linear | None
    fc2: Linear | None


class Block(nn.Module):
    """Pooling attention and MLP, each with a residual; one of them widens at the end or the start of a stage."""

    def __init__(self, config: MViTConfig, geometry: BlockGeometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.cls = int(config.cls_token)
        self.fused_norms = config.norm_form == "triton"
        self.norm1 = nn.LayerNorm(geometry.dim_in, eps=1e-6)
        self.attn = MultiscaleAttention(config, geometry)
        self.norm2 = nn.LayerNorm(geometry.dim_attn, eps=1e-6)
        self.mlp = Mlp(geometry.dim_attn, int(geometry.dim_attn * config.mlp_ratio), geometry.dim_out)
        self.expands_attention = geometry.dim_attn != geometry.dim_in
        self.expands_mlp = geometry.dim_out != geometry.dim_attn
        widens = geometry.dim_out != geometry.dim_in
        self.proj = nn.Linear(geometry.dim_in, geometry.dim_out) if widens else None
        self.drop_path = DropPath(geometry.drop_path)

    def forward(self, x: Tensor, grid: Triple, cls_only: bool = False) -> tuple[Tensor, Triple]:
        """(B, cls + T*H*W, dim_in) on its grid -> (B, cls + T'*H'*W', dim_out) and the new grid.

        With cls_only the result is the class token's, (B, 1, dim_out), the same as in the whole.
        """
        linears = self._linears(x)
        attended, skip, new_grid = self._attend_cls(x, grid, linears) if cls_only else self._attend(x, grid, linears)
        if max(self.geometry.stride_q) > 1 and not cls_only:
            skip = max_pool_skip(skip, grid, self.geometry.stride_q, cls=self.cls)
        x = skip + self.drop_path(attended)
        widened, skip = self._widen(x, linears)
        return skip + self.drop_path(widened), new_grid

    def _linears(self, x: Tensor) -> Linears:
        """The layers to compute with, in the dtype of the products of x where that is done for all at once."""
        # The published models widen the skip from the normalised tokens, not from x.
        widening = self.proj if self.expands_attention else None
        mlp = not self.expands_mlp and is_plain(self.norm2) and self.mlp_is_plain()
        attention = is_plain(self.norm1, widening) and self.attention_is_plain()
        return Linears(
            *cast_layers(
                [
                    self.attn.qkv if attention else None,
                    widening if attention else None,
                    self.attn.proj if attention and is_plain(self.attn.proj) else None,
                    self.mlp.fc1 if mlp else None,
                    self.mlp.fc2 if mlp else None,
                ],
                compute_dtype(x),
            )
        )

    def attention_is_plain(self) -> bool:
        """Whether the parts of the attention can be computed with, rather than the attention be called."""
        attn = self.attn
        if type(attn) is not MultiscaleAttention or is_hooked(attn, attn.pool_q, attn.pool_k, attn.pool_v):
            return False
        return is_plain(attn.qkv)

    def mlp_is_plain(self) -> bool:
        """Whether the layers of the MLP can be computed with, rather than the MLP be called."""
        mlp = self.mlp
        if type(mlp) is not Mlp or is_hooked(mlp) or not is_plain(mlp.fc1, mlp.fc2):
            return False
        return mlp.fc1.bias is not None and mlp.fc2.bias is not None

    def _attend(self, x: Tensor, grid: Triple, linears: Linears) -> tuple[Tensor, Tensor, Triple]:
        """Attention of the normalised tokens, the skip beside it, and the new grid."""
        if linears.qkv is None:
            normed = layer_norm(self.norm1, x)
            attended, new_grid = self.attn(normed, grid)
            return attended, self.proj(normed) if self.expands_attention and self.proj is not None else x, new_grid
        picked = self.attn.read_by_keys(grid)
        queries, keys = self.attn.split_weights(linears.qkv)
        between = [] if linears.widening is None else [(linears.widening.weight, linears.widening.bias)]
        q, *skip, kv = norm_linears(x, self.norm1, [queries, *between, keys], picked, fused=self.fused_norms)
        attended, new_grid = self.attn.attend(q, kv, grid, picked=picked is not None, proj=linears.proj)
        return attended, skip[0] if skip else x, new_grid

    def _attend_cls(self, x: Tensor, grid: Triple, linears: Linears) -> tuple[Tensor, Tensor, Triple]:
        """As :meth:`_attend`, for the class token alone; other tokens are only keys and values."""
        assert self.cls == 1
        first, new_grid = x[:, :1], pooled_grid(grid, self.geometry.kernel_q, self.geometry.stride_q)
        if linears.qkv is None:
            attended, whole, new_grid = self._attend(x, grid, linears)
            return attended[:, :1], whole[:, :1], new_grid
        picked = self.attn.read_by_keys(grid)
        queries, keys = self.attn.split_weights(linears.qkv)
        between = [] if linears.widening is None else [(linears.widening.weight, linears.widening.bias)]
        (kv,) = norm_linears(x, self.norm1, [keys], picked, fused=self.fused_norms)
        q, *skip = norm_linears(first, self.norm1, [queries, *between], fused=self.fused_norms)
        attended = self.attn.attend_cls(q, kv, grid, picked=picked is not None, proj=linears.proj)
        return attended, skip[0] if skip else first, new_grid

    def _widen(self, x: Tensor, linears: Linears) -> tuple[Tensor, Tensor]:
        """The MLP of the normalised tokens, and the skip beside it."""
        if linears.fc1 is None or linears.fc2 is None:
            normed = layer_norm(self.norm2, x)
            skip = self.proj(normed) if self.expands_mlp and self.proj is not None else x
            return self.mlp(normed), skip
        return norm_mlp(x, self.norm2, linears.fc1, linears.fc2, fused=self.fused_norms), x
