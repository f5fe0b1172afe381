import pytest
import torch
from torch import nn

from mvit_video.models.config import MViTConfig
from mvit_video.models.mvit.layers import (
    DropPath,
    Head,
    PatchEmbed,
    init_module,
    joint_positions,
    resize_temporal,
    separable_positions,
)


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    torch.manual_seed(0)
    layer = DropPath(0.25).train()
    out = layer(torch.ones(4000, 3, 2))
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert abs(out.mean().item() - 1.0) < 0.03


def test_drop_path_is_the_identity_in_evaluation_and_at_rate_zero():
    x = torch.randn(4, 3, 2)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0).train()(x) is x


def test_drop_path_repeats_with_the_seed():
    layer, x = DropPath(0.5).train(), torch.ones(64, 1, 1)
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first) and not torch.equal(first, second)


def test_head_gives_logits_after_dropout_and_features_without_classes():
    head = Head(4, 2, 0.5).eval()
    x = torch.randn(3, 4)
    assert torch.equal(head(x), head.projection(x))
    head.train()
    with torch.no_grad():
        head.projection.weight.fill_(1.0)
        head.projection.bias.fill_(0.0)
    torch.manual_seed(0)
    kept = {round(v) for v in head(torch.ones(200, 4))[:, 0].tolist()}
    assert kept == {0, 2, 4, 6, 8}
    assert torch.equal(Head(4, 0, 0.5).train()(x), x)


def test_positions_at_the_nominal_grid_are_sums_with_time_outermost():
    spatial, temporal = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[10.0], [20.0], [30.0]]])
    grid = (3, 1, 2)
    assert separable_positions(spatial, temporal, grid, grid).flatten().tolist() == [11, 12, 21, 22, 31, 32]
    joint = torch.arange(6.0).view(1, 6, 1)
    assert joint_positions(joint, grid, grid) is joint


def test_positions_interpolate_linearly_in_time_and_bicubically_in_space():
    temporal = torch.tensor([[[0.0], [4.0]]])
    assert resize_temporal(temporal, 4).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]
    spatial = torch.randn(1, 16, 3)
    maps = spatial.view(1, 4, 4, 3).permute(0, 3, 1, 2)
    wanted = nn.functional.interpolate(maps, size=(6, 3), mode="bicubic").flatten(2).transpose(1, 2)
    zero = torch.zeros(1, 2, 3)
    got = separable_positions(spatial, zero, (2, 4, 4), (4, 6, 3))
    torch.testing.assert_close(got, wanted.repeat(1, 4, 1))
    joint = (spatial.unsqueeze(1) + torch.zeros(1, 2, 1, 3)).flatten(1, 2)
    torch.testing.assert_close(joint_positions(joint, (2, 4, 4), (4, 6, 3)), wanted.repeat(1, 4, 1))


@pytest.mark.parametrize(
    ("style", "bias", "std", "conv_std"),
    [("pyslowfast", 0.02, 0.02, 0.02), ("zero_bias", 0.0, 0.02, None), ("fan_in", 0.0, 0.05, None)],
)
def test_initialisation_styles(style, bias, std, conv_std):
    torch.manual_seed(0)
    linear, norm, conv = nn.Linear(400, 300), nn.LayerNorm(5), nn.Conv2d(3, 64, 7)
    for module in (linear, norm, conv):
        init_module(module, style)
    assert linear.weight.std().item() == pytest.approx(std, rel=0.02)
    assert linear.bias.unique().tolist() == pytest.approx([bias])
    assert norm.weight.unique().tolist() == [1.0] and norm.bias.unique().tolist() == pytest.approx([bias])
    default_std = (1 / 3 / (3 * 49)) ** 0.5
    assert conv.weight.std().item() == pytest.approx(conv_std or default_std, rel=0.03)


@pytest.mark.parametrize("autocast", [True, False])
def test_one_frame_goes_through_the_stem_of_a_video_model_in_bf16(autocast):
    """PyTorch's own result is partly memory that nobody wrote, on a CPU with native bf16."""
    torch.manual_seed(0)
    stem, clip = PatchEmbed(MViTConfig(embed_dim=16)), torch.randn(2, 3, 1, 32, 40)
    exact, grid = stem(clip)
    junk = [torch.full((size,), float("nan")) for size in (1000, 5000, 20000)]
    del junk
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, same = stem(clip) if autocast else stem.bfloat16()(clip.bfloat16())
    assert found.dtype == torch.bfloat16 and same == grid
    assert float((found.float() - exact).norm().detach()) < 0.01 * float(exact.norm().detach())


def test_another_module_in_the_place_of_the_stems_convolution_is_called():
    stem, clip = PatchEmbed(MViTConfig(embed_dim=16)), torch.randn(1, 3, 1, 16, 16)
    wanted, _ = stem(clip)
    stem.proj = nn.Sequential(stem.proj)
    assert torch.equal(stem(clip)[0], wanted)
