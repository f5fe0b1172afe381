"""Every experiment composes, passes the checks, builds its model, and carries its published recipe to the digit."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from mvit_video.build.clips import build_eval_dataset, build_sampler, build_train_loader
from mvit_video.build.common import _of_this_model, build_model, build_optimizer_for, build_source
from mvit_video.build.samples import build_mixing, read_manifest
from mvit_video.config import config_dir
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.distributed.process_group import World
from mvit_video.interop.baselines import list_baselines
from tests.build.test_detection_experiments import NEEDED as DETECTION
from tests.build.test_image_experiments import NEEDED as IMAGES
from tests.conftest import motion_overrides, options
from tests.paths import ROOT

KINETICS = ["data.source.train=t.csv", "data.source.train_root=t", "data.source.val=v.csv", "data.source.val_root=v"]
SSV2 = ["data.source.train=t.json", "data.source.val=v.json", "data.source.labels=l.json", "data.source.root=v"]
NEEDED = {
    "k400_mvitv2_s": KINETICS,
    "k400_mvitv2_b": KINETICS,
    "k400_mvitv2_l": KINETICS,
    "k600_mvitv2_b": KINETICS,
    "k700_mvitv2_b": KINETICS,
    "k400_mvitv1_b": KINETICS,
    "k400_mvitv1_b_32x3": KINETICS,
    "k600_mvitv1_b_32x3": KINETICS,
    "k400_maskfeat_s": [*KINETICS, "weights=w.pyth"],
    "k400_maskfeat_l": [*KINETICS, "weights=w.pyth"],
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
    "k400_mvitv1_b_32x3": 36_611_440,
    "k600_mvitv1_b_32x3": 36_611_440 + (600 - 400) * 769,
    "k400_maskfeat_s": 36_475_120,
    "k400_maskfeat_l": 217_578_064,
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
    "augment.decode_short_side": 256,
    "augment.channel_order": "rgb",
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
    "trainer.global_batch": 256,
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
    "augment.decode_short_side": None,
    "augment.channel_order": "bgr",
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
    "trainer.global_batch": 16,
}
for _adamw_only in ("optim.betas", "optim.eps", "augment.scale", "augment.ratio"):
    SSV2_RECIPE.pop(_adamw_only)
MASKFEAT_RECIPE = {
    **KINETICS_RECIPE,
    **S_CLIP,
    "data.num_classes": 400,
    "data.test_temporal_views": 10,
    "augment.randaugment": "rand-m7-mstd0.5-inc1",
    "optim.lr": 6e-4,
    "optim.clip_grad_norm": 5.0,
    "model.expand_in": "mlp",
    "model.head_pooling": "mean_norm",
    "model.head_init_scale": 0.001,
    "model.dropout": 0.0,
}
RECIPES: dict[str, dict[str, Any]] = {
    "k400_mvitv2_s": {**KINETICS_RECIPE, **S_CLIP, "model.drop_path": 0.2, "data.num_classes": 400},
    "k400_mvitv2_b": {**KINETICS_RECIPE, **B_CLIP, "model.drop_path": 0.3, "data.num_classes": 400},
    "k600_mvitv2_b": {**KINETICS_RECIPE, **B_CLIP, "model.drop_path": 0.3, "data.num_classes": 600},
    "k700_mvitv2_b": {**KINETICS_RECIPE, **B_CLIP, "model.drop_path": 0.3, "data.num_classes": 700},
    "k400_mvitv1_b": {**KINETICS_RECIPE, **S_CLIP, "model.drop_path": 0.2, "data.num_classes": 400},
    "k400_mvitv1_b_32x3": {**KINETICS_RECIPE, **B_CLIP, "model.drop_path": 0.3, "data.num_classes": 400},
    "k600_mvitv1_b_32x3": {**KINETICS_RECIPE, **B_CLIP, "model.drop_path": 0.3, "data.num_classes": 600},
    "k400_maskfeat_s": {
        **MASKFEAT_RECIPE,
        "augment.repeats": 2,
        "optim.layer_decay": 0.75,
        "schedule.epochs": 100,
        "schedule.warmup_epochs": 20,
        "model.drop_path": 0.1,
    },
    "k400_maskfeat_l": {
        **MASKFEAT_RECIPE,
        "augment.repeats": 1,
        "optim.layer_decay": 0.875,
        "schedule.epochs": 75,
        "schedule.warmup_epochs": 5,
        "schedule.warmup_start_lr": 1e-8,
        "schedule.end_lr": 1e-5,
        "model.drop_path": 0.2,
    },
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
        "trainer.global_batch": 8,
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
        "augment.decode_short_side": 356,
        "augment.mix_prob": 0.0,
        "augment.smoothing": 0.1,
        "model.drop_path": 0.75,
        "model.dropout": 0.5,
        "model.activation_checkpointing": True,
    },
}


def test_every_experiment_file_is_tested() -> None:
    files = {path.stem for path in (Path(config_dir()) / "experiment").glob("*.yaml")}
    assert files == set(NEEDED) | set(IMAGES) | set(DETECTION)


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


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"_target_": "tests.nowhere.Net"}, r"_target_: tests\.nowhere\.Net cannot be imported \(.*PYTHONPATH.* corre"),
        (
            {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1, "depth": 3},
            r"torch\.nn\.Linear: .*'depth'; the arguments that the options give are: in_features, out_features, depth",
        ),
    ],
)
def test_an_own_model_that_cannot_be_made_is_refused_plainly(own: dict[str, Any], message: str) -> None:
    config = options("+experiment=motion_mvitv2")
    config.model = own
    with pytest.raises(ValueError, match=message):
        build_model(config)


@pytest.mark.parametrize("model", list_baselines())
def test_baselines_run_in_the_same_pipeline(model: str) -> None:
    config = options(f"model={model}", "name=baseline", *KINETICS)
    with torch.device("meta"):
        built = build_model(config)
    assert sum(parameter.numel() for parameter in built.parameters()) > 3e6


PUBLISHED = [name for name in NEEDED if name.startswith(("k400_", "ssv2_", "k600_mvitv1"))]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_name_the_arithmetic_they_were_trained_in(name: str) -> None:
    text = (Path(config_dir()) / "experiment" / f"{name}.yaml").read_text()
    assert "# Published in float32: trainer.precision=fp32 for that; `auto` means bf16 on a GPU.\n" in text
    assert options(f"+experiment={name}", *NEEDED[name]).trainer.precision == "auto"


@pytest.mark.parametrize(("name", "side", "order"), [("k400_mvitv2_l", 356, "rgb"), ("ssv2_mvitv2_s", None, "bgr")])
def test_what_training_does_to_pictures_reaches_both_data_sets(name: str, side: int | None, order: str) -> None:
    """Test views are scaled by the short side that training decodes to; RandAugment sees the recipe's channel order."""
    config = options(f"+experiment={name}", *NEEDED[name])
    manifest = Manifest(("a.mp4", "b.mp4"), (0, 0), ("a",), "list")
    loader = build_train_loader(config, manifest, World(0, 1, torch.device("cpu")))
    assert (loader.dataset.transform.decode_short_side, loader.dataset.transform.channel_order) == (side, order)
    views = build_eval_dataset(config, manifest, temporal_views=1, spatial_views=1)
    assert views.decode_short_side == side


