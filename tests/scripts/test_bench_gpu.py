"""scripts/bench_gpu.py: every real step at a tiny size, what it counts, and where its figures go."""

import functools
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_forms import Timing
from gpu import (
    counts,
    determinism_run,
    machine_figures,
    runner,
    step_correctness,
    step_detector,
    step_determinism,
    step_forms,
    step_largest,
    step_profile,
    step_training,
    workbench,
)
from gpu.context import Context, read_records
from gpu.steps import STEPS, chosen_steps

from mvit_video.models import MViT, get_config, list_models
from tests import interpreters
from tests.paths import ROOT


@pytest.fixture
def rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[dict[str, Any]]]:
    """Run a step in this process, with compilation left out; test_compile.py has that."""
    monkeypatch.setattr(torch, "compile", lambda model, **_: functools.partial(model))
    monkeypatch.setattr(step_determinism, "start", functools.partial(fork, tmp_path))
    monkeypatch.setattr(workbench, "matrix_rate", lambda device: 1e11)

    def run(name: str) -> list[dict[str, Any]]:
        (step,) = chosen_steps([name])
        context = Context(step=name, records=tmp_path / "records", rehearse=True, deadline=time.monotonic() + 500)
        importlib.import_module(step.module).measure(context)
        records, _ = read_records(tmp_path / "records")
        wrong = [record["row"]["remark"] for record in records if "row" in record and record["row"].get("remark")]
        assert [remark for remark in wrong if not remark.startswith("not offered:")] == []
        return records

    return run


class Shown:
    """A process whose error output is shown when it has ended, as that of a child is."""

    def __init__(self, process: interpreters.Process) -> None:
        self.process = process
        self.kill = process.kill

    def wait(self, timeout: float) -> int:
        code = self.process.wait(timeout)
        print(self.process.output()[1], file=sys.stderr)
        return code


class Ended:
    """A process that has done its work."""

    def wait(self, timeout: float) -> int:
        return 0

    def kill(self) -> None: ...


def fork(folder: Path, request: str) -> Shown | Ended:
    """A training of the determinism step as a fork of a process that has imported torch.

    On a CPU those with graphs are as the others: what does not end itself runs in this process, which costs less.
    """
    asked = json.loads(request)
    if asked["graphs"] and not asked["kill_after"]:
        determinism_run.main(request)
        return Ended()
    return Shown(interpreters.start("-m", "gpu.determinism_run", request, cwd=ROOT / "scripts"))


def rows(records: list[dict[str, Any]], table: str = "") -> list[dict[str, Any]]:
    return [record["row"] for record in records if record.get("table", "").startswith(table) and "row" in record]


def test_the_card_tells_what_it_is(rehearsal: Callable[[str], list[dict[str, Any]]]) -> None:
    records = rehearsal("card")
    facts = [record["fact"] for record in records if "fact" in record]
    assert facts[0]["torch"] == torch.__version__.split("+")[0] or facts[0]["torch"] == torch.__version__
    assert all(row["measured"] > 0 for row in rows(records)) and len(rows(records)) == 2


def test_kernels_and_models_are_within_their_bounds(rehearsal: Callable[[str], list[dict[str, Any]]]) -> None:
    pytest.importorskip("timm")
    records = rehearsal("correctness")
    assert {row["model"] for row in rows(records, "whole")} == {
        "mvitv2_s_16x4",
        "mvitv1_b_16x4",
        *(name for name in list_models() if name.endswith(("t_image", "s_image", "b_image", "l_image"))),
    }
    ahead = rows(records, step_training.AHEAD)
    assert {row["model"] for row in ahead} == {"ours", "torchvision"} and ahead[0]["batch"] == 16
    assert all(row["within the bound"] for row in rows(records) if row not in ahead)
    assert {row["width"] for row in rows(records, "Triton LayerNorm")} == {8, 16, 32}
    for table in ("Triton pooling", "Triton attention"):
        assert {row["dtype"] for row in rows(records, table)} == {"bfloat16", "float32"}
        assert {row["model"] for row in rows(records, table)} >= {"mvitv2_s_16x4", "mvitv2_t_image", "detector"}
    tried = {row["form"] for row in rows(records, "forms in")}
    assert tried >= {
        f"{form} attention, {dtype}" for form in ("triton", "triton_terms") for dtype in ("float32", "bf16")
    }


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_nothing_agrees_with_a_reference_that_says_nothing(value: float) -> None:
    empty = torch.full((3,), value)
    with pytest.raises(ValueError, match=r"gradient of keys: the norm of the reference is .*nothing can be compared"):
        workbench.relative(empty, empty, "gradient of keys")
    assert workbench.relative(torch.ones(3), torch.ones(3)) == 0.0
    assert workbench.relative(torch.tensor([1.0, value, 1.0]), torch.ones(3)) > 0.5


