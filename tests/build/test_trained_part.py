"""Training a part of a model, from options to checkpoints that any tool loads."""

import json
import logging
from pathlib import Path

import pytest
import torch

from mvit_video import build, models
from mvit_video.engine.checkpoints import load_checkpoint
from mvit_video.engine.tracking import read_metrics
from tests import interpreters
from tests.conftest import SMALL_CLIPS, evaluate_options, few_videos, options
from tests.paths import ROOT


@pytest.fixture(scope="module")
def start(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights to start from."""
    output = tmp_path_factory.mktemp("start")
    build.train(options(*few_videos(motion_root, output, *SMALL_CLIPS, "trainer.max_steps=1")))
    return output / "tiny/checkpoints/step_00000001.pt"


def test_adapters_with_an_average_and_layer_decay_resume_to_the_bit_and_are_merged_when_saved(
    motion_root: Path, start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = [*SMALL_CLIPS, f"weights={start}", "optim.frozen=backbone", "optim.lora_rank=2", "optim.layer_decay=0.9"]
    more += ["trainer.ema_decay=0.5", "schedule.epochs=3", "model.drop_path=0.1", "trainer.eval_every=9"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with caplog.at_level(logging.INFO):
        build.train(options(*few_videos(motion_root, whole, *more)))
    assert "parameters are trained" in caplog.text and "adapters of rank 2 on" in caplog.text
    build.train(options(*few_videos(motion_root, broken, *more, "trainer.max_steps=1")))
    build.train(options(*few_videos(motion_root, broken, *more)))
    one, two = (load_checkpoint(run / "tiny/checkpoints/step_00000003.pt") for run in (whole, broken))
    for part in ("model", "ema", "adapters", "ema_adapters"):
        assert one[part].keys() == two[part].keys()
        assert all(torch.equal(one[part][name], two[part][name]) for name in one[part]), part
    # What is frozen is what it was; the adapters are in the weights.
    before = load_checkpoint(start)["model"]
    assert one["model"].keys() == before.keys()
    changed = {name for name in before if not torch.equal(one["model"][name], before[name])}
    assert {name.split(".")[-2] for name in changed} == {"qkv", "proj", "norm", "projection"}
    assert all(torch.equal(one["adapters"][name], before[name]) for name in before if name.endswith("qkv.weight"))
    # Any tool: here the loader of weights, and an evaluation, which knows nothing of adapters.
    model = models.create_model("mvitv2_motion", num_classes=8, num_frames=4, crop_size=32)
    models.load_weights(model, whole / "tiny/checkpoints/best.pt")
    loss = read_metrics(whole / "tiny/metrics.jsonl")[-1]["loss"]
    evaluation = few_videos(motion_root, whole, *SMALL_CLIPS, "data.test_temporal_views=1", "split=val")
    assert build.evaluate(evaluate_options(*evaluation))["loss"] == pytest.approx(loss, abs=1e-4)


def test_a_linear_probe_trains_the_head_alone(motion_root: Path, start: Path, tmp_path: Path) -> None:
    more = [*SMALL_CLIPS, f"weights={start}", "optim.frozen=backbone", "trainer.max_steps=1", "trainer.eval_every=9"]
    build.train(options(*few_videos(motion_root, tmp_path, *more)))
    before, after = load_checkpoint(start), load_checkpoint(tmp_path / "tiny/checkpoints/step_00000001.pt")
    changed = {name for name in before["model"] if not torch.equal(after["model"][name], before["model"][name])}
    assert changed == {"norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"}
    assert len(after["optimizer"]["state"]) == 4
    assert after["adapters"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["optim.last_blocks=2"], r"last_blocks=2: all blocks are trained already; add optim.frozen=backbone"),
        (["optim.lora_rank=2"], r"lora_rank=2: adapters are for a frozen backbone"),
        (["optim.frozen=backbone"], r"frozen=backbone: is for starting from weights; give weights=PATH"),
        (["optim.frozen=backbone", "weights=a.pt", "optim.last_blocks=1", "optim.lora_rank=2"], r"give one of the two"),
        (["optim.frozen=backbone", "weights=a.pt", "trainer.strategy=fsdp"], r"with trainer.strategy=fsdp: .*ddp"),
    ],
)
def test_what_does_not_go_together_is_refused(motion_root: Path, tmp_path: Path, more: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(*few_videos(motion_root, tmp_path, *more))


def test_two_ranks_train_the_same_part_on_the_same_draws_and_stop_together(motion_root: Path, tmp_path: Path) -> None:
    script = ("-m", "tests.build.partial_ranks", str(motion_root), str(tmp_path / "ranks"))
    done = interpreters.run(*script, cwd=ROOT, check=True, timeout=500)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["codes"] == [0, 0, 0]
    assert found["steps"] == [2, 2]
    assert found["difference"] < 2e-5 < 1e-4 < found["moved"]
