"""Equality with torchvision's two models on the same weights."""

import re
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from mvit_video.models import MViTConfig, create_model
from tests.models.helpers import randomised, small_config, v1_fields

video = pytest.importorskip("torchvision.models.video")
tv_mvit = pytest.importorskip("torchvision.models.video.mvit")

RENAMED = {
    "cls_token": "pos_encoding.class_token",
    "pos_embed_spatial": "pos_encoding.spatial_pos",
    "pos_embed_temporal": "pos_encoding.temporal_pos",
    "pos_embed_class": "pos_encoding.class_pos",
}
PATTERNS = [
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^head\.projection\.", "head.1."),
    (r"attn\.proj\.", "attn.project.0."),
    (r"attn\.pool_(.)\.weight", r"attn.pool_\1.pool.weight"),
    (r"attn\.norm_(.)\.", r"attn.pool_\1.norm_act.0."),
    (r"mlp\.fc1\.", "mlp.0."),
    (r"mlp\.fc2\.", "mlp.3."),
    (r"^(blocks\.\d+)\.proj\.", r"\1.project."),
]


def tv_name(name: str) -> str:
    for pattern, replacement in PATTERNS:
        name = re.sub(pattern, replacement, name)
    return RENAMED.get(name, name)


def copy_weights(ours: nn.Module, theirs: nn.Module) -> None:
    shapes: Mapping[str, Tensor] = theirs.state_dict()
    theirs.load_state_dict({tv_name(n): v.reshape(shapes[tv_name(n)].shape) for n, v in ours.state_dict().items()})


@pytest.mark.parametrize("name", ["mvitv2_s_16x4", "mvitv1_b_16x4"])
def test_logits_of_the_published_sizes(name):
    """In depth and width, on clips of an eighth of the pixels (a whole clip: interop/test_pytorchvideo_mvit.py)."""
    torch.manual_seed(0)
    ours = create_model(name, num_frames=8, crop_size=112).eval()
    theirs = torchvision_model(ours.config).eval()
    with torch.no_grad():
        for parameter_name, parameter in ours.named_parameters():
            if parameter.dim() == 1 or "pos" in parameter_name or parameter_name == "cls_token":
                parameter.add_(torch.randn_like(parameter) * 0.1)
    copy_weights(ours, theirs)
    x = torch.randn(1, 3, 8, 112, 112)
    with torch.inference_mode():
        got, wanted = ours(x), theirs(x)
    assert wanted.std() > 0.1
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "builder"), [("mvitv2_s_16x4", "mvit_v2_s"), ("mvitv1_b_16x4", "mvit_v1_b")])
def test_names_and_shapes_of_the_published_sizes(name, builder):
    with torch.device("meta"):
        ours, theirs = create_model(name), getattr(video, builder)(weights=None)
    shapes = {key: value.numel() for key, value in theirs.state_dict().items()}
    assert {tv_name(key): value.numel() for key, value in ours.state_dict().items()} == shapes


def torchvision_model(config: MViTConfig) -> nn.Module:
    """torchvision's class with the same small geometry."""
    settings = [
        tv_mvit.MSBlockConfig(
            num_heads=b.num_heads,
            input_channels=b.dim_in,
            output_channels=b.dim_out,
            kernel_q=list(b.kernel_q or ()),
            kernel_kv=list(b.kernel_kv or ()),
            stride_q=list(b.stride_q if b.kernel_q else ()),
            stride_kv=list(b.stride_kv),
        )
        for b in config.blocks
    ]
    return tv_mvit.MViT(
        spatial_size=(config.crop_size, config.crop_size),
        temporal_size=config.num_frames,
        block_setting=settings,
        residual_pool=config.residual_pooling,
        residual_with_cls_embed=False,
        rel_pos_embed=config.rel_pos != "none",
        proj_after_attn=config.expand_in == "attention",
        num_classes=config.num_classes,
        dropout=0.0,
        stochastic_depth_prob=0.0,
    )


@pytest.mark.parametrize("changes", [{}, v1_fields()])
@pytest.mark.parametrize("form", ["flash", "explicit", "auto"])
def test_gradients_in_float64(changes, form):
    ours = randomised(small_config(**changes, attention_form=form)).train()
    theirs = torchvision_model(ours.config).double().train()
    copy_weights(ours, theirs)
    x = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    direction = torch.randn(2, 5, dtype=torch.float64)
    got, wanted = ours(x), theirs(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    got.backward(direction)
    wanted.backward(direction)
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        wanted_grad = expected[tv_name(name)].grad
        torch.testing.assert_close(parameter.grad, wanted_grad.view_as(parameter), rtol=1e-8, atol=1e-9, msg=name)
