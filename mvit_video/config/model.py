"""Options of the group `model`: `_target_` builds it, the fields beside are the arguments of `_target_`."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING, SI

from mvit_video.config.rules import option


@dataclass
class MViT:
    """A preset of the MViT family. A field left at null keeps the preset's own value."""

    _target_: str = "mvit_video.models.create_model"
    name: str = option(MISSING, help="the preset, as `mvit_video.models.list_models()` lists them")
    num_classes: int | None = option(SI("${data.num_classes}"), at_least=1, help="logits")
    num_frames: int = option(SI("${data.num_frames}"), at_least=1, help="frames of a clip")
    crop_size: int = option(SI("${data.crop_size}"), at_least=1, help="height and width of a clip in pixels")
    drop_path: float | None = option(
        None,
        at_least=0,
        below=1,
        help="stochastic depth: rate of the last block; earlier blocks have less in proportion",
    )
    dropout: float | None = option(None, at_least=0, below=1, help="dropout before the head's linear layer")
    rel_pos: str | None = option(
        None, choices=("none", "spatial", "spatiotemporal"), help="axes that have relative positions"
    )
    pool_kernel: list[int] | None = option(None, help="kernel of every pooling convolution, on time, height and width")
    patch_kernel: list[int] | None = option(None, help="kernel of the patch embedding, on time, height and width")
    expand_in: str | None = option(
        None, choices=("attention", "mlp"), help="what widens the channels: attention (v2) or mlp (v1, MaskFeat)"
    )
    head_pooling: str | None = option(
        None,
        choices=("cls", "norm_mean", "mean_norm"),
        help="what the head sees: class token, mean of normalised tokens, or normalised mean of tokens",
    )
    residual_with_cls: bool | None = option(
        None, help="the class token's query is added in residual pooling, too, as in timm's models"
    )
    init: str | None = option(
        None, choices=("pyslowfast", "zero_bias", "zero_tables", "fan_in"), help="how weights are drawn before training"
    )
    head_init_scale: float | None = option(None, help="factor on the head's first weights")
    activation_checkpointing: Any = option(
        False,
        neutral=True,
        help="blocks recomputed in the backward pass: false, true, the first n, or a list of indices",
    )
    activation_budget_gb: float | None = option(
        None,
        above=0,
        neutral=True,
        help="instead: recompute the fewest blocks that keep activations under so many 10^9 bytes",
    )


@dataclass
class Baseline:
    """A convolutional network of PyTorchVideo, trained and evaluated by the same pipeline."""

    _target_: str = "mvit_video.interop.baselines.create_baseline"
    name: str = option(MISSING, help="x3d_s, x3d_m, slow_r50 or slowfast_r50")
    num_classes: int | None = option(SI("${data.num_classes}"), at_least=1, help="logits")
    num_frames: int = option(SI("${data.num_frames}"), at_least=1, help="frames of a clip; SlowFast: a multiple of 4")
    crop_size: int = option(SI("${data.crop_size}"), at_least=1, help="height and width of a clip in pixels")
    dropout: float = option(0.5, at_least=0, below=1, help="dropout before the head's linear layer")
