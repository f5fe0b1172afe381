"""The plain parts of an MViT: stem, MLP, drop path, head, absolute positions, initialisation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvit_video.models.config import Initialisation, MViTConfig, Triple
from mvit_video.models.kernels.gradient import is_transformed
from mvit_video.models.kernels.pooling import needs_float32
from mvit_video.models.kernels.recompute import is_hooked


class PatchEmbed(nn.Module):
    """Overlapping patches by one convolution with bias: 3-D for video, 2-D for images."""

    def __init__(self, config: MViTConfig) -> None:
        super().__init__()
        kernel, stride, padding = config.patch_kernel, config.patch_stride, config.padding
        self.proj: nn.Conv2d | nn.Conv3d
        if config.is_image:
            self.proj = nn.Conv2d(config.in_channels, config.embed_dim, kernel[1:], stride[1:], padding[1:])
        else:
            self.proj = nn.Conv3d(config.in_channels, config.embed_dim, kernel, stride, padding)

    def forward(self, x: Tensor) -> tuple[Tensor, Triple]:
        """(B, channels, T, H, W) or (B, channels, H, W) -> tokens (B, T'*H'*W', C), time outermost, and their grid."""
        maps = self._in_float32(x) if self._must_be_float32(x) else self.proj(x)
        if maps.dim() == 4:
            maps = maps.unsqueeze(2)
        grid: Triple = (maps.shape[2], maps.shape[3], maps.shape[4])
        return maps.flatten(2).transpose(1, 2), grid

    def _must_be_float32(self, x: Tensor) -> bool:
        """Whether PyTorch's convolution of x would be wrong, as that of one frame in a video model is in bf16.

        Other modules in its place (adapters), and hooks on it, are called whatever they do.
        """
        proj = self.proj
        plain = type(proj) in (nn.Conv2d, nn.Conv3d) and not is_hooked(proj)
        return plain and needs_float32(x, x.shape[2:], proj.kernel_size, proj.stride)

    def _in_float32(self, x: Tensor) -> Tensor:
        """The convolution of a clip or image on a CPU, in float32 whatever is asked for; bf16."""
        conv, proj = F.conv2d if x.dim() == 4 else F.conv3d, self.proj
        bias = None if proj.bias is None else proj.bias.float()
        with torch.autocast("cpu", enabled=False):
            maps: Tensor = conv(x.float(), proj.weight.float(), bias, proj.stride, proj.padding)
        return maps.to(torch.bfloat16)


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between."""

    def __init__(self, dim: int, hidden: int, dim_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: in training, zero a sample's branch with probability `rate`, else divide it by 1 - rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x (B, ...), of which some samples are zero and the others divided; x itself in evaluation."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        if is_transformed():  # `vmap` gives samples draws of their own to operations that make a new tensor alone
            return x * (torch.bernoulli(x.new_full((x.shape[0],) + (1,) * (x.dim() - 1), keep)) / keep)
        mask = torch.empty((x.shape[0],) + (1,) * (x.dim() - 1), dtype=x.dtype, device=x.device)
        return x * mask.bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class Head(nn.Module):
    """Dropout and a linear layer to class logits; with 0 classes the features pass unchanged."""

    def __init__(self, dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout if num_classes else 0.0)
        self.projection = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim) -> (B, num_classes) logits, never probabilities."""
        return self.projection(self.dropout(x))


def resize_spatial(table: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Position embeddings (F, h*w, C) resized to (F, h'*w', C), bicubic (PySlowFast utils/checkpoint.py)."""
    if grid == new_grid:
        return table
    maps = table.unflatten(1, grid).permute(0, 3, 1, 2)
    return F.interpolate(maps, size=new_grid, mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)


def resize_temporal(table: Tensor, frames: int) -> Tensor:
    """Position embeddings (P, t, C) resized to (P, frames, C), linear."""
    if table.shape[1] == frames:
        return table
    return F.interpolate(table.transpose(1, 2), size=frames, mode="linear", align_corners=False).transpose(1, 2)


def separable_positions(spatial: Tensor, temporal: Tensor, nominal: Triple, grid: Triple) -> Tensor:
    """Sum of a spatial (1, H*W, C) and a temporal (1, T, C) embedding on a grid: (1, T'*H'*W', C), time outermost."""
    per_place = resize_spatial(spatial, nominal[1:], grid[1:])
    per_frame = resize_temporal(temporal, grid[0])
    return (per_frame.unsqueeze(2) + per_place.unsqueeze(1)).flatten(1, 2)


def joint_positions(table: Tensor, nominal: Triple, grid: Triple) -> Tensor:
    """A full embedding (1, T*H*W, C) resized to a grid, in space and then in time: (1, T'*H'*W', C)."""
    if nominal == grid:
        return table
    frames = table[0].unflatten(0, (nominal[0], -1))  # (T, H*W, C)
    per_place = resize_spatial(frames, nominal[1:], grid[1:]).transpose(0, 1)  # (H'*W', T, C)
    return resize_temporal(per_place, grid[0]).transpose(0, 1).flatten(0, 1).unsqueeze(0)


def init_module(module: nn.Module, style: Initialisation) -> None:
    """Initialise one layer in place.

    - "pyslowfast": linear and convolution weights normal (0.02), linear and LayerNorm biases 0.02, as every published
      video recipe has it (PySlowFast models/video_model_builder.py).
    - "zero_bias": linear weights normal (0.02), biases 0, convolutions as PyTorch makes them, as facebookresearch/mvit,
      torchvision and detectron2 have it.
    - "zero_tables": as "zero_bias", and relative tables are zero (detectron2 modeling/backbone/mvit.py).
    - "fan_in": linear weights normal (fan_in ** -0.5), biases 0, convolutions as PyTorch makes them. For small models,
      which 0.02 starts too weakly.

    All normals are truncated at two units, as nn.init.trunc_normal_ does.
    """
    bias = 0.02 if style == "pyslowfast" else 0.0
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5 if style == "fan_in" else 0.02)
        if module.bias is not None:
            nn.init.constant_(module.bias, bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.constant_(module.bias, bias)
    elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
        module.reset_parameters()
        if style == "pyslowfast":
            nn.init.trunc_normal_(module.weight, std=0.02)
