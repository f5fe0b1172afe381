"""Running one command on the stage: how it ended, how long it took, what it said."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mvit_video.runtime.interruption import EXIT_INTERRUPTED
from mvit_video.runtime.journal import read_events
from pages.commands import Command
from tests.paths import ROOT

LIMIT_S = 300.0  # a command that takes longer has failed
LONG_STEPS = 40  # a training with more steps than this ahead of it is asked to stop
_LOOK_S = 0.5
_SITE = Path(__file__).parent / "site"

Ended = Literal["ran", "stopped", "failed", "not run"]


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        command: that was run.
        ended: "stopped" is a training that was asked to stop after its first logged steps, and did so as documented.
        why: of what failed or was not run.
        seconds: from start to end.
        output: both streams together.
    """

    command: Command
    ended: Ended
    why: str = ""
    seconds: float = 0.0
    output: str = ""


def environment(home: Path, *, hub: str) -> dict[str, str]:
    """What the processes of the stage see: small models, caches of their own, a hub and trackers on this machine."""
    paths = [str(_SITE), str(ROOT)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "TORCH_HOME": str(home / "torch"),
        "HF_HOME": str(home / "hub"),
        "HF_ENDPOINT": hub,
        "HF_TOKEN": "hf_made_up",
        "WANDB_MODE": "offline",
        "BROWSER": "true",  # opens a page, and shows nothing
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }


def run(command: Command, stage: Path, variables: Mapping[str, str], *, limit_s: float = LIMIT_S) -> Outcome:
    """Run a command as it is written, in a process of its own."""
    log = stage.parent / "output.txt"
    words = ["bash", "-c", command.text] if command.kind == "shell" else [sys.executable, _script(command, stage)]
    started, wall = time.monotonic(), time.time()
    stopped: Path | None = None
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, cwd=stage, env=dict(variables), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None and time.monotonic() - started < limit_s:
                if stopped is None and (stopped := _long_training(stage, since=wall)) is not None:
                    os.killpg(process.pid, signal.SIGTERM)
                time.sleep(_LOOK_S)
        finally:
            late = process.poll() is None
            if late:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    seconds = time.monotonic() - started
    output = log.read_text(encoding="utf-8", errors="replace")
    why = f"still running after {limit_s:.0f} s" if late else wrong(process.returncode, output, stopped)
    ended: Ended = "failed" if why else "ran" if stopped is None else "stopped"
    return Outcome(command, ended, why, seconds, output)


def _script(command: Command, stage: Path) -> str:
    """A block of Python as a file of the stage, as a reader would save it."""
    path = stage / f"block_{command.line}.py"
    path.write_text(command.text, encoding="utf-8")
    return path.name


def _long_training(stage: Path, *, since: float) -> Path | None:
    """The folder of a training that has logged steps since then and has many more ahead of it."""
    for metrics in stage.glob("runs/*/metrics.jsonl"):
        if metrics.stat().st_mtime < since:
            continue
        lines = [json.loads(line) for line in metrics.read_text().splitlines() if line.endswith("}")]
        steps = [line["step"] for line in lines if line.get("kind") == "train"]
        total = max((event["total"] for event in read_events(metrics.parent) if event["event"] == "steps"), default=0)
        if steps and total - steps[-1] > LONG_STEPS:
            return metrics.parent
    return None


def wrong(code: int, output: str, stopped: Path | None) -> str:
    """What is wrong with how a command ended; empty if nothing is."""
    if "Traceback (most recent call last)" in output:
        return "a traceback"
    if stopped is None:
        return "" if code == 0 else f"exit code {code}"
    if code != EXIT_INTERRUPTED:
        return f"exit code {code} after SIGTERM, not {EXIT_INTERRUPTED}"
    return "" if any((stopped / "checkpoints").glob("step_*")) else "no checkpoint after SIGTERM"
