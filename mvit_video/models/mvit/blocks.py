"""One block of an MViT: pooling attention and MLP."""

from torch import Tensor, nn

from mvit_video.models.config import BlockGeometry, MViTConfig, Triple, pooled_grid
from mvit_video.models.kernels.pooling import max_pool_skip
from mvit_video.models.kernels.recompute import is_plain, norm_linears, norm_mlp
from mvit_video.models.mvit.attention import MultiscaleAttention
from mvit_video.models.mvit.layers import DropPath, Mlp


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
        attended, skip, new_grid = self._attend_cls(x, grid) if cls_only else self._attend(x, grid)
        if max(self.geometry.stride_q) > 1 and not cls_only:
            skip = max_pool_skip(skip, grid, self.geometry.stride_q, cls=self.cls)
        x = skip + self.drop_path(attended)
        widened, skip = self._widen(x)
        return skip + self.drop_path(widened), new_grid

    def _attend(self, x: Tensor, grid: Triple) -> tuple[Tensor, Tensor, Triple]:
        """Attention of the normalised tokens, the skip beside it, and the new grid."""
        # The published models widen the skip from the normalised tokens, not from x.
        widening = self.proj if self.expands_attention else None
        if not is_plain(self.norm1, self.attn.qkv, widening):
            normed = self.norm1(x)
            attended, new_grid = self.attn(normed, grid)
            return attended, x if widening is None else widening(normed), new_grid
        picked = self.attn.read_by_keys(grid)
        queries, keys = self.attn.split_weights()
        between = [] if widening is None else [(widening.weight, widening.bias)]
        q, *skip, kv = norm_linears(x, self.norm1, [queries, *between, keys], picked, fused=self.fused_norms)
        attended, new_grid = self.attn.attend(q, kv, grid, picked=picked is not None)
        return attended, skip[0] if skip else x, new_grid

    def _attend_cls(self, x: Tensor, grid: Triple) -> tuple[Tensor, Tensor, Triple]:
        """As :meth:`_attend`, for the class token alone; other tokens are only keys and values."""
        assert self.cls == 1
        widening = self.proj if self.expands_attention else None
        first, new_grid = x[:, :1], pooled_grid(grid, self.geometry.kernel_q, self.geometry.stride_q)
        if not is_plain(self.norm1, self.attn.qkv, widening):
            attended, whole, new_grid = self._attend(x, grid)
            return attended[:, :1], whole[:, :1], new_grid
        picked = self.attn.read_by_keys(grid)
        queries, keys = self.attn.split_weights()
        between = [] if widening is None else [(widening.weight, widening.bias)]
        (kv,) = norm_linears(x, self.norm1, [keys], picked, fused=self.fused_norms)
        q, *skip = norm_linears(first, self.norm1, [queries, *between], fused=self.fused_norms)
        attended = self.attn.attend_cls(q, kv, grid, picked=picked is not None)
        return attended, skip[0] if skip else first, new_grid

    def _widen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The MLP of the normalised tokens, and the skip beside it."""
        if self.expands_mlp or not is_plain(self.norm2, self.mlp.fc1, self.mlp.fc2):
            normed = self.norm2(x)
            skip = self.proj(normed) if self.expands_mlp and self.proj is not None else x
            return self.mlp(normed), skip
        return norm_mlp(x, self.norm2, self.mlp.fc1, self.mlp.fc2, fused=self.fused_norms), x