def test_a_lost_number_is_outside_of_every_bound() -> None:
    """Behind a small difference, where the larger of the two would be the small one."""
    good, lost = torch.ones(3), torch.full((3,), float("nan"))
    assert max(workbench.relative(good, good), workbench.relative(lost, good)) == float("inf")


def test_equal_bits_of_a_training_that_did_nothing_prove_nothing() -> None:
    model = torch.nn.Linear(2, 2)
    start = determinism_run.digest(model)
    with pytest.raises(RuntimeError, match="has left all weights as they were"):
        determinism_run.check_trained(model, start)
    torch.nn.init.ones_(model.bias)
    determinism_run.check_trained(model, start)
    torch.nn.init.constant_(model.weight, float("nan"))
    with pytest.raises(RuntimeError, match="weights that are not finite after the training: weight"):
        determinism_run.check_trained(model, start)


def test_a_form_without_numbers_is_not_the_fastest() -> None:
    good, lost = Timing(2.0, 1, torch.ones(2)), Timing(1.0, 1, torch.tensor([1.0, float("nan")]))
    assert step_forms.usable(good) and not step_forms.usable(lost)
    assert step_forms._values(lost, good)["difference"] == float("inf")
    with pytest.raises(ValueError, match=r"largest value of the literal form is 0\.0"):
        step_forms._values(good, Timing(1.0, 1, torch.zeros(2)))
    with pytest.raises(ValueError, match="the literal form failed: no memory"):
        step_forms._values(good, Timing(reason="no memory"))


def test_maps_that_are_compared_fit_into_memory() -> None:
    whole = step_correctness.Attended((20, 78, 78), (20, 10, 10), 2, 72, 1, (0, 1, 2))
    fewer = step_correctness.fewer_logits(whole)
    assert fewer.heads == 1 and fewer.grid_q == (2, 78, 78)
    wide = step_correctness.fewer_logits(whole._replace(grid_q=(1, 256, 256), grid_kv=(1, 64, 64)))
    assert wide.heads == 1 and wide.grid_q == (1, 31, 256)
    small = whole._replace(grid_q=(8, 28, 28), grid_kv=(8, 7, 7))
    assert step_correctness.fewer_logits(small) == small


def test_the_detector_is_tried_in_its_windows_and_at_its_size(tmp_path: Path) -> None:
    context = Context(step="s", records=tmp_path / "r", rehearse=False, deadline=time.monotonic() + 5)
    poolings, attentions = step_correctness.all_shapes(context)
    of_detector = [shape for name, shape in attentions if name == "detector"]
    assert any(shape.grid == (1, 256, 256) for _, shape in poolings)
    assert any(shape.grid_q == (1, 64, 64) and shape.grid_kv == (1, 32, 32) for shape in of_detector)
    assert all(max(shape.grid_q) <= 128 for shape in of_detector)
    assert ("mvitv2_t_image", step_correctness.Attended((1, 56, 56), (1, 14, 14), 1, 96, 0, (1, 2))) in attentions


