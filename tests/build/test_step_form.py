"""trainer.compile=auto and trainer.cuda_graphs=auto: measured where a run begins, and kept by it."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from mvit_video import build
from mvit_video.build import step_form
from mvit_video.build.batch_size import training_state
from mvit_video.build.common import build_model, build_task_builder
from mvit_video.build.plan import Measured, build_workload
from mvit_video.build.step_form import Choice, Form, fastest, graphed_shape, resolve_form, why_no_graphs
from mvit_video.config import Plan, Train
from mvit_video.distributed.process_group import World
from mvit_video.engine import trainer
from mvit_video.engine.graphs import CaptureError
from mvit_video.models import MViT
from mvit_video.models.mvit.activation_checkpointing import BlockCost
from mvit_video.planning.costs import state_bytes
from tests.conftest import SMALL_CLIPS, few_videos, options

CPU = World(rank=0, size=1, device=torch.device("cpu"))
GPU = World(rank=0, size=1, device=torch.device("cuda", 0))
GPUS = World(rank=0, size=2, device=torch.device("cuda", 0))
PLAIN, GRAPHS = Form(), Form(cuda_graphs=True)
COMPILED, COMPILED_GRAPHS = Form(compile=True), Form(compile=True, cuda_graphs=True)
EACH = (PLAIN, GRAPHS, COMPILED, COMPILED_GRAPHS)


@pytest.fixture(scope="module")
def whole_config() -> Train:
    return options("+experiment=motion_mvitv2", "trainer.precision=fp32")


@pytest.fixture
def config(whole_config: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Both options at auto; what a test changes is undone."""
    monkeypatch.setattr(whole_config, "output_dir", str(tmp_path))
    for name, value in (("compile", "auto"), ("cuda_graphs", "auto"), ("strategy", "ddp")):
        monkeypatch.setattr(whole_config.trainer, name, value)
    return whole_config


@pytest.fixture(scope="module")
def model(whole_config: Train) -> MViT:
    made = build_model(whole_config)
    assert isinstance(made, MViT)
    return made


@pytest.fixture
def graphs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of captures, which keep nothing: the passes are the model's own."""
    shapes: list[tuple[int, ...]] = []
    for module in (trainer, step_form):
        monkeypatch.setattr(module.GraphedModel, "capture", lambda _, shape, *, bf16: shapes.append(tuple(shape)))
    return shapes


def test_a_run_keeps_what_it_began_with(
    motion_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    graphs_on_a_cpu: list[tuple[int, ...]],
) -> None:
    caplog.set_level(logging.INFO)
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda model, *, options: compiled.append(model))
    monkeypatch.setattr(step_form, "why_no_graphs", lambda *_: None)
    as_on_a_gpu = Choice(form=COMPILED_GRAPHS, reason="because it is faster")
    short = few_videos(motion_root, tmp_path, *SMALL_CLIPS, "trainer.compile=auto", "trainer.cuda_graphs=auto")
    with monkeypatch.context() as patched:
        patched.setattr(step_form, "_choose", lambda *_: as_on_a_gpu)
        build.train(options(*short, "trainer.max_steps=1"))
    assert "trainer.compile=auto: true and trainer.cuda_graphs=auto: true, because it is faster" in caplog.text
    assert len(compiled) == 1
    assert graphs_on_a_cpu == [(4, 3, 4, 32, 32)]
    assert "  compile: true\n  cuda_graphs: true\n" in (tmp_path / "tiny" / "config.yaml").read_text()
    build.train(options(*short, "trainer.max_steps=2"))
    assert "trainer.compile=auto: true and trainer.cuda_graphs=auto: true, as the run began" in caplog.text
    assert len(compiled) == len(graphs_on_a_cpu) == 2


def test_a_record_without_the_option_means_no_graphs(
    config: Train, model: MViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_form, "recorded_options", lambda _: {"trainer": {"compile": True}})
    resolve_form(config, build_task_builder(config), model, GPU)
    assert (config.trainer.compile, config.trainer.cuda_graphs) == (True, False)
    assert graphed_shape(config, build_task_builder(config), model) is None


