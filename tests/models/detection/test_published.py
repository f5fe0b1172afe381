"""Published files: names, shapes and counts, loading them strictly, and starting from image classifiers."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mvit_video.models import MViT, from_checkpoint, get_config, load_weights
from mvit_video.models.detection import Detector, create_detector
from mvit_video.models.detection.loading import detector_content
from tests.models.detection.helpers import tiny_backbone, tiny_detector, two_images
from tests.models.peers import detectron2_state

State = dict[str, Tensor]


def published_heads(cascade: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of everything but the backbone's MViT, of T with 80 classes, by the published table."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *weight: int, bias: int = 0) -> None:
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = (bias or weight[0],)

    def normed(name: str) -> None:
        shapes[f"{name}.weight"] = (256, 256, 3, 3)
        shapes[f"{name}.norm.num_batches_tracked"] = ()
        shapes.update({f"{name}.norm.{part}": (256,) for part in ("weight", "bias", "running_mean", "running_var")})

    for stage, width in enumerate((96, 192, 384, 768), start=2):
        layer(f"backbone.fpn_lateral{stage}", 256, width, 1, 1)
        layer(f"backbone.fpn_output{stage}", 256, 256, 3, 3)
        layer(f"backbone.bottom_up.scale{stage}_norm", width)
    for name in ("conv.conv0", "conv.conv1") if cascade else ("conv",):
        layer(f"proposal_generator.rpn_head.{name}", 256, 256, 3, 3)
    layer("proposal_generator.rpn_head.objectness_logits", 3, 256, 1, 1)
    layer("proposal_generator.rpn_head.anchor_deltas", 12, 256, 1, 1)
    if cascade:
        for stage in range(3):
            for conv in range(1, 5):
                normed(f"roi_heads.box_head.{stage}.conv{conv}")
            layer(f"roi_heads.box_head.{stage}.fc1", 1024, 12544)
            layer(f"roi_heads.box_predictor.{stage}.cls_score", 81, 1024)
            layer(f"roi_heads.box_predictor.{stage}.bbox_pred", 4, 1024)
    else:
        layer("roi_heads.box_head.fc1", 1024, 12544)
        layer("roi_heads.box_head.fc2", 1024, 1024)
        layer("roi_heads.box_predictor.cls_score", 81, 1024)
        layer("roi_heads.box_predictor.bbox_pred", 320, 1024)
    for conv in range(1, 5):
        if cascade:
            normed(f"roi_heads.mask_head.mask_fcn{conv}")
        else:
            layer(f"roi_heads.mask_head.mask_fcn{conv}", 256, 256, 3, 3)
    layer("roi_heads.mask_head.deconv", 256, 256, 2, 2)
    layer("roi_heads.mask_head.predictor", 80, 256, 1, 1)
    return shapes


@pytest.mark.parametrize(
    ("name", "parameters", "entries"),
    [
        ("mask_rcnn_mvitv2_t", 43_679_568, 288),
        ("cascade_mask_rcnn_mvitv2_t", 75_847_614, 388),
        ("cascade_mask_rcnn_mvitv2_s", 86_544_510, 526),
        ("cascade_mask_rcnn_mvitv2_b", 103_147_038, 710),
        ("cascade_mask_rcnn_mvitv2_l", 265_110_654, 1262),
        ("cascade_mask_rcnn_mvitv2_h", 718_155_998, 1998),
    ],
)
def test_sizes_of_the_published_detectors(name, parameters, entries):
    with torch.device("meta"):
        detector = create_detector(name)
    assert sum(parameter.numel() for parameter in detector.parameters()) == parameters
    assert len(detector.state_dict()) == entries


@pytest.mark.parametrize("name", ["mask_rcnn_mvitv2_t", "cascade_mask_rcnn_mvitv2_t"])
def test_names_and_shapes_are_the_published_ones(name):
    with torch.device("meta"):
        detector, classifier = create_detector(name), MViT(get_config("mvitv2_t_image"))
    body = detectron2_state({n: t for n, t in classifier.state_dict().items() if not n.startswith(("norm.", "head."))})
    shapes = {name: tuple(tensor.shape) for name, tensor in body.items()}
    own = {name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()}
    assert own == shapes | published_heads("cascade" in name)


@pytest.mark.parametrize("name", ["mask_rcnn_mvitv2_t", "cascade_mask_rcnn_mvitv2_b", "cascade_mask_rcnn_mvitv2_l"])
def test_a_published_file_describes_its_own_model(name):
    with torch.device("meta"):
        detector = create_detector(name, num_classes=7)
        found = from_checkpoint(detector.state_dict())
    assert isinstance(found, Detector)
    assert found.config == detector.config


def as_file(state: State, path: Path) -> Path:
    """detectron2's .pkl: a plain pickle of arrays under "model"."""
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "made up"}))
    return path


