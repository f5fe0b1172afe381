"""The videos of an optimizer step: the recipe's number on any hardware, or what differs from it, in words."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mvit_video import build
from mvit_video.build import training
from mvit_video.build.batch import step_batch
from mvit_video.build.samples import build_mixing
from mvit_video.config import Optim, Trainer
from mvit_video.distributed.process_group import World
from mvit_video.engine.checkpoints import load_latest
from tests.conftest import motion_overrides, options

ADAMW = Optim(lr=1e-4, reference_batch=16)
K400 = 240_436


def cut(processes: int, items: int = K400, **trainer: int | None) -> tuple[int, int, str]:
    """(accumulate, videos of a step, why these are not the recipe's) of two videos per forward pass."""
    values = {"batch_size": 2, "global_batch": 256, **trainer}
    batch = step_batch(Trainer(**values), processes=processes, items=items)  # type: ignore[arg-type]
    return batch.accumulate, batch.videos, batch.reason


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 128), (2, 64), (8, 16), (64, 2), (128, 1)])
def test_accumulation_makes_up_the_recipes_batch(processes: int, accumulate: int) -> None:
    assert cut(processes) == (accumulate, 256, "")


def test_more_processes_than_the_recipe_needs_take_more_videos() -> None:
    assert cut(512) == (1, 1024, "one forward pass of all takes 1024")


@pytest.mark.parametrize(
    ("processes", "batch_size", "accumulate", "videos"), [(3, 2, 42, 252), (1, 48, 5, 240), (7, 16, 2, 224)]
)
def test_what_does_not_divide_comes_to_the_nearest_below(
    processes: int, batch_size: int, accumulate: int, videos: int
) -> None:
    assert cut(processes, batch_size=batch_size) == (accumulate, videos, "the nearest below it")


def test_a_number_that_is_given_wins() -> None:
    assert cut(1, accumulate=4) == (4, 8, "trainer.accumulate is given")
    assert cut(8, accumulate=16) == (16, 256, "")


def test_without_a_global_batch_it_is_what_the_hardware_takes() -> None:
    assert cut(8, global_batch=None) == (1, 16, "")
    assert cut(8, global_batch=None, accumulate=3) == (3, 48, "")


def test_a_small_split_is_no_smaller_than_a_step() -> None:
    assert cut(1, items=100) == (50, 100, "the split has 100")
    assert cut(4, items=100) == (12, 96, "the split has 100")
    assert cut(64, items=100) == (2, 256, "")  # too few for one forward pass: the loader says so


@pytest.mark.parametrize(
    ("processes", "trainer", "text"),
    [
        (
            1,
            {},
            "256 videos per optimizer step (the recipe's global batch) = trainer.batch_size=2 x 1 process x "
            "trainer.accumulate=128; learning rate 0.0016",
        ),
        (
            512,
            {},
            "global batch 256 -> 1024 videos per optimizer step (one forward pass of all takes 1024) = "
            "trainer.batch_size=2 x 512 processes x trainer.accumulate=1; learning rate 0.0016 -> 0.0064",
        ),
        (
            2,
            {"global_batch": None},
            "4 videos per optimizer step (no global batch is stated) = trainer.batch_size=2 x 2 processes x "
            "trainer.accumulate=1; learning rate 2.5e-05",
        ),
    ],
)
def test_a_step_in_words(processes: int, trainer: dict[str, None], text: str) -> None:
    values: dict[str, int | None] = {"batch_size": 2, "global_batch": 256, **trainer}
    assert step_batch(Trainer(**values), processes=processes, items=K400).text(ADAMW) == text  # type: ignore[arg-type]


def test_a_training_accumulates_and_says_what_differs(
    motion_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    more = ["trainer.batch_size=3", "trainer.global_batch=16", "trainer.max_steps=1"]
    build.train(options(*motion_overrides(motion_root, tmp_path, *more)))
    assert "global batch 16 -> 15 videos per optimizer step (the nearest below it)" in caplog.text
    assert "trainer.accumulate=5; learning rate 0.001 -> 0.0009375" in caplog.text
    assert json.loads((tmp_path / "tiny" / "run.json").read_text())["items_per_step"] == 15
    state = load_latest(tmp_path / "tiny" / "checkpoints")
    assert state is not None and state["epoch"] == pytest.approx(1 / 2)  # 32 // 15


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["trainer.batch_size=1"], "mix the videos of one forward pass with each other, so nothing is mixed. trainer"),
        (["trainer.batch_size=1", "augment.repeats=2"], "so copies of the same video alone are. trainer.batch_size=2"),
        (["trainer.batch_size=1", "augment.mix_prob=0"], ""),
        (["trainer.batch_size=2"], ""),
    ],
)
def test_a_single_clip_has_nothing_to_be_mixed_with(
    more: list[str], text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Less memory by trainer.batch_size=1 takes the mixing of the recipe away, too."""
    words = motion_overrides(tmp_path, tmp_path, "augment.mixup_alpha=0.8", "trainer.global_batch=4", *more)
    loader: Any = SimpleNamespace(num_items=32, items_per_step=4)
    config = options(*words)
    task: Any = SimpleNamespace(item="video", mixing=build_mixing(config))
    training._say_batch(config, loader, task, World(rank=0, size=1, device=torch.device("cpu")))
    assert text in caplog.text and bool(text) == ("mixup" in caplog.text)


def test_a_run_goes_on_with_its_step_cut_another_way(motion_root: Path, tmp_path: Path) -> None:
    """On other hardware the step has as many videos; only another number of them is another run."""
    start = ["trainer.batch_size=4", "schedule.epochs=2"]
    one, two = ["trainer.accumulate=2", "trainer.max_steps=1"], ["trainer.global_batch=8", "trainer.max_steps=2"]
    build.train(options(*motion_overrides(motion_root, tmp_path, *start, *one)))
    build.train(options(*motion_overrides(motion_root, tmp_path, *start, *two)))
    with pytest.raises(ValueError, match=r"global batch: 8 -> 16"):
        build.train(options(*motion_overrides(motion_root, tmp_path, *start, "trainer.global_batch=16")))