def test_a_cpu_says_what_it_chooses_and_why(config: Train, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    resolve_form(config, build_task_builder(config), nn.Identity(), CPU)
    assert config.trainer.compile is False and config.trainer.cuda_graphs is False
    assert "cuda_graphs=auto: false, because it is measured on GPUs alone: on a CPU most of a step" in caplog.text
    caplog.clear()
    config.trainer.cuda_graphs = "auto"
    resolve_form(config, build_task_builder(config), nn.Identity(), CPU)
    assert "trainer.cuda_graphs=auto: false, no CUDA graphs because there are none on this device (cpu)" in caplog.text


def test_graphs_that_cannot_be_are_refused_with_a_way_out(config: Train, model: MViT) -> None:
    builder = build_task_builder(config)
    config.trainer.compile, config.trainer.cuda_graphs = False, True
    with pytest.raises(ValueError, match=r"cuda_graphs=true: there are none .*\(cpu\).*; set trainer\.cuda_graphs=fal"):
        resolve_form(config, builder, model, CPU)
    with pytest.raises(ValueError, match=r"trainer\.cuda_graphs=true: Identity is no MViT model"):
        resolve_form(config, builder, nn.Identity(), GPU)
    assert why_no_graphs(config, model, GPUS) is None
    config.trainer.strategy = "fsdp"
    assert why_no_graphs(config, model, GPU) is None
    assert "fsdp divides the model among the ranks" in str(why_no_graphs(config, model, GPUS))
    assert graphed_shape(config, builder, model) == (16, 3, 8, 48, 48)


def test_what_is_not_measured_stays_as_it_is(config: Train, model: MViT, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = build_task_builder(config)
    other = step_form._choose(config, builder, nn.Identity(), GPUS)
    assert other.form == PLAIN and "because Identity is no MViT model" in other.reason
    config.trainer.strategy = "fsdp"
    divided = step_form._choose(config, builder, model, GPUS)
    assert divided.form == PLAIN and "divided among the ranks" in divided.reason
    config.trainer.strategy = "ddp"
    asked = []

    def first(model: nn.Module, shape: tuple[int, ...], *, bf16: bool, forms: list[Form], exchange_s: float) -> Choice:
        asked.append((shape, bf16, tuple(forms)))
        return Choice(form=forms[0], reason="because it is first")

    monkeypatch.setattr(step_form, "fastest", first)
    assert step_form._choose(config, builder, model, GPUS).reason == "because it is first"
    assert asked.pop() == ((16, 3, 8, 48, 48), False, EACH)
    config.trainer.compile = True
    step_form._choose(config, builder, model, GPUS)
    assert asked.pop()[2] == (COMPILED, COMPILED_GRAPHS)
    config.trainer.compile = "auto"
    monkeypatch.setattr(step_form, "why_no_graphs", lambda *_: "it is Sunday")
    choice = step_form._choose(config, builder, model, GPUS)
    assert asked.pop()[2] == (PLAIN, COMPILED)
    assert choice.reason == "because it is first; no CUDA graphs because it is Sunday"


@pytest.mark.parametrize("seconds", [(0.05, 0.04, 0.03, 0.02), (0.02, 0.03, 0.05, 0.04), (0.04, 0.02, 0.05, 0.03)])
def test_the_fastest_form_is_chosen_and_nothing_else_changes(
    seconds: tuple[float, ...], monkeypatch: pytest.MonkeyPatch, graphs_on_a_cpu: list[tuple[int, ...]]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval()
    before, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    given, seen = iter(seconds), []

    def clock(step, device: torch.device) -> float:
        step()
        seen.append(model.training)
        return next(given)

    monkeypatch.setattr(step_form, "median_s", clock)
    monkeypatch.setattr(torch, "compile", lambda model, *, options: model)
    choice = fastest(model, (2, 4), bf16=True, forms=EACH)
    assert choice.form == EACH[seconds.index(min(seconds))] and seen == [True] * 4 and not model.training
    for form, taken in zip(EACH, seconds):
        assert f"{1e3 * taken:.1f} ms {form.words}" in choice.reason
    assert f"pass take 20.0 ms {choice.form.words}, 30.0 ms" in choice.reason and "compiling took 0 s" in choice.reason
    assert graphs_on_a_cpu == [(2, 4)] * 2
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(model.parameters(), before))


def test_among_ranks_graphs_wait_for_the_gradients(
    config: Train, model: MViT, monkeypatch: pytest.MonkeyPatch, graphs_on_a_cpu: list[tuple[int, ...]]
) -> None:
    """Eager passes of 30 ms hide 20 ms of 25: the other 5 are waited for, as all 25 by the graphs."""
    given = iter((0.03, 0.02, 0.03, 0.02))
    monkeypatch.setattr(step_form, "median_s", lambda *_: next(given))
    forms = (PLAIN, GRAPHS)
    choice = fastest(nn.Linear(4, 4), (2, 4), bf16=True, forms=forms, exchange_s=0.025)
    assert choice.form == PLAIN
    assert "take 35.0 ms as it is, 45.0 ms as CUDA graphs; of that the ranks wait for their gr" in choice.reason
    assert "gradients, whose sum takes 25.0 ms" in choice.reason
    assert fastest(nn.Linear(4, 4), (2, 4), bf16=True, forms=forms).form == GRAPHS
    # It is measured by all ranks where graphs are in question, and by none elsewhere.
    summed: list[int] = []
    monkeypatch.setattr(step_form, "median_s", lambda step, device: step() or 0.025)
    monkeypatch.setattr(step_form, "mean_over_ranks", lambda gradients, world: summed.append(gradients.numel()))
    monkeypatch.setattr(step_form.torch, "zeros", lambda count, device: torch.ones(count))
    assert step_form._exchange_s(config, model, GPUS) == 0.025
    assert summed == [sum(parameter.numel() for parameter in model.parameters())]
    assert step_form._exchange_s(config, model, GPU) == 0.0
    config.trainer.strategy = "fsdp"
    assert step_form._exchange_s(config, model, GPUS) == 0.0
    config.trainer.cuda_graphs, config.trainer.strategy = False, "ddp"
    assert step_form._exchange_s(config, model, GPUS) == 0.0


def test_what_fails_is_named_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: nn.Module, *, options: object) -> nn.Module:
        raise RuntimeError("\nno C compiler was found\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    choice = fastest(nn.Linear(2, 2), (1, 2), bf16=False, forms=EACH)
    assert choice.form == PLAIN
    assert "compiled it failed: RuntimeError: no C compiler was found;" in choice.reason
    assert "as CUDA graphs it failed: CaptureError: the model is not on a GPU" in choice.reason
    choice = fastest(nn.Linear(2, 2), (1, 2), bf16=False, forms=EACH[2:])
    assert choice.form == COMPILED and choice.reason.startswith("because the measurement failed: compiled it failed: R")


def test_a_gpu_that_a_capture_took_along_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def capture(*_: object, **__: object) -> None:
        monkeypatch.setattr(torch, "rand", gone)
        raise CaptureError("no capture")

    monkeypatch.setattr(step_form.GraphedModel, "capture", capture)
    with pytest.raises(RuntimeError, match=r"cpu cannot be used any more \(Runt.*illegal.*with trainer\.cuda_graphs=f"):
        fastest(nn.Linear(2, 2), (1, 2), bf16=False, forms=EACH[:2])


def test_times_are_medians_after_two_steps_to_warm_up() -> None:
    steps: list[int] = []
    assert step_form.median_s(lambda: steps.append(1), torch.device("cpu")) >= 0
    assert len(steps) == 2 + step_form.STEPS


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.cuda_graphs=maybe: must be one of true, false, auto"):
        options("+experiment=motion_mvitv2", "trainer.cuda_graphs=maybe")


@pytest.mark.parametrize("option", ["compile", "cuda_graphs"])
def test_a_plan_reckons_with_few_kernels(option: str) -> None:
    """The prediction for GPUs: it is faster. The command line's own test has the tables."""
    plan = options("+experiment=motion_mvitv2", f"trainer.{option}=auto", "machine=h100", config_name="plan")
    assert isinstance(plan, Plan)
    measured = Measured(costs=[BlockCost(saved=1, entering=1, flops=1)] * 4, outside=0, head_flops=0, recomputed=())
    model = build_model(plan)
    assert isinstance(model, MViT)
    work = build_workload(plan, model, measured, 1000)
    assert work.compiled and work.cuda_graphs == (option == "cuda_graphs")
    one = training_state(plan, model, accumulate=1, bf16=True)
    two = training_state(plan, model, accumulate=2, bf16=True)
    beside = 4 * sum(parameter.numel() for parameter in model.parameters()) if option == "cuda_graphs" else 0
    assert state_bytes(two, 1, "ddp") - state_bytes(one, 1, "ddp") == beside
    assert state_bytes(one, 2, "ddp") - state_bytes(one, 1, "ddp") == beside
