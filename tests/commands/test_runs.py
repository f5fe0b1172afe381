"""The command `runs`: tables that fit, the best runs, the difference of two."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from mvit_video import runs
from mvit_video.runtime.journal import append_event
from tests.run_directories import write_run


def test_the_command(tmp_path: Path) -> None:
    write_run(tmp_path)
    command = [sys.executable, "-m", "mvit_video.runs", str(tmp_path)]
    environment = {**os.environ, "PATH": str(tmp_path), "COLUMNS": "200"}
    table = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "30/100" in table and "61.50" in table and "2 min" in table and "restarts" in table
    found = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, env=environment).stdout
    assert json.loads(found)["restarts"] == 1


def test_no_such_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main([str(tmp_path / "nowhere")]) == 1
    assert "give the output_dir of the runs" in capsys.readouterr().err
    assert runs.main([str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out


def test_detectors_and_runs_with_several_labels_have_their_own_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, values in {"parts": {"box_ap": 41.25}, "scenes": {"map": 63.5}}.items():
        write_run(tmp_path, name)
        line = json.dumps({"kind": "eval", "step": 30, "time": 1.0, **values})
        (tmp_path / name / "metrics.jsonl").write_text(line + "\n")
    assert runs.main([str(tmp_path)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert "mAP" in head and "box AP" in head and "top-1" not in head
    assert "41.25" in rows[0] and "63.50" in rows[1]


def test_a_damaged_run_is_named_and_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path, "torn")
    write_run(tmp_path, "whole")
    (tmp_path / "torn" / "evaluation").mkdir()
    (tmp_path / "torn" / "evaluation" / "results.json").touch()
    assert runs.main([str(folder), "--best", "video_top1"]) == 0
    shown = capsys.readouterr()
    assert "whole" in shown.out and "torn" not in shown.out
    assert shown.err.startswith(f"torn is left out: {folder}/torn/evaluation/results.json is damaged (")
    (tmp_path / "torn" / "config.yaml").write_text("a: [1,\n b")
    (tmp_path / "whole" / "config.yaml").write_text("a: 1")
    assert runs.main([str(folder), "--diff", "torn", "whole"]) == 1
    assert f"{folder}/torn/config.yaml is damaged (while parsing" in capsys.readouterr().err


def test_the_options_of_a_forced_run_are_those_it_went_on_with(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, "forced") / "forced"
    for name, lr in {"config.yaml": 1, "config.2.yaml": 5}.items():
        (run_dir / name).write_text(f"optim:\n  lr: {lr}\n")
    for name, gpus in {"environment.json": 1, "environment.2.json": 2, "run.2.json": 0}.items():
        (run_dir / name).write_text(json.dumps({"gpus": gpus}))
    assert runs.options_of(run_dir) == {"optim.lr": "5"}
    assert runs.environment_of(run_dir) == {"gpus": "2"}


def test_slurm_that_does_not_answer_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = tmp_path / "squeue"
    tool.write_text("#!/bin/sh\nprintf 'squeue: error: no DNS\\n\\ncannot contact controller\\n' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = write_run(tmp_path)
    assert runs.main([str(folder)]) == 0
    assert not capsys.readouterr().err  # the run is no cluster's: nobody is asked
    append_event(folder / "s", "submit", job="4711")
    assert runs.main([str(folder)]) == 0
    shown = capsys.readouterr()
    told = "squeue fails: cannot contact controller; what follows is from the run directories alone\n"
    assert shown.err == told
    assert "30/100" in shown.out


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs with long names, one of them in Unicode and one with brackets, and long reasons."""
    monkeypatch.setenv("PATH", "/nowhere")  # no SLURM
    names = [
        "s",
        "größer_动作_40_классов",
        "k400_mvitv2_s,optim.lr=0.0016,augment.scale=[0.5,1.0],trainer.batch_size=64,seed=1",
    ]
    for name in names:
        write_run(tmp_path, name)
    cause = "rank 3 of 4 on node1: killed by SIGKILL; not started again after 4 failures (launcher.max_failures=3)"
    append_event(tmp_path / names[2], "end", job="4711_3", restart=2, status="failed", cause=cause)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert runs.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def lines_of(text: str) -> str:
    """The text without line breaks and padding, as what is wrapped has no other sign of it."""
    return "".join(text.split())


