"""PyTorchVideo's own MViT: its files into our models and back, with its classes as oracle."""

import pytest
import torch
from torch import nn

from mvit_video.interop.pytorchvideo import import_pytorchvideo
from mvit_video.models import MViT, MViTConfig, create_model, from_checkpoint, get_config, load_weights, save_as
from tests.models.helpers import image_fields, small_config, v1_fields

V1 = small_config(**v1_fields(pool_norm_eps=1e-5))
IMAGE = small_config(**(v1_fields() | image_fields(rel_pos="none", pool_norm_eps=1e-5)))
VARIATIONS = {
    "video": V1,
    "joint": small_config(**v1_fields(pool_norm_eps=1e-5, abs_pos="joint")),
    "mean": small_config(**v1_fields(pool_norm_eps=1e-5, cls_token=False, head_pooling="norm_mean")),
    "stride_kernels": small_config(**v1_fields(pool_norm_eps=1e-5, pool_kernel=None)),
    "image": IMAGE,
}


def theirs(config: MViTConfig, *, seed: int = 0) -> nn.Module:
    """Their model of that configuration, every parameter away from its initial value, in evaluation."""
    torch.manual_seed(seed)
    starts, flat = config.stage_starts, config.is_image
    patch = [config.patch_kernel, config.patch_stride, config.padding]
    kernel, stride, padding = ([*size[1:]] if flat else [*size] for size in patch)
    model = import_pytorchvideo("models.vision_transformers").create_multiscale_vision_transformers(
        spatial_size=config.crop_size,
        temporal_size=config.num_frames,
        cls_embed_on=config.cls_token,
        sep_pos_embed=config.abs_pos == "separable",
        depth=config.depth,
        patch_embed_dim=config.embed_dim,
        conv_patch_embed_kernel=kernel,
        conv_patch_embed_stride=stride,
        conv_patch_embed_padding=padding,
        use_2d_patch=flat,
        num_heads=config.num_heads,
        embed_dim_mul=[[start, 2.0] for start in starts],
        atten_head_mul=[[start, 2.0] for start in starts],
        pool_q_stride_size=[[start, 1, 2, 2] for start in starts],
        pool_kv_stride_adaptive=list(config.kv_stride),
        pool_kvq_kernel=None if config.pool_kernel is None else list(config.pool_kernel),
        head_num_classes=config.num_classes,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Weak pooling kernels, as trained ones are: the eps of the norm behind them is felt.
            scale = 0.005 if "pool_" in name else 0.1
            parameter.add_(torch.randn_like(parameter) * scale)
    return model.eval()


def clips(config: MViTConfig) -> torch.Tensor:
    shape = (1, 3, config.crop_size, config.crop_size)
    return torch.randn(shape if config.is_image else (*shape[:2], config.num_frames, *shape[2:]))


@pytest.mark.parametrize("name", VARIATIONS)
def test_logits_of_their_model_from_its_file(name, tmp_path):
    config = VARIATIONS[name]
    oracle = theirs(config)
    torch.save({"model_state": oracle.state_dict()}, tmp_path / "MVIT.pyth")
    unknown = {} if name != "joint" else {"num_frames": config.num_frames}
    unknown |= {"num_frames": 4, "crop_size": 32} if name == "stride_kernels" else {}
    given = {"kv_stride": config.kv_stride, **unknown}
    model = from_checkpoint(tmp_path / "MVIT.pyth", **given).eval()
    training = {"drop_path": 0.0, "dropout": 0.0, "init": config.init}
    assert {**vars(model.config), **training, "blocks": None} == {**vars(config), **training, "blocks": None}
    clip = clips(config)
    with torch.inference_mode():
        torch.testing.assert_close(model(clip), oracle(clip), rtol=0, atol=1e-5)
    written = save_as(model, "pytorchvideo")
    assert written.keys() == oracle.state_dict().keys()
    fresh = theirs(config, seed=1)
    fresh.load_state_dict(written, strict=True)
    with torch.inference_mode():
        assert torch.equal(fresh(clip), oracle(clip))


def published(name: str, **changes: object) -> nn.Module:
    """One of their published sizes, as `torch.hub` would give it but for the weights."""
    make = getattr(import_pytorchvideo("models.hub.vision_transformers"), name)
    model: nn.Module = make(pretrained=False, **changes).eval()
    return model


def test_a_published_size():
    model = from_checkpoint({"model_state": published("mvit_base_32x3").state_dict()})
    assert model.config == get_config("mvitv1_b_32x3", pool_norm_eps=1e-5)


def test_logits_of_a_published_size():
    """At half its crop, with nine of the eleven blocks of its third stage left out: they are of one kind."""
    oracle = published("mvit_base_16x4", spatial_size=112)
    model = from_checkpoint({"model_state": oracle.state_dict()}).eval()
    assert model.config == get_config("mvitv1_b_16x4", crop_size=112, pool_norm_eps=1e-5)
    for network in (model, oracle):
        del network.blocks[4:13]
    clip = clips(model.config)
    with torch.inference_mode():
        torch.testing.assert_close(model(clip), oracle(clip), rtol=0, atol=1e-5)


def test_one_projection_for_queries_keys_and_values():
    """Later releases may have it so; the names are otherwise the same."""
    state = theirs(V1).state_dict()
    wanted = from_checkpoint(state).state_dict()
    joined = {name: value for name, value in state.items() if ".attn.q." not in name}
    joined = {name: value for name, value in joined.items() if ".attn.k." not in name and ".attn.v." not in name}
    joined |= {name: value for name, value in wanted.items() if ".qkv." in name}
    got = from_checkpoint(joined).state_dict()
    assert all(torch.equal(got[name], value) for name, value in wanted.items())


def test_another_eps_is_said():
    state = theirs(V1).state_dict()
    report = load_weights(MViT(small_config(**v1_fields())), state)
    assert "with eps 1e-05, this one with 1e-06" in str(report)
    assert report.format == "pytorchvideo" and not report.new and not report.left_out
    assert report.converted["blocks.0.attn.{q,k,v}.weight"] == "blocks.0.attn.qkv.weight"
    assert load_weights(MViT(V1), state).notes == []


def test_a_missing_projection():
    state = dict(theirs(V1).state_dict())
    del state["blocks.1.attn.k.weight"]
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.q\.weight is there, blocks\.1\.attn\.k\.weight not"):
        from_checkpoint(state)


def test_what_they_cannot_be():
    with pytest.raises(
        ValueError, match=r"PyTorchVideo's MViT has no such model: it needs pool_norm_eps=1e-05; rel_pos"
    ):
        save_as(create_model("mvitv2_motion"), "pytorchvideo")
    with pytest.raises(ValueError, match=r"needs pool_norm_eps=1e-06\. pool_norm_eps=1e-06 \(--set in convert\) makes"):
        save_as(MViT(V1), "pyslowfast")
