"""Where a job runs: in this process, in several on this machine or on several machines, or on a cluster.

A job is a function of a config that resumes by itself: run again with the same config it goes on from its newest
checkpoint. So a preempted or requeued job needs nothing but to be started once more.
"""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import rich
from rich.logging import RichHandler

from mvit_video.cluster.supervisor import journal
from mvit_video.config import Evaluate, LocalLauncher, SlurmLauncher, SubmititLocalLauncher, TorchrunLauncher, Train
from mvit_video.runtime.interruption import EXIT_INTERRUPTED, Interrupted, record_error

logger = logging.getLogger(__name__)
Job = Callable[[Any], Any]
TRACEBACK = "MVIT_VIDEO_TRACEBACK"  # set in the environment: errors show where they came from


def launch(job: Job, config: Train) -> Any:
    """Run or submit `job(config)` as `config.launcher` says; its result if it ran here, else None.

    Raises:
        Interrupted: the run was asked to stop, and saved.
        RuntimeError: a rank failed, or the cluster refused the job.
    """
    launcher = config.launcher
    if isinstance(launcher, SlurmLauncher | SubmititLocalLauncher):
        from mvit_video.cluster import submit

        submit.submit(job, config)
        return None
    if "RANK" in os.environ:  # torchrun made the processes already
        return job(config)
    assert isinstance(launcher, LocalLauncher | TorchrunLauncher)
    processes = launcher.processes or _gpus(config)
    with nullcontext() if isinstance(config, Evaluate) else _Life(config):
        if isinstance(launcher, LocalLauncher) and processes == 1:
            return job(config)
        return _run_processes(job, config, processes)


def configure_logging() -> None:
    """Log lines of this process to stderr, or above the progress bar of a terminal.

    Ranks other than 0 speak only when something is wrong.
    """
    rank = os.environ.get("RANK", "0")
    level = logging.INFO if rank == "0" else logging.WARNING
    prefix = "" if rank == "0" else f"[rank {rank}] "
    console = rich.get_console()
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S")
        handler.setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(levelname).1s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)


def run_rank(job: Job, config: Train) -> int:
    """Run one of several ranks; its exit code.

    Errors of the user's making are one message. Others come with their traceback: nobody can ask a cluster job again.
    """
    configure_logging()
    try:
        job(config)
    except Interrupted as stop:
        logger.info("%s", stop)
        return EXIT_INTERRUPTED
    except (ValueError, OSError, RuntimeError) as error:
        record_error(f"{type(error).__name__}: {error}")
        plain = isinstance(error, ValueError | OSError) and not os.environ.get(TRACEBACK)
        logger.error("%s", error, exc_info=None if plain else error)
        return 1
    return 0


class _Life:
    """Notes in the run's journal that it runs in this process, and how that ended."""

    def __init__(self, config: Train) -> None:
        self.run_dir = config.run_dir

    def __enter__(self) -> None:
        journal(self.run_dir, event="start", job="local", pid=os.getpid(), nodes=os.uname().nodename, restart=0)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        ended = "done" if kind is None else "saved" if issubclass(kind, Interrupted) else "failed"
        cause = "finished" if kind is None else str(error).splitlines()[0] if str(error) else kind.__name__
        journal(self.run_dir, event="end", job="local", restart=0, ended=ended, cause=cause)


def _gpus(config: Train) -> int:
    import torch

    return 1 if config.trainer.device == "cpu" else max(1, torch.cuda.device_count())


def _process(job: Job, config: Train) -> Any:
    """What one of several local processes runs; the result of rank 0 travels back."""
    box: list[Any] = []
    code = run_rank(lambda options: box.append(job(options)), config)
    if code:
        sys.exit(code)
    return box[0]


def _run_processes(job: Job, config: Train, processes: int) -> Any:
    """Start `processes` ranks on this machine, as torchrun would; the result of this machine's first rank.

    Raises:
        Interrupted: asked to stop, and saved.
        RuntimeError: when a rank fails; the others are ended.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its reports repeat in twenty lines what is said here in one.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    launcher = config.launcher
    several = isinstance(launcher, TorchrunLauncher)
    launch_config = LaunchConfig(
        min_nodes=launcher.nodes if several else 1,
        max_nodes=launcher.nodes if several else 1,
        nproc_per_node=processes,
        run_id=config.name,
        rdzv_backend="c10d",
        rdzv_endpoint=launcher.rendezvous if several else "localhost:0",
        max_restarts=launcher.max_restarts,
    )
    try:
        results = elastic_launch(launch_config, _process)(job, config)
    except SignalException as signal:
        raise Interrupted(f"stopped by {signal.sigval.name}; the same command goes on") from signal
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == EXIT_INTERRUPTED:
            raise Interrupted("stopped and saved; the same command goes on") from error
        raise RuntimeError(
            f"rank {rank} of {processes} ended first, with exit code {failure.exitcode}; the others were stopped. "
            "Its own message is above"
        ) from error
    return results[min(results)]
