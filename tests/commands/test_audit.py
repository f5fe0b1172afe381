"""An audit of a run: takes on both sides are found, none are invented, and its numbers are those of the others."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mvit_video import build
from mvit_video.build.audit import audit
from mvit_video.build.stored_options import take_stored_options
from mvit_video.config import Audit, Evaluate
from mvit_video.config.check import to_object
from mvit_video.engine.tracking import read_metrics
from tests.auditing.takes import write_take
from tests.composing import compose
from tests.conftest import options

# Scenes of each class: the first of each in the validation is trained on, the second is new.
TRAIN = {"apple": (0, 1, 2), "bread": (3, 4, 5)}
LEAKY = {"apple": (0, 6), "bread": (3, 7)}
CLEAN = {"apple": (8, 6), "bread": (9, 7)}


def composed(command: str, *overrides: str) -> Any:
    """The options of `python -m mvit_video.COMMAND` with these words."""
    config = compose(command, overrides)
    keys = [override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))]
    take_stored_options(config, keys)
    return to_object(config)


def audited(*overrides: str) -> dict[str, Any]:
    config = composed("audit", *overrides)
    assert isinstance(config, Audit)
    return audit(config)


def training_words(videos: Path, output: Path) -> Sequence[str]:
    return [
        "+experiment=motion_mvitv2", "data/source=folder", f"data.source.train={videos}/train",
        f"data.source.val={videos}/leaky", "data.num_classes=null", "data.num_frames=4", "data.test_temporal_views=2",
        f"output_dir={output}", "name=own",
        "schedule.epochs=1", "schedule.warmup_epochs=0.5", "trainer.batch_size=3", "trainer.accumulate=1",
        "trainer.num_workers=0", "trainer.threads=1", "trainer.device=cpu", "trainer.precision=fp32",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training, a validation with takes of its scenes (later, smaller, cropped, worse), and one without."""
    root = tmp_path_factory.mktemp("videos")
    splits: Mapping[str, Mapping[str, Sequence[int]]] = {"train": TRAIN, "leaky": LEAKY, "clean": CLEAN}
    for split, classes in splits.items():
        for name, seeds in classes.items():
            for seed in seeds:
                path = root / split / name / f"scene{seed}.mp4"
                if split == "train":
                    write_take(path, seed, last=16)
                else:
                    write_take(path, seed, first=8, cut=2, size=54, crf=32)
    return root


