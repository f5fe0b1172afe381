"""The last lines of a training, and its first."""

import json
import logging
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mvit_video import build
from mvit_video.build.closing import closing_summary, evaluate_command, folds_command
from mvit_video.build.training import _splits
from mvit_video.config import Train
from mvit_video.engine.tracking import read_metrics
from tests.conftest import motion_overrides, options


def test_best_result_places_and_the_next_command(
    motion_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    build.train(options(*motion_overrides(motion_root, tmp_path, "trainer.log_every=3")))
    records = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    scores = {record["step"]: record["video_top1"] for record in records if record["kind"] == "eval"}
    assert set(scores) == {4, 8}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert caplog.messages[-1].splitlines() == [
        "tiny is trained:",
        f"  best     video_top1 {scores[best]:.4g} after step {best}",
        f"  weights  {tmp_path}/tiny/checkpoints/best.pt",
        f"  curves   {tmp_path}/tiny/curves.png",
        f"  options  {tmp_path}/tiny/config.yaml",
        f"  next     python -m mvit_video.evaluate run=tiny output_dir={tmp_path}",
    ]
    # The first figures come after the first step, whatever log_every says.
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 3, 4, 6, 8]


def test_without_validation(tmp_path: Path) -> None:
    text = closing_summary(Train(name="a", output_dir=str(tmp_path)), best_metric="video_top1")
    assert "best     unknown, there was no validation\n" in text
    assert f"weights  {tmp_path}/a/checkpoints\n" in text
    assert text.endswith(f"run=a output_dir={tmp_path} data.source.val=PATH")  # what to evaluate it on is not known


def test_the_best_of_all_validations_counts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    lines = [{"kind": "eval", "step": step, "top": top} for step, top in ((5, 1.0), (1000, 7.5), (1500, 7.5))]
    lines += [{"kind": "eval", "step": 2000, "top": None}, {"kind": "train", "step": 2001, "top": 99}]  # type: ignore[dict-item]
    (tmp_path / "a" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "best     top 7.5 after step 1,000\n" in closing_summary(
        Train(name="a", output_dir=str(tmp_path)), best_metric="top"
    )


def test_the_next_command_can_be_typed() -> None:
    assert evaluate_command(Train(name="birds")) == "python -m mvit_video.evaluate run=birds"
    assert evaluate_command(Train(name="my birds", output_dir="a b")) == (
        "python -m mvit_video.evaluate 'run=my birds' 'output_dir=a b'"
    )


@pytest.mark.parametrize(
    "name",
    ["Vögel", "动作", "birds (2)", "a,b", "it's", "x\\", "\\'", "null", "1e3", "007", "1.50", "12", "True", " a ",
     "a  b", "a=b", "a~b", "a-b.c", "-", "a'\\b"],
)  # fmt: skip
def test_the_next_command_names_the_run_whatever_it_is_called(name: str) -> None:
    word = shlex.split(evaluate_command(Train(name=name)))[-1]
    assert str(OverridesParser.create().parse_override(word).value()) == name


def test_a_training_without_validation_is_said(caplog: pytest.LogCaptureFixture) -> None:
    builder: Any = SimpleNamespace(read_split=lambda *arguments: "videos", class_names=lambda split: ("a", "b"))
    source: Any = SimpleNamespace(has=lambda split: False)
    assert _splits(options("+experiment=motion_mvitv2"), builder, source) == ("videos", None)
    assert "there is no validation split: nothing is measured during the training" in caplog.text


@pytest.mark.parametrize(
    ("name", "fold", "pattern"),
    [
        ("birds-fold-0", 0, "'birds-fold-*'"),
        ("k400-1-fold-1", 1, "'k400-1-fold-*'"),
        ("birds-fold-3-lr-0.1", 3, "'birds-fold-*-lr-0.1'"),
        ("fold12", 12, "'fold*'"),
        ("birds", 0, "birds"),
    ],
)
def test_a_fold_names_the_command_that_sums_up(name: str, fold: int, pattern: str, tmp_path: Path) -> None:
    config = Train(name=name)
    config.data.folds, config.data.fold = 20, fold
    assert folds_command(config) == f"python -m mvit_video.runs --folds {pattern}"
    config.output_dir = str(tmp_path)
    assert folds_command(config) == f"python -m mvit_video.runs {tmp_path} --folds {pattern}"
    assert closing_summary(config, best_metric="video_top1").endswith(f"  folds    {folds_command(config)}")
