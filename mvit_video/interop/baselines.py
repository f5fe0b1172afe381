"""Convolutional baselines (X3D, Slow, SlowFast) to train and compare in the same pipeline as MViT.

The networks are PyTorchVideo's; this module gives them the interface of the project's own models: one clip tensor in,
logits out, in training and in evaluation alike.
"""

from collections.abc import Callable

import torch
from torch import nn

from mvit_video.interop.pytorchvideo import import_pytorchvideo

# SlowFast 8x8: the fast pathway sees every frame of the clip, the slow pathway every fourth (paper, section 3.1).
_SLOWFAST_ALPHA = 4
# The stem and the stages of all four networks halve height and width five times.
_SPATIAL_STRIDE = 32


class Baseline(nn.Module):
    """A PyTorchVideo network behind the interface of the project's models.

    Args:
        network: takes (B, 3, T, H, W), or [slow, fast] clips of that shape if `alpha` is given; returns (B, classes).
        num_frames: frames of a clip, T.
        alpha: frame-rate ratio of SlowFast's pathways; None for a network with one pathway.
    """

    slow_indices: torch.Tensor | None

    def __init__(self, network: nn.Module, *, num_frames: int, alpha: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.num_frames = num_frames
        indices = None if alpha is None else slow_pathway_indices(num_frames, alpha=alpha)
        self.register_buffer("slow_indices", indices, persistent=False)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_classes) of normalised float clips (B, 3, T, H, W); H and W are free from 32 pixels on.

        Raises:
            ValueError: the clips have another layout, number of frames, or less than 32 pixels on a side.
        """
        if clips.ndim != 5 or clips.shape[1] != 3 or clips.shape[2] != self.num_frames:
            raise ValueError(
                f"clips of shape {tuple(clips.shape)} do not fit this model, which takes (batch, 3, {self.num_frames}, "
                "height, width); pass clips of that shape, or build the model with another num_frames"
            )
        _check_size(min(clips.shape[3:]))
        if self.slow_indices is None:
            return self.network(clips)
        return self.network([clips.index_select(2, self.slow_indices), clips])

    def layer_ids(self) -> dict[str, int]:
        """Depth of every parameter: the number of its block, 0 for the stem; the head has the highest."""
        return {name: int(name.split(".")[2]) for name, _ in self.named_parameters()}


def slow_pathway_indices(num_frames: int, *, alpha: int) -> torch.Tensor:
    """Frames of the clip that SlowFast's slow pathway sees, int64 (num_frames // alpha,).

    Evenly spread from the first to the last frame and truncated, so not a plain stride of alpha: 0, 4, 8, 13, 17, 22,
    26, 31 of 32 (PySlowFast datasets/utils.py, pack_pathway_output).
    """
    return torch.linspace(0, num_frames - 1, num_frames // alpha).long()


def list_baselines() -> list[str]:
    """Names that `create_baseline` knows."""
    return sorted(_BUILDERS)


def create_baseline(name: str, *, num_classes: int, num_frames: int, crop_size: int, dropout: float = 0.5) -> nn.Module:
    """A baseline with random weights: normalised float clips (B, 3, T, H, W) in, logits (B, num_classes) out.

    The heads pool over the whole feature map, whatever its size. At the published clip size this equals the published
    networks, whose state dicts fit `.network`.

    Args:
        name: "x3d_s" (published for 13 frames at 160 pixels), "x3d_m" (16 at 224), "slow_r50" (8 at 224) or
            "slowfast_r50" (32 at 224; these are the frames of the fast pathway, the slow one takes a quarter of them).
        num_classes: number of logits.
        num_frames: frames of a clip; a multiple of 4 for SlowFast.
        crop_size: height and width of the training clips in pixels, at least 32.
        dropout: probability of dropping a feature before the classifier.

    Raises:
        ValueError: an unknown name or an impossible value.
        RuntimeError: PyTorchVideo is not installed.
    """
    if name not in _BUILDERS:
        raise ValueError(
            f"unknown baseline {name!r}; the baselines are {', '.join(list_baselines())} "
            "(MViT models come from mvit_video.models.create_model)"
        )
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1; pass the number of classes of the data set")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout} must be at least 0 and less than 1; 0.5 is the published value")
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} must be at least 1; the published models take 8 to 32")
    if name == "slowfast_r50" and num_frames % _SLOWFAST_ALPHA:
        raise ValueError(
            f"num_frames={num_frames} must be a multiple of {_SLOWFAST_ALPHA} for slowfast_r50, whose slow pathway "
            f"takes one frame in {_SLOWFAST_ALPHA}; try {-(-num_frames // _SLOWFAST_ALPHA) * _SLOWFAST_ALPHA}"
        )
    _check_size(crop_size)
    network = _BUILDERS[name](num_classes, dropout)
    return Baseline(network, num_frames=num_frames, alpha=_SLOWFAST_ALPHA if name == "slowfast_r50" else None)


def _check_size(pixels: int) -> None:
    if pixels < _SPATIAL_STRIDE:
        raise ValueError(
            f"a crop of {pixels} pixels is too small: the network divides height and width by {_SPATIAL_STRIDE}; "
            f"use a crop_size of at least {_SPATIAL_STRIDE}"
        )


def _x3d(num_classes: int, dropout: float) -> nn.Module:
    # X3D-S and X3D-M are one network at two clip sizes. Its softmax is on by default, in training too.
    network = import_pytorchvideo("models.x3d").create_x3d(
        model_num_class=num_classes, dropout_rate=dropout, head_activation=None
    )
    # create_x3d pools with a kernel of one clip size; the mean over the whole map is the same there and fits any size.
    network.blocks[-1].pool.pool = nn.AdaptiveAvgPool3d(1)
    return network


def _slow_r50(num_classes: int, dropout: float) -> nn.Module:
    return import_pytorchvideo("models.resnet").create_resnet(
        model_depth=50,
        stem_conv_kernel_size=(1, 7, 7),
        model_num_class=num_classes,
        dropout_rate=dropout,
        head_pool=nn.AdaptiveAvgPool3d,
        head_activation=None,
    )


def _slowfast_r50(num_classes: int, dropout: float) -> nn.Module:
    return import_pytorchvideo("models.slowfast").create_slowfast(
        model_depth=50,
        slowfast_fusion_conv_kernel_size=(7, 1, 1),
        model_num_class=num_classes,
        dropout_rate=dropout,
        head_pool=nn.AdaptiveAvgPool3d,
        head_activation=None,
    )


_BUILDERS: dict[str, Callable[[int, float], nn.Module]] = {
    "x3d_s": _x3d,
    "x3d_m": _x3d,
    "slow_r50": _slow_r50,
    "slowfast_r50": _slowfast_r50,
}
