"""The launcher: options to SLURM parameters, and a job's text without a cluster."""

from pathlib import Path
from typing import Any

import pytest

from mvit_video import launch
from mvit_video.config import SlurmLauncher
from tests.conftest import options


def job(config: Any) -> str:
    return f"ran {config.name}"


def test_local_runs_here() -> None:
    assert launch.launch(job, options("+experiment=motion_mvitv2", "trainer.device=cpu")) == "ran motion_mvitv2"


def test_slurm_parameters() -> None:
    launcher = SlurmLauncher(nodes=8, gpus_per_node=8, partition="video", mem_gb=400, setup=["module load cuda"])
    parameters = launch.slurm_parameters("run", launcher)
    assert parameters == {
        "job_name": "run",
        "nodes": 8,
        "ntasks_per_node": 8,
        "cpus_per_task": 8,
        "time": 1440,
        "srun_args": ["--kill-on-bad-exit=1"],
        "setup": ["module load cuda"],
        "additional_parameters": {},
        "gpus_per_node": 8,
        "mem": "400GB",
        "partition": "video",
    }


def test_a_cpu_job_asks_for_no_gpus() -> None:
    parameters = launch.slurm_parameters("run", SlurmLauncher(gpus_per_node=0, tasks_per_node=2))
    assert "gpus_per_node" not in parameters
    assert parameters["ntasks_per_node"] == 2


def test_dry_run_prints_the_script_and_submits_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = options(
        "+experiment=motion_mvitv2",
        "launcher=slurm",
        "launcher.nodes=2",
        "launcher.account=vision",
        "launcher.dry_run=true",
        "+launcher.sbatch.reservation=friday",
        f"output_dir={tmp_path}",
    )
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch, no srun
    assert launch.launch(job, config) is None
    text = capsys.readouterr().out
    for line in ("#SBATCH --nodes=2", "#SBATCH --gpus-per-node=8", "#SBATCH --account=vision", "--reservation=friday"):
        assert line in text
    assert "--kill-on-bad-exit=1" in text
    assert not list(tmp_path.rglob("*.pkl"))


def test_without_slurm_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    config = options("+experiment=motion_mvitv2", "launcher=slurm", f"output_dir={tmp_path}")
    with pytest.raises(RuntimeError, match=r"no sbatch on this machine: .* launcher=local"):
        launch.launch(job, config)
