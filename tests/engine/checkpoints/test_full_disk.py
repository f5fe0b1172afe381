"""A disk that is full for a while: metrics and checkpoints, with injected errors and on a real file system of 1 MB."""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mvit_video import build
from mvit_video.engine import tracking, trainer
from mvit_video.engine.checkpoints import CheckpointError, CheckpointWriter, load_latest, save_checkpoint
from mvit_video.engine.tracking import Tracker, read_metrics
from tests.conftest import drawn_pictures, options, small_overrides
from tests.engine.checkpoints.test_checkpoint import names_in, state_of


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        pytest.skip(f"a small file system could not be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, timeout=120)


def steps(run: Path) -> list[int]:
    return [int(record["step"]) for record in read_metrics(run / "metrics.jsonl")]


def test_checkpoints_on_a_disk_that_fills_up(small_disk, caplog):
    """40,000 floats are 160 kB: ten fit beside what else there is."""
    folder = small_disk / "checkpoints"
    ballast = small_disk / "ballast"

    def write(state, step, best):
        save_checkpoint(folder, state, step=step, keep_last=2, best=best)

    with CheckpointWriter(write) as writer:
        for step in range(1, 7):
            if step == 3:
                ballast.write_bytes(b"x" * 1_600_000)
            if step == 5:
                ballast.unlink()
            state = state_of(step, model={"w": torch.full((40_000,), float(step))})
            writer.save(state, step=step, best=step == 3)
            writer.close()
            assert load_latest(folder)["step"] == (2 if step in (3, 4) else step)
            if step in (3, 4):
                assert names_in(folder) == [f"step_0000000{n}.{kind}" for n in (1, 2) for kind in ("json", "pt")]
        ballast.write_bytes(b"x" * 1_600_000)
        with pytest.raises(CheckpointError, match=r"step_00000007.*No space left on device; 0\.\d MiB are free there"):
            writer.save(state_of(7, model={"w": torch.zeros(40_000)}), step=7, wait=True)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2 and all("No space left on device" in text for text in warnings)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_metrics_on_a_disk_that_fills_up(small_disk, caplog):
    run = small_disk / "run"
    with Tracker(run, total_steps=300) as tracker:
        tracker.log_step(1, {"loss": 1.0})
        room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * (room - 8192))
        for step in range(2, 200):
            tracker.log_step(step, {"loss": 1.0, "note": 12.345678})
        with drawn_pictures():
            tracker.plot_curves()
        assert len(steps(run)) < 199
        ballast.unlink()
        tracker.log_step(200, {"loss": 1.0})
    assert steps(run) == list(range(1, 201))
    texts = [record.getMessage() for record in caplog.records if "metrics could not be written" in record.getMessage()]
    assert len(texts) == 1
    assert "No space left on device" in texts[0]
    assert "curves.png could not be drawn" in caplog.text


def test_a_refused_line_is_written_with_the_next_one(tmp_path, monkeypatch, caplog):
    tracker = Tracker(tmp_path, total_steps=4)
    tracker.log_step(1, {"loss": 1.0})
    real = tracking._Lines.write

    def refuse(self, line):
        self._pending += line.encode()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tracking._Lines, "write", refuse)
    tracker.log_step(2, {"loss": 2.0})
    tracker.log_step(3, {"loss": 3.0})
    monkeypatch.setattr(tracking._Lines, "write", real)
    assert steps(tmp_path) == [1]
    with caplog.at_level("INFO"):
        tracker.log_step(4, {"loss": 4.0})
    tracker.close()
    assert steps(tmp_path) == [1, 2, 3, 4]
    assert [record.getMessage().split(" (")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        f"metrics could not be written to {tmp_path}"
    ]
    assert "metrics are written to" in caplog.text
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[2])["loss"] == 3.0


def test_tensorboard_that_fails_is_opened_again(tmp_path, caplog):
    tracker = Tracker(tmp_path, total_steps=4)
    tracker.log_step(1, {"loss": 1.0})
    first = tracker._writer

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    first.add_scalar = fail
    tracker.log_step(2, {"loss": 2.0})
    assert tracker._writer is None
    tracker.log_step(3, {"loss": 3.0})
    assert tracker._writer is not first
    tracker.close()
    first.close()
    assert steps(tmp_path) == [1, 2, 3]
    assert "TensorBoard does not" in caplog.text


def _disk_is_full_at(monkeypatch: pytest.MonkeyPatch, full: set[int]) -> None:
    def save(folder: Path, state, *, step: int, **more) -> None:
        if step in full:
            raise CheckpointError(f"checkpoint of step {step} could not be written (No space left on device)")
        save_checkpoint(folder, state, step=step, **more)

    monkeypatch.setattr(trainer, "save_checkpoint", save)


def test_a_training_goes_on_with_the_checkpoints_it_has(motion_root, tmp_path, monkeypatch, caplog):
    """But it does not end as if its last one were there."""
    command = small_overrides(motion_root, tmp_path, "trainer.max_steps=3", "trainer.checkpoint_every=1")
    _disk_is_full_at(monkeypatch, {2, 3})
    with pytest.raises(CheckpointError, match="checkpoint of step 3 could not be written"):
        build.train(options(*command))
    folder = tmp_path / "tiny" / "checkpoints"
    assert load_latest(folder)["step"] == 1
    assert "checkpoint of step 2 could not be written (No space left on device). Training goes on" in caplog.text
    assert steps(tmp_path / "tiny") == [1, 2, 3, 3]  # the last is the validation
    _disk_is_full_at(monkeypatch, set())
    build.train(options(*command))
    assert load_latest(folder)["step"] == 3
    assert (folder / "best.pt").exists()
