"""Runs the steps one after the other, each in processes of its own, and writes what is known after each of them."""

import argparse
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from gpu import caches, null_gpu
from gpu.context import CLAIMS, read_records
from gpu.null_gpu.builder import CUDNN_ATTENTION
from gpu.report import failed_cases, section
from gpu.steps import STEPS, Step, chosen_steps

SCRIPTS = Path(__file__).resolve().parent.parent
TRIES = 3
"""Processes that a part of a step may lose before it is given up."""
LEAST_S = 8.0
"""With fewer seconds left no step begins: a process needs as long to import torch and to reach the GPU."""
MINUTES, REHEARSAL_MINUTES, REHEARSAL_PATIENCE = 8.0, 30.0, 4.0
"""For all steps on a GPU, and in a rehearsal, where each step may also take so many times its time: CPUs are slow."""
NULL_GPU_MINUTES, NULL_GPU_PATIENCE = 240.0, 20.0
"""The same on the null GPU, where everything is compiled at its real size, often on few cores."""
ALL_MINUTES = {"card": MINUTES, "rehearsal": REHEARSAL_MINUTES, "null GPU": NULL_GPU_MINUTES}
PATIENCE = {"card": 1.0, "rehearsal": REHEARSAL_PATIENCE, "null GPU": NULL_GPU_PATIENCE}
MARGIN_S = 2.0
"""Kept for writing the last results."""
Where = Literal["card", "rehearsal", "null GPU"]
Status = Literal["done", "failed", "out of time", "killed", "not run"]


