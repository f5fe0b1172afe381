"""Training and evaluation from Python, without a command line, and `mvit_video.train` as function and as command."""

import inspect
import json
import logging
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import nn

import mvit_video
import mvit_video.api
from mvit_video import EvaluationResult, Predictor, TrainedRun, evaluate, train
from mvit_video.build import training
from mvit_video.config.compose import compose_options
from tests.conftest import options
from tests.paths import ROOT

SMALL: dict[str, Any] = {
    "data": {"num_frames": 4, "crop_size": 32, "test_short_side": 32, "test_temporal_views": 1},
    "augment.jitter": [32, 40],
    "trainer": {
        "batch_size": 4, "global_batch": None, "num_workers": 0, "threads": 1, "precision": "fp32", "device": "cpu",
        "max_steps": 2, "log_every": 1,
    },
}  # fmt: skip


class TinyNet(nn.Module):
    """An own model: one convolution."""

    def __init__(self, num_classes: int = 8, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, width, 3, stride=4),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(width, num_classes),
        )

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.layers(clips)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def small(root: Path, **more: Any) -> dict[str, Any]:
    source = {"data.source": "motion", "data.source.root": root, "data.source.train_videos": 32}
    return {**SMALL, **source, "data.source.test_videos": 16, **more}


def state_of_the_program() -> tuple[object, ...]:
    """What a search draws its options from, and the number of torch's threads."""
    arrays = np.random.get_state()  # noqa: NPY002 - the global generator is meant
    return random.getstate(), str(arrays), torch.get_rng_state().tolist(), torch.get_num_threads()


def test_train_and_evaluate(
    motion_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGUSR2, handler := lambda number, frame: None)
    model = {"_target_": TinyNet, "width": 3, "num_classes": "${data.num_classes}"}
    torch.set_num_threads(2)  # the run has one
    state = state_of_the_program()
    tracked = {"trainer.trackers": ["tests.engine.trackers.own_trackers.Notes"]}
    run = train("motion_mvitv2", small(motion_root, model=model, **tracked), name="tiny", output_dir=".")
    monkeypatch.chdir(ROOT)  # what was trained is found from anywhere
    assert signal.signal(signal.SIGUSR2, before) is handler  # handlers of the program are put back
    assert isinstance(run, TrainedRun)
    assert (run.name, run.run_dir, run.best_metric, run.best_step) == ("tiny", tmp_path / "tiny", "video_top1", 2)
    assert run.best == run.metrics["video_top1"]
    assert [record["kind"] for record in run.history] == ["train", "train", "eval"]
    assert run.checkpoint == tmp_path / "tiny" / "checkpoints" / "best.pt"
    assert "changed (the experiment's value -> now):" in caplog.text and "model" in caplog.text
    assert state_of_the_program() == state
    loaded = run.load_model()
    assert isinstance(loaded, TinyNet) and not loaded.training
    assert loaded(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 8)
    notes = [json.loads(line) for line in (run.run_dir / "notes.jsonl").read_text().splitlines()]
    assert notes[0][:3] == ["open", "tiny", "mvit_video"] and notes[0][4]["model"]["width"] == 3
    assert [line[0] for line in notes] == ["open", "log", "log", "log", "note", "finish"]
    assert notes[-2][1] == {"best/video_top1": run.best, "best/step": 2} and notes[-1][1] == "done"
    result = evaluate(run, {"trainer.eval_batch_size": 4})
    assert isinstance(result, EvaluationResult)
    clip = next(motion_root.rglob("*.mp4"))
    assert Predictor(run.run_dir)(clip).predictions
    assert state_of_the_program() == state
    assert result.metrics["video_top1"] == pytest.approx(run.best)
    assert result.folder == tmp_path / "tiny" / "evaluation"
    assert len(result.predictions) == 16 and result.results["class_names"][0]
    assert evaluate("tiny", output_dir=tmp_path).metrics == result.metrics
    again = train("motion_mvitv2", small(motion_root, model=model), name="tiny", output_dir=tmp_path)
    assert again == run and "is complete at step 2" in caplog.text
    with pytest.raises(ValueError, match=r"model\.width: 3 -> 4"):
        train("motion_mvitv2", small(motion_root, model={**model, "width": 4}), name="tiny", output_dir=tmp_path)


