"""Checkpoints written in the background: a snapshot, one at a time, and no error that nobody sees."""

import errno
import logging
import threading
from pathlib import Path

import pytest
import torch

from mvit_video.engine.checkpoints import (
    CheckpointError,
    CheckpointWriter,
    Snapshot,
    files,
    load_latest,
    save_checkpoint,
)
from tests import interpreters
from tests.engine.checkpoints.test_checkpoint import names_in, state_of

WAIT_S = 30


class Gate:
    """A writer that waits to be let through, so that a test decides what happens during a save."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open = threading.Event()
        self.started = threading.Event()
        self.active = 0
        self.most_active = 0

    def __call__(self, state, step, best):
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        self.started.set()
        assert self.open.wait(WAIT_S)
        save_checkpoint(self.folder, state, step=step, best=best)
        self.active -= 1


def test_the_checkpoint_holds_the_weights_of_its_step(tmp_path):
    """Training changes weights and optimizer state in place while the file is written."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    wanted = {name: value.clone() for name, value in model.state_dict().items()}
    gate = Gate(tmp_path)
    with CheckpointWriter(gate) as writer:
        state = state_of(1, model=model.state_dict(), optimizer=optimizer.state_dict())
        writer.save(state, step=1)
        assert gate.started.wait(WAIT_S)
        optimizer.step()
        state["optimizer"]["param_groups"][0]["lr"] = 7.0
        gate.open.set()
    saved = load_latest(tmp_path)
    assert all(torch.equal(saved["model"][name], value) for name, value in wanted.items())
    assert not torch.equal(model.weight, wanted["weight"])
    assert saved["optimizer"]["state"][0]["step"] == 1
    assert saved["optimizer"]["param_groups"][0]["lr"] == 1e-3


def test_the_second_save_waits_for_the_first_and_uses_its_memory(tmp_path):
    gate = Gate(tmp_path)
    with CheckpointWriter(gate) as writer:
        writer.save(state_of(1), step=1)
        assert gate.started.wait(WAIT_S)
        assert names_in(tmp_path) == []
        threading.Timer(0.2, gate.open.set).start()
        writer.save(state_of(2), step=2)
        assert load_latest(tmp_path)["step"] >= 1  # the first was complete before the second began
    assert gate.most_active == 1
    assert load_latest(tmp_path)["model"]["weight"].tolist() == [[2.0, 2.0]] * 3


def test_a_snapshot_uses_its_buffers_again():
    snapshot = Snapshot()
    first, ready = snapshot.take({"a": torch.ones(3), "b": [torch.zeros(2), "text", None, (1, 2.0)]})
    ready()
    second, _ = snapshot.take({"a": torch.full((3,), 2.0), "b": [torch.zeros(4), "text", None, (1, 2.0)]})
    assert second["a"].data_ptr() == first["a"].data_ptr()
    assert second["a"].tolist() == [2.0, 2.0, 2.0]
    assert second["b"][0].shape == (4,)
    assert second["b"][1:] == ["text", None, (1, 2.0)]


def test_the_last_save_is_on_disk_when_it_returns(tmp_path):
    writer = CheckpointWriter(lambda state, step, best: save_checkpoint(tmp_path, state, step=step))
    writer.save(state_of(1), step=1)
    writer.save(state_of(2), step=2, wait=True)
    assert [path.stem for path in sorted(tmp_path.glob("*.pt"))] == ["step_00000001", "step_00000002"]


def failing(state, step, best):
    raise CheckpointError(f"checkpoint {step} could not be written (No space left on device)")


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_is_a_warning_and_the_next_save_works(tmp_path, monkeypatch, caplog, background):
    def write(state, step, best):
        save_checkpoint(tmp_path, state, step=step, best=best)

    with CheckpointWriter(write, background=background) as writer:
        writer.save(state_of(1), step=1)
        writer.close()
        fill_disk(monkeypatch)
        writer.save(state_of(2), step=2, best=True)
        writer.close()
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "step_00000002.pt could not be written ([Errno 28] No space left on device; " in caplog.text
        assert "MiB are free there): free space or fix" in caplog.text
        assert "Training goes on; the next save tries again" in caplog.text
        assert names_in(tmp_path) == ["step_00000001.json", "step_00000001.pt"]
        assert writer.lost_best
        monkeypatch.undo()
        writer.save(state_of(3), step=3)
    assert load_latest(tmp_path)["step"] == 3


