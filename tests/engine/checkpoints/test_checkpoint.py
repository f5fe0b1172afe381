"""Checkpoints: what they hold, that no fault leaves a folder a run cannot resume from."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mvit_video.engine.checkpoints import (
    CheckpointError,
    files,
    latest_checkpoint,
    load_checkpoint,
    load_latest,
    save_checkpoint,
    single,
)
from tests import interpreters


def state_of(step: int, **changes) -> dict:
    return {
        "step": step,
        "epoch": step / 10,
        "model": {"weight": torch.full((3, 2), float(step))},
        "optimizer": {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": [{"betas": (0.9, 0.999)}]},
        "ema": None,
        "config": "model: {}\n",
        "metrics": {"video_top1": 50.0},
        **changes,
    }


def save(folder: Path, *steps: int, **options) -> Path:
    for step in steps:
        path = save_checkpoint(folder, state_of(step), step=step, **options)
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


class TestSaveAndLoad:
    def test_round_trip(self, tmp_path):
        path = save_checkpoint(tmp_path / "new" / "folder", state_of(1234, best=0.5), step=1234)
        assert path == tmp_path / "new" / "folder" / "step_00001234.pt"
        state = load_latest(path.parent)
        assert state["format"] == 1
        assert (state["step"], state["epoch"], state["config"], state["best"]) == (1234, 123.4, "model: {}\n", 0.5)
        assert state["model"]["weight"].tolist() == [[1234.0, 1234.0]] * 3
        assert state["optimizer"]["param_groups"] == [{"betas": (0.9, 0.999)}]

    def test_manifest(self, tmp_path):
        path = save(tmp_path, 20)
        manifest = json.loads(path.with_suffix(".json").read_text())
        assert manifest["size"] == path.stat().st_size
        assert manifest["sha256"] == files.sha256_of(path)
        assert (manifest["step"], manifest["epoch"], manifest["metrics"]) == (20, 2.0, {"video_top1": 50.0})
        assert manifest["time"] > 1.6e9

    def test_a_real_model_and_optimizer(self, tmp_path):
        model = nn.Sequential(nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4))
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        model(torch.ones(2, 3, 2, 2, 2)).sum().backward()
        optimizer.step()
        ema = AveragedModel(model)
        state = state_of(1, model=model.state_dict(), optimizer=optimizer.state_dict(), ema=ema.state_dict())
        save_checkpoint(tmp_path, state, step=1)
        loaded = load_latest(tmp_path)
        fresh = nn.Sequential(nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4))
        fresh.load_state_dict(loaded["model"])
        assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in model.state_dict().items())
        other = torch.optim.AdamW(fresh.parameters(), fused=True)
        other.load_state_dict(loaded["optimizer"])
        for old, new in zip(optimizer.state.values(), other.state.values(), strict=True):
            assert all(torch.equal(old[key], new[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
        ema.load_state_dict(loaded["ema"])

    def test_no_checkpoint(self, tmp_path):
        assert load_latest(tmp_path / "absent") is None
        assert latest_checkpoint(tmp_path) is None

    @pytest.mark.parametrize(
        ("state", "message"),
        [
            (
                state_of(5, metrics={"top1": np.float64(1.0)}),
                r"state\['metrics'\]\['top1'\] is a numpy.float64: .*convert",
            ),
            (state_of(5, model={"a": [np.zeros(2)]}), r"state\['model'\]\['a'\]\[0\] is a numpy.ndarray"),
            (state_of(5, config=Path("x")), r"state\['config'\] is a pathlib"),
            (state_of(5, optimizer={(1, 2): 3}), r"state\['optimizer'\] has the key \(1, 2\)"),
            (state_of(6), "of step 6, but step is 5"),
            ({"step": 5, "model": {}}, "lacks config, ema, epoch, metrics, optimizer"),
        ],
    )
    def test_a_state_that_would_not_load_is_refused(self, tmp_path, state, message):
        with pytest.raises(ValueError, match=message):
            save_checkpoint(tmp_path, state, step=5)
        assert names_in(tmp_path) == []

    def test_load_checkpoint_refuses_what_is_none(self, tmp_path):
        torch.save({"model": {}}, tmp_path / "other.pt")
        with pytest.raises(
            CheckpointError, match=r"no training checkpoint of this version \(format None, expected 1\)"
        ):
            load_checkpoint(tmp_path / "other.pt")
        torch.save({"format": 1, "model": {}}, tmp_path / "part.pt")
        with pytest.raises(CheckpointError, match=r"lacks config, ema, epoch"):
            load_checkpoint(tmp_path / "part.pt")
        with pytest.raises(CheckpointError, match=r"step_00000001\.pt does not exist"):
            load_checkpoint(tmp_path / "step_00000001.pt")
        with pytest.raises(CheckpointError, match="is a folder: name a file in it"):
            load_checkpoint(tmp_path)


class TestKeeping:
    def test_keeps_the_last_ones(self, tmp_path):
        save(tmp_path, 1, 2, 3, 4, keep_last=2)
        assert names_in(tmp_path) == [
            "step_00000003.json",
            "step_00000003.pt",
            "step_00000004.json",
            "step_00000004.pt",
        ]
        with pytest.raises(ValueError, match="keep_last is 0"):
            save(tmp_path, 5, keep_last=0)

    def test_the_best_outlives_its_step(self, tmp_path):
        save(tmp_path, 1)
        save(tmp_path, 2, best=True)
        save(tmp_path, 3, 4, keep_last=1)
        assert names_in(tmp_path) == ["best.json", "best.pt", "step_00000004.json", "step_00000004.pt"]
        assert load_checkpoint(tmp_path / "best.pt")["step"] == 2
        save(tmp_path, 5, best=True)
        assert load_checkpoint(tmp_path / "best.pt")["step"] == 5
        assert load_latest(tmp_path)["step"] == 5

    def test_best_without_hard_links(self, tmp_path, monkeypatch):
        def refuse(*arguments):
            raise PermissionError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
        save(tmp_path, 2, best=True)
        assert load_checkpoint(tmp_path / "best.pt")["step"] == 2

    def test_a_damaged_best_is_noticed(self, tmp_path):
        save(tmp_path, 2, best=True)
        save(tmp_path, 3, keep_last=1)
        flip_a_byte(tmp_path / "best.pt")
        with pytest.raises(CheckpointError, match=r"best\.pt is damaged: its sha256 is"):
            load_checkpoint(tmp_path / "best.pt")

    def test_the_newest_is_the_last_saved_not_the_highest_step(self, tmp_path):
        save(tmp_path, 10, 20, 30)
        flip_a_byte(tmp_path / "step_00000030.pt")
        assert load_latest(tmp_path)["step"] == 20
        save(tmp_path, 25, keep_last=1)  # what a run resumed at 20 saves next
        assert latest_checkpoint(tmp_path).name == "step_00000025.pt"
        assert names_in(tmp_path) == ["step_00000025.json", "step_00000025.pt"]

    def test_saving_a_step_again_replaces_it(self, tmp_path):
        save(tmp_path, 10)
        save_checkpoint(tmp_path, state_of(10, config="second"), step=10)
        assert load_latest(tmp_path)["config"] == "second"
        assert json.loads((tmp_path / "step_00000010.json").read_text())["replaces"] is None


class TestDamage:
    def test_flipped_byte_falls_back(self, tmp_path, caplog):
        save(tmp_path, 1, 2)
        flip_a_byte(tmp_path / "step_00000002.pt")
        assert load_latest(tmp_path)["step"] == 1
        assert "step_00000002.pt is damaged: its sha256 is" in caplog.text
        assert "falling back" in caplog.text

    def test_truncated_file_falls_back(self, tmp_path, caplog):
        save(tmp_path, 1, 2)
        path = tmp_path / "step_00000002.pt"
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:100])
        assert load_latest(tmp_path)["step"] == 1
        assert latest_checkpoint(tmp_path).name == "step_00000001.pt"
        assert f"it has 100 bytes, {size} were written" in caplog.text

    def test_damaged_manifest_falls_back(self, tmp_path, caplog):
        save(tmp_path, 1, 2)
        (tmp_path / "step_00000002.json").write_text("{")
        assert load_latest(tmp_path)["step"] == 1
        (tmp_path / "step_00000001.json").write_text("[]")
        with pytest.raises(
            CheckpointError,
            match=r"step_00000002\.pt, step_00000001\.pt damaged|step_00000001\.pt, step_00000002\.pt damaged",
        ):
            load_latest(tmp_path)
        assert "step_00000001.json of checkpoint step_00000001.pt is damaged" in caplog.text

    def test_nothing_starts_afresh_silently_when_all_are_damaged(self, tmp_path):
        save(tmp_path, 1, 2)
        flip_a_byte(tmp_path / "step_00000001.pt")
        flip_a_byte(tmp_path / "step_00000002.pt")
        with pytest.raises(CheckpointError, match=r"step_00000002\.pt, step_00000001\.pt damaged\): restore one"):
            load_latest(tmp_path)

    def test_leftovers_of_a_killed_save(self, tmp_path):
        save(tmp_path, 1)
        (tmp_path / ".step_00000002.pt.4242.tmp").write_bytes(b"half")
        (tmp_path / "step_00000002.pt").write_bytes(b"renamed, but without a manifest")
        (tmp_path / "step_00000000.json").write_text("{}")
        (tmp_path / "notes.json").write_text("not ours")
        assert load_latest(tmp_path)["step"] == 1
        save(tmp_path, 3)
        assert names_in(tmp_path) == [
            "notes.json",
            "step_00000001.json",
            "step_00000001.pt",
            "step_00000003.json",
            "step_00000003.pt",
        ]

    @pytest.mark.parametrize("name", ["step_00000010.pt", "best.pt"])
    def test_killed_between_manifest_and_file_when_replacing(self, tmp_path, monkeypatch, name):
        """The one window in which a manifest does not describe the file beside it."""
        save(tmp_path, 10, best=True)
        renamed = os.replace

        def killed(source, target):
            if Path(target).name == name:
                raise KeyboardInterrupt
            renamed(source, target)

        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, state_of(10, config="second"), step=10, best=True)
        monkeypatch.undo()
        assert load_checkpoint(tmp_path / name)["config"] == "model: {}\n"
        assert latest_checkpoint(tmp_path) is not None
        save_checkpoint(tmp_path, state_of(10, config="third"), step=10, best=True)
        assert load_checkpoint(tmp_path / name)["config"] == "third"


class TestFullDisk:
    @pytest.mark.parametrize("writes", [0, 1, 5])
    def test_full_while_writing(self, tmp_path, monkeypatch, writes):
        save(tmp_path, 1, best=True)
        write = files.HashingWriter.write
        count = 0

        class FullFile:
            def write(self, data):
                raise OSError(errno.ENOSPC, "No space left on device")

        def limited(self, data):
            nonlocal count
            count += 1
            if count > writes:
                self._file = FullFile()
            return write(self, data)

        monkeypatch.setattr(files.HashingWriter, "write", limited)
        message = r"could not be written .*No space left on device; [\d,.]+ MiB are free there\): free space"
        with pytest.raises(CheckpointError, match=message):
            save(tmp_path, 2)
        monkeypatch.undo()
        assert names_in(tmp_path) == ["best.json", "best.pt", "step_00000001.json", "step_00000001.pt"]
        assert load_latest(tmp_path)["step"] == 1
        save(tmp_path, 3)
        assert load_latest(tmp_path)["step"] == 3

    def test_full_when_flushing(self, tmp_path, monkeypatch):
        save(tmp_path, 1)

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left"):
            save(tmp_path, 2)
        monkeypatch.undo()
        assert load_latest(tmp_path)["step"] == 1

    def test_it_became_read_only_while_writing(self, tmp_path, monkeypatch):
        """Then what was begun cannot be removed either; training goes on all the same, see CheckpointWriter."""
        save(tmp_path, 1)

        def refuse(*_):
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(os, "fsync", refuse)
        monkeypatch.setattr(files, "_remove", refuse)
        with pytest.raises(CheckpointError, match="Read-only file system"):
            save(tmp_path, 2)
        monkeypatch.undo()
        assert load_latest(tmp_path)["step"] == 1
        save(tmp_path, 3)
        assert not [name for name in names_in(tmp_path) if name.startswith(".")]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_the_kernel_says_full(self, tmp_path, monkeypatch):
        save(tmp_path, 1)
        monkeypatch.setattr(single, "temporary", lambda target: Path("/dev/full"))
        with pytest.raises(CheckpointError, match="No space left on device"):
            save_checkpoint(tmp_path, state_of(2, model={"big": torch.zeros(1_000_000)}), step=2)
        monkeypatch.undo()
        assert load_latest(tmp_path)["step"] == 1


# Starts writers that save without end and kills each with signal 9, a random time after a random number of saves: the
# first may take any time on a busy machine. The writers are forked, so that torch is imported once.
KILL_WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from mvit_video.engine.checkpoints import load_checkpoint, load_latest, save_checkpoint

def save_without_end(folder, saved):
    state = load_latest(folder)
    step = state["step"] if state else 0
    while True:
        step += 1
        state = {"step": step, "epoch": 0, "model": {"w": torch.full((50_000,), float(step))}}
        state |= {"optimizer": {}, "ema": None, "config": "", "metrics": {}}
        save_checkpoint(folder, state, step=step, keep_last=1, best=step % 3 == 0)
        os.write(saved, b".")

folder = Path(sys.argv[1])
rng = random.Random(0)
for _ in range(12):
    told, saved = os.pipe()
    writer = os.fork()
    if writer == 0:
        save_without_end(folder, saved)
    for _ in range(rng.randint(0, 4)):
        os.read(told, 1)
    time.sleep(rng.uniform(0, 0.05))
    os.close(told)
    os.close(saved)
    os.kill(writer, signal.SIGKILL)
    _, status = os.waitpid(writer, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, "the writer ended by itself"
    state = load_latest(folder)
    if state is not None:
        assert torch.equal(state["model"]["w"], torch.full((50_000,), float(state["step"])))
    best = folder / "best.pt"
    print(state["step"] if state else 0, load_checkpoint(best)["step"] if best.exists() else 0, flush=True)
"""


def test_kill_9_at_any_moment_leaves_a_complete_checkpoint(tmp_path):
    done = interpreters.run("-c", KILL_WRITERS, str(tmp_path), check=True)
    latest, best = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert len(latest) == 12
    assert list(latest) == sorted(latest)  # no saved step is lost, although a single checkpoint is kept
    assert latest[-1] > latest[0]
    assert list(best) == sorted(best)
    assert best[-1] > 0
    assert all(step % 3 == 0 for step in best)
