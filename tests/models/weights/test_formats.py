"""Names of other projects, from theirs to ours and back."""

import pickle

import pytest
import torch

from mvit_video.models import MViT, from_checkpoint, get_config, load_weights, save_as
from mvit_video.models.weights.formats import recognise, to_our_names
from tests.models.helpers import image_fields, randomised, small_config, v1_fields
from tests.models.peers import State, detectron2_state, mmaction2_state, torchvision_state
from tests.models.test_torchvision import torchvision_model

video = pytest.importorskip("torchvision.models.video")

V2, V1 = small_config(), small_config(**v1_fields())
MASKFEAT = small_config(expand_in="mlp", head_pooling="mean_norm")
IMAGE = small_config(**image_fields(cls_token=False, head_pooling="norm_mean"))


def state_of(config, seed: int = 0) -> State:
    return dict(randomised(config, seed).float().state_dict())


def assert_equal(got: State, wanted: State) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=0, msg=name)


def as_pyslowfast(state: State) -> State:
    return state


def mmpretrain_state(state: State) -> State:
    """MMPretrain's ImageClassifier: MMAction2's names, and a LinearClsHead."""
    return {name.replace("cls_head.fc_cls.", "head.fc."): tensor for name, tensor in mmaction2_state(state).items()}


@pytest.mark.parametrize(
    ("config", "lay_out", "format"),
    [
        (V2, as_pyslowfast, "pyslowfast"),
        (V1, as_pyslowfast, "pyslowfast"),
        (MASKFEAT, as_pyslowfast, "pyslowfast"),
        (IMAGE, as_pyslowfast, "pyslowfast"),
        (V2, torchvision_state, "torchvision"),
        (V1, torchvision_state, "torchvision"),
        (V2, mmaction2_state, "mmaction2"),
        (MASKFEAT, mmaction2_state, "mmaction2"),
        (IMAGE, mmpretrain_state, "mmaction2"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_every_tensor_arrives(config, lay_out, format, prefix):
    state = state_of(config)
    theirs = {prefix + name: tensor for name, tensor in lay_out(state).items()}
    model = MViT(config)
    report = load_weights(model, theirs)
    assert_equal(dict(model.state_dict()), state)
    assert report.format == format
    assert report.loaded == list(state)
    assert not (report.interpolated or report.inflated or report.left_out or report.new)
    renamed = {short: ours for short, ours in zip(lay_out(state), state) if short != ours}
    assert report.converted == renamed


def test_image_pools_with_a_time_axis():
    """Image files trained in PySlowFast hold (c, 1, 1, 3, 3)."""
    state = state_of(IMAGE)
    theirs = {name: value.unsqueeze(2) if ".pool_" in name else value for name, value in state.items()}
    assert theirs["blocks.0.attn.pool_q.weight"].shape == (8, 1, 1, 3, 3)
    model = MViT(IMAGE)
    report = load_weights(model, theirs)
    assert_equal(dict(model.state_dict()), state)
    assert len(report.converted) == 12 and report.loaded == list(state)
    assert_equal(save_as(model, "pyslowfast"), theirs)
    assert_equal(save_as(model, "mvit_video"), state)
    assert_equal(dict(from_checkpoint(theirs).state_dict()), state)


def detector(state: State, prefix: str) -> State:
    """A detector with that backbone: neck, proposals and boxes besides, and norms of the other stages."""
    body = {name: value for name, value in state.items() if not name.startswith("head.")}
    theirs = detectron2_state(body, prefix)
    for stage in (2, 3, 4):
        theirs |= {f"{prefix}scale{stage}_norm.{x}": torch.zeros(8) for x in ("weight", "bias")}
    if prefix:
        theirs |= {
            "backbone.fpn_lateral2.weight": torch.zeros(4, 8, 1, 1),
            "proposal_generator.rpn_head.conv.conv0.weight": torch.zeros(4, 4, 3, 3),
            "roi_heads.box_head.0.conv1.weight": torch.zeros(4, 4, 3, 3),
        }
    return theirs


@pytest.mark.parametrize("prefix", ["", "backbone.bottom_up.", "backbone.net."])
def test_detectron2_backbones(prefix, tmp_path):
    state = state_of(IMAGE)
    theirs = detector(state, prefix)
    content = {"model": {k: v.numpy() for k, v in theirs.items()}, "__author__": "x", "matching_heuristics": True}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    model = from_checkpoint(path)
    assert model.config.num_classes == 0 and model.config.is_image
    body = {name: value for name, value in state.items() if not name.startswith("head.")}
    assert_equal(dict(model.state_dict()), body)

    classifier = MViT(IMAGE)
    before = classifier.head.projection.weight.clone()
    with pytest.raises(
        ValueError, match=r"head\.projection\.weight: in the model, not in the file; pass new_head=True"
    ):
        load_weights(classifier, path)
    report = load_weights(classifier, path, new_head=True)
    assert report.new == ["head.projection.weight", "head.projection.bias"]
    assert torch.equal(classifier.head.projection.weight, before)
    assert f"{prefix}scale2_norm.weight" in report.left_out
    assert len(report.left_out) == (9 if prefix else 6)


def test_norms_of_early_stages_in_mmaction2():
    theirs = mmaction2_state(state_of(V2)) | {
        "backbone.norm0.weight": torch.zeros(8),
        "backbone.norm0.bias": torch.ones(8),
    }
    report = load_weights(MViT(V2), theirs)
    assert report.left_out == ["backbone.norm0.weight", "backbone.norm0.bias"]


def test_unknown_names_are_refused():
    assert recognise(["stem.weight", "layers.0.weight"]) is None
    with pytest.raises(ValueError, match=r"of no known format \(they begin stem\.weight\); known are PySlowFast"):
        load_weights(MViT(V2), {"stem.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="of no known format"):
        from_checkpoint({"stem.weight": torch.zeros(1)})


def test_two_names_for_one_tensor():
    theirs = mmaction2_state(state_of(V2))
    with pytest.raises(ValueError, match=r"backbone\.norm3\.weight and norm\.weight both are norm\.weight"):
        to_our_names({"norm.weight": torch.zeros(1), **theirs}, "mmaction2")


@pytest.mark.parametrize(("name", "builder"), [("mvitv2_s_16x4", "mvit_v2_s"), ("mvitv1_b_16x4", "mvit_v1_b")])
def test_the_published_sizes_of_torchvision(name, builder):
    """Theirs to ours and back: the same numbers, and strictly loaded."""
    theirs = getattr(video, builder)(weights=None)
    model = from_checkpoint(theirs.state_dict())
    assert model.config == get_config(name)
    written = save_as(model, "torchvision")
    assert_equal(written, dict(theirs.state_dict()))
    theirs.load_state_dict(written, strict=True)


@pytest.mark.parametrize("config", [V2, V1])
def test_logits_of_torchvision_after_conversion(config):
    ours = randomised(config)
    theirs = torchvision_model(config).double().eval()
    theirs.load_state_dict(save_as(ours, "torchvision"), strict=True)
    x = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=1e-10)
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.mul_(1.01)
        load_weights(ours, theirs.state_dict())
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-10)


def test_what_torchvision_cannot_be():
    with pytest.raises(
        ValueError, match=r"torchvision's MViT has no such model: it needs num_frames of 2 or more; cls"
    ):
        save_as(MViT(IMAGE), "torchvision")
    with pytest.raises(ValueError, match=r"it needs head_pooling='cls'\. Save as 'mvit_video' or 'pyslowfast' instead"):
        save_as(MViT(MASKFEAT), "torchvision")
    with pytest.raises(ValueError, match=r"format='keras' is not one of 'pyslowfast', .*, 'mvit_video'"):
        save_as(MViT(V2), "keras")


def test_a_head_of_mmpretrain_is_seen():
    """It was left out, and the model had no classes."""
    assert from_checkpoint(mmpretrain_state(state_of(IMAGE))).config.num_classes == IMAGE.num_classes


def test_a_head_that_is_not_known_is_refused():
    state = {name.replace("head.projection.", "head.layers.0."): tensor for name, tensor in state_of(V2).items()}
    with pytest.raises(ValueError, match=r"class head is none that is known \(head\.layers\.0\.weight.*num_classes=0"):
        from_checkpoint(state)
    assert from_checkpoint(state, num_classes=0).config.num_classes == 0
    assert from_checkpoint(state, num_classes=7).config.num_classes == 7


def test_what_is_no_part_of_the_model_may_be_left_out():
    with pytest.raises(ValueError, match=r"allow=\['criterion.weight'\]"):
        from_checkpoint({**state_of(V2), "criterion.weight": torch.ones(3)})