@pytest.fixture(scope="module")
def runs(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    build.train(options(*training_words(videos, output)))
    return output


@pytest.fixture(scope="module")
def leaky(runs: Path) -> dict[str, Any]:
    """The audit of the run, after an evaluation, in the run's own folder."""
    evaluation = composed("evaluate", "run=own", f"output_dir={runs}")
    assert isinstance(evaluation, Evaluate)
    build.evaluate(evaluation)
    return audited("run=own", f"output_dir={runs}")


def verdicts(found: Mapping[str, Any]) -> dict[str, str]:
    return {one["question"].split()[0] + " " + one["question"].split()[1]: one["level"] for one in found["verdicts"]}


def test_exactly_the_takes_on_both_sides_are_found(leaky: dict[str, Any], videos: Path) -> None:
    pairs = {(Path(pair["train"]), Path(pair["audited"])) for pair in leaky["takes"]["pairs"]}
    assert pairs == {
        (videos / "train" / name / f"scene{seed}.mp4", videos / "leaky" / name / f"scene{seed}.mp4")
        for name, seed in (("apple", 0), ("bread", 3))
    }
    assert (leaky["takes"]["touched"], leaky["takes"]["audited"], leaky["takes"]["recordings"]) == (2, 4, 8)
    assert leaky["numbers"]["seen"]["videos"] == leaky["numbers"]["unseen"]["videos"] == 2
    assert verdicts(leaky)["Are takes"] == verdicts(leaky)["How good"] == "bad"


def test_none_are_found_where_there_are_none(runs: Path, videos: Path, tmp_path: Path) -> None:
    words = ["run=own", f"output_dir={runs}", f"data.source.val={videos}/clean", f"output={tmp_path}"]
    found = audited(*words, "frame_orders=false")
    assert found["takes"]["pairs"] == () and found["takes"]["touched"] == 0 and found["takes"]["recordings"] == 10
    assert found["numbers"]["unseen"]["videos"] == 4 and found["numbers"]["seen"]["value"] is None
    assert verdicts(found)["Are takes"] == verdicts(found)["How good"] == "fine"
    assert "logged" not in found["numbers"]  # other videos than those of the training's validation
    assert found["frame_orders"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.json", "audit.md"]


def test_training_evaluation_and_audit_agree(leaky: dict[str, Any], runs: Path) -> None:
    """One number under one protocol; where protocols differ, both are named."""
    last = [record for record in read_metrics(runs / "own" / "metrics.jsonl") if record["kind"] == "eval"][-1]
    results = json.loads((runs / "own" / "evaluation" / "results.json").read_text(encoding="utf-8"))
    numbers = leaky["numbers"]
    assert numbers["logged"]["value"] == numbers["again"]["value"] == last["video_top1"]
    assert numbers["forward"]["value"] == numbers["evaluation"]["value"] == results["video_top1"]
    assert leaky["metrics"]["forward"]["loss"] == results["loss"]
    assert numbers["forward"]["protocol"] == numbers["evaluation"]["protocol"] == "2 x 1 views"
    assert numbers["logged"]["protocol"] == numbers["again"]["protocol"] == "1 x 1 view"
    text = (runs / "own" / "audit" / "audit.md").read_text(encoding="utf-8")
    assert "takes 1 x 1 view of each video, this audit 2 x 1 views, evaluate (evaluation) 2 x 1 views" in text
    assert "it is what the training logged" in text


def test_one_protocol_is_scored_once(runs: Path, tmp_path: Path) -> None:
    words = ["run=own", f"output_dir={runs}", "data.test_temporal_views=1", "takes=false", "frame_orders=false"]
    found = audited(*words, f"output={tmp_path}")
    assert "again" not in found["numbers"] and "evaluation" in found["numbers"]
    assert found["numbers"]["forward"]["value"] == found["numbers"]["logged"]["value"]
    text = (tmp_path / "audit.md").read_text(encoding="utf-8")
    assert "takes 1 x 1 view of each video, this audit 1 x 1 view, evaluate (evaluation) 2 x 1 views" in text


def test_frames_in_other_orders_are_those_of_evaluate(leaky: dict[str, Any], runs: Path, tmp_path: Path) -> None:
    assert [one["order"] for one in leaky["frame_orders"]] == ["single", "shuffled", "reversed"]
    single = build.evaluate(
        composed("evaluate", "run=own", f"output_dir={runs}", "frame_order=single", f"output={tmp_path}")
    )
    assert (single["frame_order"], single["loss"]) == ("single", leaky["metrics"]["single"]["loss"])
    assert single["loss"] != leaky["metrics"]["forward"]["loss"]


def test_the_groups_found_can_be_trained_with(leaky: dict[str, Any], runs: Path, tmp_path: Path) -> None:
    folder = runs / "own" / "audit"
    rows = list(csv.DictReader((folder / "groups.csv").open(encoding="utf-8")))
    assert len(rows) == 10 and len({row["group"] for row in rows}) == 8
    words = [
        word for word in training_words(folder, tmp_path) if "data.source" not in word and "data/source" not in word
    ]
    words += [
        "data/source=table",
        f"data.source.table={folder / 'groups.csv'}",
        "data.holdout=0.4",
        "trainer.max_steps=1",
    ]
    build.train(options(*words))
    found = audited("run=own", f"output_dir={tmp_path}", "frame_orders=false")
    assert found["takes"]["touched"] == 0


def test_the_page_names_what_was_found_and_what_to_do(leaky: dict[str, Any], runs: Path) -> None:
    folder = runs / "own" / "audit"
    text = (folder / "audit.md").read_text(encoding="utf-8")
    assert text.startswith("# How far to trust own\n")
    assert (folder / "pairs.png").stat().st_size > 1000 and "![Pairs](pairs.png)" in text
    assert f"data.source.table={folder / 'groups.csv'} data.holdout=0.4" in text
    for section in leaky["verdicts"]:
        assert f"## {leaky['verdicts'].index(section) + 1}. {section['question']}\n" in text
        if section["level"] == "bad":
            assert f"**Next:** {section['next_step']}." in text


def test_the_same_bytes_on_both_sides_are_named(runs: Path, videos: Path, tmp_path: Path) -> None:
    copies = Path(shutil.copytree(videos / "clean", tmp_path / "val"))
    shutil.copy(videos / "train" / "apple" / "scene1.mp4", copies / "bread" / "copy.mp4")
    words = ["run=own", f"output_dir={runs}", f"data.source.val={copies}", f"output={tmp_path / 'out'}"]
    found = audited(*words, "frame_orders=false", "takes=false")
    (one,) = found["duplicates"]["duplicates"]
    assert one["across"] and one["conflicting"] and one["classes"] == ("apple", "bread")
    assert verdicts(found)["Is a"] == "bad" and found["takes"] is None


def test_training_videos_that_changed_are_said(runs: Path, videos: Path, tmp_path: Path) -> None:
    copies = Path(shutil.copytree(videos / "train", tmp_path / "train"))
    (copies / "apple" / "scene0.mp4").unlink()
    words = ["run=own", f"output_dir={runs}", f"data.source.train={copies}", f"output={tmp_path / 'out'}"]
    found = audited(*words, "frame_orders=false")
    assert {Path(pair["audited"]).name for pair in found["takes"]["pairs"]} == {"scene3.mp4"}
    text = (tmp_path / "out" / "audit.md").read_text(encoding="utf-8")
    assert "it trained on 6 videos" in text and "the list now has 5" in text


def test_nothing_of_the_run_itself_is_touched(leaky: dict[str, Any], runs: Path, tmp_path: Path) -> None:
    folder = runs / "own"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "audit" not in path.parts}
    audited("run=own", f"output_dir={runs}", f"output={tmp_path}", "frame_orders=false")
    assert {path: path.read_bytes() for path in before} == before


def test_an_audit_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give run=NAME_OR_PATH"):
        audited(f"output_dir={tmp_path}")
