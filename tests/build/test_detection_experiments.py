"""The experiments of detection: they compose, build their models, and carry the published recipe to the digit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from mvit_video.build.common import build_model, build_schedule, start_from_weights
from mvit_video.build.detection_samples import build_transform
from mvit_video.config import Train
from mvit_video.data.detection.transforms import LargeScaleJitter, MultiScale
from mvit_video.models import create_model
from mvit_video.models.detection import Detector
from mvit_video.models.weights.loading import checkpoint_content
from mvit_video.optim import parameter_groups
from tests.conftest import options

FILES = ["data.source.train=t.json", "data.source.val=v.json"]
MASK_RCNN = tuple(f"coco_mask_rcnn_mvitv2_{size}" for size in "tsb")
CASCADE = tuple(f"coco_cascade_mask_rcnn_mvitv2_{size}" for size in "tsblh")
NEEDED = {
    **dict.fromkeys((*MASK_RCNN, *CASCADE), FILES),
    "scenes_mask_rcnn_mvitv2": [],
    "finetune_detection": [*FILES, "weights=w.pyth", "data.num_classes=5"],
}
# As published, or counted with the published code.
PARAMETERS = {
    "coco_mask_rcnn_mvitv2_t": 43_679_568,
    "coco_cascade_mask_rcnn_mvitv2_t": 75_847_614,
    "coco_cascade_mask_rcnn_mvitv2_s": 86_544_510,
    "coco_cascade_mask_rcnn_mvitv2_b": 103_147_038,
    "coco_cascade_mask_rcnn_mvitv2_l": 265_110_654,
    "coco_cascade_mask_rcnn_mvitv2_h": 718_155_998,
    "scenes_mask_rcnn_mvitv2": 1_920_110,
}
RECIPE: dict[str, Any] = {
    "data.num_classes": 80,
    "data.orientation": "apply",
    "augment.flip": 0.5,
    "optim.name": "adamw",
    "optim.lr": 1.6e-4,
    "optim.reference_batch": 64,
    "optim.betas": [0.9, 0.999],
    "optim.eps": 1e-8,
    "optim.weight_decay": 0.1,
    "optim.decay_1d": True,
    "optim.layer_decay": 1.0,
    "optim.clip_grad_norm": None,
    "schedule.warmup_start_lr": 1.6e-7,
    "schedule.milestone_factor": 0.1,
    "trainer.global_batch": 64,
    "trainer.batch_size": 1,
    "trainer.ema_decay": None,
    "model.short_side": None,
    "model.score_threshold": None,
}
OTHER: dict[str, dict[str, Any]] = {
    "coco_cascade_mask_rcnn_mvitv2_l": {"optim.lr": 1e-4, "schedule.warmup_start_lr": 1e-7},
}
DROP_PATH = {"t": 0.2, "s": 0.2, "b": 0.4, "l": 0.5, "h": 0.6}
SCHEDULES = {"l": (92_187, [81_944, 88_773])}
STEPS_PER_EPOCH = 117_266 // 64


@pytest.fixture(scope="module")
def composed() -> dict[str, Train]:
    return {name: options(f"+experiment={name}", *given) for name, given in NEEDED.items()}


MODELS: dict[str, Detector] = {}


def model_of(config: Train) -> Detector:
    """The detector of an experiment, without its numbers."""
    if config.name not in MODELS:
        with torch.device("meta"):
            model = build_model(config)
        assert isinstance(model, Detector)
        MODELS[config.name] = model
    return MODELS[config.name]


def test_every_experiment_builds_its_detector(composed: dict[str, Train]) -> None:
    for name, config in composed.items():
        model = model_of(config)
        if name in PARAMETERS:
            assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name], name
        assert model.config.num_classes == config.data.num_classes
        assert model.config.is_cascade == ("cascade" in name)


@pytest.mark.parametrize("name", [*MASK_RCNN, *CASCADE])
def test_a_recipe_is_the_published_one(name: str, composed: dict[str, Train]) -> None:
    config, size = composed[name], name[-1]
    plain = OmegaConf.structured(config)
    for key, value in (RECIPE | OTHER.get(name, {})).items():
        assert OmegaConf.select(plain, key) == value, key
    backbone = model_of(config).config.backbone
    assert (backbone.drop_path, backbone.windows) == (DROP_PATH[size], "hybrid")
    assert backbone.activation_checkpointing is (size == "h")
    transform = build_transform(config)
    if size in "lh":
        assert transform == LargeScaleJitter(side=1024, scale=(0.1, 2.0), flip=0.5, fill=128)
    else:
        assert transform == MultiScale(
            short_sides=tuple(range(480, 801, 32)),
            long_side=1333,
            crop=0.5,
            crop_short_sides=(400, 500, 600),
            crop_range=(384, 600),
            flip=0.5,
        )


class Loader:
    """As many steps as COCO has."""

    steps_per_epoch = STEPS_PER_EPOCH
    items_per_step = 64
    accumulate = 1
    num_items = 117_266


@pytest.mark.parametrize("size", ["t", "l", "h"])
def test_the_rate_falls_at_the_published_steps(size: str, composed: dict[str, Train]) -> None:
    config = composed[f"coco_cascade_mask_rcnn_mvitv2_{size}"]
    rate = build_schedule(config, Loader())  # type: ignore[arg-type]
    total, (first, second) = SCHEDULES.get(size, (67_500, [52_500, 62_500]))
    peak = config.optim.lr
    assert rate.total_steps == total
    assert rate(0) == pytest.approx(peak / 1000)
    assert rate(125) == pytest.approx(peak * (0.001 + 0.999 * 0.5), rel=1e-4)
    assert rate(250) == rate(first - 1) == peak
    assert rate(first) == rate(second - 1) == pytest.approx(peak / 10)
    assert rate(second) == rate(total) == pytest.approx(peak / 100)


def test_norms_and_tables_alone_are_not_decayed(composed: dict[str, Train]) -> None:
    config = composed["coco_cascade_mask_rcnn_mvitv2_t"]
    optim = config.optim
    groups = parameter_groups(
        model_of(config), lr=1.0, weight_decay=0.1, decay_1d=optim.decay_1d, no_decay=optim.no_decay
    )
    names = {group["name"]: group["param_names"] for group in groups}
    assert all("norm" in name or ".rel_pos_" in name for name in names["no_decay"])
    assert not any("norm" in name or ".rel_pos_" in name for name in names["decay"])
    assert "backbone.fpn_lateral2.bias" in names["decay"]


def test_image_weights_start_a_training_and_are_named(
    tmp_path: Path, composed: dict[str, Train], caplog: pytest.LogCaptureFixture
) -> None:
    classifier = create_model(
        "mvitv2_s_image", depth=6, embed_dim=32, stage_starts=(1, 2, 5), crop_size=64, num_classes=7
    )
    torch.save(checkpoint_content(classifier, "mvit_video"), tmp_path / "classifier.pt")
    config = composed["scenes_mask_rcnn_mvitv2"]
    detector = build_model(config)
    assert isinstance(detector, Detector)
    config.weights = str(tmp_path / "classifier.pt")
    caplog.set_level("INFO")
    start_from_weights(config, detector)
    config.weights = None
    assert torch.equal(detector.state_dict()["backbone.bottom_up.blocks.3.attn.qkv.weight"],
                       classifier.state_dict()["blocks.3.attn.qkv.weight"])  # fmt: skip
    assert "weights from" in caplog.text
    assert "head" in caplog.text


def test_milestones_must_rise() -> None:
    with pytest.raises(ValueError, match=r"schedule\.milestones=\[0\.9, 0\.5\]"):
        options("+experiment=scenes_mask_rcnn_mvitv2", "schedule.milestones=[0.9,0.5]")
