"""Running jobs here: in this process and in several."""

import json
import logging
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError

from mvit_video import train
from mvit_video.cluster import launch, processes, submit
from mvit_video.cluster.rank_status import read_statuses
from mvit_video.engine.checkpoints import load_latest
from mvit_video.runtime import interruption
from mvit_video.runtime.interruption import EXIT_INTERRUPTED, Interrupted
from mvit_video.runtime.journal import read_events
from mvit_video.runtime.processes import process_start
from mvit_video.runtime.run_lock import RunLock, RunLockedError
from tests import interpreters
from tests.conftest import motion_overrides, options, small_overrides
from tests.paths import ROOT


def job(config: Any) -> str:
    return f"ran {config.name}"


def rank_job(config: Any) -> str:
    return f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"


def failing_on_rank_1(config: Any) -> str:
    if os.environ["RANK"] == "1":
        raise ValueError("rank 1 has had enough")
    time.sleep(60)
    return "not reached"


def killed_the_first_time(config: Any) -> list[int]:
    """Rank 1 is killed while rank 0 waits for it; started again, all ranks meet."""
    from mvit_video.distributed.process_group import gather_to_all, world

    start = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    try:
        with world(torch.device("cpu"), timeout_s=60) as here:
            gather_to_all(start, here)
            if here.rank == 1 and start == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return gather_to_all(start, here)
    except RuntimeError as error:
        Path(config.output_dir, "said").write_text(str(error))
        raise


def interrupted(config: Any) -> None:
    raise Interrupted("saved at step 3")


def voting(config: Any) -> list[bool]:
    """Rank 1 is asked to stop before the third step."""
    import torch

    from mvit_video.distributed.process_group import StopVote, world

    with world(torch.device("cpu"), timeout_s=60) as here:
        vote = StopVote(here, timeout_s=60)
        return [vote.ask(here.rank == 1 and step == 2)() for step in range(4)]


def locked(config: Any) -> str:
    """What build.train does before anything else."""
    import torch

    from mvit_video.distributed.exclusive import exclusive_run
    from mvit_video.distributed.process_group import world

    with world(torch.device("cpu"), timeout_s=60) as here, exclusive_run(config.run_dir, here):
        return "trained"


def losing_a_rank(config: Any) -> str:
    """Rank 1 never answers."""
    import torch

    from mvit_video.distributed.process_group import StopVote, world

    with world(torch.device("cpu"), timeout_s=60) as here:
        vote = StopVote(here, timeout_s=2)
        answered = Path(config.output_dir) / "answered"
        while here.rank == 1 and not answered.exists():
            time.sleep(0.05)
        try:
            vote.ask(False)()
        except RuntimeError as error:
            return str(error)
        finally:
            answered.touch()
    return "answered"


def noting_that_it_ran(config: Any) -> None:
    Path(config.output_dir, "ran").touch()


def rank_whose_launcher_goes(config: Any, found: list[str | None]) -> None:
    """A rank of launcher 7, which started at 5 and is looked for twice."""
    processes.process_start = lambda pid: found.pop(0) if pid == 7 else None
    processes._run_local_rank(noting_that_it_ran, config, (7, "5"), multiprocessing.Pipe(duplex=False)[1])


@pytest.mark.parametrize(("found", "ran"), [([None], False), (["6"], False), (["5", None], True)])
def test_a_rank_ends_without_its_launcher(tmp_path: Path, found: list[str | None], ran: bool) -> None:
    """Also one whose launcher was killed before the rank had imported torch, or while the job came to its end."""
    config = options("+experiment=motion_mvitv2", "launcher.processes=2", f"output_dir={tmp_path}")
    rank = multiprocessing.get_context("fork").Process(target=rank_whose_launcher_goes, args=(config, found))
    rank.start()
    rank.join(60)
    assert rank.exitcode == 128 + signal.SIGKILL
    assert Path(tmp_path, "ran").exists() == ran


