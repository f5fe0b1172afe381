"""Where a job runs: in this process, in several on this machine, or on a cluster. The only importer of submitit.

A job is a picklable function of a config that resumes by itself: run again with the same config it goes on from its
newest checkpoint. So a preempted or requeued job needs nothing but to be started once more.
"""

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich
from rich.logging import RichHandler

from mvit_video.config import LocalLauncher, SlurmLauncher, Train

logger = logging.getLogger(__name__)
Job = Callable[[Any], Any]
TRACEBACK = "MVIT_VIDEO_TRACEBACK"  # set in the environment: errors show where they came from


def launch(job: Job, config: Train) -> Any:
    """Run or submit `job(config)` as `config.launcher` says; its result if it ran here, else None."""
    if isinstance(config.launcher, SlurmLauncher):
        submit(job, config, config.launcher)
        return None
    assert isinstance(config.launcher, LocalLauncher)
    started_by_others = "RANK" in os.environ  # torchrun made the processes already
    processes = 1 if started_by_others else config.launcher.processes or _gpus(config)
    return job(config) if processes == 1 else _run_processes(job, config, processes)


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


def _gpus(config: Train) -> int:
    import torch

    return 1 if config.trainer.device == "cpu" else max(1, torch.cuda.device_count())


def _process(job: Job, config: Train) -> Any:
    """What one of several local processes runs: an error of the run is one message, not every rank's traceback."""
    configure_logging()
    try:
        return job(config)
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get(TRACEBACK):
            raise
        logger.error("%s", error)
        sys.exit(1)


def _run_processes(job: Job, config: Train, processes: int) -> Any:
    """Start `processes` ranks on this machine, as torchrun would; the result of rank 0.

    Raises:
        RuntimeError: when a rank fails; the others are ended.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its reports repeat in twenty lines what is said here in one.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    launch_config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=config.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        results = elastic_launch(launch_config, _process)(job, config)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise RuntimeError(
            f"rank {rank} of {processes} ended first, with exit code {failure.exitcode}; the others were stopped. "
            "Its own message is above"
        ) from error
    return results[0]


@dataclass(frozen=True)
class SlurmJob:
    """What each task of a SLURM job runs: join the others, then work."""

    job: Job
    config: Train

    def __call__(self) -> Any:
        import submitit

        # A job that was given GPUs 2 and 3 must not be pointed at 0 and 1, so the variable SLURM set stays.
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        configure_logging()
        return self.job(self.config)

    def checkpoint(self) -> Any:
        """Preempted or out of time: submitit starts the same job again, and it goes on from its newest checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def submit(job: Job, config: Train, options: SlurmLauncher) -> str | None:
    """Submit a job to SLURM and say how to follow it; its id, or None for a dry run, which prints the script.

    Raises:
        RuntimeError: on a machine without SLURM, or when SLURM refuses the job; the message is SLURM's own.
    """
    import submitit

    folder = config.run_dir / "slurm"
    if options.dry_run:
        print(sbatch_text(folder, config.name, options))
        return None
    if shutil.which("sbatch") is None:
        raise RuntimeError(
            "no sbatch on this machine: submit from a login node of the cluster, print the script with "
            "launcher.dry_run=true, or run here with launcher=local"
        )
    executor = submitit.SlurmExecutor(folder=folder)
    executor.update_parameters(**slurm_parameters(config.name, options))
    submitted = executor.submit(SlurmJob(job, config))
    logger.info("submitted SLURM job %s for %s", submitted.job_id, config.run_dir)
    logger.info("follow it:  tail -F %s", submitted.paths.stderr)
    logger.info("cancel it:  scancel %s", submitted.job_id)
    return str(submitted.job_id)


def sbatch_text(folder: Path, name: str, options: SlurmLauncher) -> str:
    """The sbatch script of a job, as submitit writes it; needs no cluster."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return str(_make_sbatch_string(command=command, folder=folder, **slurm_parameters(name, options)))


def slurm_parameters(name: str, options: SlurmLauncher) -> dict[str, Any]:
    """The options as submitit's SLURM parameters (pure)."""
    parameters: dict[str, Any] = {
        "job_name": name,
        "nodes": options.nodes,
        "ntasks_per_node": options.tasks_per_node or max(1, options.gpus_per_node),
        "cpus_per_task": options.cpus_per_task,
        "time": options.time_min,
        # One rank's death ends the step, instead of leaving the others in a collective.
        "srun_args": ["--kill-on-bad-exit=1"],
        "setup": list(options.setup) or None,
        "additional_parameters": dict(options.sbatch),
    }
    if options.gpus_per_node:
        parameters["gpus_per_node"] = options.gpus_per_node
    if options.mem_gb is not None:
        parameters["mem"] = f"{options.mem_gb}GB"
    for key in ("partition", "account", "qos", "constraint"):
        value = getattr(options, key)
        if value is not None:
            parameters[key] = value
    return {key: value for key, value in parameters.items() if value is not None}
