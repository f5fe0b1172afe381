"""List runs: `python -m mvit_video.runs [FOLDER]`: state, progress, accuracy, speed, time left, restarts."""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mvit_video.cluster.submit import queue_states
from mvit_video.cluster.supervisor import LIVES, read_journal

logger = logging.getLogger(__name__)

_TAIL_BYTES = 200_000  # of a metrics file: the last thousand steps
_SILENT_S = 900  # a run elsewhere that has logged nothing for so long is taken for dead


@dataclass(frozen=True)
class Run:
    """One line of the table.

    Attributes:
        name: of the run.
        state: "waiting", "running", "preempted" (waiting to go on), "stopped", "cancelled", "failed" or "done".
        reason: why, where there is something to say.
        step, total_steps: progress; None before the first step.
        top1: best video accuracy so far, percent.
        clips_per_s: over the last logged window.
        eta_s: seconds left at the speed of the last steps, for a run that is running.
        restarts: how often it was started again.
        job: id of its last cluster job, or "local".
    """

    name: str
    state: str
    reason: str
    step: int | None
    total_steps: int | None
    top1: float | None
    clips_per_s: float | None
    eta_s: float | None
    restarts: int
    job: str


def list_runs(folder: Path, queue: Mapping[str, tuple[str, str]]) -> list[Run]:
    """The runs in a folder, by name.

    Args:
        folder: output_dir of the runs.
        queue: states of cluster jobs, see cluster.queue_states.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give the output_dir of the runs (default: runs)")
    return [read_run(path.parent, queue) for path in sorted(folder.glob(f"*/{LIVES}"))]


def read_run(run_dir: Path, queue: Mapping[str, tuple[str, str]]) -> Run:
    """One run, from its journal, its metrics and what the scheduler knows."""
    events = read_journal(run_dir)
    records = read_metrics(run_dir / "metrics.jsonl")
    trained = [r for r in records if r.get("kind") == "train"]
    accuracies = [r["video_top1"] for r in records if r.get("video_top1") is not None]
    totals = [event["total"] for event in events if event["event"] == "steps"]
    state, reason = judge_state(events, queue, silent_s=time.time() - (trained[-1]["time"] if trained else 0))
    step = trained[-1]["step"] if trained else None
    total = totals[-1] if totals else None
    jobs = [str(event["job"]) for event in events if "job" in event]
    return Run(
        name=run_dir.name,
        state=state,
        reason=reason,
        step=step,
        total_steps=total,
        top1=max(accuracies) if accuracies else None,
        clips_per_s=trained[-1].get("clips_per_s") if trained else None,
        eta_s=time_left(trained, total) if state == "running" else None,
        restarts=max(0, sum(event["event"] == "start" for event in events) - 1),
        job=jobs[-1] if jobs else "",
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The last records of a metrics file; none where it does not exist yet."""
    if not path.exists():
        return []
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    records = []
    for line in lines[1 if size > _TAIL_BYTES else 0 :]:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:  # being written just now
            continue
    return records


def judge_state(
    events: Sequence[Mapping[str, Any]], queue: Mapping[str, tuple[str, str]], *, silent_s: float
) -> tuple[str, str]:
    """(state, reason) of a run (pure, but for asking whether a local process lives).

    Args:
        events: of its journal.
        queue: states of cluster jobs.
        silent_s: seconds since it last logged.
    """
    lives = [event for event in events if event["event"] in ("submit", "start", "end")]
    if not lives:
        return "failed", "it ended before it began"
    last = lives[-1]
    job = str(last["job"])
    if job in queue and last.get("ended") != "done":
        state, reason = queue[job]
        if state in ("PENDING", "REQUEUED", "SUSPENDED", "CONFIGURING"):
            started = any(event["event"] == "start" for event in lives)
            return ("preempted" if started else "waiting"), reason
        if state in ("RUNNING", "COMPLETING"):
            return "running", ""
        if last["event"] != "end":
            return ("cancelled" if state.startswith("CANCELLED") else "failed"), f"job {job}: {state.lower()}"
    if last["event"] == "end":
        names = {"done": "done", "saved": "stopped", "ended": "cancelled", "failed": "failed"}
        return names[last["ended"]], "" if last["ended"] == "done" else str(last["cause"])
    if job == "local" and last["nodes"] == os.uname().nodename:
        alive = Path(f"/proc/{last['pid']}").exists()
        return ("running", "") if alive else ("failed", f"process {last['pid']} is gone without a word (killed?)")
    if silent_s < _SILENT_S:
        return "running", ""
    return "failed", f"job {job} has left the queue without a word"


def time_left(trained: Sequence[Mapping[str, Any]], total: int | None) -> float | None:
    """Seconds to the last step at the pace of the last twenty records; None if there is no pace yet."""
    recent = [r for r in trained[-20:] if r.get("time") is not None]
    if total is None or len(recent) < 2 or recent[-1]["step"] <= recent[0]["step"]:
        return None
    pace = (recent[-1]["time"] - recent[0]["time"]) / (recent[-1]["step"] - recent[0]["step"])
    return max(0.0, (total - recent[-1]["step"]) * pace)


def table(runs: Sequence[Run]) -> Table:
    """The runs as a table for the terminal."""
    result = Table(box=None, header_style="bold")
    for name in ("run", "state", "step", "top-1", "clips/s", "ETA", "restarts", "job", "why"):
        result.add_column(name, justify="right" if name in ("step", "top-1", "clips/s", "ETA", "restarts") else "left")
    colours = {"running": "green", "done": "blue", "failed": "red", "preempted": "yellow", "waiting": "yellow"}
    for run in runs:
        colour = colours.get(run.state, "default")
        result.add_row(
            run.name,
            f"[{colour}]{run.state}[/]",
            "" if run.step is None else f"{run.step}/{run.total_steps or '?'}",
            "" if run.top1 is None else f"{run.top1:.2f}",
            "" if run.clips_per_s is None else f"{run.clips_per_s:.1f}",
            "" if run.eta_s is None else _duration(run.eta_s),
            str(run.restarts),
            run.job,
            run.reason,
        )
    return result


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d}" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(prog="python -m mvit_video.runs", description="State and progress of runs.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="output_dir of the runs")
    parser.add_argument("--json", action="store_true", help="one JSON object per run instead of a table")
    options = parser.parse_args(arguments)
    try:
        queue = queue_states()
    except RuntimeError as error:  # SLURM's tools are here, SLURM is not: the runs' own files still tell most
        print(f"{error}; what follows is from the run directories alone", file=sys.stderr)
        queue = {}
    try:
        runs = list_runs(options.folder, queue)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        for run in runs:
            print(json.dumps(asdict(run)))
    elif runs:
        Console(soft_wrap=not sys.stdout.isatty()).print(table(runs))
    else:
        print(f"no runs in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