def test_local_runs_here_and_records_it(tmp_path: Path) -> None:
    config = options("+experiment=motion_mvitv2", "trainer.device=cpu", f"output_dir={tmp_path}")
    assert launch.launch(job, config) == "ran motion_mvitv2"
    start, end = read_events(config.run_dir)
    assert (start["event"], start["job"], start["pid"]) == ("start", "local", os.getpid())
    assert (end["event"], end["status"]) == ("end", "done")


def test_a_failure_is_recorded_with_its_reason(tmp_path: Path) -> None:
    config = options("+experiment=motion_mvitv2", "trainer.device=cpu", f"output_dir={tmp_path}")

    def broken(config: Any) -> None:
        raise OSError("no such folder")

    with pytest.raises(OSError, match="no such folder"):
        launch.launch(broken, config)
    assert read_events(config.run_dir)[-1]["cause"] == "no such folder"


def test_a_full_disk_hides_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(config: Any) -> None:
        monkeypatch.setattr(launch, "append_event", append_to_full_disk)
        raise RuntimeError("the loss is nan")

    def append_to_full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RuntimeError, match="the loss is nan"):
        launch.launch(fail, options("+experiment=motion_mvitv2", f"output_dir={tmp_path}"))
    assert "the end of the run could not be recorded" in caplog.text


def test_refused_options_leave_no_run_behind(tmp_path: Path) -> None:
    def refuse(config: Any) -> None:
        raise ValueError("weights=in1k: there is no such file")

    def fail(config: Any) -> None:
        raise RuntimeError("out of memory")

    config = options(*motion_overrides(tmp_path, tmp_path))
    with pytest.raises(ValueError, match="no such file"):
        launch.launch(refuse, config)
    assert not config.run_dir.exists()
    with pytest.raises(RuntimeError):
        launch.launch(fail, config)
    assert [event["event"] for event in read_events(config.run_dir)] == ["start", "end"]
    with pytest.raises(ValueError, match="no such file"):
        launch.launch(refuse, config)
    assert len(read_events(config.run_dir)) == 4  # a run that was there stays


