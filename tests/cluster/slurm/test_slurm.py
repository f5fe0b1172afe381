"""Training on a real SLURM of two nodes, and everything a cluster does to a job."""

import json
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mvit_video.cluster.rank_status import read_statuses
from mvit_video.runtime.journal import read_events
from tests.cluster.slurm.conftest import Cluster, wait_for
from tests.cluster.slurm.held_model import held
from tests.conftest import small_overrides
from tests.distributed.four_ranks import start_forked

SLURM = (
    "launcher=slurm",
    "launcher.nodes=2",
    "launcher.tasks_per_node=2",
    "launcher.gpus_per_node=0",
    "launcher.cpus_per_task=1",
    "launcher.partition=low",
)


def slurm_overrides(root: Path, output: Path, *more: str) -> Sequence[str]:
    """Ranks with two videos each, two of them on each of two nodes unless `more` says otherwise."""
    return [*short_overrides(root, output), *SLURM, *more]


def short_overrides(root: Path, output: Path, *more: str) -> Sequence[str]:
    """A training that goes on, slowly, until the file `released` is in its output folder."""
    short = ("trainer.batch_size=2", "trainer.num_workers=1", "data.test_temporal_views=1", "trainer.eval_every=99")
    quick = "trainer.trackers=[]"  # TensorBoard is imported a second long, in every start
    return [*small_overrides(root, output), *held(output / "released"), *short, quick, *more]