def test_two_trainings_never_share_a_process(tmp_path: Path) -> None:
    config = options("+experiment=motion_mvitv2", f"output_dir={tmp_path}")
    with training._TRAINING, pytest.raises(ValueError, match="while another training runs in this process"):
        training.train_to_end(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        ("finetune_foldr", {}, r"experiment=finetune_foldr: unknown; did you mean 'finetune_folder'\?"),
        ("motion_mvitv2", {"optim.lrr": 1}, r"optim\.lrr=1: optim\.lrr: unknown option; did you mean 'lr'\?"),
        ("motion_mvitv2", {"optim": {"lr": "much"}}, r"optim\.lr='much': optim\.lr: must be a number"),
        ("motion_mvitv2", {"model": "slow_r5"}, r"model=slow_r5: unknown; did you mean 'slow_r50'\?"),
        ("motion_mvitv2", {"optim.lr": -1.0}, r"optim\.lr=-1\.0: must be greater than 0"),
        ("finetune_folder", {}, "these options have no value yet"),
        ("motion_mvitv2", {"name": "b"}, "name: given as an argument and among the options"),
        ("motion_mvitv2", {"model": lambda: None}, "define it at the top of a module"),
        ("motion_mvitv2", {"trainer.trackers": ["wandbb"]}, r"wandbb is unknown; did you mean 'wandb'\?"),
    ],
)
def test_what_cannot_be_is_refused(experiment: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train(experiment, options, name="a", output_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_to_evaluate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to evaluate is given"):
        evaluate()
    with pytest.raises(ValueError, match="run=birds: neither"):
        evaluate("birds", output_dir=tmp_path)
    with pytest.raises(ValueError, match=r"run=\S+/none: the folder holds no config\.yaml of a run"):
        evaluate(tmp_path / "none", output_dir=tmp_path)


def test_values_arrive_as_they_are() -> None:
    place = "/a b/it's, {x}=[1]\\é"
    options = {
        "data.source.train": Path(place),
        "data.mean": (0.1, 0.2, 0.3),
        "model": "slow_r50",
        "trainer.ema_decay": None,
    }
    composed = compose_options("config", experiment="finetune_folder", options=options)
    config = composed.config
    assert (config.data.source.train, list(config.data.mean), config.model.name) == (place, [0.1, 0.2, 0.3], "slow_r50")
    assert composed.given == ["experiment", "model", "data.source.train", "data.mean", "trainer.ema_decay"]


def test_weights_by_the_names_of_classes() -> None:
    weights = {"A,B": 3.0, "v1.2": 2}
    for given in ({"task.class_weights": weights}, {"task": {"class_weights": weights}}):
        composed = compose_options("config", experiment="motion_mvitv2", options=given)
        assert composed.config.task.class_weights == weights and composed.given == ["experiment", "task.class_weights"]


def test_inside_of_a_program_that_uses_hydra(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    (tmp_path / "mine.yaml").write_text("x: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        compose_options("config", experiment="motion_mvitv2", options={})
        assert compose("mine").x == 1
    assert not GlobalHydra.instance().is_initialized()


def test_the_command_and_the_function_are_one_object() -> None:
    import mvit_video.evaluate
    import mvit_video.train as module
    from mvit_video.train import main

    assert train is module is mvit_video.train is sys.modules["mvit_video.train"]
    assert module.main is main and callable(module)
    assert list(inspect.signature(train).parameters)[:2] == ["experiment", "options"]
    assert inspect.signature(evaluate) == inspect.signature(mvit_video.api.evaluate)


def test_the_package_brings_nothing_along() -> None:
    code = (
        "import sys, mvit_video; assert not {'torch', 'hydra'} & set(sys.modules); import mvit_video.models; "
        "idle = {'hydra', 'omegaconf', 'av', 'numpy.testing', 'torchvision', 'torch._dynamo'} & set(sys.modules); "
        "assert not idle, idle; "
        "assert 'train' in dir(mvit_video); from mvit_video import train; import mvit_video.train; "
        "assert mvit_video.train is train and callable(train) and callable(train.main)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="module 'mvit_video' has no attribute 'trian'"):
        _ = mvit_video.trian  # type: ignore[attr-defined]
