"""Equality with timm's image models, on the same weights, and weights handed to them and back."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mvit_video.models import MViT, MViTConfig, create_model, from_checkpoint, get_config, load_weights, save_as
from mvit_video.models.weights.formats import recognise, to_our_names
from mvit_video.models.weights.infer import infer_config
from tests.models.helpers import image_fields, randomised, small_config, v1_fields
from tests.models.peers import State, timm_state

mvitv2 = pytest.importorskip("timm.models.mvitv2")

CLS = {"cls_token": True, "head_pooling": "cls", "residual_with_cls": True}
NO_CLS = {"cls_token": False, "head_pooling": "norm_mean"}
SMALL = {
    "in1k": small_config(**image_fields(**NO_CLS)),
    "in1k_mlp": small_config(**image_fields(**NO_CLS, expand_in="mlp")),
    "in21k": small_config(**image_fields(**CLS)),
    "in21k_mlp": small_config(**image_fields(**CLS, expand_in="mlp")),
    "mean_beside_cls": small_config(**image_fields(**CLS | {"head_pooling": "norm_mean"})),
    "positions": small_config(
        **image_fields(**CLS, rel_pos="none", abs_pos="joint") | {"residual_pooling": False, "residual_with_cls": False}
    ),
    "no_head": small_config(**image_fields(**NO_CLS, num_classes=0)),
}
PUBLISHED = {
    "mvitv2_tiny": ("mvitv2_t_image", {}),
    "mvitv2_small": ("mvitv2_s_image", {}),
    "mvitv2_base": ("mvitv2_b_image", {}),
    "mvitv2_large": ("mvitv2_l_image", {}),
    "mvitv2_small_cls": ("mvitv2_s_image", CLS),
    "mvitv2_base_cls": ("mvitv2_b_image_cls", {"residual_with_cls": True}),
    "mvitv2_large_cls": ("mvitv2_l_image_cls", {"residual_with_cls": True}),
    "mvitv2_huge_cls": ("mvitv2_h_image_cls", {"residual_with_cls": True}),
}


def timm_model(config: MViTConfig) -> nn.Module:
    """timm's class with the geometry of an image configuration."""
    ends = (*config.stage_starts, config.depth)
    geometry = mvitv2.MultiScaleVitCfg(
        depths=tuple(end - start for start, end in zip((0, *config.stage_starts), ends, strict=True)),
        embed_dim=tuple(config.embed_dim * 2**stage for stage in range(len(ends))),
        num_heads=tuple(config.num_heads * 2**stage for stage in range(len(ends))),
        stride_q=((1, 1),) + ((2, 2),) * (len(ends) - 1),
        stride_kv_adaptive=config.kv_stride[1:],
        expand_attn=config.expand_in == "attention",
        use_cls_token=config.cls_token,
        use_abs_pos=config.abs_pos == "joint",
        residual_pooling=config.residual_pooling,
        rel_pos_type="spatial" if config.rel_pos == "spatial" else "none",
    )
    return mvitv2.MultiScaleVit(
        geometry,
        img_size=(config.crop_size, config.crop_size),
        num_classes=config.num_classes,
        global_pool="token" if config.head_pooling == "cls" else "avg",
    )


def pair(config: MViTConfig) -> tuple[MViT, nn.Module]:
    """Our model and timm's in float64, with the same weights, none of them one or zero by accident."""
    ours, theirs = randomised(config), timm_model(config).double().eval()
    theirs.load_state_dict(save_as(ours, "timm"), strict=True)
    return ours, theirs