def last_step(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    steps = re.findall(r'"step": (\d+)', path.read_text()) if path.exists() else []
    return max(map(int, steps), default=0)


def weights(run_dir: Path) -> dict[str, Any]:
    newest = max((run_dir / "checkpoints").glob("step_*.pt"))
    return torch.load(newest, weights_only=True)["model"]


def events_of(run_dir: Path, event: str) -> list[dict[str, Any]]:
    return [entry for entry in read_events(run_dir) if entry["event"] == event]


def rank_process(run_dir: Path, rank: int) -> int:
    """Process id of a rank of the run, by its environment."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        mine = any(str(run_dir).encode() in variable for variable in environment)
        if b"mvit_video.cluster.rank" in words and mine and f"RANK={rank}".encode() in environment:
            return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")


def goes_on(run_dir: Path, after: int = -1) -> int:
    """Wait until the run was started again since start number `after`, and has made a step; the number of that start.

    It need not be the next number: on a busy machine SLURM's credential may expire before the tasks are launched, and
    the job is then started once more.
    """

    def newest() -> dict[str, Any]:
        return max(events_of(run_dir, "start"), key=lambda event: event["restart"], default={"restart": -1})

    def last_logged() -> float:
        path = run_dir / "metrics.jsonl"
        times = re.findall(r'"time": ([\d.]+)', path.read_text()) if path.exists() else []
        return max(map(float, times), default=0.0)

    wait_for(f"a start after number {after}", lambda: newest()["restart"] > after)
    wait_for(f"a step after that of number {after}", lambda: last_logged() > newest()["time"])
    return int(newest()["restart"])


@pytest.mark.slow
def test_every_fault_and_the_weights_of_an_undisturbed_run(cluster: Cluster, motion_root: Path, tmp_path: Path) -> None:
    """A training is warned, loses a rank, is requeued, preempted, loses a node: it ends as if nothing had been."""
    common = ("schedule.epochs=6", "trainer.checkpoint_every=2", "trainer.keep_last=2")
    # Should a rank hang, it ends with the stacks of its threads long before the time limit of the test.
    alone = short_overrides(motion_root, tmp_path / "alone", *common, "trainer.stall_timeout_s=180")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "released").touch()
    reference = start_forked(tmp_path, train={2: alone})  # while the job waits for its node
    disturbed = tmp_path / "tiny"
    (job,) = cluster.submit(slurm_overrides(motion_root, tmp_path, "launcher.tasks_per_node=1", *common))
    start = goes_on(disturbed)

    cluster.run("scancel", "--signal=USR2", job)  # the warning before a time limit
    start = goes_on(disturbed, start)
    assert [event["status"] for event in events_of(disturbed, "end")] == ["saved"]

    os.kill(rank_process(disturbed, 1), signal.SIGKILL)
    start = goes_on(disturbed, start)
    assert events_of(disturbed, "end")[-1]["cause"] == "rank 1 of 2 on node2: killed by SIGKILL"

    cluster.run("scontrol", "requeue", job)  # no warning
    start = goes_on(disturbed, start)

    urgent = cluster.run(
        "sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2"
    )
    start = goes_on(disturbed, start)
    assert cluster.job(urgent.strip())["JobState"] == "COMPLETED"
    assert events_of(disturbed, "end")[-1]["status"] == "saved"

    cluster.testbed("cut", "node2")
    wait_for("the lost node is noticed", lambda: "RUNNING" not in cluster.job(job)["JobState"])
    cluster.testbed("mend", "node2")
    goes_on(disturbed, start)

    (tmp_path / "released").touch()
    wait_for("the end", lambda: cluster.job(job)["JobState"] == "COMPLETED")
    assert events_of(disturbed, "end")[-1]["status"] == "done"

    undisturbed = tmp_path / "alone" / "tiny"
    assert reference.wait() == 0, reference.output()[1]
    expected, found = weights(undisturbed), weights(disturbed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    losses = [
        {line["step"]: line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").open()) if "loss" in line}
        for folder in (undisturbed, disturbed)
    ]
    assert losses[0] == losses[1]


def test_scancel_ends_a_job_promptly(cluster: Cluster, motion_root: Path, tmp_path: Path) -> None:
    more = ("launcher.tasks_per_node=1", "schedule.epochs=500", "name=cancelled")
    (job,) = cluster.submit(slurm_overrides(motion_root, tmp_path, *more))
    run_dir = tmp_path / "cancelled"
    wait_for("the first step", lambda: last_step(run_dir) > 0)
    pid = rank_process(run_dir, 0)
    cluster.run("scancel", job)
    wait_for("the rank has ended", lambda: not Path(f"/proc/{pid}").exists(), seconds=30)
    wait_for("the job has ended", lambda: cluster.job(job)["JobState"] == "CANCELLED", seconds=60)
    # A supervisor that waits for SLURM's SIGKILL can write nothing down.
    assert [rank.status for rank in read_statuses(run_dir / "slurm" / "ranks", job, 0)] == ["cancelled"] * 2


def test_a_failing_run_is_tried_again_and_then_given_up_with_its_reason(
    cluster: Cluster, motion_root: Path, tmp_path: Path
) -> None:
    (job,) = cluster.submit(
        slurm_overrides(
            motion_root,
            tmp_path,
            "weights=/nowhere/weights.pyth",
            "launcher.nodes=1",
            "launcher.tasks_per_node=1",
            "launcher.max_failures=1",
            "name=failing",
        )
    )
    wait_for("the job is given up", lambda: cluster.job(job)["JobState"] == "FAILED")
    first, second = events_of(tmp_path / "failing", "end")
    assert "/nowhere/weights.pyth" in first["cause"] and first["cause"].startswith("rank 0 of 1 on node1")
    assert "not started again after 2 failures" in second["cause"]
    log = next((tmp_path / "failing" / "slurm").glob("*_log.err")).read_text()
    assert f"job {job} will be started again" in log


def test_a_sweep_is_a_job_array(cluster: Cluster, motion_root: Path, tmp_path: Path) -> None:
    overrides = slurm_overrides(
        motion_root,
        tmp_path,
        "optim.lr=1e-3,2e-3",
        "trainer.max_steps=1",
        "launcher.nodes=1",
        "launcher.tasks_per_node=1",
        "name=swept",
    )
    jobs = cluster.submit(["--multirun", *overrides])
    assert len(jobs) == 2 and {job.split("_")[1] for job in jobs} == {"0", "1"}
    for lr in ("0.001", "0.002"):
        run_dir = tmp_path / f"swept-lr-{lr}"
        wait_for(
            f"the end of {run_dir.name}", lambda d=run_dir: any(e["status"] == "done" for e in events_of(d, "end"))
        )
        assert f"lr: {lr}" in (run_dir / "config.yaml").read_text()


@pytest.mark.slow
def test_a_queue_of_jobs_goes_on_and_an_evaluation_is_no_start_of_the_run(
    cluster: Cluster, motion_root: Path, tmp_path: Path
) -> None:
    common = [*slurm_overrides(motion_root, tmp_path, "name=queued"), "launcher.nodes=1"]
    jobs = cluster.submit([*common, "launcher.chain=2", "schedule.epochs=6"])
    run_dir = tmp_path / "queued"
    assert cluster.job(jobs[1])["Dependency"].startswith(f"afterany:{jobs[0]}")
    goes_on(run_dir)
    cluster.run("scancel", "--signal=USR2", jobs[0])  # as SLURM does shortly before the time limit
    (tmp_path / "released").touch()
    for job in jobs:
        wait_for(f"the end of job {job}", lambda j=job: cluster.job(j)["JobState"] == "COMPLETED")
    ends = [(event["job"], event["status"], event["restart"]) for event in events_of(run_dir, "end")]
    assert ends == [(jobs[0], "saved", 0), (jobs[1], "done", 0)]
    assert last_step(run_dir) == 6 * 8  # 32 videos, two ranks of two

    (job,) = cluster.submit([*common, "launcher.tasks_per_node=1"], command="evaluate")
    wait_for("the end of the evaluation", lambda: cluster.job(job)["JobState"] == "COMPLETED")
    result = json.loads((run_dir / "evaluation" / "results.json").read_text())
    assert result["num_videos"] == 16
    assert len(events_of(run_dir, "start")) == 2
    assert [event["status"] for event in events_of(run_dir / "evaluation_job", "end")] == ["done"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("launcher.partition=nonesuch", "SLURM refused the job: .*invalid partition"),
        ("launcher.gpus_per_node=9", "SLURM refused the job: .*[Rr]equested node configuration is not available"),
    ],
)
def test_what_slurm_refuses_is_said_in_its_words(
    cluster: Cluster, motion_root: Path, tmp_path: Path, override: str, message: str
) -> None:
    done = cluster.train(slurm_overrides(motion_root, tmp_path, override), check=False)
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr
