"""From an image model to a video model: a run of this project, published weights, every size of the paper."""

import logging
from pathlib import Path

import pytest
import torch

from mvit_video.build.common import build_model, start_from_weights
from mvit_video.build.training import train
from mvit_video.engine.checkpoints import CheckpointError, find_checkpoint
from mvit_video.models import MViT, MViTConfig, create_model, from_checkpoint, get_config
from mvit_video.models.weights.loading import checkpoint_content
from tests.conftest import options, small_overrides
from tests.models.helpers import image_fields, randomised

SMALL = {"num_frames": 1, "crop_size": 48, "num_classes": 7}


def image_config(**changes: object) -> MViTConfig:
    """An image model of the widths of the small video model."""
    return get_config("mvitv2_motion", **(image_fields(cls_token=False, head_pooling="norm_mean") | SMALL | changes))


def write_run(folder: Path, model: MViT, name: str = "best.pt") -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(checkpoint_content(model, "mvit_video"), folder / "checkpoints" / name)
    return folder


@pytest.fixture(scope="module")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image model trained for a step by the same command as any other, on a few of the embedded shapes."""
    folder = tmp_path_factory.mktemp("shapes")
    few = [
        "data.source.train_images=32",
        "data.source.test_images=12",
        f"data.source.root={folder / 'set'}",
        "data.crop_size=48",
    ]
    fast = ["trainer.num_workers=0", "trainer.threads=1", "trainer.device=cpu", "trainer.precision=fp32"]
    place = [f"output_dir={folder / 'runs'}", "trainer.max_steps=1"]
    train(options("+experiment=shapes_mvitv2", *few, *fast, *place))
    return folder / "runs" / "shapes_mvitv2"


def test_a_video_run_needs_only_the_name_of_the_image_run(image_run, motion_root, tmp_path, caplog):
    """Image training -> video training step: nothing but weights=runs/NAME is given."""
    image = from_checkpoint(find_checkpoint(image_run))
    assert image.config.is_image and image.config.crop_size == 48
    config = options(*small_overrides(motion_root, tmp_path / "runs", f"weights={image_run}", "trainer.max_steps=1"))
    model = build_model(config)
    with caplog.at_level(logging.INFO):
        start_from_weights(config, model)
    assert "holds an image model: its convolutions are repeated over time and divided by the frames" in caplog.text
    stem, pool = image.patch_embed.proj.weight, image.blocks[1].attn.pool_k.weight
    for frame in range(3):
        torch.testing.assert_close(model.patch_embed.proj.weight[:, :, frame], stem / 3, rtol=0, atol=1e-7)
        torch.testing.assert_close(model.blocks[1].attn.pool_k.weight[:, :, frame], pool / 3, rtol=0, atol=1e-7)
    assert torch.equal(model.blocks[3].mlp.fc2.weight, image.blocks[3].mlp.fc2.weight)
    for said in ("interpolated: blocks.0.attn.rel_pos_h", "new: cls_token, ", "left out: head.projection.weight"):
        assert said in caplog.text
    train(config)
    trained = from_checkpoint(tmp_path / "runs" / "tiny" / "checkpoints" / "step_00000001.pt")
    moved = trained.patch_embed.proj.weight - model.patch_embed.proj.weight
    assert 0 < moved.abs().max() < 1e-3  # one step of the warm-up away


def test_the_class_token_of_imagenet_21k_is_taken_over(motion_root, tmp_path):
    image = randomised(image_config(cls_token=True, head_pooling="cls")).float()
    run = write_run(tmp_path / "pictures", image)
    config = options(*small_overrides(motion_root, tmp_path, f"weights={run}"))
    model = build_model(config)
    start_from_weights(config, model)
    assert torch.equal(model.cls_token, image.cls_token)


def test_the_rule_can_be_chosen_and_video_weights_need_none(motion_root, tmp_path, caplog):
    image = randomised(image_config()).float()
    with_time = {n: v.unsqueeze(2) if ".pool_" in n else v for n, v in image.state_dict().items()}
    torch.save({"model_state": with_time}, tmp_path / "image.pyth")  # as PySlowFast trains image models
    given = [f"weights={tmp_path / 'image.pyth'}", "image_to_video=published"]
    config = options(*small_overrides(motion_root, tmp_path, *given))
    model = build_model(config)
    with caplog.at_level(logging.INFO):
        start_from_weights(config, model)
        assert torch.equal(model.patch_embed.proj.weight[:, :, 0], image.patch_embed.proj.weight)
        run = write_run(tmp_path / "video", model)
        config = options(*small_overrides(motion_root, tmp_path, f"weights={run}"))
        start_from_weights(config, build_model(config))
    assert "holds an image model" not in caplog.text


def test_what_cannot_be_started_from(motion_root, tmp_path):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    config = options(*small_overrides(motion_root, tmp_path, f"weights={tmp_path / 'empty'}"))
    with pytest.raises(CheckpointError, match="has no complete checkpoint: name a file, or the folder of a run"):
        start_from_weights(config, build_model(config))
    run = write_run(tmp_path / "wide", randomised(image_config(expand_in="mlp")).float())
    config = options(*small_overrides(motion_root, tmp_path, f"weights={run}"))
    with pytest.raises(ValueError, match=r"widens in the mlp .* build it with expand_in='mlp' \(model\.expand_in=mlp"):
        start_from_weights(config, build_model(config))
    config = options(*small_overrides(motion_root, tmp_path, f"weights={run}", "model.expand_in=mlp"))
    start_from_weights(config, build_model(config))


# The published route: image preset, video preset, and what the command gives besides the weights.
ROUTES = [
    ("mvitv2_s_image", "mvitv2_s_16x4", {}),
    ("mvitv2_b_image", "mvitv2_b_32x3", {}),
    ("mvitv2_b_image_cls", "mvitv2_b_32x3", {}),
    ("mvitv2_l_image", "mvitv2_l_40x3", {"expand_in": "mlp"}),
    ("mvitv2_l_image_cls", "mvitv2_l_40x3", {}),
]


@pytest.mark.parametrize(("image", "video", "given"), ROUTES)
def test_the_published_route_of_every_size(image, video, given, motion_root, tmp_path):
    """Names, widths and tables of the published sizes fit, on models of their first stages; nothing is left to chance
    but what images cannot tell."""
    few = {"depth": 4, "stage_starts": (1, 3), "num_classes": 3}
    torch.save(checkpoint_content(create_model(image, **few), "pyslowfast"), tmp_path / "w.pyth")
    config = options(*small_overrides(motion_root, tmp_path, f"weights={tmp_path / 'w.pyth'}"))
    model = create_model(video, **few, **given)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_from_weights(config, model)
    kept = [name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])]
    unmoved = [name for name in kept if not name.endswith((".bias", "norm.weight")) and ".norm" not in name]
    tables = [f"blocks.{index}.attn.rel_pos_t" for index in range(4)]
    assert sorted(unmoved) == sorted(tables + ([] if image.endswith("_cls") else ["cls_token"]))
