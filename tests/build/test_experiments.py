"""Every experiment composes, passes the checks, builds its model, and carries its published recipe to the digit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from mvit_video.build.clips import build_mixing, build_sampler
from mvit_video.build.common import build_model
from mvit_video.config import config_dir
from tests.conftest import options

KINETICS = ["data.source.train=t.csv", "data.source.train_root=t", "data.source.val=v.csv", "data.source.val_root=v"]
SSV2 = ["data.source.train=t.json", "data.source.val=v.json", "data.source.labels=l.json", "data.source.root=v"]
NEEDED = {
    "k400_mvitv2_s": KINETICS,
    "k400_mvitv2_b": KINETICS,
    "k400_mvitv2_l": KINETICS,
    "k600_mvitv2_b": KINETICS,
    "k700_mvitv2_b": KINETICS,
    "k400_mvitv1_b": KINETICS,
    "ssv2_mvitv2_s": SSV2,
    "ssv2_mvitv2_b": SSV2,
    "ssv2_mvitv2_l": SSV2,
    "motion_mvitv2": [],
    "finetune_folder": ["data.source.train=t", "data.source.val=v", "weights=w.pyth", "data.num_classes=5"],
}
PARAMETERS = {
    "k400_mvitv2_s": 34_537_744,
    "k400_mvitv2_b": 51_230_128,
    "k400_mvitv2_l": 213_390_112,
    "k600_mvitv2_b": 51_383_928,
    "k700_mvitv2_b": 51_460_828,
    "k400_mvitv1_b": 36_610_672,
    "ssv2_mvitv2_s": 34_363_950,
    "ssv2_mvitv2_b": 51_056_334,
    "ssv2_mvitv2_l": 213_129_534,
    "motion_mvitv2": 697_352,
    "finetune_folder": 34_537_744 - (400 - 5) * 769,
}

KINETICS_RECIPE = {
    "data.sampling": "span",
    "data.target_fps": 30,
    "data.test_temporal_views": 5,
    "data.test_spatial_views": 1,
    "data.test_short_side": 256,
    "data.mean": [0.45] * 3,
    "data.std": [0.225] * 3,
    "augment.crop": "resized",
    "augment.scale": [0.08, 1.0],
    "augment.ratio": [0.75, 1.3333],
    "augment.flip": 0.5,
    "augment.randaugment": "rand-m7-n4-mstd0.5-inc1",
    "augment.erase_prob": 0.25,
    "augment.repeats": 2,
    "augment.mixup_alpha": 0.8,
    "augment.cutmix_alpha": 1.0,
    "augment.mix_prob": 1.0,
    "augment.switch_prob": 0.5,
    "augment.smoothing": 0.1,
    "optim.name": "adamw",
    "optim.lr": 1e-4,
    "optim.reference_batch": 16,
    "optim.betas": [0.9, 0.999],
    "optim.eps": 1e-8,
    "optim.weight_decay": 0.05,
    "optim.no_decay": [],
    "optim.decay_1d": False,
    "optim.layer_decay": 1.0,
    "optim.clip_grad_norm": 1.0,
    "schedule.epochs": 200,
    "schedule.warmup_epochs": 30,
    "schedule.warmup_start_lr": 1e-6,
    "schedule.end_lr": 1e-6,
    "schedule.cosine_after_warmup": True,
    "model.dropout": 0.5,
}
S_CLIP = {"data.num_frames": 16, "data.sampling_rate": 4, "data.crop_size": 224}
B_CLIP = {"data.num_frames": 32, "data.sampling_rate": 3, "data.crop_size": 224}
IMAGENET = {"data.mean": [0.485, 0.456, 0.406], "data.std": [0.229, 0.224, 0.225]}
SSV2_RECIPE = {
    **KINETICS_RECIPE,
    "data.num_classes": 174,
    "data.sampling": "segments",
    "data.test_temporal_views": 1,
    "data.test_spatial_views": 3,
    "data.test_short_side": 224,
    "data.channel_order": "rgb",
    "augment.crop": "jitter",
    "augment.jitter": [256, 320],
    "augment.inverse_uniform": True,
    "augment.flip": 0.0,
    "augment.repeats": 1,
    "optim.name": "sgd",
    "optim.lr": 2.5e-3,
    "optim.momentum": 0.9,
    "optim.nesterov": True,
    "optim.weight_decay": 1e-4,
    "optim.clip_grad_norm": None,
    "schedule.epochs": 100,
    "schedule.warmup_epochs": 3,
    "schedule.warmup_start_lr": 1e-4,
    "model.drop_path": 0.4,
}
for _adamw_only in ("optim.betas", "optim.eps", "augment.scale", "augment.ratio"):
    SSV2_RECIPE.pop(_adamw_only)
RECIPES: dict[str, dict[str, Any]] = {
    "k400_mvitv2_s": {**KINETICS_RECIPE, **S_CLIP, "model.drop_path": 0.2, "data.num_classes": 400},
    "k400_mvitv2_b": {**KINETICS_RECIPE, **B_CLIP, "model.drop_path": 0.3, "data.num_classes": 400},
    "k600_mvitv2_b": {**KINETICS_RECIPE, **B_CLIP, "model.drop_path": 0.3, "data.num_classes": 600},
    "k700_mvitv2_b": {**KINETICS_RECIPE, **B_CLIP, "model.drop_path": 0.3, "data.num_classes": 700},
    "k400_mvitv1_b": {**KINETICS_RECIPE, **S_CLIP, "model.drop_path": 0.2, "data.num_classes": 400},
    "ssv2_mvitv2_s": {**SSV2_RECIPE, "data.num_frames": 16, "data.crop_size": 224},
    "ssv2_mvitv2_b": {**SSV2_RECIPE, "data.num_frames": 32, "data.crop_size": 224, "optim.lr": 1.5e-3},
    "ssv2_mvitv2_l": {
        **SSV2_RECIPE,
        **IMAGENET,
        "data.num_frames": 40,
        "data.crop_size": 312,
        "data.channel_order": "bgr",
        "data.test_short_side": 312,
        "augment.jitter": [356, 446],
        "augment.mix_prob": 0.0,
        "optim.lr": 1.25e-3,
        "optim.reference_batch": 8,
        "optim.clip_grad_norm": 2.0,
        "schedule.epochs": 40,
        "schedule.warmup_start_lr": 1e-6,
        "model.drop_path": 0.75,
        "model.activation_checkpointing": True,
    },
    # Published are the model, the views and the augmentation; the training recipe is ours.
    "k400_mvitv2_l": {
        **IMAGENET,
        "data.num_classes": 400,
        "data.num_frames": 40,
        "data.sampling_rate": 3,
        "data.crop_size": 312,
        "data.test_short_side": 312,
        "data.test_temporal_views": 5,
        "data.test_spatial_views": 3,
        "augment.randaugment": "rand-m7-n4-mstd0.5-inc1",
        "augment.mix_prob": 0.0,
        "augment.smoothing": 0.1,
        "model.drop_path": 0.75,
        "model.dropout": 0.5,
        "model.activation_checkpointing": True,
    },
}


def test_every_experiment_file_is_tested() -> None:
    files = {path.stem for path in (Path(config_dir()) / "experiment").glob("*.yaml")}
    assert files == set(NEEDED)


@pytest.mark.parametrize("name", NEEDED)
def test_experiment_builds(name: str) -> None:
    config = options(f"+experiment={name}", *NEEDED[name])
    assert config.name == name
    with torch.device("meta"):
        model = build_model(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    build_sampler(config.data)
    build_mixing(config)


@pytest.mark.parametrize("name", RECIPES)
def test_published_recipe(name: str) -> None:
    config = OmegaConf.structured(options(f"+experiment={name}", *NEEDED[name]))
    actual = {key: OmegaConf.select(config, key) for key in RECIPES[name]}
    actual = {key: list(value) if OmegaConf.is_list(value) else value for key, value in actual.items()}
    assert actual == RECIPES[name]


def test_the_order_blind_variant_of_the_motion_model() -> None:
    """Lists on the command line reach the model, and leave it without anything temporal but attention itself."""
    parts = ["model.rel_pos=spatial", "model.pool_kernel=[1,3,3]", "model.patch_kernel=[1,7,7]"]
    model = build_model(options("+experiment=motion_mvitv2", *parts))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert not any("rel_pos_t" in name for name in shapes)
    assert shapes["patch_embed.proj.weight"] == (48, 3, 1, 7, 7)
    assert {shape[2] for name, shape in shapes.items() if ".pool_" in name} == {1}


def test_an_impossible_model_is_refused_in_the_models_own_words() -> None:
    with pytest.raises(ValueError, match=r"^patch_kernel=.1, 7. must be three whole numbers"):
        build_model(options("+experiment=motion_mvitv2", "model.patch_kernel=[1,7]"))


@pytest.mark.parametrize("model", ["x3d_s", "x3d_m", "slow_r50", "slowfast_r50"])
def test_baselines_run_in_the_same_pipeline(model: str) -> None:
    config = options(f"model={model}", "name=baseline", *KINETICS)
    with torch.device("meta"):
        built = build_model(config)
    assert sum(parameter.numel() for parameter in built.parameters()) > 3e6
