"""Where a job runs: in this process, in several on this machine or on several machines, or on a cluster.

A job is a function of a config that resumes by itself: run again with the same config it goes on from its newest
checkpoint. So a preempted or requeued job needs nothing but to be started once more.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from mvit_video.cluster import processes
from mvit_video.config import (
    Evaluate,
    LocalLauncher,
    Predict,
    SlurmLauncher,
    SubmititLocalLauncher,
    TorchrunLauncher,
    Train,
)
from mvit_video.runtime.interruption import Interrupted
from mvit_video.runtime.journal import JOURNAL, Ending, append_event
from mvit_video.runtime.processes import own_process
from mvit_video.runtime.run_lock import RunLockedError

logger = logging.getLogger(__name__)
Job = Callable[[Any], Any]


def launch(job: Job, config: Train) -> Any:
    """Run or submit `job(config)` as `config.launcher` says; its result if it ran here, else None.

    Raises:
        Interrupted: the run was asked to stop, and saved.
        RunLockedError: another attempt is training the run.
        RuntimeError: a rank failed, or the cluster refused the job.
        ValueError: more ranks are asked for than there are GPUs.
    """
    launcher = config.launcher
    if isinstance(launcher, SlurmLauncher | SubmititLocalLauncher):
        from mvit_video.cluster import submit

        submit.submit(job, config)
        return None
    rank = os.environ.get("RANK")  # torchrun made the processes already
    assert rank is not None or isinstance(launcher, LocalLauncher | TorchrunLauncher)
    recorded = not isinstance(config, Evaluate | Predict) and rank in (None, "0")
    with _recorded_attempt(config) if recorded else nullcontext():
        if rank is not None:
            return job(config)
        ranks = _ranks_here(config, launcher.processes)
        if isinstance(launcher, LocalLauncher) and ranks == 1:
            return job(config)
        return processes.run(job, config, ranks)


@contextmanager
def _recorded_attempt(config: Train) -> Iterator[None]:
    """Record in the run's journal that this process attempts the run, and how that ended.

    Options that are refused before anything was written leave no folder of a run behind.
    """
    is_new = not config.run_dir.exists()
    attempt: dict[str, str | int] = {"job": "local", "pid": os.getpid(), "nodes": os.uname().nodename, "restart": 0}
    append_event(config.run_dir, "start", **{**attempt, **own_process()})
    status: Ending = "done"
    cause = "finished"
    mistaken = False
    try:
        yield
    except BaseException as error:
        refused, saved = isinstance(error, RunLockedError), isinstance(error, Interrupted)
        status = "refused" if refused else "saved" if saved else "failed"
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        mistaken = isinstance(error, ValueError)
        raise
    finally:
        try:
            append_event(config.run_dir, "end", **attempt, status=status, cause=cause)
        except OSError as error:  # how it ended is not to be hidden by a full disk
            logger.warning("the end of the run could not be recorded: %s", error)
        if is_new and mistaken and {path.name for path in config.run_dir.iterdir()} == {JOURNAL}:
            (config.run_dir / JOURNAL).unlink()
            config.run_dir.rmdir()


def _ranks_here(config: Train, asked: int | None) -> int:
    """How many ranks this machine runs: as many as are asked for, else one for each GPU, or one.

    Raises:
        ValueError: there are GPUs, but fewer than ranks; NCCL refuses two ranks on one.
    """
    import torch

    gpus = 0 if config.trainer.device == "cpu" else torch.cuda.device_count()
    if asked is not None and 0 < gpus < asked:
        raise ValueError(
            f"launcher.processes={asked}, but this machine has {gpus} GPU{'s' * (gpus > 1)}, and each takes one rank: "
            f"set launcher.processes={gpus}, or trainer.device=cpu for ranks on the CPU"
        )
    return asked or max(1, gpus)
