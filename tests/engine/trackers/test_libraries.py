"""The adapters with the real libraries, offline; Trackio's, which needs an older Pillow, by its documentation."""

import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from mvit_video.engine.trackers import mlflow_run, trackio_run, wandb_run
from mvit_video.engine.trackers.interface import RunInfo, TrackedRun, flat

OPTIONS = {"name": "robin", "optim": {"lr": 0.1, "betas": [0.9, 0.99]}, "trainer": {"num_workers": 2, "empty": {}}}


def info(folder: Path, earlier: dict[str, str] | None = None, **trainer: Any) -> RunInfo:
    options = {**OPTIONS, "trainer": {**OPTIONS["trainer"], **trainer}}  # type: ignore[dict-item]
    return RunInfo(name="robin", project="birds", run_dir=str(folder), options=options, earlier=earlier or {})


def log_a_run(run: TrackedRun) -> dict[str, str]:
    about = run.about()
    run.log(1, {"train/loss": 2.0})
    run.log(2, {"train/loss": float("nan")})
    run.log(2, {"eval/video_top1": 50.0})
    run.note({"best/video_top1": 50.0, "best/step": 2})
    run.finish("saved")
    return about


def test_options_have_dotted_names() -> None:
    assert dict(flat(OPTIONS)) == {
        "name": "robin",
        "optim.lr": 0.1,
        "optim.betas": [0.9, 0.99],
        "trainer.num_workers": 2,
        "trainer.empty": {},
    }


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install mvit_video[wandb]")
    for name in ("WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    about = log_a_run(wandb_run.open_run(info(tmp_path)))
    again = wandb_run.open_run(info(tmp_path, about, num_workers=4))
    assert again.about()["id"] == about["id"]
    assert str(tmp_path) in again.about()["place"]
    again.log(2, {"train/loss": 1.5})  # a step that was logged before
    again.log(3, {"train/loss": 1.0})
    again.finish("done")
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    deadline = time.monotonic() + 120  # the library's own process writes them, after `finish` on a busy machine
    while b"done" not in files[-1].read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    first, second = (path.read_bytes() for path in files)
    for text in (b"robin", b"birds", b"betas", b"train/loss", b"eval/video_top1", b"best/video_top1", b"saved"):
        assert text in first, text
    assert first.count(about["id"].encode()) and second.count(about["id"].encode())
    assert second.count(b"train/loss") >= 2 and b"done" in second


def test_mlflow_with_a_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install mvit_video[mlflow]")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the small distribution has no database
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")
    about = log_a_run(mlflow_run.open_run(info(tmp_path)))
    client = mlflow.MlflowClient()
    run = client.get_run(about["id"])
    assert (run.info.run_name, run.info.status, run.data.tags["state"]) == ("robin", "KILLED", "saved")
    assert run.data.params["optim.betas"] == "[0.9, 0.99]"
    assert run.data.metrics["best/video_top1"] == 50.0
    again = mlflow_run.open_run(info(tmp_path, about, num_workers=4))
    assert client.get_run(about["id"]).info.status == "RUNNING"
    again.log(3, {"train/loss": 1.0, "eval/AP: left & right": 2.0})
    again.finish("done")
    run = client.get_run(about["id"])
    assert (run.info.status, run.data.tags["resumed_with.trainer.num_workers"]) == ("FINISHED", "4")
    assert [m.step for m in client.get_metric_history(about["id"], "train/loss")] == [1, 2, 3]
    assert "eval/AP_ left _ right" in run.data.metrics
    assert client.get_experiment(run.info.experiment_id).name == "birds"
    gone = mlflow_run.open_run(info(tmp_path, {"id": "0" * 32}))
    assert gone.about()["id"] != "0" * 32
    gone.finish("failed")


class _Run:
    """A run as Trackio documents it: name, log(metrics, step=), finish()."""

    def __init__(self, name: str) -> None:
        self.name, self.lines, self.finished = name, [], False  # type: ignore[var-annotated]

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.lines.append((step, metrics))

    def finish(self) -> None:
        self.finished = True


def test_trackio_by_its_documented_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    made: list[_Run] = []

    def init(
        project: str, name: str | None = None, *, config: dict[str, Any] | None = None, resume: str = "never"
    ) -> _Run:
        calls.append({"project": project, "name": name, "config": config, "resume": resume})
        made.append(_Run(name or "" if resume == "allow" else f"{name}-1"))  # it makes a name that is taken unique
        return made[-1]

    library = types.ModuleType("trackio")
    library.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", library)
    about = log_a_run(trackio_run.open_run(info(tmp_path)))
    assert about == {"id": "robin-1", "place": "project birds"}
    assert made[0].lines[0] == (1, {"train/loss": 2.0})
    assert made[0].lines[-2:] == [(2, {"best/video_top1": 50.0, "best/step": 2}), (2, {"state": "saved"})]
    assert made[0].finished
    trackio_run.open_run(info(tmp_path, about)).finish("done")
    assert [(call["project"], call["name"], call["resume"]) for call in calls] == [
        ("birds", "robin", "never"),
        ("birds", "robin-1", "allow"),
    ]
    assert calls[0]["config"]["optim.lr"] == 0.1