def test_training_is_measured_in_every_form(
    rehearsal: Callable[[str], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = step_training.PLAN
    assert {batch for batch, _, _ in whole} == {1, 8, 16, 32} and len(set(whole)) == len(whole)
    monkeypatch.setattr(step_training, "PLAN", tuple(entry for entry in whole if entry[0] == 16))
    records = rehearsal("training")
    measured = {(row["batch"], row["model"], row["form"]) for row in rows(records)}
    assert {
        (16, who, form) for who in ("ours", "torchvision") for form in (workbench.EAGER, workbench.COMPILED)
    } <= measured
    assert {("ours", form) for form in workbench.FORMS} <= {key[1:] for key in measured}
    assert any("compiled against compiled" in record.get("note", "") for record in records)


@pytest.mark.parametrize("name", ["profile", "forms", "largest"])
def test_a_step_runs_at_a_tiny_size(name: str, rehearsal: Callable[[str], list[dict[str, Any]]]) -> None:
    records = rehearsal(name)
    assert len(rows(records)) >= 6
    if name == "profile":
        assert {row["kind"] for row in rows(records, "ours, eager")} >= {counts.NORM, counts.GELU, counts.PRODUCTS}
    if name == "largest":
        assert all(row["largest batch"] == step_largest.REHEARSED for row in rows(records))


def test_images_run_beside_timm(rehearsal: Callable[[str], list[dict[str, Any]]]) -> None:
    pytest.importorskip("timm")
    records = rehearsal("images")
    assert {row["model"] for row in rows(records, "T at 224")} == {"ours", "timm"}


def test_the_detector_runs_beside_torchvisions(
    rehearsal: Callable[[str], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = step_detector.PLAN
    assert {batch for batch, _, _ in whole} == {2, 8} and len(set(whole)) == len(whole)
    forms = {(batch, whose, form) for batch, whose, form in whole if batch == 2}
    assert {form for _, _, form in forms} == {step_detector.EAGER, step_detector.FUSED, step_detector.COMPILED}
    monkeypatch.setattr(step_detector, "PLAN", tuple(entry for entry in whole if entry[0] == 2))
    records = rehearsal("detector")
    assert {
        (row["images"], row["model"], row["form"]) for row in rows(records, "Mask R-CNN, images") if "images" in row
    } == forms
    detections = [row for row in rows(records) if "first call, s" in row]
    assert {row["model"] for row in detections} == {step_detector.OURS, step_detector.THEIRS}


def test_files_reach_the_step(rehearsal: Callable[[str], list[dict[str, Any]]]) -> None:
    records = rehearsal("data")
    assert [row["clips are made in"] for row in rows(records)] == ["worker", "model"]


@pytest.mark.slow
def test_trainings_repeat_their_bits_also_when_killed(
    rehearsal: Callable[[str], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_determinism, "MODES", (True,))
    found = rows(rehearsal("determinism"))
    assert [row["trainer.deterministic"] for row in found] == [True]
    equal = [key for key in found[0] if key.endswith("equal bits")]
    assert len(equal) == 5 and all(row[key] for row in found for key in equal)


def test_another_library_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm.models.mvitv2", None)
    context = Context(step="s", records=tmp_path / "r", rehearse=True, deadline=time.monotonic() + 5)
    config = workbench.config_of("mvitv2_t_image", context)
    assert list(workbench.pair(config, context, ours="a", theirs="b")) == ["a"]
    assert read_records(tmp_path / "r")[0][0]["note"].startswith("Ours alone: ")


# ---- the plan's machine files


def results_file(
    folder: Path, *, rehearsal: bool = False, null_gpu: bool = False, batches: tuple[int, ...] = (1, 16)
) -> Path:
    """What the kit would write for a card that is not there."""
    rows = [
        {"batch": batch, "model": who, "form": form, "clips/s": rate, "host busy, ms": 24.0}
        for batch in batches
        for who, form, rate in (("ours", "eager", 300.0), ("ours", "compiled", 400.0), ("torchvision", "eager", 900.0))
    ]
    card = {"name": "card", "records": [{"fact": {"card": "NVIDIA H100", "torch": "2.11.0"}}]}
    training = {"name": "training", "records": [{"table": "t", "row": row} for row in rows]}
    content = {
        "rehearsal": rehearsal,
        "null_gpu": null_gpu,
        "started": "2026-01-02 03:04:05",
        "steps": [card, training],
    }
    path = folder / "results.json"
    path.write_text(json.dumps(content))
    return path


def test_a_machine_file_takes_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_figures, "planned_flops", lambda: 0.4e12)
    results_file(tmp_path)
    before = (ROOT / "conf" / "machine" / "h100.yaml").read_text()
    file = tmp_path / "h100.yaml"
    file.write_text(before)
    arguments = ["--out", str(tmp_path), "--machine", str(file)]
    assert runner.main(arguments) == 0
    after = file.read_text()
    new = [line for line in after.splitlines() if line not in before.splitlines()]
    assert new == [
        "# Measured: utilisation and launch_us, on NVIDIA H100 with torch 2.11.0, 2026-01-02; S at batch 16, compiled.",
        "utilisation: 0.162",  # 0.4 TFLOP a clip, 400 clips/s, 989 TFLOP/s
        "launch_us: 5",  # 24 ms for 16 blocks of 300 kernels
    ]
    assert [line for line in before.splitlines() if line not in after.splitlines()] == ["utilisation: 0.12"]
    assert runner.main(arguments) == 0 and file.read_text() == after


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rehearsal": True}, "is a rehearsal on the CPU"),
        ({"null_gpu": True}, "comes from the null GPU"),
        ({"batches": (16,)}, "lacks the card, ours at batch 16"),
    ],
)
def test_a_machine_file_is_left_alone_without_figures(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results_file(tmp_path, **changes)
    assert runner.main(["--out", str(tmp_path), "--machine", str(tmp_path / "none.yaml")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_planned_operations_are_those_of_our_form() -> None:
    """Relative positions inside the attention cost some products more than the published form."""
    assert 1.0 < machine_figures.planned_flops() / counts.train_flops(get_config("mvitv2_s_16x4")) < 1.1


# ---- counting


def test_counted_operations_are_those_of_the_model() -> None:
    """Within what is not counted: position terms of the class token, the last block, pooling."""
    from bench_model import torchvision_twin
    from torch.utils.flop_counter import FlopCounterMode

    config = get_config("mvitv2_motion", num_classes=3)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torchvision_twin(config)(torch.zeros(1, 3, 8, 48, 48))
    by_kind = counter.get_flop_counts()["Global"]
    seen = sum(flops for kind, flops in by_kind.items() if "convolution" not in str(kind))
    stem = 2 * 4 * 12 * 12 * 3 * 3 * 7 * 7 * 48
    assert counts.train_flops(config) / 3 - stem == pytest.approx(seen, rel=0.01)


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("mvitv2_s_16x4", {}),
        ("mvitv2_s_16x4", {"expand_in": "mlp"}),
        ("mvitv1_b_16x4", {}),
        ("mvitv2_t_image", {}),
    ],
)
def test_the_stream_has_the_counted_width_under_autocast(preset: str, changes: dict[str, Any]) -> None:
    frames = {} if "image" in preset else {"num_frames": 4}
    config = get_config(preset, crop_size=32, depth=4, stage_starts=(1, 3), **frames, **changes)
    model, seen = MViT(config), []
    for block in model.blocks:
        block.register_forward_hook(lambda _, given, gives: seen.append((given[0].dtype, gives[0].dtype)))
    size = (32, 32) if config.is_image else (4, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(1, 3, *size))
    counted = [counts.Stream.of(config, block) for block in config.blocks]
    assert [(one.entering, one.leaving) for one in counted] == [
        (given.itemsize, gives.itemsize) for given, gives in seen
    ]


def test_a_step_of_s_is_counted_by_kind() -> None:
    work = counts.step_work(get_config("mvitv2_s_16x4"), 16)
    assert counts.train_flops(get_config("mvitv2_s_16x4")) == pytest.approx(3 * 127.4e9, rel=1e-3)
    assert work[counts.PRODUCTS].matrix == pytest.approx(4.27e12, rel=0.01)
    assert all(kind.least <= kind.written for kind in work.values())
    twice = counts.step_work(get_config("mvitv2_s_16x4"), 32)
    assert twice[counts.ATTENTION].matrix == 2 * work[counts.ATTENTION].matrix
    assert twice[counts.OPTIMIZER] == work[counts.OPTIMIZER]


def test_the_predictions_of_the_page_are_those_of_the_count() -> None:
    assert counts.predictions() in (ROOT / "docs" / "benchmarks.md").read_text()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mvit_video::pool_norm_backward", counts.POOLING),
        ("PoolNormBackward", counts.POOLING),
        ("AttentionWithTerms", counts.ATTENTION),
        ("ExtendedQueriesBackward", counts.TERMS),
        ("NormMlpBackward", counts.NORM),
        ("aten::_scaled_dot_product_cudnn_attention_backward", counts.ATTENTION),
        ("aten::bmm", counts.TERMS),
        ("aten::mm", counts.PRODUCTS),
        ("aten::native_layer_norm_backward", counts.NORM),
        ("aten::gelu_backward", counts.GELU),
        ("aten::max_pool2d_with_indices_backward", counts.MAXIMUM),
        ("aten::_fused_adamw_", counts.OPTIMIZER),
        ("aten::add_", counts.SUMS),
        ("aten::copy_", step_profile.COPIES),
        ("aten::topk", step_profile.OTHER),
    ],
)
def test_operations_of_a_profile_have_a_kind(name: str, kind: str) -> None:
    assert step_profile.kind_of(name) == kind


@pytest.mark.parametrize("fits", [0, 1])
def test_one_clip_may_be_all_that_fits_or_too_many(fits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def peak(model: torch.nn.Module, config: object, batch: int, context: Context) -> float:
        tried.append(batch)
        if batch > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 45.0

    monkeypatch.setattr(step_largest, "peak_of", peak)
    context = Context(step="s", records=tmp_path / "r", rehearse=True, deadline=time.monotonic() + 5)
    row = step_largest.largest_row("mvitv2_s_16x4", step_largest.OURS, context, 1e11)
    assert tried == [1, 2][: fits + 1] and row["largest batch"] == fits
    assert row["GB a further clip"] is None if fits else row["remark"].startswith("not one clip fits")


def test_the_batch_that_fits_is_reckoned_from_two() -> None:
    assert step_largest.fitting(3.0, 5.0, 80.0) == 36  # 3 + 35 * 2 = 73 of 73.6 GB
    assert step_largest.fitting(90.0, 95.0, 80.0) == 1


def test_every_step_has_a_file_and_a_place() -> None:
    names = [step.name for step in STEPS]
    assert names[:3] == ["card", "correctness", "training"] and len(set(names)) == len(names)
    for step in STEPS:
        assert (ROOT / "scripts" / f"{step.module.replace('.', '/')}.py").exists()