@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, "auto") for name in SMALL), *itertools.product(("in1k", "in21k_mlp"), ("flash", "explicit"))],
)
def test_logits_and_gradients_in_float64(name, form):
    ours, theirs = pair(dataclasses.replace(SMALL[name], attention_form=form))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    got, wanted = ours.train()(x), theirs.train()(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    direction = torch.randn_like(wanted)
    got.backward(direction)
    wanted.backward(direction)
    named = {tensor.data_ptr(): name for name, tensor in save_as(ours, "timm").items()}
    expected = dict(theirs.named_parameters())
    assert len(named) == len(expected)
    for parameter in ours.parameters():
        their_name = named[parameter.data_ptr()]
        torch.testing.assert_close(
            parameter.grad, expected[their_name].grad, rtol=1e-10, atol=1e-10, msg=lambda m, n=their_name: f"{n}: {m}"
        )


def with_noise(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "rel_pos" in name or name == "cls_token":
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def assert_same_logits(ours: MViT, theirs: nn.Module, side: int = 224) -> None:
    x = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        got, wanted = ours(x), theirs(x)
    assert wanted.std() > 0.1
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_logits_of_the_published_tiny_model():
    torch.manual_seed(0)
    theirs = with_noise(mvitv2.mvitv2_tiny())
    ours = from_checkpoint(theirs.state_dict()).eval()
    assert ours.config == get_config("mvitv2_t_image")
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize("name", ["mvitv2_s_image", "mvitv2_l_image", "mvitv2_l_image_cls", "mvitv2_h_image_cls"])
def test_logits_of_the_widths_of_the_others(name):
    """Two stages of each width, at the published crop: what T does not have."""
    torch.manual_seed(0)
    with_cls = {"residual_with_cls": True} if name.endswith("_cls") else {}
    ours = with_noise(create_model(name, depth=3, stage_starts=(1, 2), num_classes=10, **with_cls))
    theirs = timm_model(ours.config).eval()
    theirs.load_state_dict(save_as(ours, "timm"), strict=True)
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_of_every_published_size(name):
    preset, changes = PUBLISHED[name]
    config = get_config(preset, **changes)
    with torch.device("meta"):
        theirs = mvitv2.MultiScaleVit(mvitv2.model_cfgs[name], num_classes=config.num_classes)
        written = save_as(MViT(config), "timm")
    wanted = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in written.items()} == wanted
    assert recognise(written) == "timm"
    tensors = to_our_names(theirs.state_dict(), "timm").tensors
    training = {"drop_path": config.drop_path, "dropout": config.dropout, "init": config.init}
    told = training if name == "mvitv2_small_cls" else {}  # no preset of ours: nothing tells the rates of training
    assert infer_config(tensors, stored={"residual_with_cls": True, **told}, overrides={}) == config


def test_presets_are_timms_published_models():
    """The configurations by timm's own table: depths, widths, heads, class token, where it widens, and classes."""
    for name, (preset, changes) in PUBLISHED.items():
        config, theirs = get_config(preset, **changes), mvitv2.model_cfgs[name]
        ends = (*config.stage_starts, config.depth)
        assert theirs.depths == tuple(b - a for a, b in zip((0, *config.stage_starts), ends, strict=True)), name
        assert (theirs.embed_dim[0], theirs.num_heads[0]) == (config.embed_dim, config.num_heads), name
        assert (theirs.use_cls_token, theirs.expand_attn) == (config.cls_token, config.expand_in == "attention"), name
    for name in ("mvitv2_base_cls", "mvitv2_large_cls", "mvitv2_huge_cls"):
        pretrained = mvitv2.default_cfgs[name].default
        assert pretrained.num_classes == get_config(PUBLISHED[name][0]).num_classes == 19_168


def containers(state: State, folder: Path) -> dict[str, object]:
    """The ways in which timm's weights come: from its training script, the Hub, wrappers."""
    from safetensors.torch import save_file

    zeros = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    save_file(state, folder / "model.safetensors")
    torch.save(
        {"epoch": 3, "arch": "mvitv2_tiny", "state_dict": zeros, "state_dict_ema": state}, folder / "last.pth.tar"
    )
    torch.save(state, folder / "pytorch_model.bin")
    return {
        "state dict": state,
        "ddp": {f"module.{key}": tensor for key, tensor in state.items()},
        "compiled": {f"_orig_mod.{key}": tensor for key, tensor in state.items()},
        "lightning": {"state_dict": {f"model.{key}": tensor for key, tensor in state.items()}},
        "backbone": {f"backbone.{key}": tensor for key, tensor in state.items()},
        "transformers": {f"timm_model.{key}": tensor for key, tensor in state.items()},
        "hub": folder / "model.safetensors",
        "hub, older": str(folder / "pytorch_model.bin"),
        "train.py": folder / "last.pth.tar",
    }


@pytest.mark.parametrize("name", ["in1k", "in1k_mlp", "in21k"])
def test_it_loads_however_it_comes(name, tmp_path):
    config = SMALL[name]
    state = dict(randomised(config).float().state_dict())
    theirs = timm_state(state, config)
    for way, source in containers(theirs, tmp_path).items():
        model = MViT(config)
        report = load_weights(model, source)
        assert report.format == "timm" and report.loaded == list(state), way
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items()), way
        described = from_checkpoint(source)
        assert dataclasses.replace(described.config, drop_path=0.0, dropout=0.0, init=config.init) == config, way
    assert report.converted["stages.1.blocks.0.attn.qkv.weight"] == "blocks.1.attn.qkv.weight"
    shortcut = (
        "stages.1.blocks.0.shortcut_proj_attn.bias"
        if name != "in1k_mlp"
        else "stages.0.blocks.0.shortcut_proj_mlp.bias"
    )
    assert report.converted[shortcut] == ("blocks.0.proj.bias" if name == "in1k_mlp" else "blocks.1.proj.bias")