@dataclass
class Outcome:
    """How a step went.

    Attributes:
        step: the step.
        status: "failed" is an error of its own making, "killed" a signal from elsewhere.
        seconds: it took.
        cpu_s: seconds of all processors that its processes, and those they waited for, have used.
        limit_s: it had.
        error: what is known of its end, empty when it is done.
        records: what it measured.
    """

    step: Step
    status: Status = "not run"
    seconds: float = 0.0
    limit_s: float = 0.0
    cpu_s: float = 0.0
    error: str = ""
    records: list[dict[str, Any]] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As results.json holds it."""
        return {
            "name": self.step.name,
            "title": self.step.title,
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "limit_s": round(self.limit_s, 1),
            "cpu_s": round(self.cpu_s, 1),
            "error": self.error,
            "records": [record for record in self.records if "begin" not in record],
        }


def machine() -> str:
    """The host, whose times are the only ones that a run on the null GPU has."""
    name = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.exists():
        models = re.findall(r"^model name\s*: *(.+)", described.read_text(errors="replace"), re.MULTILINE)
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores"


class Part:
    """One process of a step, and its successors where it is lost."""

    def __init__(self, step: Step, number: int, parts: int, folder: Path, where: Where, deadline: float) -> None:
        self.step, self.number, self.parts = step, number, parts
        self.folder, self.where, self.deadline = folder, where, deadline
        self.losses: list[str] = []
        self.process = self._start(())

    def _start(self, done: Sequence[str]) -> "subprocess.Popen[bytes]":
        request = {
            "step": self.step.name,
            "module": self.step.module,
            "records": str(self.folder / "records.jsonl"),
            "rehearse": self.where == "rehearsal",
            "null_gpu": self.where == "null GPU",
            "seconds": max(self.deadline - time.monotonic(), 0.0),
            "part": self.number,
            "parts": self.parts,
            "done": list(done),
        }
        paths = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
        if self.where == "null GPU":
            environment = null_gpu.environment({**environment, CUDNN_ATTENTION: "1"})
        if self.where == "rehearsal":  # tiny models: several threads wait for each other for most of the time
            environment.setdefault("OMP_NUM_THREADS", "1")
        with open(self.folder / "log.txt", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "gpu.child", json.dumps(request)],
                env=environment,
                stdin=subprocess.PIPE,  # it ends when this process does, see child.py
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def running(self, begun: Sequence[str], rows: int) -> bool:
        """Whether it still has something to do; a lost process is followed by another, without the cases it began."""
        code = self.process.poll()
        if code is None:
            return True
        if code == 0:
            return False
        self.losses.append(f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
        # A process that has finished no case fails in the same way again.
        if len(self.losses) < TRIES and rows and self.deadline - time.monotonic() > LEAST_S:
            self.process = self._start(begun)
            return True
        return False

    def end(self) -> None:
        """End it with all that it started; its log shows where it was."""
        if self.process.poll() is not None:
            return
        os.kill(self.process.pid, signal.SIGUSR1)
        time.sleep(0.2)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run_step(step: Step, *, folder: Path, where: Where, seconds: float, parts: int | None = None) -> Outcome:
    """Run one step to its end, or to the end of its time."""
    started, used = time.monotonic(), cpu_seconds()
    records_file = folder / "records.jsonl"
    _, offset = read_records(records_file)
    log_offset = (folder / "log.txt").stat().st_size if (folder / "log.txt").exists() else 0
    count = parts or step.parts
    deadline = started + seconds
    shutil.rmtree(folder / CLAIMS, ignore_errors=True)
    running = [Part(step, number, count, folder, where, deadline) for number in range(count)]
    every = list(running)
    try:
        while running and time.monotonic() < deadline:
            time.sleep(0.05)
            records, _ = read_records(records_file, offset)
            begun = [record["begin"] for record in records if "begin" in record]
            rows = sum("row" in record for record in records)
            running = [part for part in running if part.running(begun, rows)]
    finally:
        for part in every:
            part.end()
        shutil.rmtree(folder / CLAIMS, ignore_errors=True)
    outcome = Outcome(step, "done", time.monotonic() - started, seconds)
    outcome.records, _ = read_records(records_file, offset)
    outcome.cpu_s = cpu_seconds() - used
    losses = [loss for part in every for loss in part.losses]
    if running:
        outcome.status = "out of time"
        outcome.error = f"ended after {seconds:.0f} s" + _at_work(outcome.records)
    elif losses:
        outcome.status = "killed" if all(loss.startswith("signal") for loss in losses) else "failed"
        words = _last_words(folder / "log.txt", log_offset)
        outcome.error = f"{', '.join(losses)}: {words}" + _at_work(outcome.records)
    return outcome


def cpu_seconds() -> float:
    """Of all processes that this one has waited for, and those that they have waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _at_work(records: Sequence[dict[str, Any]]) -> str:
    """Which cases were begun and not finished."""
    finished = [(r["table"], r["row"]) for r in records if "row" in r]
    open_cases = [
        r["begin"]
        for r in records
        if "begin" in r and not any(r["table"] == t and r["key"].items() <= row.items() for t, row in finished)
    ]
    return f", in {'; '.join(open_cases)}" if open_cases else ""


def _last_words(log: Path, offset: int) -> str:
    with open(log, "rb") as file:
        file.seek(offset)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0] and not line.startswith(("File", "Traceback"))]
    return (named or lines or ["no output"])[-1][:300]


