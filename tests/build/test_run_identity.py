"""A run goes on as what it began as; what would change its result is refused, or forced and on record."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mvit_video.build.run_identity import DataRecord, RunIdentity, begin_or_go_on
from mvit_video.distributed.process_group import World
from mvit_video.engine.checkpoints import save_checkpoint
from mvit_video.runtime.journal import read_events
from tests.conftest import options

WORLD = World(rank=0, size=1, device=torch.device("cpu"))
TRAIN = DataRecord(source="train.csv", items=32, fingerprint="aa")
IDENTITY = RunIdentity(
    class_names=["cat", "dog"],
    items_per_step=16,
    data={"train": TRAIN, "val": DataRecord(source="val.csv", items=8, fingerprint="bb")},
    version="0.1.0",
    git_commit=None,
    git_dirty=None,
)


def start(folder: Path, *more: str, identity: RunIdentity = IDENTITY) -> None:
    begin_or_go_on(options("+experiment=motion_mvitv2", f"output_dir={folder}", "name=r", *more), identity, WORLD)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run directory with a checkpoint, as far as anybody looks."""
    start(tmp_path)
    (tmp_path / "r" / "checkpoints").mkdir()
    (tmp_path / "r" / "checkpoints" / "step_00000001.pt").touch()
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_records_what_it_is(tmp_path: Path) -> None:
    start(tmp_path)
    assert json.loads((tmp_path / "r" / "run.json").read_text()) == {"format": 1, **IDENTITY.plain()}
    assert "num_frames: 8" in (tmp_path / "r" / "config.yaml").read_text()
    assert json.loads((tmp_path / "r" / "environment.json").read_text())["python"]


def test_a_split_of_detection_records_the_numbers_of_its_classes() -> None:
    assert DataRecord(source="a.json", items=2, fingerprint="cc", category_ids=(1, 7)).plain() == {
        "source": "a.json", "items": 2, "fingerprint": "cc", "category_ids": [1, 7],
    }  # fmt: skip
    assert IDENTITY.plain()["data"]["train"] == {"source": "train.csv", "items": 32, "fingerprint": "aa"}


