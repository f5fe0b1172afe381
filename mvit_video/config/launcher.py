"""Options of the group `launcher`: where a job runs."""

from dataclasses import dataclass

from mvit_video.config.rules import option


@dataclass
class LocalLauncher:
    """Run on this machine: in this process, or in several that it starts."""

    name: str = option("local", choices=("local",), help="name of the launcher")
    processes: int | None = option(None, at_least=1, help="training processes; null: one per GPU, or one without GPUs")
    max_restarts: int = option(
        0, at_least=0, help="how often all ranks start again, from the last checkpoint, when one fails"
    )


@dataclass
class TorchrunLauncher:
    """Several machines without a scheduler: the same command on each of them. One machine: like local."""

    name: str = option("torchrun", choices=("torchrun",), help="name of the launcher")
    nodes: int = option(1, at_least=1, help="machines")
    processes: int | None = option(None, at_least=1, help="training processes per machine; null: one per GPU")
    rendezvous: str = option(
        "localhost:29400", help="host:port on one of several machines, where all meet; a port for each run"
    )
    max_restarts: int = option(
        3, at_least=0, help="how often all ranks start again, from the last checkpoint, when one fails"
    )


@dataclass
class SubmititLocalLauncher:
    """In the background on this machine, through submitit: as a cluster job would run."""

    name: str = option("submitit_local", choices=("submitit_local",), help="name of the launcher")
    processes: int = option(1, at_least=1, help="training processes")
    time_min: int = option(1440, at_least=1, help="time limit in minutes")


@dataclass
class SlurmLauncher:
    """Submit to SLURM through submitit."""

    name: str = option("slurm", choices=("slurm",), help="name of the launcher")
    nodes: int = option(1, at_least=1, help="nodes")
    gpus_per_node: int = option(8, at_least=0, help="GPUs per node; 0: a job without GPUs")
    tasks_per_node: int | None = option(None, at_least=1, help="training processes per node; null: one per GPU")
    cpus_per_task: int = option(8, at_least=1, help="cores per training process, its loader processes included")
    mem_gb: int | None = option(None, at_least=1, help="memory per node; null: the cluster's default")
    time_min: int = option(1440, at_least=1, help="time limit in minutes")
    partition: str | None = option(None, help="partition; null: the cluster's default")
    account: str | None = option(None, help="account that pays; null: the user's default")
    qos: str | None = option(None, help="quality of service; null: the user's default")
    constraint: str | None = option(None, help="features that the nodes must have")
    setup: list[str] = option([], help="shell lines run before Python starts")
    sbatch: dict[str, str] = option({}, help="any other option of sbatch, by its long name")
    array_parallelism: int = option(
        16, at_least=1, help="jobs of an array (--multirun, or parts of predict) that run at a time"
    )
    warning_s: int = option(120, at_least=1, help="seconds before the time limit at which the job is told to save")
    max_failures: int = option(
        3, at_least=0, help="how often the job starts again from its checkpoint after a rank failed"
    )
    max_restarts: int = option(100, at_least=0, help="how often in all, preemptions and time limits counted too")
    chain: int = option(
        1, at_least=1, help="jobs queued one behind the other, each going on where the one before ran out of time"
    )
    snapshot: bool = option(
        True, help="run the code as it is now, whatever happens to the checkout before the job starts"
    )
    dry_run: bool = option(False, help="print the job script and submit nothing")
