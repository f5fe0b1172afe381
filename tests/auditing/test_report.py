"""The page and the files of an audit, for tasks that do not say which videos are right."""

import json
from pathlib import Path

import torch

from mvit_video.auditing.entries import Entries
from mvit_video.auditing.report import Audited, Scored, write_report
from mvit_video.auditing.survey import SurveyOptions, survey
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.manifest import Manifest
from tests.auditing.takes import write_take


def several_labels(folder: Path, *seeds: int, first: int = 0) -> Manifest:
    """A split of scenes that have two classes each."""
    paths = [str(write_take(folder / f"{seed} | x.mp4", seed, first=first)) for seed in seeds]
    sets = LabelSetArrayView([(0, 1)] * len(paths))
    return Manifest(paths, [0] * len(paths), ("run", "jump"), str(folder), label_sets=sets)


def test_a_task_of_several_labels_has_its_own_number(tmp_path: Path) -> None:
    entries = Entries(several_labels(tmp_path / "train", 0, 1), several_labels(tmp_path / "val", 1, 2, first=6), "val")
    scored = Scored(
        metric="map",
        metrics={"forward": {"map": 61.5}, "single": {"map": 60.0}},
        correct={},
        protocol="2 x 1 views",
        again={"map": 59.0},
        validation_protocol="1 x 1 view",
        logged=59.0,
    )
    seen = survey(entries, SurveyOptions(), device=torch.device("cpu"))
    audited = Audited(name="a_b", about={}, heading=["h"], trained_with="", entries=entries, survey=seen, scored=scored)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pairs.csv").write_text("of an earlier audit")
    content, sections = write_report(tmp_path / "out", audited)
    assert content["numbers"]["forward"]["value"] == 61.5 and content["numbers"]["forward"]["interval"] is None
    assert "unseen" not in content["numbers"] and content["takes"]["touched"] == 1
    assert [section.verdict.level for section in sections] == ["look", "bad", "fine", "look", "look"]
    text = (tmp_path / "out" / "audit.md").read_text(encoding="utf-8")
    assert "# How far to trust a\\_b" in text
    assert "map is 61.50 for 2 videos; it has no interval here." in text
    assert "data.source.label_separator" in text and "it is what the training logged" in text
    assert (tmp_path / "out" / "pairs.csv").read_text(encoding="utf-8").count("run | jump") == 2
    # A bar in a path does not end a cell of the table.
    rows = [line.replace("\\|", "") for line in text.splitlines() if "x.mp4`" in line]
    assert rows and all(row.count("|") == 6 for row in rows)
    held = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert held["labels"]["always_largest"] is None and held["takes"]["pairs"][0]["train_class"] == "run | jump"


def test_an_audit_without_takes_removes_those_of_an_earlier_one(tmp_path: Path) -> None:
    entries = Entries(several_labels(tmp_path / "train", 0), several_labels(tmp_path / "val", 2), "val")
    scored = Scored(
        metric="map",
        metrics={"forward": {"map": 1.0}},
        correct={},
        protocol="1 x 1 view",
        again={"map": 1.0},
        validation_protocol="1 x 1 view",
    )
    seen = survey(entries, SurveyOptions(takes=False), device=torch.device("cpu"))
    (tmp_path / "out").mkdir()
    for name in ("pairs.csv", "pairs.png", "groups.csv"):
        (tmp_path / "out" / name).touch()
    audited = Audited(name="a", about={}, heading=[], trained_with="", entries=entries, survey=seen, scored=scored)
    content, _ = write_report(tmp_path / "out", audited)
    assert content["takes"] is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit.json", "audit.md"]