def test_without_a_checkpoint_nothing_has_begun(tmp_path: Path) -> None:
    start(tmp_path)
    start(tmp_path, "optim.lr=0.5")
    assert "lr: 0.5" in (tmp_path / "r" / "config.yaml").read_text()


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["trainer.num_workers=7", "trainer.log_every=3", "data.prefetch=9", "trainer.max_steps=5"],
        ["model.activation_checkpointing=true", "data.test_temporal_views=5", "trainer.strategy=fsdp"],
        ["launcher=slurm", "data.source.root=elsewhere", "resume=force"],
    ],
)
def test_what_computes_the_same_is_taken(begun: Path, more: list[str]) -> None:
    before = contents(begun / "r")
    start(begun, *more)
    assert contents(begun / "r") == before


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("optim.lr=0.5", r"optim\.lr: 0\.001 -> 0\.5"),
        ("data.num_frames=4", r"data\.num_frames: 8 -> 4"),
        ("augment.mixup_alpha=0.8", r"augment\.mixup_alpha: 0\.0 -> 0\.8"),
        ("schedule.epochs=20", r"schedule\.epochs: 12(\.0)? -> 20(\.0)?"),
        ("seed=1", "seed: 0 -> 1"),
        ("trainer.precision=fp32", "trainer.precision: auto -> fp32"),
        ("trainer.deterministic=true", "trainer.deterministic: (False|false) -> (True|true)"),
        ("model.rel_pos=none", "model.rel_pos: null -> none"),
        ("model=x3d_s", r"model\._target_: mvit_video\.models\.create_model -> "),
    ],
)
def test_an_option_that_changes_the_result_is_refused(begun: Path, more: str, line: str) -> None:
    before = contents(begun / "r")
    with pytest.raises(
        ValueError, match=rf"(?s)holds a run that began otherwise.*  {line}.*name=ANOTHER.*resume=force"
    ):
        start(begun, more)
    assert contents(begun / "r") == before


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"items_per_step": 8}, "global batch: 16 -> 8"),
        ({"version": "9.0"}, r"version of mvit_video: 0\.1\.0 -> 9\.0"),
        ({"class_names": ["cat", "hound"]}, r"classes: without 'dog' -> with 'hound'"),
        ({"class_names": ["dog", "cat"]}, "classes: the same names -> reordered"),
        (
            {"data": {"train": replace(TRAIN, items=31, fingerprint="cc")}},
            r"train split: 32 samples of train\.csv \(aa\)",
        ),
        ({"data": {"train": TRAIN}}, "val split: 8 samples -> none"),
    ],
)
def test_other_data_classes_or_code_are_refused(begun: Path, change: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        start(begun, identity=replace(IDENTITY, **change))


def test_weights_without_a_checkpoint_to_go_on_from_are_not_overwritten(begun: Path) -> None:
    (begun / "r" / "checkpoints" / "step_00000001.pt").rename(begun / "r" / "checkpoints" / "best.pt")
    before = contents(begun / "r")
    with pytest.raises(ValueError, match=r"no checkpoint step_\*\.pt to go on from.*Ways out: name=ANOTHER_NAME"):
        start(begun, "resume=force", "optim.lr=0.5")
    assert contents(begun / "r") == before


def write_checkpoint(folder: Path, config: str) -> None:
    state = {"step": 2, "epoch": 0.5, "model": {}, "optimizer": {}, "ema": None, "config": config, "metrics": {}}
    save_checkpoint(folder / "r" / "checkpoints", {**state, "run": IDENTITY.plain()}, step=2)


def test_what_has_no_file_any_more_is_taken_from_the_checkpoint(begun: Path) -> None:
    files = [begun / "r" / name for name in ("config.yaml", "run.json")]
    write_checkpoint(begun, files[0].read_text())
    for path in files:
        path.unlink()
    with pytest.raises(ValueError, match=r"optim\.lr: 0\.001 -> 0\.5"):
        start(begun, "optim.lr=0.5")
    with pytest.raises(ValueError, match="a model of other classes"):
        start(begun, identity=replace(IDENTITY, class_names=["dog", "cat"]))
    start(begun)
    assert all(path.exists() for path in files)


def test_what_is_lost_of_a_forced_attempt_is_restored_under_its_own_number(begun: Path) -> None:
    """Options of a later attempt are not written down as those that the run began with."""
    start(begun, "resume=force", "optim.lr=0.5")
    run = begun / "r"
    write_checkpoint(begun, (run / "config.2.yaml").read_text())
    for name in ("config.yaml", "environment.json", "config.2.yaml"):
        (run / name).unlink()
    start(begun, "optim.lr=0.5")
    assert "lr: 0.5" in (run / "config.2.yaml").read_text()
    assert not (run / "config.yaml").exists() and not (run / "environment.json").exists()


def test_a_record_that_is_damaged_or_gone_is_named(begun: Path) -> None:
    (begun / "r" / "run.old.json").write_text("no record")
    start(begun)
    (begun / "r" / "run.json").write_text("")
    with pytest.raises(ValueError, match=r"r/run\.json is damaged \("):
        start(begun)
    (begun / "r" / "config.yaml").write_text("")
    with pytest.raises(ValueError, match=r"r/config\.yaml is damaged \(it holds no options\): restore it"):
        start(begun)
    (begun / "r" / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"neither config\.yaml nor a checkpoint that can be read says"):
        start(begun)


def test_force_goes_on_and_is_on_record(begun: Path) -> None:
    before = contents(begun / "r")
    start(begun, "optim.lr=0.5", "resume=force")
    after = contents(begun / "r")
    assert {name: after[name] for name in before if name != "journal.jsonl"} == before
    assert b"lr: 0.5" in after["config.2.yaml"] and {"run.2.json", "environment.2.json"} <= after.keys()
    (event,) = [event for event in read_events(begun / "r") if event["event"] == "forced"]
    assert (event["differences"], event["record"]) == ("optim.lr: 0.001 -> 0.5", 2)
    start(begun, "optim.lr=0.5")  # is what the run was last recorded with
    with pytest.raises(ValueError, match=r"optim\.lr: 0\.5 -> 0\.001"):
        start(begun)


def test_another_commit_of_the_code_is_said(begun: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = json.loads((begun / "r" / "run.json").read_text())
    (begun / "r" / "run.json").write_text(json.dumps({**record, "git_commit": "abc"}))
    start(begun, identity=replace(IDENTITY, git_commit="def"))
    assert "began with commit abc of mvit_video and goes on with def" in caplog.text


def test_an_option_that_is_new_since_counts_as_its_default(begun: Path) -> None:
    path = begun / "r" / "config.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "ema_decay" not in line))
    start(begun)
    with pytest.raises(ValueError, match=r"trainer\.ema_decay: null -> 0\.9"):
        start(begun, "trainer.ema_decay=0.9")


@pytest.mark.parametrize("names", [["cat", "hound"], ["dog", "cat"]])
def test_other_classes_are_refused_with_force_too(begun: Path, names: list[str]) -> None:
    """The outputs would stand for the wrong names."""
    with pytest.raises(ValueError, match=r"(?s)a model of other classes.*force cannot change that.*weights="):
        start(begun, "resume=force", identity=replace(IDENTITY, class_names=names))


def test_of_many_other_classes_the_first_are_named(begun: Path) -> None:
    names = [f"class {number}" for number in range(400)]
    with pytest.raises(ValueError, match=r"-> with 'class 0', .*, \.\.\. \(400 in all\)\. Its") as caught:
        start(begun, identity=replace(IDENTITY, class_names=names))
    assert len(str(caught.value)) < 700