@pytest.mark.parametrize("width", [40, 60, 80, 120, 250])
def test_it_fits_the_terminal(
    several: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = shown(capsys, several)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    first = text.splitlines()[0]
    assert all(title in first for title in ("run", "state", "step", "top-1", "why"))
    assert "30/100" in text and "61.50" in text and "running" in text and "failed" in text
    assert ("restarts" in first) == ("left out for want of width" not in text)
    assert ("left out" in text) == (width < 120)
    if width == 250:
        assert "augment.scale=[0.5,1.0],trainer.batch_size=64,seed=1  failed" in text
        assert "größer_动作_40_классов" in text


def test_without_a_terminal_it_is_80_wide(
    several: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert max(cell_len(line) for line in shown(capsys, several).splitlines()) <= 80


def test_what_is_left_out_is_named(
    several: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = lines_of(shown(capsys, several))
    assert lines_of("left out for want of width: ETA, clips/s, restarts, job (a wider terminal") in text


def test_unicode_in_json_is_as_it_is(several: Path) -> None:
    command = [sys.executable, "-m", "mvit_video.runs", str(several), "--json"]
    for encoding, expected in (("utf-8", "größer_动作_40_классов"), ("ascii", "gr\\u00f6\\u00dfer")):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(command, capture_output=True, check=True, env=environment)
        assert expected in done.stdout.decode(encoding)
        assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3


def test_a_terminal_without_unicode_shows_what_it_can(several: Path) -> None:
    command = [sys.executable, "-m", "mvit_video.runs", str(several)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "gr\\xf6\\xdfer" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error(several: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mvit_video.runs", str(several)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


# ---- --best


def test_the_best_runs_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, top1, loss in (("a", 50.0, 1.5), ("b", 75.0, 0.25), ("c", 60.0, None)):
        folder = write_run(tmp_path, name) / name
        (folder / "evaluation").mkdir()
        results = {"video_top1": top1} if loss is None else {"video_top1": top1, "loss": loss}
        (folder / "evaluation" / "results.json").write_text(json.dumps(results))
    ranked = shown(capsys, tmp_path, "--best", "evaluation/video_top1").splitlines()
    assert ranked[0] == "evaluation/video_top1, the largest first"
    assert [line.split() for line in ranked[2:]] == [
        ["b", "75.00", "evaluation"],
        ["c", "60.00", "evaluation"],
        ["a", "50.00", "evaluation"],
    ]
    ranked = shown(capsys, tmp_path, "--best", "evaluation/loss").splitlines()
    assert ranked[0] == "evaluation/loss, the smallest first"
    assert [line.split()[:2] for line in ranked[2:]] == [["b", "0.25"], ["a", "1.50"]]
    best = shown(capsys, tmp_path, "--best", "video_top1", "--json").splitlines()[0]
    assert json.loads(best) == {
        "name": "a",
        "metric": "video_top1",
        "value": 61.5,
        "step": 10,
        "source": "validation",
        "fingerprint": None,
        "split": "",
    }


def test_scores_of_different_validation_sets_are_kept_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, fingerprint in (("a", "f1"), ("b", "f2"), ("c", "f1")):
        folder = write_run(tmp_path, name) / name
        data = {"source": f"{name}/val", "items": 40, "fingerprint": fingerprint}
        (folder / "run.json").write_text(json.dumps({"data": {"val": data}}))
    text = shown(capsys, tmp_path, "--best", "video_top1")
    head, first, second = text.split("\n\n")
    assert "measured on 2 sets of videos, and scores of different sets do not compare" in head
    assert first.startswith("on val, 40 items of a/val (f1):") and second.startswith("on val, 40 items of b/val (f2):")
    assert [line.split()[0] for line in first.splitlines()[2:]] == ["a", "c"]
    assert [line.split()[0] for line in second.splitlines()[2:]] == ["b"]
    (tmp_path / "b" / "run.2.json").write_text(json.dumps({"data": {"val": {"fingerprint": "f1", "items": 40}}}))
    assert "sets of videos" not in shown(capsys, tmp_path, "--best", "video_top1")


def test_counts_and_the_protocol_are_no_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path) / "s" / "evaluation"
    folder.mkdir()
    results = {"video_top1": 50.0, "num_videos": 8, "views_per_video": 5, "crop_size": 224, "temporal_views": 5}
    (folder / "results.json").write_text(json.dumps({**results, "crop_ratio": 0.875, "classes_to_choose_from": 3}))
    assert runs.main([str(tmp_path), "--best", "evaluation/num_videos"]) == 1
    text = capsys.readouterr().err
    assert text.endswith("known are evaluation/video_top1, video_top1\n")


def test_an_unknown_metric_is_refused_with_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main([str(write_run(tmp_path)), "--best", "video_top_1"]) == 1
    text = capsys.readouterr().err
    assert "has the metric 'video_top_1', did you mean 'video_top1'?: known are video_top1" in text
    (tmp_path / "s" / "metrics.jsonl").unlink()
    assert runs.main([str(tmp_path), "--best", "video_top1"]) == 1
    assert f"no run in {tmp_path} has been validated or evaluated" in capsys.readouterr().err


# ---- --diff


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Runs a and b that differ in the learning rate, the scales, the weights and the code."""
    for name, lr, scale, weights, commit in (
        ("a", 0.0016, [0.08, 1.0], "null", "0340caa"),
        ("b", 0.0008, [0.5, 1.0], "weights/größer.pyth", "b89de57"),
    ):
        run_dir = write_run(tmp_path, name) / name
        (run_dir / "config.yaml").write_text(
            f"name: {name}\nweights: {weights}\noptim:\n  lr: {lr}\n  name: adamw\naugment:\n  scale: {scale}\n"
            + ("trainer:\n  ema_decay: 0.999\n" if name == "b" else "")
        )
        environment = {"torch": "2.11.0", "git_commit": commit, "git_dirty": name == "b", "gpus": []}
        (run_dir / "environment.json").write_text(json.dumps(environment))
    return tmp_path


def test_the_difference_of_two_runs(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, environment = shown(capsys, two, "--diff", "a", "b").split("environment:\n")
    assert [line.split() for line in options.splitlines()[:6]] == [
        ["options:"],
        ["option", "a", "b"],
        ["augment.scale", "[0.08,", "1.0]", "[0.5,", "1.0]"],
        ["optim.lr", "0.0016", "0.0008"],
        ["trainer.ema_decay", "(absent)", "0.999"],
        ["weights", "null", "weights/größer.pyth"],
    ]
    assert [line.split() for line in environment.splitlines()] == [
        ["option", "a", "b"],
        ["git_commit", "0340caa", "b89de57"],
        ["git_dirty", "false", "true"],
    ]


def test_the_difference_as_json_and_by_path(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown(capsys, "--json", two, "--diff", two / "a", "b"))
    assert found["runs"] == [str(two / "a"), str(two / "b")]
    assert {"name": "optim.lr", "first": "0.0016", "second": "0.0008"} in found["options"]
    assert [item["name"] for item in found["environment"]] == ["git_commit", "git_dirty"]
    text = shown(capsys, two, "--diff", "a", "a")
    assert text == "options: no difference\n\nenvironment: no difference\n"


def test_the_difference_fits_the_terminal(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "44")
    assert max(cell_len(line) for line in shown(capsys, two, "--diff", "a", "b").splitlines()) <= 44


def test_an_unknown_run_is_refused_with_the_nearest(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (two / "quickstart").mkdir()
    append_event(two / "quickstart", "start", job="7", nodes="n")
    assert runs.main([str(two), "--diff", "a", "quickstrat"]) == 1
    assert "no run 'quickstrat' with a config.yaml, did you mean 'quickstart'?" in capsys.readouterr().err
    assert runs.main([str(two), "--diff", "a", "zzz"]) == 1
    assert f"no run 'zzz' with a config.yaml: give the name of a run in {two}" in capsys.readouterr().err


# ---- --folds


def write_fold(folder: Path, fold: int, top1: float, *, name: str = "", videos: int = 50, more: str = "") -> Path:
    """A finished run of one of three folds."""
    run_dir = folder / (name or f"birds-fold-{fold}")
    append_event(run_dir, "start", job="local", nodes="n", pid=1, restart=0)
    append_event(run_dir, "end", job="local", status="done", cause="")
    (run_dir / "config.yaml").write_text(
        f"name: {run_dir.name}\noutput_dir: {folder}\ndata:\n  folds: 3\n  fold: {fold}\n  prefetch: {fold + 1}\n"
        f"  source:\n    train: birds\noptim:\n  lr: 0.1\nlauncher:\n  nodes: {fold}\n{more}"
    )
    lines = [
        {"kind": "eval", "step": 10, "video_top1": top1 + 4, "num_videos": videos},
        {"kind": "eval", "step": 20, "video_top1": top1, "num_videos": videos},
    ]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"train": {"items": 150 - videos}, "val": {"items": videos}}
    (run_dir / "run.json").write_text(json.dumps({"data": data}))
    return run_dir


@pytest.fixture
def folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", "/nowhere")  # no SLURM
    for fold, top1 in enumerate((70.0, 80.0, 90.0)):
        write_fold(tmp_path, fold, top1)
    return tmp_path


def test_folds_are_summed_up(folds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, folds, "--folds", "birds")
    assert [line.split() for line in text.splitlines()[1:5]] == [
        ["fold", "run", "state", "videos", "last", "best"],
        ["0", "birds-fold-0", "done", "50", "70.00", "74.00"],
        ["1", "birds-fold-1", "done", "50", "80.00", "84.00"],
        ["2", "birds-fold-2", "done", "50", "90.00", "94.00"],
    ]
    expected = (
        "last validation (1 x 1 view): mean 80.00, standard deviation 10.00; 80.00 % of all 150 videos, 95 % interval "
        "72.9 to 85.6\n"
    )
    assert expected in text and "missing" not in text
    found = json.loads(shown(capsys, folds, "--folds", "birds-fold-*", "--json"))
    assert found["summaries"][0]["pooled"] == 80.0 and found["missing"] == {}


def test_folds_of_images_are_summed_up(folds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fold, top1 in enumerate((70.0, 80.0, 90.0)):
        run_dir = folds / f"birds-fold-{fold}"
        rows = [
            {"kind": "train", "step": 20, "time": 0.0, "images_per_s": 12.5},
            {"kind": "eval", "step": 20, "top1": top1, "num_images": 50},
        ]
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run_dir / "evaluation").mkdir()
        results = {"top1": top1 - 10, "crop_size": 64, "crop_ratio": 0.875}
        (run_dir / "evaluation" / "results.json").write_text(json.dumps(results))
    text = shown(capsys, folds, "--folds", "birds")
    assert text.splitlines()[1].split() == ["fold", "run", "state", "images", "last", "best", "evaluation"]
    assert "last validation: mean 80.00, standard deviation 10.00; 80.00 % of all 150 images, 95 %" in text
    assert "evaluation (64 pixels, crop ratio 0.875): mean 70.00" in text
    assert "Each image is tested once" in text and "video" not in text
    assert "80.00" in shown(capsys, folds) and "12.5" in shown(capsys, folds)


def test_folds_of_different_sizes_are_pooled_by_their_videos(folds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fold(folds, 2, 50.0, videos=10)
    text = shown(capsys, folds, "--folds", "birds")
    assert "mean 66.67" in text and "72.73 % of all 110 videos" in text  # 35, 40 and 5 are right


def test_missing_and_unfinished_folds_are_named(folds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_event(folds / "birds-fold-1", "start", job="local", nodes="n", pid=1, restart=1)
    append_event(folds / "birds-fold-1", "end", job="local", status="saved", cause="asked to stop")
    (folds / "birds-fold-2" / "config.yaml").unlink()
    text = shown(capsys, folds, "--folds", "birds")
    assert "missing: fold 1 (birds-fold-1 is stopped); fold 2 (no run)" in text
    assert "mean 70.00; 70.00 % of all 50 videos" in text and "but for those of the missing folds" in text


def test_evaluations_of_one_protocol_are_summed_up_too(folds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fold in range(3):
        folder = folds / f"birds-fold-{fold}" / "evaluation"
        folder.mkdir()
        results = {"video_top1": 72.0 + fold, "temporal_views": 5, "spatial_views": 1}
        (folder / "results.json").write_text(json.dumps(results))
    text = shown(capsys, folds, "--folds", "birds")
    assert "evaluation (5 x 1 views): mean 73.00, standard deviation 1.00" in text
    results = {"video_top1": 74.0, "temporal_views": 3, "spatial_views": 1}
    (folder / "results.json").write_text(json.dumps(results))
    assert "evaluation (" not in shown(capsys, folds, "--folds", "birds")


def test_evaluations_of_other_videos_than_those_held_out_are_passed_over(
    folds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the training split, or of a test split that all folds share: there no video is tested once."""
    for fold in range(3):
        run_dir = folds / f"birds-fold-{fold}"
        data = {"train": {"items": 100}, "val": {"items": 50, "fingerprint": f"val{fold}"}}
        (run_dir / "run.json").write_text(json.dumps({"data": data}))
        for name, split, fingerprint, top1 in (
            ("evaluation", "train", "t", 100.0),
            ("evaluation-2", "test", f"val{fold}", 70),
        ):
            (run_dir / name).mkdir()
            results = {"video_top1": top1, "temporal_views": 5, "spatial_views": 1, "split": split}
            (run_dir / name / "results.json").write_text(json.dumps({**results, "data": {"fingerprint": fingerprint}}))
    text = shown(capsys, folds, "--folds", "birds")
    assert "evaluation (5 x 1 views): mean 70.00, standard deviation 0.00" in text
    assert "of other videos than those that were held out, left out: birds-fold-0/evaluation (train), birds" in text
    shutil.rmtree(run_dir / "evaluation-2")
    assert "evaluation (5" not in shown(capsys, folds, "--folds", "birds")


def test_runs_that_differ_in_more_than_the_fold_are_not_mixed(folds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = folds / "birds-fold-2" / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.1", "lr: 0.2"))
    assert runs.main([str(folds), "--folds", "birds"]) == 1
    text = capsys.readouterr().err
    assert "birds-fold-0 and birds-fold-2 differ in more than the fold" in text and "optim.lr: 0.1 -> 0.2" in text
    config.write_text(config.read_text().replace("lr: 0.2", "lr: 0.1").replace("train: birds", "train: other"))
    assert runs.main([str(folds), "--folds", "birds"]) == 1
    assert "data.source.train: birds -> other" in capsys.readouterr().err


def test_two_runs_of_one_fold_and_a_changed_set_are_refused(folds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = write_fold(folds, 0, 10.0, name="birds2-fold-0")
    assert runs.main([str(folds), "--folds", "birds"]) == 1
    assert "birds-fold-0 and birds2-fold-0 are both of fold 0" in capsys.readouterr().err
    assert runs.main([str(folds), "--folds", "birds-*"]) == 0
    assert again.name not in capsys.readouterr().out
    record = folds / "birds-fold-1" / "run.json"
    record.write_text(json.dumps({"data": {"train": {"items": 101}, "val": {"items": 50}}}))
    assert runs.main([str(folds), "--folds", "birds-fold"]) == 1
    assert "the data set has changed between the folds" in capsys.readouterr().err


def test_no_run_of_a_fold(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main([str(two), "--folds", "a"]) == 1
    assert "whose name begins with 'a' is of a fold: train with data.folds=5" in capsys.readouterr().err