def run(steps: Sequence[Step], *, folder: Path, minutes: float, where: Where) -> list[Outcome]:
    """Run the steps within the time, and write the results after each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("records.jsonl", "log.txt"):
        (folder / name).unlink(missing_ok=True)
    started, deadline = datetime.now(), time.monotonic() + 60 * minutes
    outcomes = [Outcome(step) for step in steps]
    for number, step in enumerate(steps):
        left = deadline - time.monotonic() - MARGIN_S
        limit = min(step.seconds * PATIENCE[where], left)
        if left < LEAST_S:
            outcomes[number].error = f"{max(left, 0):.0f} s of the {minutes:g} minutes were left"
        else:
            print(f"{step.name}: up to {limit:.0f} s", flush=True)
            # Parts compile beside each other; on the card's own machine they have cores enough.
            parts = {"card": step.parts, "rehearsal": 1, "null GPU": min(step.parts, os.cpu_count() or 1)}[where]
            outcomes[number] = run_step(step, folder=folder, where=where, seconds=limit, parts=parts)
        outcome = outcomes[number]
        print(f"{step.name}: {outcome.status} {outcome.seconds:.0f} s {outcome.error}", flush=True)
        write_results(outcomes, folder=folder, minutes=minutes, where=where, started=started)
    return outcomes


def write_results(
    outcomes: Sequence[Outcome], *, folder: Path, minutes: float, where: Where, started: datetime
) -> None:
    """Write results.json and section.md beside their names and rename them."""
    steps = [outcome.plain() for outcome in outcomes]
    results = {"format": 1, "started": started.isoformat(" ", "seconds"), "minutes": minutes}
    results |= {"rehearsal": where == "rehearsal", "null_gpu": where == "null GPU"}
    host = machine() if where == "null GPU" else ""
    texts = {
        "results.json": json.dumps({**results, "steps": steps}, indent=1) + "\n",
        "section.md": section(steps, where=where, minutes=minutes, day=started.date().isoformat(), host=host),
    }
    for name, text in texts.items():
        beside = folder / f".{name}"
        beside.write_text(text, encoding="utf-8")
        beside.replace(folder / name)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure one GPU in minutes; see scripts/gpu/README.md.")
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"for all steps together; {MINUTES:g}, in a rehearsal {REHEARSAL_MINUTES:g}, on the null GPU "
        f"{NULL_GPU_MINUTES:g}",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results")
    parser.add_argument("--steps", nargs="+", metavar="NAME", help=" ".join(step.name for step in STEPS))
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, to try the code")
    parser.add_argument(
        "--null-gpu",
        action="store_true",
        help="real sizes on a GPU that computes nothing (gpu/null_gpu): no card needed",
    )
    parser.add_argument(
        "--caches",
        type=Path,
        metavar="DIR",
        help="keep what is compiled in this folder, and begin with what lies there; see 'Compile ahead' in the README",
    )
    parser.add_argument("--predict", action="store_true", help="print the predictions of scripts/gpu/counts.py and end")
    parser.add_argument(
        "--machine", type=Path, metavar="FILE", help="renew a file of conf/machine by the results in --out, and end"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 if every step was done, 1 if some was not, 2 for a wrong command line.

    On the null GPU a case that fails also makes it 1: that every case runs is all that such a run can show.
    """
    options = parse(arguments)
    try:
        steps = chosen_steps(options.steps)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.predict:
        sys.path.insert(0, str(SCRIPTS.parent))
        from gpu.counts import predictions

        print(predictions())
        return 0
    if options.machine is not None:
        return _renew(options.machine, options.out / "results.json")
    where: Where = "rehearsal" if options.rehearse else "null GPU" if options.null_gpu else "card"
    if where == "null GPU":
        try:
            null_gpu.build()
        except null_gpu.NullGPUError as error:
            print(error, file=sys.stderr)
            return 2
    if options.caches is not None:
        caches.use(options.caches)
    outcomes = run(steps, folder=options.out, minutes=options.minutes or ALL_MINUTES[where], where=where)
    if options.caches is not None and where == "null GPU":
        count = caches.forget_choices(options.caches)
        print(f"choices between forms that were forgotten, for they were timed on nothing: {count}")
    print((options.out / "section.md").read_text(encoding="utf-8"))
    lost = where == "null GPU" and any(failed_cases(outcome.plain()) for outcome in outcomes)
    return 0 if all(outcome.status == "done" for outcome in outcomes) and not lost else 1


def _renew(file: Path, results: Path) -> int:
    sys.path.insert(0, str(SCRIPTS.parent))
    from gpu.machine_figures import renew_file

    try:
        print(renew_file(results, file))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0
