"""Recomputed blocks from the command line to the model."""

import logging

import pytest
import torch

from mvit_video.build.common import build_model, build_task_builder, plan_activations
from mvit_video.distributed.process_group import World
from mvit_video.models import MViT
from tests.conftest import options

MOTION = ("+experiment=motion_mvitv2", "trainer.precision=fp32", "trainer.batch_size=2", "augment.repeats=2")
WORLD = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("value", "blocks"), [("true", {0, 1, 2, 3}), ("2", {0, 1}), ("[1,3]", {1, 3}), ("false", set())]
)
def test_blocks_may_be_named(value: str, blocks: set[int]) -> None:
    config = options(*MOTION, f"model.activation_checkpointing={value}")
    model = build_model(config)
    plan_activations(config, build_task_builder(config), model, WORLD)
    assert isinstance(model, MViT) and model.recomputed == blocks


def test_a_budget_is_planned_for_the_clips_of_one_forward_pass(caplog: pytest.LogCaptureFixture) -> None:
    plain = build_model(options(*MOTION))
    assert isinstance(plain, MViT)
    most = plain.plan_checkpointing((4, 3, 8, 48, 48), budget_gb=1.0).peak_bytes
    config = options(*MOTION, f"model.activation_budget_gb={0.7 * most / 1e9}")
    model = build_model(config)
    assert isinstance(model, MViT) and model.recomputed is None
    with caplog.at_level(logging.INFO):
        plan_activations(config, build_task_builder(config), model, WORLD)
    assert model.recomputed
    assert f"recomputing blocks {sorted(model.recomputed)}" in caplog.text


def test_an_impossible_budget_stops_the_run_before_it_starts() -> None:
    config = options(*MOTION, "model.activation_budget_gb=1e-6")
    with pytest.raises(ValueError, match=r"activation_budget_gb=1e-06 is too small.*Give at least that"):
        plan_activations(config, build_task_builder(config), build_model(config), WORLD)
