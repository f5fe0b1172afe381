"""A training holds its run directory, and another attempt changes nothing in it."""

import json
import os
from pathlib import Path

import pytest
import torch

from mvit_video import build
from mvit_video.distributed.exclusive import exclusive_run
from mvit_video.distributed.process_group import World
from mvit_video.runtime.run_lock import LOCK_FILE, RunLock, RunLockedError
from tests.conftest import motion_overrides, options

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_a_training_is_refused_while_another_one_runs_and_takes_a_killed_ones_place(
    motion_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = options(*motion_overrides(motion_root, tmp_path, "trainer.max_steps=1", "trainer.eval_every=9"))
    with RunLock(config.run_dir) as lock:
        with pytest.raises(RunLockedError, match=f"is being trained by process {os.getpid()} on"):
            build.train(config)
        assert [path.name for path in config.run_dir.iterdir()] == [LOCK_FILE]
        left_behind = json.loads(lock.path.read_text())
    # What a killed process leaves: its lock, with an id that is another process's now.
    lock.path.write_text(json.dumps({**left_behind, "process_start": "1"}))
    build.train(config)
    assert f"process {os.getpid()} is another one now" in caplog.text
    assert (config.run_dir / "config.yaml").exists()
    assert not lock.path.exists()


def test_the_lock_goes_with_a_training_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out of luck"), exclusive_run(tmp_path, ALONE):
        assert (tmp_path / LOCK_FILE).exists()
        raise ValueError("out of luck")
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_run_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError), exclusive_run(tmp_path / "file" / "run", ALONE):
        pytest.fail("not reached")
