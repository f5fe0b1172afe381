"""Every example runs as its user would run it, in this process and in seconds; `rating` is in test_extending.py."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvit_video import evaluate, train
from mvit_video.build.training import train as train_command
from tests.conftest import options
from tests.paths import ROOT

TINY: dict[str, Any] = {
    "data": {"num_frames": 4, "crop_size": 32, "test_short_side": 32, "test_temporal_views": 1},
    "augment.jitter": [32, 40],
    "trainer": {
        "batch_size": 4, "global_batch": None, "num_workers": 0, "threads": 1, "precision": "fp32", "device": "cpu",
        "max_steps": 1, "log_every": 1,
    },
}  # fmt: skip
TINY_WORDS = [
    "data.num_frames=4", "data.crop_size=32", "data.test_short_side=32", "augment.jitter=[32,40]",
    "trainer.batch_size=4", "trainer.global_batch=null", "trainer.num_workers=0", "trainer.threads=1",
    "trainer.precision=fp32", "trainer.device=cpu", "trainer.max_steps=1", "trainer.log_every=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _beside_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def videos(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits of two class folders with four videos each, and the same videos in one folder named by class."""
    root = tmp_path_factory.mktemp("videos")
    for number, line in enumerate((motion_root / "train.csv").read_text().splitlines()[:16]):
        source = motion_root / line.rsplit(maxsplit=1)[0]
        split, name = ("train", "val")[number // 8], ("wren", "robin")[number % 2]
        for place in (root / split / name / f"{number}.mp4", root / "named" / f"{name}_{number}.mp4"):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
    return root


@pytest.mark.parametrize("experiment", ["motion_mvitv2", "k400_mvitv2_s", "ssv2_mvitv2_s", "finetune_folder"])
def test_own_model_in_every_experiment(experiment: str, videos: Path) -> None:
    """An option that is for MViTs alone (layer decay, what is not decayed, weights) is left out with a word."""
    config = options(
        f"hydra.searchpath=[file://{ROOT}/examples/own_model/conf]", f"+experiment={experiment}", "name=own",
        "model=conv_net", "model.width=2", "data/source=folder", "data.num_classes=null", "optim.layer_decay=1",
        f"data.source.train={videos}/train", f"data.source.val={videos}/val", *TINY_WORDS,
    )  # fmt: skip
    assert config.weights is None
    metrics = train_command(config)
    assert metrics["num_videos"] == 8


def test_own_source(videos: Path) -> None:
    from examples.own_model.model import ConvNet
    from examples.own_source.source import NamedFiles

    run = train(
        "finetune_folder",
        {
            **TINY,
            "data.source": "named_files",
            "data.source.root": videos / "named",
            "data.holdout": 0.25,
            "model": {"_target_": ConvNet, "num_classes": "${data.num_classes}", "width": 2},
            "optim.layer_decay": 1.0,
        },
        name="named",
        config_dir=ROOT / "examples" / "own_source" / "conf",
    )
    assert json.loads((run.run_dir / "run.json").read_text())["class_names"] == ["robin", "wren"]
    assert run.metrics["num_videos"] == 4
    with pytest.raises(ValueError, match=r"robin_1\.mp4: has no '\+' behind the name of its class"):
        NamedFiles(root=str(videos / "named"), separator="+").manifest("train")


def test_own_metric(videos: Path) -> None:
    from examples.own_model.model import ConvNet

    folder = ROOT / "examples" / "own_metric" / "conf"
    model = {"_target_": ConvNet, "num_classes": "${data.num_classes}", "width": 2}
    given = {"data.source": {"train": videos / "train", "val": videos / "val"}, "model": model, "task": "calibrated"}
    more = {"optim.layer_decay": 1.0, "trainer.best_metric": "calibration_error"}
    run = train("finetune_folder", {**TINY, **given, **more}, name="calibrated", config_dir=folder)
    assert run.best_metric == "calibration_error"
    assert run.best == run.metrics["calibration_error"] == run.history[-1]["calibration_error"]
    assert evaluate(run).metrics["calibration_error"] == pytest.approx(run.best)


def test_the_calibration_error_is_what_it_says() -> None:
    from examples.own_metric.metric import CalibratedScorer
    from mvit_video.data import Manifest

    scorer = CalibratedScorer(Manifest(["a", "b", "c", "d"], [0, 0, 1, 1], ("x", "y"), "here"), num_views=1)
    assert np.isnan(scorer.calibration_error())
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.35, 0.65], [0.35, 0.65]], dtype=np.float32)
    scorer.scores.add(np.arange(4), np.zeros(4, dtype=np.int64), probabilities, failed=np.zeros(4, dtype=bool))
    # two at 0.9 of which one is right, two at 0.65 of which both are
    assert scorer.calibration_error() == pytest.approx(100 * (0.5 * 0.4 + 0.5 * 0.35), abs=1e-4)


def test_train_in_python(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from examples.train_in_python import main

    metrics = main(f"{videos}/train", f"{videos}/val", **TINY)
    assert metrics["num_videos"] == 8
    assert "best video_top1: " in capsys.readouterr().out


def test_plain_loop(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from examples.plain_loop import main

    accuracy = main(f"{videos}/train", f"{videos}/val", epochs=2, workers=0, depth=2, stage_starts=(1,), embed_dim=8)
    assert 0 <= accuracy <= 100
    assert "epoch 2: loss" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_scores_of_the_reader_are_finite_whatever_the_logits(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    from examples import read_export

    about = {
        "preprocessing": json.dumps(
            {"kind": "image", "views": {}, "input": {"mean": 0.5, "std": 0.5}, "output": {"scores": kind}}
        ),
        "class_names": json.dumps(["yes", "no"]),
    }
    logits = np.array([[800.0, -800.0]])
    monkeypatch.setattr(read_export, "load", lambda path: (about, lambda x: logits))
    monkeypatch.setattr(read_export, "inputs_of", lambda *_: np.zeros((1, 1, 4, 4, 3), np.uint8))
    with np.errstate(over="raise"):
        assert read_export.classify("garden.png", "birds.onnx") == [("yes", 1.0), ("no", 0.0)]
