"""The experiments on images: they compose, build their models, and carry the published recipe to the digit."""

import copy
import functools
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from mvit_video.build.common import build_model, start_from_weights
from mvit_video.config import Train, config_dir
from mvit_video.config.mistakes import explain
from mvit_video.models import create_model
from mvit_video.models.weights.loading import checkpoint_content
from mvit_video.optim import scale_lr
from tests.conftest import options

FOLDERS = ["data.source.train=t", "data.source.val=v"]
IN1K = tuple(f"in1k_mvitv2_{size}" for size in "tsbl")
IN1K_OTHER = ("in1k_mvitv2_b_384", "in1k_mvitv2_l_384")
FROM_IN21K = {
    "in1k_mvitv2_l_from_in21k": 224,
    "in1k_mvitv2_h_from_in21k": 224,
    "in1k_mvitv2_l_384_from_in21k": 384,
    "in1k_mvitv2_h_384_from_in21k": 384,
    "in1k_mvitv2_h_512_from_in21k": 512,
}
IN21K = tuple(f"in21k_mvitv2_{size}" for size in "blh")
NEEDED = {
    **dict.fromkeys((*IN1K, *IN1K_OTHER, *FROM_IN21K, *IN21K), FOLDERS),
    "shapes_mvitv2": [],
    "finetune_images": [*FOLDERS, "weights=w.pyth", "data.num_classes=5"],
}
# Parameters at 224 pixels as published, or counted with the published code; larger crops have longer tables:
# (rows more) * 2 axes * width of a head.
PARAMETERS = {
    "in1k_mvitv2_t": 24_173_320,
    "in1k_mvitv2_s": 34_870_216,
    "in1k_mvitv2_b": 51_472_744,
    "in1k_mvitv2_l": 217_992_952,
    "in1k_mvitv2_b_384": 51_472_744 + 660 * 2 * 96,
    "in1k_mvitv2_l_384": 217_992_952 + 1_190 * 2 * 72,
    "in1k_mvitv2_l_from_in21k": 213_635_512,
    "in1k_mvitv2_h_from_in21k": 666_879_912,
    "in1k_mvitv2_l_384_from_in21k": 213_635_512 + 1_190 * 2 * 72,
    "in1k_mvitv2_h_384_from_in21k": 666_879_912 + 1_950 * 2 * 64,
    "in1k_mvitv2_h_512_from_in21k": 666_879_912 + 3_510 * 2 * 64,
    "in21k_mvitv2_b": 51_472_840 + 18_168 * 769,
    "in21k_mvitv2_l": 213_635_512 + 18_168 * 1_153,
    "in21k_mvitv2_h": 666_879_912 + 18_168 * 1_537,
    "shapes_mvitv2": 669_556,
    "finetune_images": 34_870_216 - (1000 - 5) * 769,
}

