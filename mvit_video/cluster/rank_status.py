"""What became of each rank of a cluster job: one small file per rank, from its supervisor to the end of the job."""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from mvit_video.cluster.placement import TaskPlacement
from mvit_video.runtime.files import write_text

FOLDER = "ranks"  # in the folder of a job's logs
Status = Literal["running", "done", "saved", "cancelled", "failed", "refused"]


@dataclass(frozen=True)
class RankStatus:
    """The last that is known of a rank.

    Attributes:
        placement: which rank it is, and where.
        run_dir: of its run, absolute.
        status: "running" still (or killed together with its supervisor), "done", "saved" (asked to stop), "cancelled"
            (ended from outside), "failed", or "refused" (another attempt is training the run).
        error: why it ended, where there is something to say.
        time: when this was written, seconds since 1970.
        pid: of the supervisor, which writes this.
    """

    placement: TaskPlacement
    run_dir: str
    status: Status
    error: str = ""
    time: float = field(default_factory=time.time)
    pid: int = field(default_factory=os.getpid)


def status_file(folder: Path, placement: TaskPlacement) -> Path:
    """Where the status of a rank lies."""
    return folder / f"{placement.job_id}.{placement.restart}.{placement.rank}.json"


def write_status(folder: Path, status: RankStatus) -> None:
    """Write a rank's status, whole at every instant."""
    write_text(status_file(folder, status.placement), json.dumps(asdict(status), ensure_ascii=False) + "\n")


def read_statuses(folder: Path, job_id: str, restart: int) -> list[RankStatus]:
    """Statuses of the ranks of one start of a job, in rank order."""
    statuses = []
    for path in folder.glob(f"{job_id}.{restart}.*.json"):
        values = json.loads(path.read_text("utf-8"))
        statuses.append(RankStatus(**{**values, "placement": TaskPlacement(**values["placement"])}))
    return sorted(statuses, key=lambda status: status.placement.rank)
