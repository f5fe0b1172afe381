"""Jobs submitted through submitit: to SLURM, or to a process in the background. The only importer of submitit.

Each task runs a supervisor (supervisor.py) with the rank as its child. SLURM's way to end and restart jobs is used as
it is; submitit's checkpoint() is not: it acts in one rank, in the middle of a step, while the others go on.
"""

import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mvit_video.cluster.placement import TaskPlacement, free_port, slurm_placement
from mvit_video.cluster.rank_status import FOLDER
from mvit_video.cluster.snapshot import snapshot
from mvit_video.cluster.supervisor import run_task
from mvit_video.config import SlurmLauncher, SubmititLocalLauncher, Train
from mvit_video.runtime.journal import append_event

logger = logging.getLogger(__name__)

# Jobs of a sweep, collected while Hydra goes through its combinations; None outside a sweep.
_sweep: list[tuple[Callable[[Any], Any], Train]] | None = None


@dataclass(frozen=True)
class SupervisedTask:
    """What each task of a job runs. The job travels by name, so that the supervisor need not import torch.

    Attributes:
        job: "module:function".
        config: its options.
        folder: where the ranks' statuses and the logs lie.
        background: what a job in the background has from the process that started it; None for a job of SLURM.
    """

    job: str
    config: Train
    folder: str
    background: "Background | None" = None

    def __call__(self) -> None:
        import submitit

        environment = submitit.JobEnvironment()
        if self.background is None:
            placement = slurm_placement(os.environ, environment.hostnames)
        else:
            self.background.restore_gpus()
            placement = TaskPlacement(
                job_id=environment.job_id,
                restart=0,
                rank=environment.global_rank,
                size=environment.num_tasks,
                local_rank=environment.local_rank,
                local_size=environment.num_tasks // environment.num_nodes,
                host=environment.hostname,
                main_host="localhost",
                port=self.background.port,
            )
        folder, run_dir = Path(self.folder) / FOLDER, Path.cwd() / self.config.job_dir
        scheduled = self.background is None
        run_task(self.job, self.config, placement, folder=folder, run_dir=run_dir, scheduled=scheduled)


@dataclass(frozen=True)
class Background:
    """What the ranks of a job in the background must know of this machine.

    Attributes:
        port: a free one, at which they meet.
        gpus: CUDA_VISIBLE_DEVICES as it was; None: not set. submitit hides all GPUs that it was not asked for, and it
            takes numbers only, where the variable may hold other names.
    """

    port: int = field(default_factory=free_port)
    gpus: str | None = field(default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))

    def restore_gpus(self) -> None:
        """Let the ranks see the GPUs that the process saw which started them."""
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if self.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus


def submit(job: Callable[[Any], Any], config: Train) -> list[str]:
    """Submit a job and say how to follow it; the ids of its jobs (several in a chain, none for a dry run or a sweep).

    Raises:
        RuntimeError: on a machine without SLURM, or when SLURM refuses the job; the message is SLURM's own.
    """
    launcher = config.launcher
    if isinstance(launcher, SubmititLocalLauncher):
        return _submit_local(job, config, launcher)
    assert isinstance(launcher, SlurmLauncher)
    if _sweep is not None:
        _sweep.append((job, config))
        return []
    folder = config.job_dir / "slurm"
    if launcher.dry_run:
        print(sbatch_text(folder, config.name, launcher))
        return []
    _require_slurm()
    tasks = [_task(job, config, folder)]
    previous: str | None = None
    ids = []
    for _ in range(launcher.chain):
        (submitted,) = _submit_tasks(tasks, folder, config.name, launcher, dependency=previous)
        previous = f"afterany:{submitted.job_id}"
        ids.append(str(submitted.job_id))
        _say(submitted, config)
    return ids


def begin_sweep() -> None:
    """Collect the SLURM jobs submitted from now on."""
    global _sweep
    _sweep = []


def drop_sweep() -> int:
    """Forget what was collected; how many jobs that were."""
    global _sweep
    jobs, _sweep = _sweep or [], None
    return len(jobs)


def end_sweep() -> list[str]:
    """Submit what was collected as one job array; its ids.

    Raises:
        RuntimeError: as `submit`.
        ValueError: when the jobs ask for different machines.
    """
    global _sweep
    jobs, _sweep = _sweep or [], None
    if not jobs:
        return []
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = Path(jobs[0][1].output_dir) / "sweeps" / stamp
    return submit_array(jobs, folder, name=f"sweep-{stamp}")


def submit_array(jobs: Sequence[tuple[Callable[[Any], Any], Train]], folder: Path, *, name: str) -> list[str]:
    """Submit several jobs as one array; their ids (none for a dry run).

    Args:
        jobs: each a job and its options.
        folder: where the ranks' statuses and the logs lie.
        name: of the array.

    Raises:
        RuntimeError: as `submit`.
        ValueError: when the jobs ask for different machines.
    """
    launcher = jobs[0][1].launcher
    assert isinstance(launcher, SlurmLauncher)
    if any(config.launcher != launcher for _, config in jobs):
        raise ValueError("the jobs of an array share its launcher options: let them differ in other options")
    if launcher.chain > 1:
        raise ValueError(f"launcher.chain={launcher.chain}: an array has no chain; give launcher.time_min enough time")
    if launcher.dry_run:
        print(sbatch_text(folder, name, launcher, count=len(jobs)))
        return []
    _require_slurm()
    tasks = [_task(job, config, folder) for job, config in jobs]
    submitted = _submit_tasks(tasks, folder, name, launcher)
    for item, (_, config) in zip(submitted, jobs):
        _say(item, config)
    return [str(item.job_id) for item in submitted]