def test_more_ranks_than_gpus_are_refused_before_any_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL would refuse them when all have started."""
    monkeypatch.setattr(processes, "run", lambda job, config, ranks: ranks)

    def ranks(gpus: int, *asked: str) -> Any:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        return launch.launch(job, options("+experiment=motion_mvitv2", f"output_dir={tmp_path}", *asked))

    refusal = "launcher.processes=2, but this machine has 1 GPU, and each takes one rank: set launcher.processes=1, or"
    with pytest.raises(ValueError, match=re.escape(refusal)):
        ranks(1, "launcher.processes=2")
    assert not any(tmp_path.iterdir())
    assert ranks(1, "launcher.processes=2", "trainer.device=cpu") == 2
    assert ranks(0, "launcher.processes=2") == ranks(2, "launcher.processes=2") == ranks(2) == 2
    assert ranks(1) == "ran motion_mvitv2"


def test_a_program_that_is_run_again_for_a_rank_is_told_to_guard_its_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    config = options("+experiment=motion_mvitv2", "launcher.processes=2", f"output_dir={tmp_path}")
    with pytest.raises(RuntimeError, match=r'the call under `if __name__ == "__main__":`, or give launcher\.pro'):
        launch.launch(rank_job, config)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


def test_several_processes(quick_ranks: None, tmp_path: Path) -> None:
    config = options("+experiment=motion_mvitv2", "launcher.processes=2", f"output_dir={tmp_path}")
    before = [signal.getsignal(number) for number in SIGNALS]
    assert launch.launch(rank_job, config) == "rank 0 of 2"
    assert [signal.getsignal(number) for number in SIGNALS] == before


def waiting_for_a_signal(config: Any) -> None:
    """Rank 0 sends SIGUSR2 to the launcher, waits until it arrives here, as the other ranks do, and sends it more."""
    interruption.install()
    launcher = int(Path(config.output_dir, "launcher").read_text())
    if os.environ["RANK"] == "0":
        os.kill(launcher, signal.SIGUSR2)
    while interruption.received() is None:
        time.sleep(0.01)
    for _ in range(3 if os.environ["RANK"] == "0" else 0):
        time.sleep(0.05)
        os.kill(launcher, signal.SIGINT)
    Path(config.output_dir, f"rank {os.environ['RANK']}").write_text(str(interruption.received()))
    raise Interrupted("as a training ends then")


def test_the_ranks_get_a_warning_that_the_launcher_gets(quick_ranks: None, tmp_path: Path) -> None:
    """And it waits for them, however often it is asked to end."""
    (tmp_path / "launcher").write_text(str(os.getpid()))
    config = options("+experiment=motion_mvitv2", "launcher.processes=2", f"output_dir={tmp_path}")
    with pytest.raises(Interrupted, match="stopped by SIGUSR2; the same command goes on"):
        launch.launch(waiting_for_a_signal, config)
    assert (tmp_path / "rank 0").read_text() == "SIGUSR2"
    assert read_events(config.run_dir)[-1]["status"] == "saved"


def refused(config: Any) -> None:
    """What a training does that finds the run locked."""
    with open(Path(config.output_dir, "starts"), "a") as file:
        file.write("x")
    raise RunLockedError("process 7 trains it")


def test_ranks_that_are_refused_do_not_start_again(quick_ranks: None, tmp_path: Path) -> None:
    """torch started them again up to launcher.max_restarts times."""
    more = ("launcher=torchrun", "launcher.processes=1", f"output_dir={tmp_path}")
    config = options("+experiment=motion_mvitv2", "trainer.device=cpu", *more)
    assert config.launcher.max_restarts == 3
    with pytest.raises(RunLockedError):
        launch.launch(refused, config)
    assert (tmp_path / "starts").read_text() == "x"
    assert read_events(config.run_dir)[-1]["status"] == "refused"


def test_the_local_launcher_starts_ranks_that_train(
    quick_ranks: None, motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command in this process; its ranks get what to do as those of fresh interpreters would."""
    quick = ("trainer.max_steps=1", "trainer.trackers=[]", "data.test_temporal_views=1")
    overrides = small_overrides(motion_root, tmp_path, "launcher.processes=2", *quick)
    monkeypatch.setattr("sys.argv", ["train", *overrides])
    train.main()
    state = load_latest(tmp_path / "tiny/checkpoints")
    assert state is not None and state["step"] == 1
    # 32 videos in steps of 2 x 8: one process would have reported twice as many steps an epoch.
    assert state["epoch"] == 0.5


def test_a_failing_rank_ends_the_others_within_seconds(quick_ranks: None, tmp_path: Path) -> None:
    config = options("+experiment=motion_mvitv2", "launcher.processes=2", f"output_dir={tmp_path}")
    with pytest.raises(RuntimeError, match=r"rank 1 of 2 ended first, with exit code 1; .*: rank 1 has had enough$"):
        launch.launch(failing_on_rank_1, config)  # the other rank sleeps for a minute: the test would take that long
    assert str(read_events(config.run_dir)[-1]["cause"]).endswith("rank 1 has had enough")


@pytest.mark.parametrize(
    ("exit_code", "said", "text"),
    [
        (
            1,
            [(0, "no such folder"), (1, "rank 1: another rank is gone")],
            "rank 0 of 4 ended .*: no such folder",
        ),
        (1, [], "rank 1 of 4 ended first, with exit code 1; .* above"),
        (-9, [(0, "rank 0: another rank is gone")], "rank 1 of 4 was killed by SIGKILL; .* goes on"),
    ],
)
def test_the_rank_that_failed_is_named_not_the_one_that_noticed(
    exit_code: int, said: list[tuple[int, str]], text: str
) -> None:
    assert re.fullmatch(text, processes._failure_text(1, exit_code, 4, said))


