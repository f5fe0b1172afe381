"""The best validation by any metric, and runs that end when nothing improves."""

import math
from pathlib import Path

import pytest

from mvit_video import build
from mvit_video.engine.checkpoints import load_checkpoint
from mvit_video.engine.early_stopping import BestScore, EarlyStopping
from mvit_video.engine.tracking import read_metrics
from mvit_video.runtime.journal import read_events
from tests.conftest import few_videos, motion_overrides, options


def test_a_loss_is_better_the_lower_and_an_accuracy_the_higher() -> None:
    loss, accuracy = BestScore("loss"), BestScore("mean_class_top1")
    assert loss.is_better(5.0) and accuracy.is_better(0.0)
    loss.value = accuracy.value = 2.0
    assert [loss.is_better(score) for score in (1.9, 2.0, 2.1, math.nan)] == [True, False, False, False]
    assert [accuracy.is_better(score) for score in (1.9, 2.0, 2.1, math.nan)] == [False, False, True, False]


def test_patience_counts_validations_in_a_row() -> None:
    stopping = EarlyStopping("loss", patience=2)
    due = []
    for score in (3.0, 3.5, 2.0, 2.0, math.nan):
        stopping.update(score)
        due.append(stopping.is_due)
    assert due == [False, False, False, False, True]
    resumed = EarlyStopping("loss", patience=3)
    resumed.load(stopping.state())
    assert (resumed.is_due, resumed.without_improvement, resumed.best.value) == (False, 2, 2.0)
    other = EarlyStopping("video_top1", patience=1)
    other.load(stopping.state())
    assert not other.is_due  # another metric starts anew
    never = EarlyStopping("loss", patience=None)
    for _ in range(99):
        never.update(1.0)
    assert not never.is_due


def _validate_with(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Validations whose loss is written down here; accuracies rise all the time."""
    count = iter(range(99))

    def validate(model: object, on_progress: object) -> dict[str, float]:
        number = next(count)
        return {"video_top1": float(number), "loss": losses[number]}

    monkeypatch.setattr("mvit_video.build.training.build_validate", lambda *_: validate)


def test_best_by_loss_and_the_end_of_a_run_that_gets_no_better(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _validate_with(monkeypatch, [2.0, 1.5, 1.7, 1.6, 1.0, 1.0])
    more = ["schedule.epochs=6", "trainer.best_metric=loss", "trainer.early_stopping=2"]
    overrides = few_videos(motion_root, tmp_path, *more)
    metrics = build.train(options(*overrides))
    run = tmp_path / "tiny"
    assert metrics["loss"] == 1.6
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "eval"] == [1, 2, 3, 4]
    best = load_checkpoint(run / "checkpoints/best.pt")
    assert (best["step"], best["best"], best["best_metric"]) == (2, 1.5, "loss")
    events = [event for event in read_events(run) if event["event"] == "stopped_early"]
    assert [(e["step"], e["metric"], e["best"], e["validations"]) for e in events] == [(4, "loss", 1.5, 2)]
    # The same command again finds it complete; more patience goes on.
    assert build.train(options(*overrides)) == {}
    _validate_with(monkeypatch, [1.0, 1.2])
    assert build.train(options(*overrides, "trainer.early_stopping=3"))["loss"] == 1.2
    assert load_checkpoint(run / "checkpoints/best.pt")["step"] == 5
    assert read_metrics(run / "metrics.jsonl")[-1]["step"] == 6


def test_patience_survives_a_restart(motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ["schedule.epochs=9", "trainer.best_metric=loss", "trainer.early_stopping=3"]
    overrides = few_videos(motion_root, tmp_path, *more)
    _validate_with(monkeypatch, [1.0, 1.1, 1.1])
    build.train(options(*overrides, "trainer.max_steps=3"))
    _validate_with(monkeypatch, [1.1, 0.5])
    build.train(options(*overrides))
    events = [event for event in read_events(tmp_path / "tiny") if event["event"] == "stopped_early"]
    assert [(event["step"], event["best"]) for event in events] == [(4, 1.0)]


def test_patience_begins_anew_with_other_validation_videos(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was reached on other videos need not be within reach on these."""
    more = ["schedule.epochs=3", "trainer.best_metric=loss", "trainer.early_stopping=1"]
    overrides = few_videos(motion_root, tmp_path, *more)
    _validate_with(monkeypatch, [0.1])
    build.train(options(*overrides, "trainer.max_steps=1"))
    others = tmp_path / "others.csv"
    others.write_text("".join((motion_root / "test.csv").read_text().splitlines(keepends=True)[:3]))
    _validate_with(monkeypatch, [2.0, 1.9])
    assert build.train(options(*overrides, f"data.source.val={others}", "resume=force"))["loss"] == 1.9
    state = load_checkpoint(tmp_path / "tiny/checkpoints/step_00000003.pt")
    assert (state["early_stopping"]["best"], state["early_stopping"]["without_improvement"]) == (1.9, 0)


def test_accuracy_decides_by_default(motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _validate_with(monkeypatch, [1.0, 2.0])
    build.train(options(*few_videos(motion_root, tmp_path)))
    assert load_checkpoint(tmp_path / "tiny/checkpoints/best.pt")["step"] == 2


def test_a_number_that_no_validation_has_is_refused_before_training(motion_root: Path, tmp_path: Path) -> None:
    config = options(*motion_overrides(motion_root, tmp_path, "trainer.best_metric=accuracy"))
    with pytest.raises(ValueError, match=r"best_metric=accuracy.*its numbers are video_top1, .*mean_class_top1.*loss"):
        build.train(config)


def test_early_stopping_needs_a_validation(motion_root: Path, tmp_path: Path) -> None:
    listed = few_videos(motion_root, tmp_path, "data.source.val=null", "trainer.early_stopping=2")
    with pytest.raises(ValueError, match=r"early_stopping=2: counts validations.*no validation split"):
        build.train(options(*listed))