def fill_disk(monkeypatch):
    class FullFile:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    write = files.HashingWriter.write

    def full(self, data):
        self._file = FullFile()
        return write(self, data)

    monkeypatch.setattr(files.HashingWriter, "write", full)


@pytest.mark.parametrize("background", [True, False])
def test_the_last_save_raises(background):
    writer = CheckpointWriter(failing, background=background)
    with pytest.raises(CheckpointError, match="checkpoint 5 could not be written"):
        writer.save(state_of(5), step=5, wait=True)
    writer.close()  # told once


def test_an_error_that_is_not_of_the_disk_comes_up_at_the_next_step():
    def broken(state, step, best):
        raise TypeError("a bug")

    writer = CheckpointWriter(broken)
    writer.save(state_of(1), step=1)
    writer._thread.join(WAIT_S)
    with pytest.raises(TypeError, match="a bug"):
        writer.check()
    writer.check()


def test_check_does_not_wait(tmp_path):
    gate = Gate(tmp_path)
    with CheckpointWriter(gate) as writer:
        writer.save(state_of(1), step=1)
        writer.check()
        assert gate.active or not gate.started.is_set()
        gate.open.set()


def test_a_hanging_disk_is_an_error(tmp_path):
    gate = Gate(tmp_path)
    writer = CheckpointWriter(gate, timeout_s=0.05)
    writer.save(state_of(1), step=1)
    with pytest.raises(CheckpointError, match=r"checkpoint of step 1 is still being written after another 0\.05 s"):
        writer.save(state_of(2), step=2)
    gate.open.set()
    writer.close(timeout_s=WAIT_S)


def test_the_error_of_the_run_is_the_one_that_is_shown(caplog):
    with pytest.raises(ZeroDivisionError), CheckpointWriter(failing) as writer:
        writer.save(state_of(1), step=1)
        raise ZeroDivisionError
    assert "checkpoint 1 could not be written" in caplog.text


# Writers that save in the background without end while they change the state in place, each killed with signal 9 a
# random time after as many saves as a random number says. They are forked, so that torch is imported once.
KILL_WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from mvit_video.engine.checkpoints import CheckpointWriter
from mvit_video.engine.checkpoints import load_checkpoint, load_latest, save_checkpoint

def train_without_end(folder, saved):
    state = load_latest(folder)
    step = state["step"] if state else 0
    weights = torch.full((200_000,), float(step))
    def write(state, step, best):
        save_checkpoint(folder, state, step=step, keep_last=2, best=best)
        os.write(saved, b".")
    writer = CheckpointWriter(write)
    while True:
        step += 1
        weights.add_(1.0)
        state = {"step": step, "epoch": 0, "model": {"w": weights}}
        state |= {"optimizer": {}, "ema": None, "config": "", "metrics": {}}
        writer.save(state, step=step, best=step % 3 == 0)

folder = Path(sys.argv[1])
rng = random.Random(1)
for _ in range(int(sys.argv[2])):
    told, saved = os.pipe()
    writer = os.fork()
    if writer == 0:
        train_without_end(folder, saved)
    for _ in range(rng.randint(0, 2)):
        os.read(told, 1)
    time.sleep(rng.uniform(0, 0.03))
    os.close(told)
    os.close(saved)
    os.kill(writer, signal.SIGKILL)
    _, status = os.waitpid(writer, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, "the writer ended by itself"
    state = load_latest(folder)
    if state is not None:
        assert torch.equal(state["model"]["w"], torch.full((200_000,), float(state["step"])))
    best = folder / "best.pt"
    print(state["step"] if state else 0, load_checkpoint(best)["step"] if best.exists() else 0, flush=True)
"""


@pytest.mark.slow
def test_kill_9_during_background_saves(tmp_path):
    done = interpreters.run("-c", KILL_WRITERS, str(tmp_path), "60", check=True)
    latest, best = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert len(latest) == 60
    assert list(latest) == sorted(latest)
    assert latest[-1] > latest[0]  # how far the saves came is the machine's affair
    assert list(best) == sorted(best)
    assert best[-1] > 0
