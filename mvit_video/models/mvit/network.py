"""Multiscale Vision Transformers, version 1 (arXiv 2104.11227) and 2 (arXiv 2112.01526), for video and images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvit_video.models.config import MViTConfig, Triple
from mvit_video.models.kernels.pooling import DepthwisePool
from mvit_video.models.kernels.recompute import layer_norm
from mvit_video.models.mvit.activation_checkpointing import CheckpointPlan, plan
from mvit_video.models.mvit.attention import MultiscaleAttention
from mvit_video.models.mvit.blocks import Block
from mvit_video.models.mvit.layers import DropPath, Head, PatchEmbed, init_module, joint_positions, separable_positions


class MViT(nn.Module):
    """A multiscale vision transformer for clips (B, C, T, H, W) or, with num_frames=1, images (B, C, H, W).

    Any input size runs: relative tables and absolute embeddings are interpolated where it is not the nominal one.
    Parameter names are PySlowFast's (image models: facebookresearch/mvit's), so published state dicts load strictly.
    """

    pos_embed: nn.Parameter
    pos_embed_spatial: nn.Parameter
    pos_embed_temporal: nn.Parameter
    pos_embed_class: nn.Parameter

    def __init__(self, config: MViTConfig) -> None:
        super().__init__()
        self.config = config
        self.cls = int(config.cls_token)
        self.patch_embed = PatchEmbed(config)
        if config.cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.embed_dim))
        self._make_positions()
        self.blocks = nn.ModuleList(Block(config, geometry) for geometry in config.blocks)
        if config.stage_norms:
            for stage, name in enumerate(self.feature_names()):
                setattr(self, f"{name}_norm", nn.LayerNorm(config.embed_dim * 2**stage, eps=1e-6))
        else:
            self.norm = nn.LayerNorm(config.out_dim, eps=1e-6)
            self.head = Head(config.out_dim, config.num_classes, config.dropout)
        self.recomputed: frozenset[int] | None = frozenset(config.recomputed_blocks)
        """Blocks that are recomputed in the backward pass; None: not planned yet, see :meth:`plan_checkpointing`."""
        if config.activation_budget_gb is not None:
            self.recomputed = None
        self._draw_weights()

    def _make_positions(self) -> None:
        t, h, w = self.config.table_grid
        dim = self.config.embed_dim
        if self.config.abs_pos == "joint":
            self.pos_embed = nn.Parameter(torch.empty(1, self.cls + t * h * w, dim))
        elif self.config.abs_pos == "separable":
            self.pos_embed_spatial = nn.Parameter(torch.empty(1, h * w, dim))
            self.pos_embed_temporal = nn.Parameter(torch.empty(1, t, dim))
            if self.cls:
                self.pos_embed_class = nn.Parameter(torch.empty(1, 1, dim))

    def init_weights(self) -> None:
        """Draw all parameters anew (from torch's generator) and rebuild the index buffers."""
        for module in self.modules():
            if isinstance(module, MultiscaleAttention):
                module.build_buffers()
        self._draw_weights()

    def _draw_weights(self) -> None:
        """Draw all parameters; on the meta device there is nothing to draw."""
        if self.patch_embed.proj.weight.is_meta:
            return
        for module in self.modules():
            init_module(module, self.config.init)
            if isinstance(module, (DepthwisePool, MultiscaleAttention)):
                module.reset_parameters(self.config.init)
        for name, parameter in self.named_parameters(recurse=False):
            assert name == "cls_token" or name.startswith("pos_embed"), name
            nn.init.trunc_normal_(parameter, std=0.02)
        projection = None if self.config.stage_norms else self.head.projection
        if isinstance(projection, nn.Linear):
            nn.init.trunc_normal_(projection.weight, std=0.02)
            with torch.no_grad():
                projection.weight.mul_(self.config.head_init_scale)
                projection.bias.mul_(self.config.head_init_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (B, num_classes), in training and evaluation alike; features (B, out_dim) with num_classes=0.

        Args:
            x: (B, C, T, H, W) normalised clips; image models take (B, C, H, W) or a T of 1.

        Raises:
            ValueError: the input has another shape, or the model is a backbone (`stage_norms`), which has no classes.
        """
        if self.config.stage_norms:
            raise ValueError("a model with stage_norms=True is a backbone without a head: call forward_features.")
        tokens, grid = self.embed(x)
        recomputed = self._recomputed(x)
        for index, block in enumerate(self.blocks):
            tokens, grid = self._run_block(block, tokens, grid, index in recomputed, self.is_cls_only(index))
        return self.forward_head(tokens)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The last map of each stage, (B, C, T, H, W), finest first, without class token and final norm.

        With `stage_norms` each map went through its own norm; the map before the norm enters the next stage. Image
        models give T = 1. With expand_in="mlp" a stage's last block already has the next stage's width.
        """
        maps: list[Tensor] = []
        tokens, grid = self.embed(x)
        recomputed = self._recomputed(x)
        last = {start - 1 for start in self.config.stage_starts} | {self.config.depth - 1}
        for index, block in enumerate(self.blocks):
            tokens, grid = self._run_block(block, tokens, grid, index in recomputed)
            if index in last:
                norm = getattr(self, f"{self.feature_names()[len(maps)]}_norm") if self.config.stage_norms else None
                kept = tokens[:, self.cls :] if norm is None else layer_norm(norm, tokens)
                maps.append(kept.transpose(1, 2).unflatten(2, grid))
        return maps

    def feature_names(self) -> list[str]:
        """What detectron2 calls the maps of the stages: "scale2" for the first, whose stride is 2 ** 2, and so on."""
        return [f"scale{stage + 2}" for stage in range(len(self.config.stage_starts) + 1)]

    def embed(self, x: Tensor) -> tuple[Tensor, Triple]:
        """Clips (as :meth:`forward` takes them) to tokens (B, cls + T*H*W, C) with their positions, and their grid."""
        tokens, grid = self.patch_embed(self._check_input(x))
        if not self.config.cls_token:
            return tokens if self.config.abs_pos == "none" else tokens + self.positions(grid), grid
        first: Tensor = self.cls_token
        if self.config.abs_pos == "separable":
            # Added here, and not to the joined tokens: with a batch of one, the gradients of the two would be one
            # memory, in which accumulation adds to both and clipping scales both twice.
            first = first + self.pos_embed_class
            tokens = tokens + self._grid_positions(grid)
        tokens = torch.cat([first.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return tokens + self.positions(grid) if self.config.abs_pos == "joint" else tokens, grid

    def forward_head(self, tokens: Tensor) -> Tensor:
        """What :meth:`forward` returns, from the tokens of the last block."""
        return self.head(self._pool_tokens(tokens))

    def block_model(self) -> "MViT":
        """What plans measure: itself."""
        return self

    def is_cls_only(self, index: int) -> bool:
        """Whether a block computes the class token alone: the last one, if the head reads nothing else."""
        return index == len(self.blocks) - 1 and self.config.head_pooling == "cls"

    def plan_checkpointing(self, shape: Sequence[int], *, budget_gb: float | None = None) -> CheckpointPlan:
        """Choose the blocks to recompute for clips of a shape, at the fewest repeated operations, and remember them.

        Done by the first training step of a model with `activation_budget_gb`; to be called before, under the autocast
        of the training, where the model will be compiled, where later clips are larger than the first, or to see it.

        Args:
            shape: (B, C, T, H, W) or (B, C, H, W) of the largest batch on this device.
            budget_gb: bytes / 10^9 that autograd may keep at any moment; None: the configuration's.

        Raises:
            ValueError: no plan keeps so little (the message says how little is possible), there is no budget, or the
                model is in evaluation mode.
        """
        budget_gb = self.config.activation_budget_gb if budget_gb is None else budget_gb
        if budget_gb is None:
            raise ValueError("no activation_budget_gb in the configuration: pass budget_gb.")
        found = plan(self, shape, int(budget_gb * 1e9))
        self.recomputed = frozenset(found.blocks)
        return found

    def layer_ids(self) -> dict[str, int]:
        """Depth of every parameter: stem and positions have 0, block i has i + 1, norm and head have depth + 1."""
        ids = {}
        for name, _ in self.named_parameters():
            if name.startswith("blocks."):
                ids[name] = int(name.split(".")[1]) + 1
            elif name.startswith(("norm.", "head.", "scale")):
                ids[name] = self.config.depth + 1
            else:
                ids[name] = 0
        return ids

    def _check_input(self, x: Tensor) -> Tensor:
        channels = self.config.in_channels
        if self.config.is_image:
            if x.dim() == 5 and x.shape[2] == 1:
                x = x.squeeze(2)
            if x.dim() != 4 or x.shape[1] != channels:
                raise ValueError(f"input of shape {tuple(x.shape)}: an image model takes (B, {channels}, H, W).")
        elif x.dim() != 5 or x.shape[1] != channels:
            raise ValueError(f"input of shape {tuple(x.shape)}: a video model takes (B, {channels}, T, H, W).")
        return x

    def positions(self, grid: Triple) -> Tensor:
        """Absolute position embedding of all tokens, (1, cls + T*H*W, C)."""
        if self.config.abs_pos == "joint":
            head, rest = self.pos_embed[:, : self.cls], self.pos_embed[:, self.cls :]
            return torch.cat([head, joint_positions(rest, self.config.table_grid, grid)], dim=1)
        rest = self._grid_positions(grid)
        return torch.cat([self.pos_embed_class, rest], dim=1) if self.cls else rest

    def _grid_positions(self, grid: Triple) -> Tensor:
        """Separable position embedding of the tokens on a grid, (1, T*H*W, C)."""
        return separable_positions(self.pos_embed_spatial, self.pos_embed_temporal, self.config.table_grid, grid)

    def _recomputed(self, x: Tensor) -> frozenset[int]:
        """Blocks to recompute in the backward pass of this forward pass."""
        if not (self.training and torch.is_grad_enabled()):
            return frozenset()
        if self.recomputed is None:
            if torch.compiler.is_compiling():
                raise ValueError(
                    f"activation_budget_gb={self.config.activation_budget_gb} is not planned: call "
                    "model.plan_checkpointing(shape of a batch) before the first compiled step."
                )
            self.plan_checkpointing(x.shape)
        assert self.recomputed is not None
        return self.recomputed

    def _run_block(
        self, block: nn.Module, tokens: Tensor, grid: Triple, recompute: bool, cls_only: bool = False
    ) -> tuple[Tensor, Triple]:
        if recompute:
            # Saving and restoring the random state costs time: not where nothing is drawn.
            result: tuple[Tensor, Triple] = checkpoint(
                block, tokens, grid, cls_only, use_reentrant=False, preserve_rng_state=_draws(block)
            )
            return result
        return block(tokens, grid, cls_only)

    def _pool_tokens(self, tokens: Tensor) -> Tensor:
        """The feature of the clip, (B, out_dim), by the configured head pooling."""
        if self.config.head_pooling == "cls":
            return layer_norm(self.norm, tokens[:, 0])
        tokens = tokens[:, self.cls :]
        if self.config.head_pooling == "norm_mean":
            return layer_norm(self.norm, tokens).mean(dim=1)
        return layer_norm(self.norm, tokens.mean(dim=1))


def _draws(block: nn.Module) -> bool:
    """Whether a block draws random numbers in its forward pass."""
    return any(isinstance(module, DropPath) and module.training and module.rate > 0 for module in block.modules())
