"""trainer.compile=auto: measured where a run begins, and kept by it."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from mvit_video import build
from mvit_video.build import compilation
from mvit_video.build.common import build_model, build_task_builder
from mvit_video.build.compilation import Choice, fastest, resolve_compile
from mvit_video.build.plan import Measured, build_workload
from mvit_video.config import Plan, Train
from mvit_video.distributed.process_group import World
from mvit_video.models import MViT
from mvit_video.models.mvit.activation_checkpointing import BlockCost
from tests.conftest import SMALL_CLIPS, few_videos, options

CPU = World(rank=0, size=1, device=torch.device("cpu"))
GPUS = World(rank=0, size=2, device=torch.device("cuda", 0))


@pytest.fixture(scope="module")
def config() -> Train:
    return options("+experiment=motion_mvitv2", "trainer.precision=fp32", "trainer.compile=auto")


def test_a_run_keeps_what_it_began_with(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda model: compiled.append(model))
    as_on_a_gpu = Choice(compile=True, reason="because it is faster")
    short = few_videos(motion_root, tmp_path, *SMALL_CLIPS, "trainer.compile=auto")
    with monkeypatch.context() as patched:
        patched.setattr(compilation, "_choose", lambda *_: as_on_a_gpu)
        build.train(options(*short, "trainer.max_steps=1"))
    assert "trainer.compile=auto: true, because it is faster" in caplog.text and len(compiled) == 1
    assert "  compile: true\n" in (tmp_path / "tiny" / "config.yaml").read_text()
    build.train(options(*short, "trainer.max_steps=2"))
    assert "trainer.compile=auto: the run began with true" in caplog.text and len(compiled) == 2


def test_a_cpu_says_what_it_chooses_and_why(
    config: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(config, "output_dir", str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(config.trainer, "compile", "auto")
        resolve_compile(
            config, build_task_builder(config), nn.Identity(), World(rank=0, size=1, device=torch.device("cpu"))
        )
        assert config.trainer.compile is False
    assert "trainer.compile=auto: false, because it is measured on GPUs alone: on a CPU most of a step" in caplog.text


def test_what_is_not_measured_stays_as_it_is(config: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = build_task_builder(config)
    other = compilation._choose(config, builder, nn.Identity(), GPUS)
    assert not other.compile and "because Identity is no MViT model" in other.reason
    model = build_model(config)
    monkeypatch.setattr(config.trainer, "strategy", "fsdp")
    divided = compilation._choose(config, builder, model, GPUS)
    assert not divided.compile and "divided among the ranks" in divided.reason
    monkeypatch.setattr(config.trainer, "strategy", "ddp")
    monkeypatch.setattr(compilation, "fastest", lambda model, shape, *, bf16: (shape, bf16))
    assert compilation._choose(config, builder, model, GPUS) == ((16, 3, 8, 48, 48), False)


@pytest.mark.parametrize("seconds", [(0.05, 0.03), (0.03, 0.05)])
def test_the_faster_form_is_chosen_and_nothing_else_changes(
    seconds: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval()
    before, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    given, seen = iter(seconds), []

    def clock(step, device: torch.device) -> float:
        step()
        seen.append(model.training)
        return next(given)

    monkeypatch.setattr(compilation, "median_s", clock)
    monkeypatch.setattr(torch, "compile", lambda model: model)
    choice = fastest(model, (2, 4), bf16=True)
    assert choice.compile is (seconds[1] < seconds[0]) and seen == [True, True] and not model.training
    assert f"take {1e3 * seconds[1]:.1f} ms compiled and {1e3 * seconds[0]:.1f} ms as it is" in choice.reason
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(model.parameters(), before))


def test_a_compiler_that_fails_is_named_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: nn.Module) -> nn.Module:
        raise RuntimeError("\nno C compiler was found\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    choice = fastest(nn.Linear(2, 2), (1, 2), bf16=False)
    assert choice == Choice(
        compile=False, reason="because the measurement failed: RuntimeError: no C compiler was found"
    )


def test_times_are_medians_after_two_steps_to_warm_up() -> None:
    steps: list[int] = []
    assert compilation.median_s(lambda: steps.append(1), torch.device("cpu")) >= 0
    assert len(steps) == 2 + compilation.STEPS


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.compile=maybe: must be one of true, false, auto"):
        options("+experiment=motion_mvitv2", "trainer.compile=maybe")


def test_a_plan_reckons_with_compiled_kernels() -> None:
    """The prediction for GPUs: compiled is faster. The command line's own test has the tables."""
    plan = options("+experiment=motion_mvitv2", "trainer.compile=auto", "machine=h100", config_name="plan")
    assert isinstance(plan, Plan)
    measured = Measured(costs=[BlockCost(saved=1, entering=1, flops=1)] * 4, outside=0, head_flops=0, recomputed=())
    model = build_model(plan)
    assert isinstance(model, MViT)
    assert build_workload(plan, model, measured, 1000).compiled
