"""docs/extending.md: its example of a task trains, resumes, evaluates and previews with every command."""

import json
import logging
import re
import textwrap
from pathlib import Path

import pytest

from mvit_video.build import evaluate, train
from mvit_video.build.preview import preview
from mvit_video.build.task_builder import TaskBuilder
from mvit_video.build.video_classification import VideoClassification
from mvit_video.config import Preview
from mvit_video.engine.task import Evaluation, Scorer, Task
from mvit_video.engine.tracking import read_metrics
from mvit_video.tasks.classification import Classification, ViewEvaluation, ViewScorer
from tests import interpreters
from tests.conftest import evaluate_options, options
from tests.paths import ROOT

CONF = f"hydra.searchpath=[file://{ROOT}/examples/rating/conf]"  # what --config-dir does


def test_own_task_source_model_and_metric(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    caplog.set_level(logging.INFO)
    more = [
        CONF, "+experiment=rating", f"data.source.root={motion_root}", f"output_dir={tmp_path}", "model.width=4",
        "trainer.num_workers=0", "trainer.threads=1", "trainer.precision=fp32", "trainer.device=cpu",
        "schedule.epochs=1",
    ]  # fmt: skip
    train(options(*more, "trainer.max_steps=1"))
    train(options(*more))
    assert "resumed" in caplog.text and re.search(r"step 2/2 .*error \d\.\d\d.* clips/s", caplog.text)
    records = read_metrics(tmp_path / "rating" / "metrics.jsonl")
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 2]
    assert {"error", "within_half"} <= records[-1].keys()
    results = evaluate(evaluate_options(*more))
    assert results == json.loads((tmp_path / "rating" / "evaluation" / "results.json").read_text())
    assert results["temporal_views"] == 3 and 0 <= results["within_half"] <= 100 and results["num_failed"] == 0
    assert len((tmp_path / "rating" / "evaluation" / "predictions.jsonl").read_text().splitlines()) == 16
    shown = options(*more, "clips=2", "videos=1", config_name="preview")
    assert isinstance(shown, Preview)
    assert "train_01.png" in [path.name for path in preview(shown)]


def test_the_command_finds_the_files_of_the_example() -> None:
    words = ["--config-dir", "examples/rating/conf", "+experiment=rating", "data.source.root=x", "--cfg", "job"]
    done = interpreters.run("-m", "mvit_video.train", *words, cwd=ROOT, check=True)
    assert "examples.rating.task.RatingBuilder" in done.stdout


def test_a_wrong_rating_is_named(motion_root: Path, tmp_path: Path) -> None:
    from examples.rating.source import RatedVideos

    with pytest.raises(ValueError, match=r"\.mp4: the rating is \d; it must be a whole number below 2"):
        RatedVideos(root=str(motion_root), levels=2).manifest("train")


@pytest.mark.parametrize("page", ["extending.md", "python.md"])
def test_the_page_shows_the_files_of_the_examples(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    shown = re.findall(r"<!-- from (\S+) -->\n```\w+\n(.*?)```", text, flags=re.S)
    assert len(shown) >= 3
    for name, code in shown:
        file = (ROOT / name).read_text(encoding="utf-8")  # methods stand on the page without their indent
        assert code in file or any(textwrap.indent(code, 4 * n * " ") in file for n in (0, 1, 2)), (
            f"another {name}: {code}"
        )


def test_the_classification_of_videos_is_a_task(motion_root: Path) -> None:
    """What mypy holds the implementations to; the names say which protocol a class has to keep."""
    builder: TaskBuilder = VideoClassification()
    task: type[Task] = Classification
    evaluation: type[Evaluation] = ViewEvaluation
    scorer: type[Scorer] = ViewScorer
    for protocol, made in ((Task, task), (Evaluation, evaluation), (Scorer, scorer), (TaskBuilder, type(builder))):
        wanted = {name for name in dir(protocol) if not name.startswith("_")}
        assert wanted <= set(dir(made)) | {"class_names"}
