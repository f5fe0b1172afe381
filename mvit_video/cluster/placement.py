"""Where a task of a cluster job stands among the others, and the variables by which its rank finds them."""

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskPlacement:
    """A task of a job.

    Attributes:
        job_id: SLURM's id, or "local".
        restart: how often the job was started before.
        rank: of this task; `size` tasks in all.
        local_rank: of this task on its node; `local_size` tasks there.
        host: name of its node.
        main_host: name of rank 0's node.
    """

    job_id: str
    restart: int
    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    main_host: str


def slurm_placement(environment: Mapping[str, str], hosts: Sequence[str]) -> TaskPlacement:
    """The placement of this task, by SLURM's variables and the names of the job's nodes."""
    size = int(environment["SLURM_NTASKS"])
    return TaskPlacement(
        job_id=environment["SLURM_JOB_ID"],
        restart=int(environment.get("SLURM_RESTART_COUNT", "0")),
        rank=int(environment["SLURM_PROCID"]),
        size=size,
        local_rank=int(environment["SLURM_LOCALID"]),
        local_size=size // int(environment.get("SLURM_NNODES", len(hosts))),
        host=socket.gethostname(),
        main_host=hosts[0],
    )


def rendezvous_port(job_id: str, restart: int) -> int:
    """TCP port at which the ranks of this start of a job meet, 20000 to 59999.

    Every restart has another one: a process left over from the start before must not meet the new ranks.
    """
    number = int(re.sub(r"\D", "", job_id) or 0)
    return 20000 + (number * 4099 + restart * 101) % 40000


def rank_environment(placement: TaskPlacement) -> dict[str, str]:
    """The variables from which torch.distributed and the package distributed know the other ranks."""
    return {
        "RANK": str(placement.rank),
        "WORLD_SIZE": str(placement.size),
        "LOCAL_RANK": str(placement.local_rank),
        "LOCAL_WORLD_SIZE": str(placement.local_size),
        "MASTER_ADDR": placement.main_host,
        "MASTER_PORT": str(rendezvous_port(placement.job_id, placement.restart)),
    }