IMAGENET_RECIPE: dict[str, Any] = {
    "data.num_classes": 1000,
    "data.crop_size": 224,
    "data.crop_ratio": 0.875,
    "data.interpolation": "bicubic",
    "data.orientation": "ignore",
    "data.mean": [0.485, 0.456, 0.406],
    "data.std": [0.229, 0.224, 0.225],
    "augment.scale": [0.08, 1.0],
    "augment.ratio": [3 / 4, 4 / 3],
    "augment.flip": 0.5,
    "augment.randaugment": "rand-m9-n6-mstd0.5-inc1",
    "augment.color_jitter": 0.0,
    "augment.erase_prob": 0.25,
    "augment.repeats": 1,
    "augment.mixup_alpha": 0.8,
    "augment.cutmix_alpha": 1.0,
    "augment.mix_prob": 1.0,
    "augment.switch_prob": 0.5,
    "augment.smoothing": 0.1,
    "optim.name": "adamw",
    "optim.lr": 2.5e-4,
    "optim.reference_batch": 256,
    "optim.betas": [0.9, 0.999],
    "optim.eps": 1e-8,
    "optim.weight_decay": 0.05,
    "optim.no_decay": [],
    "optim.decay_1d": False,
    "optim.layer_decay": 1.0,
    "optim.clip_grad_norm": 1.0,
    "schedule.epochs": 300,
    "schedule.warmup_epochs": 70,
    "schedule.warmup_start_lr": 1e-8,
    "schedule.end_lr": 1e-6,
    "schedule.cosine_after_warmup": True,
    "trainer.ema_decay": None,
    "trainer.eval_every": 10,
    "model.dropout": 0.0,
}
PRETRAINING = {
    **IMAGENET_RECIPE,
    "data.num_classes": 19_168,
    "optim.reference_batch": 128,
    "schedule.epochs": 90,
    # Ours: the warm-up's share of the training, and rates for an image, are those of ImageNet-1k.
    "schedule.warmup_epochs": 21,
    "schedule.warmup_start_lr": 5e-9,
    "schedule.end_lr": 5e-7,
}
FINETUNING = {
    "data.num_classes": 1000,
    "augment.randaugment": "rand-m9-n6-mstd0.5-inc1",
    "augment.mix_prob": 0.0,
    "augment.smoothing": 0.1,
    "optim.lr": 7e-5,
    "optim.reference_batch": 128,
    "optim.weight_decay": 0.05,
    "schedule.epochs": 30,
}
RECIPES: dict[str, dict[str, Any]] = {
    "in1k_mvitv2_t": {**IMAGENET_RECIPE, "model.drop_path": 0.1, "trainer.batch_size": 32},
    "in1k_mvitv2_s": {**IMAGENET_RECIPE, "model.drop_path": 0.1, "trainer.batch_size": 32},
    "in1k_mvitv2_b": {**IMAGENET_RECIPE, "model.drop_path": 0.3, "trainer.batch_size": 32},
    "in1k_mvitv2_l": {**IMAGENET_RECIPE, "model.drop_path": 0.5},
    "in21k_mvitv2_b": {**PRETRAINING, "optim.lr": 6.75e-5, "optim.weight_decay": 0.01, "model.drop_path": 0.3},
    "in21k_mvitv2_l": {**PRETRAINING, "optim.lr": 1.35e-4, "optim.weight_decay": 0.1, "model.drop_path": 0.5},
    "in21k_mvitv2_h": {
        **PRETRAINING,
        "optim.lr": 1.35e-4,
        "optim.weight_decay": 0.1,
        "schedule.epochs": 60,
        "schedule.warmup_epochs": 14,
    },
    **{name: {**FINETUNING, "data.crop_size": side} for name, side in FROM_IN21K.items()},
    "in1k_mvitv2_h_512_from_in21k": {
        **FINETUNING,
        "data.crop_size": 512,
        "augment.mix_prob": 1.0,
        "optim.weight_decay": 1e-8,
        "schedule.epochs": 3,
    },
    **{
        name: {"data.crop_size": 384, "optim.lr": 8e-5, "optim.weight_decay": 1e-8, "schedule.epochs": 30}
        for name in IN1K_OTHER
    },
}


@functools.cache
def composed(name: str) -> Train:
    return options(f"+experiment={name}", *NEEDED[name])


