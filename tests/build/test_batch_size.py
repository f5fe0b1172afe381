"""trainer.batch_size=auto: counted, not tried out."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mvit_video import build
from mvit_video.build import batch_size
from mvit_video.build.batch_size import Room, choose_batch_size, resolve_batch_size, room_on
from mvit_video.build.common import build_model, build_task_builder
from mvit_video.build.plan import print_plan
from mvit_video.config import Plan, Train
from mvit_video.distributed.process_group import World
from mvit_video.models import MViT
from mvit_video.models.mvit.activation_checkpointing import BlockCost, measure_blocks, peak_bytes
from tests.conftest import TWO_BLOCKS, motion_overrides, options

MOTION = ("+experiment=motion_mvitv2", "trainer.precision=fp32", "trainer.batch_size=auto")
OTHER = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}
STATE = 16 * 165_416  # weights, gradients, two moments
MEASURED: dict[object, tuple[list[BlockCost], int]] = {}
WORLD = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def _measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same figures for the same model and clips, without the seconds that each measurement takes."""

    def measure(model: MViT, shape: tuple[int, ...]) -> tuple[list[BlockCost], int]:
        plain = replace(model.config, activation_checkpointing=False, activation_budget_gb=None)
        key = (plain, tuple(shape))
        if key not in MEASURED:
            MEASURED[key] = measure_blocks(model, shape)
        return MEASURED[key]

    monkeypatch.setattr(batch_size, "measure_blocks", measure)


def small(*more: str, **model: object) -> Train:
    config = options(*MOTION, *more)
    config.model = model if "_target_" in model else {**TWO_BLOCKS, **model}
    return config


def kept(clips: int, recomputed: Sequence[int] = ()) -> int:
    """Bytes that the backward pass needs of so many clips."""
    model = build_model(small())
    assert isinstance(model, MViT)
    costs, outside = batch_size.measure_blocks(model.train(), (clips, 3, 8, 48, 48))
    return peak_bytes(costs, recomputed, outside)


def chosen(*more: str, size: float, processes: int = 1, **model: object) -> int:
    config = small(*more, **model)
    room = Room(size=size, text="a fake memory")
    model = build_model(config)
    choose_batch_size(config, build_task_builder(config), model, processes=processes, room=room, bf16=False)
    return int(config.trainer.batch_size)


def test_the_largest_divisor_that_fits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    of_8, of_16 = kept(8), kept(16)
    assert chosen(size=STATE + of_16) == 16
    assert chosen(size=STATE + of_16 - 1) == 8
    assert chosen(size=STATE + of_8) == 8
    assert chosen(size=STATE + of_8 - 1) == 4
    assert chosen(size=1e12) == 16  # never more than the recipe's batch
    said = "trainer.batch_size=auto: 8, the largest divisor of each process's 16 videos that fits: 0.00 GB of state and"
    assert f"{said} {of_8 / 1e9:.2f} GB of activations in a fake memory" in caplog.text


def test_each_process_has_a_share_of_the_batch() -> None:
    assert chosen(size=1e12, processes=4) == 4
    assert chosen(size=1e12, processes=3) == 5  # 15 of 16 videos
    assert chosen(size=1e12, processes=64) == 1
    assert chosen("trainer.accumulate=4", size=1e12) == 4


def test_repeated_augmentation_and_the_average_count() -> None:
    of_16 = kept(16)
    assert chosen("augment.repeats=2", size=STATE + of_16) == 8
    assert chosen("trainer.ema_decay=0.9", size=STATE + of_16) == 8
    assert chosen("trainer.ema_decay=0.9", size=STATE * 5 / 4 + of_16) == 16


def test_recomputed_blocks_make_room() -> None:
    size = STATE + kept(16, recomputed=(0, 1))
    assert chosen(size=size) == 8
    assert chosen(size=size, activation_checkpointing=True) == 16


def test_an_activation_budget_bounds_the_batch() -> None:
    budget = kept(16, recomputed=(0,))
    assert kept(8) < budget < kept(16)
    assert chosen(size=1e12, activation_budget_gb=budget / 1e9) == 16  # a block is computed again
    assert chosen(size=1e12, activation_budget_gb=0.004) < 8


def test_too_little_memory_for_one_video() -> None:
    with pytest.raises(
        ValueError, match=r"one video per forward pass takes 0\.00 GB of state.*more than a fake memory"
    ):
        chosen(size=STATE)


def test_other_models_need_a_number() -> None:
    with pytest.raises(ValueError, match=r"counts the memory of MViTs and detectors, and Linear is none"):
        chosen(size=1e12, **OTHER)


def test_something_must_be_divided() -> None:
    with pytest.raises(ValueError, match=r"batch_size=auto: divides trainer\.global_batch, which states nothing"):
        chosen("trainer.global_batch=null", size=1e12)


@pytest.mark.parametrize("value", ["all", "0", "2.5", "true"])
def test_another_word_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"trainer\.batch_size=\S+: must be at least 1, or auto"):
        options("+experiment=motion_mvitv2", f"trainer.batch_size={value}")


def test_the_memory_of_a_cpu_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "available_memory", lambda: 8 * 10**9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    room = room_on(torch.device("cpu"))
    assert room == Room(size=2e9, text="50% of 8.0 GB free, shared by 2 processes")


def test_a_run_keeps_the_batch_size_it_began_with(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    free = 2 * (STATE + kept(4))
    monkeypatch.setattr(batch_size, "available_memory", lambda: free)
    config = options(*motion_overrides(motion_root, tmp_path, "trainer.batch_size=auto", "trainer.global_batch=16"))
    config.model, config.data.num_classes, config.trainer.max_steps = TWO_BLOCKS, 8, 1
    build.train(copy.deepcopy(config))
    assert "batch_size: 4\n" in (tmp_path / "tiny" / "config.yaml").read_text()
    monkeypatch.setattr(batch_size, "available_memory", lambda: 10**12)
    config.trainer.max_steps = 2
    build.train(config)
    assert "trainer.batch_size=auto: the run began with 4" in caplog.text


def test_a_number_is_left_alone() -> None:
    config = options("+experiment=motion_mvitv2", "trainer.batch_size=3")
    resolve_batch_size(config, build_task_builder(config), nn.Identity(), WORLD)
    assert config.trainer.batch_size == 3


def test_a_plan_fits_the_batch_to_its_machine(capsys: pytest.CaptureFixture[str]) -> None:
    config = options("+experiment=motion_mvitv2", "machine=cpu", "trainer.batch_size=auto", config_name="plan")
    assert isinstance(config, Plan)
    config.model = TWO_BLOCKS
    print_plan(config)
    text = capsys.readouterr().out
    assert "trainer.batch_size=8 augment.repeats=1 trainer.accumulate=1" in text and "16 videos, 16 clips" in text