@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade_mask_rcnn"])
def test_a_made_up_file_comes_back_to_the_bit(kind, tmp_path):
    """With and without the counters that a file may lack, and with what detectron2 may add."""
    detector = tiny_detector(kind=kind)
    state = detector.state_dict()
    lacking = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    derived = {
        "pixel_mean": torch.zeros(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.ones(3, 4),
    }
    added = state | derived
    wrapped = {f"module.model.{name}": tensor for name, tensor in state.items()}
    for index, variant in enumerate((state, lacking, added, wrapped)):
        # The tensors tell neither the size of images nor anchors: those of a published file are the published ones.
        overrides = {name: getattr(detector.config, name) for name in ("anchor_sides", "canonical_side", "short_side")}
        found = from_checkpoint(as_file(variant, tmp_path / f"{index}.pkl"), **overrides, long_side=96)
        assert isinstance(found, Detector)
        assert (found.config.kind, found.config.num_classes, found.config.hidden) == (kind, 3, 32)
        assert (found.config.backbone.windows, found.config.backbone.stage_starts) == ("hybrid", (1, 2, 3))
        for name, tensor in found.state_dict().items():
            assert torch.equal(tensor, state[name]), name
    image = two_images()[0][0]
    maps = [model.eval().backbone(model.batch([image])) for model in (detector, found)]
    assert all(torch.equal(maps[0][name], maps[1][name]) for name in maps[0])


def test_our_own_file_keeps_what_tensors_do_not_tell(tmp_path):
    detector = tiny_detector(backbone=tiny_backbone(windows="all", drop_path=0.1), detections_per_image=7)
    torch.save(detector_content(detector), tmp_path / "own.pt")
    found = from_checkpoint(tmp_path / "own.pt")
    assert isinstance(found, Detector)
    assert found.config == detector.config
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, detector.state_dict()[name])


def test_a_run_of_this_project_is_read_by_its_options(tmp_path):
    options = '{"model": {"_target_": "mvit_video.models.detection.create_detector", "name": "mask_rcnn_mvitv2_t", '
    options += (
        '"num_classes": 2, "channels": null, "short_side": 96, "backbone": {"windows": "all", "drop_path": null}}}'
    )
    with torch.device("meta"):
        state = create_detector("mask_rcnn_mvitv2_t", num_classes=2, backbone={"windows": "all"}).state_dict()
        found = from_checkpoint({"model": state, "config": options})
    assert (found.config.short_side, found.config.backbone.windows, found.config.backbone.drop_path) == (96, "all", 0.2)


def test_other_classes_get_new_predictors():
    detector = tiny_detector()
    found = from_checkpoint(detector.state_dict(), num_classes=5)
    assert found.config.num_classes == 5
    report = load_weights(tiny_detector(seed=1, num_classes=5), detector.state_dict(), new_head=True)
    assert report.format == "detectron2"
    assert sorted(report.new) == sorted(
        f"roi_heads.{layer}.{part}"
        for layer in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor")
        for part in ("weight", "bias")
    )
    assert sorted(report.left_out) == sorted(report.new)
    with pytest.raises(ValueError, match=r"the weights do not fit the model \(6 problems\)"):
        load_weights(tiny_detector(num_classes=5), detector.state_dict())


def test_what_is_missing_is_named():
    state = tiny_detector().state_dict()
    with pytest.raises(ValueError, match=r"backbone\.fpn_output3\.bias: in the model, not in the file"):
        from_checkpoint({name: tensor for name, tensor in state.items() if name != "backbone.fpn_output3.bias"})
    with pytest.raises(ValueError, match=r"no complete detector: backbone\.fpn_lateral2\.weight is missing"):
        from_checkpoint({name: tensor for name, tensor in state.items() if name != "backbone.fpn_lateral2.weight"})
    with pytest.raises(ValueError, match="is for detectors; the file holds none"):
        from_checkpoint(MViT(tiny_classifier()).state_dict(), backbone={"windows": "all"})


def tiny_classifier(**changes: object):
    return tiny_backbone(**({"windows": "none", "stage_norms": False, "num_classes": 10} | changes))


@pytest.mark.parametrize("deep_pools", [False, True])
@pytest.mark.parametrize("with_cls", [False, True])
def test_a_classifier_starts_a_backbone(with_cls, deep_pools):
    changes = {"cls_token": True, "head_pooling": "cls"} if with_cls else {}
    classifier, detector = MViT(tiny_classifier(**changes)), tiny_detector(seed=1)
    state = {
        name: tensor.unsqueeze(2) if deep_pools and ".pool_" in name else tensor
        for name, tensor in classifier.state_dict().items()
    }
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    report = load_weights(detector, {"model_state": state})
    after, prefix = detector.state_dict(), "backbone.bottom_up."
    taken = [name for name in classifier.state_dict() if not name.startswith(("norm.", "head.", "cls_token"))]
    assert sorted(report.loaded) == sorted(prefix + name for name in taken)
    for name in taken:
        assert torch.equal(after[prefix + name], classifier.state_dict()[name])
    assert report.new == [name for name in after if prefix + "scale" in name or not name.startswith(prefix)]
    assert all(torch.equal(after[name], before[name]) for name in report.new)
    left = ["norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"] + ["cls_token"] * with_cls
    assert sorted(report.left_out) == sorted(left)
    assert "left out: " in str(report)


def test_tables_of_another_crop_are_interpolated():
    detector = tiny_detector()
    report = load_weights(detector, MViT(tiny_classifier(crop_size=128)).state_dict())
    assert len(report.interpolated) == 8
    assert all(name.startswith("backbone.bottom_up.blocks.") for name in report.interpolated)


def test_what_cannot_start_a_backbone_is_refused():
    with pytest.raises(ValueError, match=r"widens in the MLP \(blocks\.0\).* take the ImageNet-21k file of L"):
        load_weights(tiny_detector(), MViT(tiny_classifier(expand_in="mlp")).state_dict())
    with pytest.raises(ValueError, match="the weights do not fit the model"):
        load_weights(tiny_detector(), MViT(tiny_classifier(depth=5)).state_dict())
    with pytest.raises(ValueError, match="the names are of no known format"):
        load_weights(tiny_detector(), {"weight": torch.zeros(1)})