@pytest.mark.parametrize("one_store", ["0", "1"])
def test_ranks_start_again_and_meet(
    quick_ranks: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_store: str,
) -> None:
    """Also with one store for all starts, as of torchrun by itself, in which the addresses of the first one are."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", one_store)
    more = ["launcher.processes=2", "launcher.max_restarts=1", f"output_dir={tmp_path}"]
    assert launch.launch(killed_the_first_time, options("+experiment=motion_mvitv2", *more)) == [1, 1]
    said = (tmp_path / "said").read_text()
    assert said.startswith("rank 0: another rank is gone or did not come (") and ".cc:" not in said


def test_an_interrupted_rank_is_no_failure(quick_ranks: None, tmp_path: Path) -> None:
    config = options("+experiment=motion_mvitv2", "launcher.processes=2", f"output_dir={tmp_path}")
    with pytest.raises(Interrupted, match="the same command goes on"):
        launch.launch(interrupted, config)
    assert read_events(config.run_dir)[-1]["status"] == "saved"


def test_all_ranks_stop_after_the_same_step(quick_ranks: None, tmp_path: Path) -> None:
    config = options("+experiment=motion_mvitv2", "launcher.processes=2", f"output_dir={tmp_path}")
    assert launch.launch(voting, config) == [False, False, True, False]


def test_a_rank_that_does_not_answer_is_an_error_not_a_hang(quick_ranks: None, tmp_path: Path) -> None:
    config = options("+experiment=motion_mvitv2", "launcher.processes=2", f"output_dir={tmp_path}")
    text = launch.launch(losing_a_rank, config)
    assert text.startswith("rank 0: another rank did not finish its step within 2 s, or is gone")


def test_torchrun_launcher_runs_on_one_machine_too(quick_ranks: None, tmp_path: Path) -> None:
    """It meets nobody, so it depends on no other run at the same address."""
    config = options(
        "+experiment=motion_mvitv2",
        "launcher=torchrun",
        "launcher.processes=2",
        "launcher.rendezvous=nobody.invalid:29400",
        f"output_dir={tmp_path}",
    )
    assert launch.launch(rank_job, config) == "rank 0 of 2"


def test_machines_that_lose_each_other_are_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any) -> Any:
        raise RendezvousConnectionError("The connection to the C10d store has failed. See inner exception for details.")

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: lost)
    more = ("launcher=torchrun", "launcher.nodes=2", "launcher.processes=1", f"output_dir={tmp_path}")
    with pytest.raises(
        RuntimeError, match=r"rendezvous=localhost:29400 \(The connection .* failed\): .* different ports"
    ):
        launch.launch(rank_job, options("+experiment=motion_mvitv2", *more))


def test_ranks_leave_the_program_as_it_was(quick_ranks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment, the level of torch's log, and no folder for temporary files that nobody removes."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.delenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", raising=False)
    log = logging.getLogger("torch.distributed.elastic")
    monkeypatch.setattr(log, "level", logging.INFO)
    before = dict(os.environ)
    config = options("+experiment=motion_mvitv2", "launcher.processes=2", f"output_dir={tmp_path}")
    assert launch.launch(rank_job, config) == "rank 0 of 2"
    assert dict(os.environ) == before and log.level == logging.INFO
    assert not [path for path in temporary.iterdir() if path.name.startswith("torchelastic")]


SECOND_ATTEMPT = """
import sys
from tests.cluster.test_launch import launch, locked, options
from tests.forked_launch import fork_ranks
fork_ranks()
launch.launch(locked, options("+experiment=motion_mvitv2", "launcher.processes=2", sys.argv[1]))
"""


def test_a_second_attempt_at_a_run_is_refused_on_every_rank(tmp_path: Path) -> None:
    config = options("+experiment=motion_mvitv2", f"output_dir={tmp_path}")
    with RunLock(config.run_dir):
        done = interpreters.run("-c", SECOND_ATTEMPT, f"output_dir={tmp_path}", cwd=ROOT)
    text, _, raised = done.stderr.partition("Traceback")
    assert "RunLockedError: " in raised and "is being trained by another process" in raised
    assert f"is being trained by process {os.getpid()} on" in text and "choose another name=..." in text
    assert read_events(config.run_dir)[-1]["status"] == "refused"


def test_ranks_that_torchrun_started_are_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = options("+experiment=motion_mvitv2", f"output_dir={tmp_path}")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert launch.launch(rank_job, config) == f"rank {rank} of 2"
    assert [event["event"] for event in read_events(config.run_dir)] == ["start", "end"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_saves_and_the_same_command_goes_on(motion_root: Path, tmp_path: Path, number: signal.Signals) -> None:
    # Checkpoints only at the end of the two epochs: what is found after the signal was saved because of it.
    overrides = motion_overrides(motion_root, tmp_path, "schedule.epochs=50")
    run = interpreters.start("-m", "mvit_video.train", *overrides)
    try:
        metrics = tmp_path / "tiny" / "metrics.jsonl"
        deadline = time.monotonic() + 600
        while not (metrics.exists() and metrics.read_text().strip()):
            assert run.poll() is None and time.monotonic() < deadline, run.output()[1]
            time.sleep(0.05)
        run.send_signal(number)
        _, text = run.communicate(timeout=600)
    finally:
        run.kill()
    assert run.returncode == EXIT_INTERRUPTED
    assert f"stopped by {number.name}" in text
    assert "the same command goes on" in text
    (newest,) = sorted((tmp_path / "tiny" / "checkpoints").glob("step_*.json"))[-1:]
    assert json.loads(newest.read_text())["step"] >= 1
    assert read_events(tmp_path / "tiny")[-1]["status"] == "saved"


def test_in_the_background_through_submitit(motion_root: Path, tmp_path: Path) -> None:
    more = ("launcher=submitit_local", "launcher.processes=2", "trainer.max_steps=2")
    started = interpreters.run("-m", "mvit_video.train", *motion_overrides(motion_root, tmp_path, *more), check=True)
    said = re.search(r"started process (\d+) in the background", started.stderr)
    assert said, started.stderr
    run_dir = tmp_path / "tiny"
    deadline = time.monotonic() + 600
    found: list[str] = []
    while found != ["done", "done"]:
        assert time.monotonic() < deadline, (
            f"{found}: {[p.read_text()[-2000:] for p in run_dir.glob('submitit/*.err')]}"
        )
        found = [status.status for status in read_statuses(run_dir / "submitit" / "ranks", said[1], 0)]
        time.sleep(0.1)
    records = map(json.loads, (run_dir / "metrics.jsonl").open())
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 2]
    assert read_events(run_dir)[0]["ranks"] == 2
    while read_events(run_dir)[-1]["event"] != "end":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert read_events(run_dir)[-1]["status"] == "done"


def test_a_command_need_not_wait_for_the_end_of_its_job_in_the_background(tmp_path: Path) -> None:
    """Its output stayed open as long as the job lived: `... | tee log` went on for hours."""
    code = (
        "import pathlib, subprocess, sys; from mvit_video.cluster import submit\n"
        f"with submit._output_to(pathlib.Path({str(tmp_path / 'log')!r})):\n"
        "    job = subprocess.Popen([sys.executable, '-c', 'import time; print(7, flush=True); time.sleep(600)'])\n"
        "print(job.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    job = int(done.stdout)
    assert process_start(job) is not None  # it goes on
    os.kill(job, signal.SIGKILL)


@pytest.mark.parametrize("before", [None, "GPU-8932f937,3"])
def test_a_job_in_the_background_sees_the_gpus_that_its_command_saw(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    background = pickle.loads(pickle.dumps(submit.Background()))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as submitit sets it
    background.restore_gpus()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_commands_that_are_said_can_be_typed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    paths = SimpleNamespace(stderr=tmp_path / "my run" / "7.err")
    config = options("+experiment=motion_mvitv2", f"output_dir='{tmp_path}/my runs'")
    submit._say(SimpleNamespace(job_id="7", paths=paths), config)
    assert f"tail -F '{tmp_path}/my run/7.err'" in caplog.text
    assert f"mvit_video.runs '{tmp_path}/my runs'" in caplog.text