def _task(job: Callable[[Any], Any], config: Train, folder: Path) -> SupervisedTask:
    return SupervisedTask(f"{job.__module__}:{job.__qualname__}", config, str(folder.absolute()))


def _require_slurm() -> None:
    if shutil.which("sbatch") is None:
        raise RuntimeError(
            "no sbatch on this machine: submit from a login node of the cluster, print the script with "
            "launcher.dry_run=true, or run here with launcher=local"
        )


def _submit_tasks(
    tasks: Sequence[SupervisedTask], folder: Path, name: str, launcher: SlurmLauncher, *, dependency: str | None = None
) -> list[Any]:
    import submitit

    code = snapshot(folder / "code") if launcher.snapshot else None
    executor = submitit.SlurmExecutor(folder=folder)
    executor.update_parameters(**slurm_parameters(name, launcher, folder=folder, code=code, dependency=dependency))
    try:
        if len(tasks) == 1:
            return [executor.submit(tasks[0])]
        with executor.batch():
            submitted = [executor.submit(task) for task in tasks]
        return submitted
    except submitit.core.utils.FailedJobError as error:
        raise RuntimeError(f"SLURM refused the job: {_last_words(str(error))}") from error


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("sbatch:")), lines[-1] if lines else text)


def _say(submitted: Any, config: Train) -> None:
    append_event(config.job_dir, "submit", job=str(submitted.job_id))
    logger.info("submitted job %s for %s", submitted.job_id, config.run_dir)
    logger.info("  follow it: tail -F %s", shlex.quote(str(submitted.paths.stderr)))
    folder = shlex.quote(config.output_dir)
    logger.info("  cancel it: scancel %s;  all runs: python -m mvit_video.runs %s", submitted.job_id, folder)


def _submit_local(job: Callable[[Any], Any], config: Train, launcher: SubmititLocalLauncher) -> list[str]:
    import submitit

    folder = config.job_dir / "submitit"
    executor = submitit.LocalExecutor(folder=folder)
    executor.update_parameters(nodes=1, tasks_per_node=launcher.processes, timeout_min=launcher.time_min)
    with _output_to(folder / "controller.log"):
        submitted = executor.submit(replace(_task(job, config, folder), background=Background()))
    logger.info("started process %s in the background for %s", submitted.job_id, config.run_dir)
    logger.info("  follow it: tail -F %s", shlex.quote(str(submitted.paths.stderr)))
    logger.info("  end it: kill %s", submitted.job_id)
    return [str(submitted.job_id)]


@contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Let what is started in the block write to a file.

    submitit's process in the background would keep the output of this command: `... | tee log`, or a program that reads
    it, would wait for the end of the job.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        with open(file, "ab") as log:
            for descriptor in kept:
                os.dup2(log.fileno(), descriptor)
        yield
    finally:
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)


# ---- the job's text


def sbatch_text(folder: Path, name: str, launcher: SlurmLauncher, *, count: int = 1) -> str:
    """The sbatch script of a job, or of an array of `count` jobs, as submitit writes it; needs no cluster."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    parameters = slurm_parameters(name, launcher, folder=folder)
    if count > 1:
        parameters["map_count"] = count
    return str(_make_sbatch_string(command=command, folder=folder, **parameters))


def slurm_parameters(
    name: str, launcher: SlurmLauncher, *, folder: Path, code: Path | None = None, dependency: str | None = None
) -> dict[str, Any]:
    """The options as submitit's SLURM parameters (pure).

    Args:
        name: of the job.
        launcher: options.
        folder: where the ranks' statuses and the logs of the job lie.
        code: folder of a snapshot to import from.
        dependency: what sbatch's --dependency shall say.
    """
    parameters: dict[str, Any] = {
        "job_name": name,
        "nodes": launcher.nodes,
        "ntasks_per_node": launcher.tasks_per_node or max(1, launcher.gpus_per_node),
        "cpus_per_task": launcher.cpus_per_task,
        "time": launcher.time_min,
        "signal_delay_s": launcher.warning_s,
        "array_parallelism": launcher.array_parallelism,
        # One rank's death ends the step, instead of leaving the others in a collective.
        "srun_args": ["--kill-on-bad-exit=1"],
        "setup": [*_setup(code), *launcher.setup],
        "teardown": _teardown(folder, launcher),
        "additional_parameters": {"requeue": True, **launcher.sbatch},
        "dependency": dependency,
        "gpus_per_node": launcher.gpus_per_node or None,
        "mem": None if launcher.mem_gb is None else f"{launcher.mem_gb}GB",
        "partition": launcher.partition,
        "account": launcher.account,
        "qos": launcher.qos,
        "constraint": launcher.constraint,
    }
    return {key: value for key, value in parameters.items() if value is not None}


def _setup(code: Path | None) -> list[str]:
    # A warning sent to the whole job must not end its shell, which starts the job again.
    lines = ["trap : USR2"]
    if code is not None:
        # Without the safe path Python would look into the current folder, the checkout perhaps, before the snapshot.
        lines += ["export PYTHONSAFEPATH=1", f"export PYTHONPATH={shlex.quote(str(code))}:$PYTHONPATH"]
    return lines


def _teardown(folder: Path, launcher: SlurmLauncher) -> list[str]:
    python = shlex.quote(sys.executable)
    chained = " --chained" if launcher.chain > 1 else ""
    return [
        "code=$?",
        f"{python} -m mvit_video.cluster.outcome {shlex.quote(str(folder.absolute() / FOLDER))} $code "
        f"--max-failures {launcher.max_failures} --max-restarts {launcher.max_restarts}{chained}",
        "exit $?",
    ]
