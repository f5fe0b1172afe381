"""Where a task of a cluster job stands among the others, and the variables by which its rank finds them."""

import random
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
        port: TCP port of that node at which the ranks meet.
    """

    job_id: str
    restart: int
    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    main_host: str
    port: int = 0  # in statuses that older versions wrote


def slurm_placement(environment: Mapping[str, str], hosts: Sequence[str]) -> TaskPlacement:
    """The placement of this task, by SLURM's variables and the names of the job's nodes."""
    size = int(environment["SLURM_NTASKS"])
    job_id, restart = environment["SLURM_JOB_ID"], int(environment.get("SLURM_RESTART_COUNT", "0"))
    return TaskPlacement(
        job_id=job_id,
        restart=restart,
        rank=int(environment["SLURM_PROCID"]),
        size=size,
        local_rank=int(environment["SLURM_LOCALID"]),
        local_size=size // int(environment.get("SLURM_NNODES", len(hosts))),
        host=socket.gethostname(),
        main_host=hosts[0],
        port=rendezvous_port(job_id, restart),
    )


PORTS = range(20000, 32768)
"""Where ranks meet: below the ports that Linux gives to connections as they come, which may have any of theirs."""


def rendezvous_port(job_id: str, restart: int) -> int:
    """TCP port at which the ranks of this start of a job meet: one of `PORTS` that each of them finds by itself.

    Every restart has another one: a process left over from the start before must not meet the new ranks.
    """
    number = int(re.sub(r"\D", "", job_id) or 0)
    return PORTS[(number * 4099 + restart * 101) % len(PORTS)]


def free_port() -> int:
    """One of `PORTS` that nothing on this machine has now.

    Raises:
        RuntimeError: there is none.
    """
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"all TCP ports from {PORTS.start} to {PORTS.stop - 1} of this machine are taken")


def rank_environment(placement: TaskPlacement) -> dict[str, str]:
    """The variables from which torch.distributed and the package distributed know the other ranks."""
    return {
        "RANK": str(placement.rank),
        "WORLD_SIZE": str(placement.size),
        "LOCAL_RANK": str(placement.local_rank),
        "LOCAL_WORLD_SIZE": str(placement.local_size),
        "MASTER_ADDR": placement.main_host,
        "MASTER_PORT": str(placement.port),
    }