@pytest.mark.parametrize("name", SMALL)
def test_round_trip_to_the_bit(name):
    state: dict[str, Tensor] = dict(randomised(SMALL[name]).state_dict())
    written = save_as(randomised(SMALL[name]), "timm")
    wanted = timm_state(state, SMALL[name])
    assert list(written) == list(wanted) and all(torch.equal(written[key], wanted[key]) for key in wanted)
    back = MViT(SMALL[name]).double()
    load_weights(back, written)
    assert all(torch.equal(value, state[key]) for key, value in back.state_dict().items())


def test_another_crop_interpolates_the_tables_as_timm_does():
    """Their filter on loading and ours: the same tables, to the bit."""
    config = SMALL["in1k"]
    ours = randomised(config).float()
    larger = dataclasses.replace(config, crop_size=48)
    theirs = timm_model(larger).eval()
    theirs.load_state_dict(mvitv2.checkpoint_filter_fn(save_as(ours, "timm"), theirs), strict=True)
    model = MViT(larger).eval()
    report = load_weights(model, save_as(ours, "timm"))
    assert report.interpolated == [f"blocks.{i}.attn.rel_pos_{axis}" for i in range(4) for axis in "hw"]
    assert "; interpolated: blocks.0.attn.rel_pos_h, " in str(report)
    got = save_as(model, "timm")
    assert all(torch.equal(got[key], tensor) for key, tensor in theirs.state_dict().items())


def test_what_timm_cannot_be():
    with pytest.raises(ValueError, match=r"timm's MViT has no such model: it needs num_frames=1; rel_pos='spatial'"):
        save_as(MViT(small_config()), "timm")
    cls = {"cls_token": True, "head_pooling": "cls"}
    version_1 = small_config(**(v1_fields() | image_fields(**cls, rel_pos="none", abs_pos="joint")))
    with pytest.raises(ValueError, match=r"it needs pool_all_queries=True\. Save as 'mvit_video' or 'pyslowfast'"):
        save_as(MViT(version_1), "timm")
    with pytest.raises(ValueError, match=r"needs head_pooling='cls' or 'norm_mean'"):
        save_as(MViT(dataclasses.replace(SMALL["in1k"], head_pooling="mean_norm")), "timm")


def test_the_class_tokens_share_in_residual_pooling():
    """timm adds the class token's query, PySlowFast and the published video models do not: said, never mixed up."""
    theirs = save_as(randomised(SMALL["in21k"]).float(), "timm")
    as_published = dataclasses.replace(SMALL["in21k"], residual_with_cls=False)
    report = load_weights(MViT(as_published), theirs)
    assert report.notes == [
        "timm adds the class token's query in residual pooling, this model does not: logits differ; build it with "
        "residual_with_cls=True for the same"
    ]
    assert not load_weights(MViT(SMALL["in21k"]), theirs).notes
    assert not load_weights(MViT(SMALL["in1k"]), save_as(MViT(SMALL["in1k"]), "timm")).notes
    plain = save_as(MViT(as_published), "mvit_video")
    assert "pyslowfast does not add the class token's query in residual pooling, this model does" in str(
        load_weights(MViT(SMALL["in21k"]), plain)
    )
    with pytest.raises(ValueError, match=r"timm's MViT has .* it needs residual_with_cls=True\..*--set in convert"):
        save_as(MViT(as_published), "timm")
    with pytest.raises(ValueError, match=r"PySlowFast's MViT has .* it needs residual_with_cls=False"):
        save_as(MViT(SMALL["in21k"]), "pyslowfast")
    with pytest.raises(ValueError, match="residual_with_cls=True needs cls_token=True and residual_pooling=True"):
        dataclasses.replace(SMALL["in1k"], residual_with_cls=True)


def test_a_stage_that_is_missing():
    state = timm_state(dict(randomised(SMALL["in1k"]).state_dict()), SMALL["in1k"])
    state = {key: tensor for key, tensor in state.items() if not key.startswith("stages.1.")}
    with pytest.raises(ValueError, match=r"stages\.2 is there, stages\.1 not: blocks are numbered through all stages"):
        load_weights(MViT(SMALL["in1k"]), state)