@pytest.mark.parametrize("name", NEEDED)
def test_experiment_builds(name: str) -> None:
    config = composed(name)
    assert config.name == name
    with torch.device("meta"):
        model = build_model(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", RECIPES)
def test_published_recipe(name: str) -> None:
    config = OmegaConf.structured(composed(name))
    actual = {key: OmegaConf.select(config, key) for key in RECIPES[name]}
    actual = {key: list(value) if OmegaConf.is_list(value) else value for key, value in actual.items()}
    assert actual == RECIPES[name]


@pytest.mark.parametrize("name", IN1K)
def test_learning_rates_of_imagenet_1k(name: str) -> None:
    """9.765625e-7 for an image of the batch; the 2048 images of the paper give 2e-3, from 8e-8 and down to 8e-6."""
    config = composed(name)
    batch = config.trainer.global_batch
    assert config.optim.lr / config.optim.reference_batch == 9.765625e-7 and batch == 2048
    rates = (config.optim.lr, config.schedule.warmup_start_lr, config.schedule.end_lr)
    scaled = [scale_lr(rate, reference_batch=config.optim.reference_batch, global_batch=batch) for rate in rates]
    assert scaled == pytest.approx([2e-3, 8e-8, 8e-6], rel=1e-12)


def test_rates_of_the_pretraining_are_those_of_imagenet_1k_for_an_image() -> None:
    for name in IN21K:
        config = composed(name)
        for rate, published in ((config.schedule.warmup_start_lr, 1e-8), (config.schedule.end_lr, 1e-6)):
            assert rate / config.optim.reference_batch == pytest.approx(published / 256, rel=1e-12)


@pytest.mark.parametrize("name", NEEDED)
def test_where_its_values_come_from_is_said(name: str) -> None:
    text = (Path(config_dir()) / "experiment" / f"{name}.yaml").read_text()
    float32 = "# Published in float32: trainer.precision=fp32 for that; `auto` means bf16 on a GPU.\n"
    assert (float32 in text) == (name in IN1K)
    if name in (*IN21K, *FROM_IN21K, *IN1K_OTHER):
        assert "No configuration was published. The paper, as we recall it" in text and " Ours: " in text
    if name in ("finetune_images", "shapes_mvitv2"):
        assert "All values are ours" in text


@pytest.mark.parametrize("preset", ["mvitv2_l_image_cls", "mvitv2_h_image_cls"])
def test_a_fine_tuning_takes_all_but_the_head_of_the_pretraining(
    preset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """ImageNet-21k at 224 pixels to ImageNet-1k at 384, on the first stages: tables are interpolated, and said."""
    few = {"depth": 3, "stage_starts": (1,)}
    pretrained, model = (
        create_model(preset, **few, num_classes=7),
        create_model(preset, **few, num_classes=5, crop_size=384),
    )
    torch.save(checkpoint_content(pretrained, "mvit_video"), tmp_path / "in21k.pt")
    head = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith("head.")}
    config = copy.copy(composed("in1k_mvitv2_l_384_from_in21k"))
    config.weights = str(tmp_path / "in21k.pt")
    with caplog.at_level(logging.INFO):
        start_from_weights(config, model)
    tables = [name for name in model.state_dict() if "rel_pos" in name]
    assert model.blocks[0].attn.rel_pos_h.shape[0] == 191 and len(tables) == 6
    assert "; interpolated: blocks.0.attn.rel_pos_h, blocks.0.attn.rel_pos_w, " in caplog.text
    assert "; new: head.projection.weight, head.projection.bias" in caplog.text
    for name, tensor in pretrained.state_dict().items():
        if name in head:
            assert torch.equal(model.state_dict()[name], head[name])
        elif name not in tables:
            assert torch.equal(model.state_dict()[name], tensor), name


def test_a_video_model_is_refused_with_the_way_out() -> None:
    with pytest.raises(InterpolationKeyError) as caught:
        options("+experiment=in1k_mvitv2_t", "model=mvitv2_s_16x4", *FOLDERS)
    assert explain(caught.value, []) == (
        "model.num_frames: follows data.num_frames, which the chosen `data` does not have; choose a `model` made for "
        "it, or give model.num_frames=..."
    )


@pytest.mark.parametrize("name", ["in1k_mvitv2_t", "finetune_images"])
def test_an_experiment_takes_another_model(name: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: torch.nn.LazyLinear\nout_features: ${data.num_classes}\n")
    config = options(f"hydra.searchpath=[file://{tmp_path}]", f"+experiment={name}", "model=mine", *NEEDED[name])
    assert build_model(config).out_features == config.data.num_classes
