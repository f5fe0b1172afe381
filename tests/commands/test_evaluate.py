"""An evaluation knows the run: its options, its weights, its classes by name; and says how its numbers came about."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mvit_video import build
from mvit_video.build.evaluation import free_folder
from mvit_video.build.stored_options import take_stored_options
from mvit_video.config import Evaluate
from mvit_video.config.check import to_object
from mvit_video.engine.tracking import read_metrics
from tests import interpreters
from tests.composing import compose
from tests.conftest import options
from tests.paths import ROOT

CLASSES = ("apple", "bread", "cheese")


def evaluate(*overrides: str) -> dict[str, Any]:
    """What `python -m mvit_video.evaluate` does with these words, in this process."""
    config = compose("evaluate", overrides)
    keys = [override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))]
    take_stored_options(config, keys)
    checked = to_object(config)
    assert isinstance(checked, Evaluate)
    return build.evaluate(checked)


def training_words(videos: Path, output: Path) -> Sequence[str]:
    return [
        "+experiment=motion_mvitv2", "data/source=folder", f"data.source.train={videos}/train",
        f"data.source.val={videos}/val", "data.num_classes=null", "data.num_frames=4",
        f"output_dir={output}", "name=own",
        "schedule.epochs=1", "schedule.warmup_epochs=0.5", "trainer.batch_size=4", "trainer.accumulate=1",
        "trainer.num_workers=0", "trainer.threads=1", "trainer.device=cpu", "trainer.precision=fp32",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def videos(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of three classes: four videos each to train on, two to validate on."""
    root = tmp_path_factory.mktemp("own")
    files = sorted(motion_root.rglob("*.mp4"))
    for number, name in enumerate(CLASSES):
        for split, first, count in (("train", 0, 4), ("val", 4, 2)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for file in files[6 * number + first :][:count]:
                shutil.copy(file, folder / file.name)
    return root


@pytest.fixture(scope="module")
def runs(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps on other options than the experiment's."""
    output = tmp_path_factory.mktemp("runs")
    build.train(options(*training_words(videos, output)))
    return output


@pytest.fixture
def copy_of(videos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(videos, tmp_path / "videos"))


def predictions(folder: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    return {Path(row["video"]).name: row for row in rows}


def test_the_command_needs_the_name_of_the_run_alone(runs: Path) -> None:
    """Its number is that of the last validation, which had one view a video."""
    words = ["run=own", f"output_dir={runs}", "split=val", "data.test_temporal_views=1", f"output={runs}/command"]
    done = interpreters.run("-m", "mvit_video.evaluate", *words, cwd=ROOT, check=True)
    assert "data.test_temporal_views: 3 -> 1" in done.stderr
    results = json.loads((runs / "command" / "results.json").read_text(encoding="utf-8"))
    last = [record for record in read_metrics(runs / "own" / "metrics.jsonl") if record["kind"] == "eval"][-1]
    assert (results["video_top1"], results["video_top5"]) == (last["video_top1"], last["video_top5"])


def test_results_say_how_they_came_about(runs: Path) -> None:
    results = evaluate("run=own", f"output_dir={runs}", f"output={runs}/about")
    assert results["class_names"] == list(CLASSES) and results["step"] == 3 and results["split"] == "test"
    assert (results["sampling"]["num_frames"], results["short_side"], results["crop_size"]) == (4, 53, 48)
    assert (results["temporal_views"], results["spatial_views"], results["frame_order"]) == (3, 1, "forward")
    assert results["normalization"]["mean"] == [0.45, 0.45, 0.45]
    assert results["data"]["items"] == 6 and len(results["data"]["fingerprint"]) == 16
    assert len(results["weights_sha256"]) == 64 and results["environment"]["torch"] and results["mvit_video"]


def test_results_of_another_protocol_get_a_folder_of_their_own(runs: Path) -> None:
    first = evaluate("run=own", f"output_dir={runs}")
    assert evaluate("run=own", f"output_dir={runs}") == first
    evaluate("run=own", f"output_dir={runs}", "data.test_temporal_views=2")
    kept = json.loads((runs / "own" / "evaluation" / "results.json").read_text(encoding="utf-8"))
    other = json.loads((runs / "own" / "evaluation-2" / "results.json").read_text(encoding="utf-8"))
    assert (kept["temporal_views"], other["temporal_views"]) == (3, 2)
    assert not (runs / "own" / "evaluation-3").exists()


def test_a_place_without_writing_is_refused_before_anything_is_scored(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(*_: Any, **__: Any) -> None:
        raise AssertionError("scored")

    monkeypatch.setattr(build.evaluation, "score_split", score)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is no folder; output=FOLDER puts them elsewhere"):
        evaluate("run=own", f"output_dir={runs}", f"output={tmp_path}/file")


def test_a_damaged_result_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "results.json").touch()
    assert free_folder(tmp_path / "evaluation", {"step": 3}) == tmp_path / "evaluation-2"


def test_a_renamed_class_is_refused_with_both_lists(runs: Path, copy_of: Path) -> None:
    (copy_of / "val" / "bread").rename(copy_of / "val" / "zwieback")
    with pytest.raises(ValueError, match=r"(?s)'zwieback'.*Classes here: 'apple', 'cheese', 'zwieback'.*'bread'"):
        evaluate("run=own", f"output_dir={runs}", f"data.source.val={copy_of}/val", f"output={copy_of}/out")


def test_a_split_with_fewer_classes_keeps_the_models(runs: Path, copy_of: Path) -> None:
    """Without the first class every label would be off by one if positions decided."""
    whole = evaluate("run=own", f"output_dir={runs}", f"output={copy_of}/whole")
    shutil.rmtree(copy_of / "val" / "apple")
    part = evaluate("run=own", f"output_dir={runs}", f"data.source.val={copy_of}/val", f"output={copy_of}/part")
    assert part["num_videos"] == 4 and part["class_names"] == whole["class_names"]
    assert part["per_class"] == {**whole["per_class"], "apple": None}
    of_all = predictions(copy_of / "whole")
    for name, row in predictions(copy_of / "part").items():
        assert (row["label"], row["predicted"]) == (of_all[name]["label"], of_all[name]["predicted"])


def test_a_training_does_not_go_on_with_renamed_classes(runs: Path, copy_of: Path, tmp_path: Path) -> None:
    words = training_words(copy_of, tmp_path)
    build.train(options(*words, "trainer.max_steps=1"))
    for split in ("train", "val"):
        (copy_of / split / "apple").rename(copy_of / split / "zwieback")
    before = (tmp_path / "own" / "config.yaml").read_bytes()
    with pytest.raises(ValueError, match=r"(?s)classes: without 'apple' -> with 'zwieback'.*resume=force"):
        build.train(options(*words))
    assert (tmp_path / "own" / "config.yaml").read_bytes() == before


def test_a_finished_run_is_left_as_it_is(runs: Path, videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = runs / "own"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "journal.jsonl"}
    caplog.set_level("INFO")
    assert build.train(options(*training_words(videos, runs))) == {}
    assert "is complete at step 3" in caplog.text
    assert {path: path.read_bytes() for path in before} == before


def test_the_training_folder_need_not_be_there(runs: Path, copy_of: Path) -> None:
    """The classes are the checkpoint's."""
    words = [f"data.source.train={copy_of}/gone", f"data.source.val={copy_of}/val", f"output={copy_of}/out"]
    assert evaluate("run=own", f"output_dir={runs}", *words)["num_videos"] == 6


def test_a_held_out_part_of_changed_videos_is_refused(videos: Path, copy_of: Path, tmp_path: Path) -> None:
    """The cut would hold out videos that the model was trained on."""
    words = [word for word in training_words(copy_of, tmp_path) if "source.val" not in word]
    build.train(options(*words, "data.holdout=0.34", "trainer.max_steps=1"))
    assert evaluate("run=own", f"output_dir={tmp_path}", "split=val")["num_videos"] == 3
    # A test split that was not cut off is no such part.
    assert evaluate("run=own", f"output_dir={tmp_path}", f"data.source.test={videos}/val")["num_videos"] == 6
    for number, file in enumerate(sorted((videos / "val").rglob("*.mp4"))):
        shutil.copy(file, copy_of / "train" / "apple" / f"new{number}.mp4")
    with pytest.raises(ValueError, match=r"(?s)3 were held out .*now it would be \d+ others.*data\.source\.val=PATH"):
        evaluate("run=own", f"output_dir={tmp_path}", "split=val")
    words = ["data.holdout=null", f"data.source.val={videos}/val", "split=val"]
    assert evaluate("run=own", f"output_dir={tmp_path}", *words)["num_videos"] == 6


def test_training_on_what_is_validated_is_said(videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = [*training_words(videos, tmp_path), f"data.source.val={videos}/train", "trainer.max_steps=1"]
    build.train(options(*words))
    assert "12 of the validation's files are trained on, too" in caplog.text