OWN_MODEL = f"hydra.searchpath=[file://{ROOT}/examples/rating/conf]"  # what --config-dir does


@pytest.mark.parametrize(("name", "baseline"), zip(NEEDED, itertools.cycle(list_baselines())))
def test_every_experiment_takes_every_model(name: str, baseline: str, tmp_path: Path) -> None:
    """Whatever an experiment sets for its own model, another one composes, learns the classes and gets an optimizer.

    Any of the baselines, whose options are the same but for the name.
    """
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: torch.nn.LazyLinear\nout_features: ${data.num_classes}\n")
    for model in (baseline, "small_net", "mine"):
        path = OWN_MODEL.replace("]", f",file://{tmp_path}]")
        config = options(path, f"+experiment={name}", f"model={model}", *NEEDED[name])
        assert config.optim.lr > 0 and config.trainer.global_batch
        if model in ("small_net", "mine"):
            build_model(config)


@pytest.mark.parametrize("name", ["motion_mvitv2", "finetune_folder"])
def test_what_an_experiment_says_of_its_own_models_layers_is_left_out_for_another(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = options(OWN_MODEL, f"+experiment={name}", "model=small_net", *NEEDED[name])
    model = build_model(config)
    manifest = Manifest(("a.mp4",) * 16, (0,) * 16, ("a",), "list")
    loader = build_train_loader(config, manifest, World(0, 1, torch.device("cpu")))
    optimizer = build_optimizer_for(model, config, loader)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == sum(
        p.numel() for p in model.parameters()
    )
    said = {
        "motion_mvitv2": "optim.no_decay: SmallNet has no parameters named rel_pos_h, rel_pos_w, rel_pos_t, cls_token",
        "finetune_folder": "optim.layer_decay=0.75 is left out, and all layers learn at one rate: SmallNet does not",
    }
    assert said[name] in caplog.text


def test_a_list_of_several_models_is_no_warning_where_some_of_it_fits(caplog: pytest.LogCaptureFixture) -> None:
    """The list of the COCO recipes has the batch norms of the cascade, which Mask R-CNN lacks."""
    caplog.set_level("INFO")
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    assert _of_this_model(model, ["bias", "norm"]) == ["bias"] and _of_this_model(model, ["norm"]) == []
    assert [(r.levelname, "named norm, which" in r.getMessage()) for r in caplog.records] == [
        ("INFO", True),
        ("WARNING", True),
    ]


@pytest.mark.parametrize("given", ["null", "${data.num_classes}", "7"])
def test_an_own_model_learns_the_number_of_classes(given: str, tmp_path: Path, motion_root: Path) -> None:
    (tmp_path / "model").mkdir()
    text = f"_target_: mvit_video.interop.baselines.create_baseline\nname: x3d_s\nnum_classes: {given}\n"
    (tmp_path / "model" / "mine.yaml").write_text(text + "num_frames: 8\ncrop_size: 48\n")
    more = [f"hydra.searchpath=[file://{tmp_path}]", "model=mine", "data.num_classes=null"]
    config = options(*motion_overrides(motion_root, tmp_path, *more))
    read_manifest(config, build_source(config.data, World(0, 1, torch.device("cpu"))), "train")
    assert config.model["num_classes"] == (7 if given == "7" else 8)
