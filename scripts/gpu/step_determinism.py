"""Equal bits or not: a short training twice, and killed and resumed, with `trainer.deterministic` and without.

The trainings of one kind run beside each other; the resumed ones run alone, so that their steps can be timed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Protocol

from gpu.context import Context

TABLE = "S 16x4, bf16, drop path 0.2, AdamW, gradients clipped"
STEPS, BATCH = 20, 8
MODES = (True, False)


class Process(Protocol):
    """What is needed of a started process."""

    def wait(self, timeout: float) -> int: ...
    def kill(self) -> None: ...


def start(request: str) -> Process:
    """Start `determinism_run.py`, in this process's group, so that it ends with it."""
    return subprocess.Popen([sys.executable, "-m", "gpu.determinism_run", request], stdin=subprocess.DEVNULL)


def measure(context: Context) -> None:
    """One row with the option and one without."""
    with tempfile.TemporaryDirectory() as folder:
        running: dict[bool, dict[str, Process]] = {}
        for mode in MODES:
            running[mode] = {
                name: start(_request(context, Path(folder), mode, name, kill=name == "killed"))
                for name in ("first", "second", "killed")
            }
        for mode in MODES:
            key = {"trainer.deterministic": mode}
            context.case(TABLE, key, lambda m=mode: compare(context, Path(folder), m, running[m]))  # type: ignore[misc]


def _request(context: Context, folder: Path, mode: bool, name: str, *, kill: bool = False, resume: bool = False) -> str:
    steps = 2 if context.rehearse else STEPS
    return json.dumps(
        {
            "deterministic": mode,
            "device": context.device,
            "rehearse": context.rehearse,
            "steps": steps,
            "batch": 2 if context.rehearse else BATCH,
            "kill_after": steps // 2 if kill else 0,
            "resume": resume,
            "checkpoint": str(folder / f"{mode}.pt"),
            "result": str(folder / f"{mode}_{name}.json"),
        }
    )


def compare(context: Context, folder: Path, mode: bool, running: dict[str, Process]) -> dict[str, Any]:
    """Wait for the trainings of a mode, resume the killed one, and compare the digests.

    Raises:
        RuntimeError: a training ended otherwise than it should.
    """
    for name, process in running.items():
        code = process.wait(timeout=max(context.left_s, 1.0))
        if (code == 0) != (name != "killed"):
            raise RuntimeError(f"the training '{name}' ended with exit code {code}; its message is in the log")
    resumed = start(_request(context, folder, mode, "resumed", resume=True))
    if resumed.wait(timeout=max(context.left_s, 1.0)) != 0:
        raise RuntimeError("the resumed training failed; its message is in the log")
    first, second, third = (
        json.loads((folder / f"{mode}_{name}.json").read_text()) for name in ("first", "second", "resumed")
    )
    return {
        "twice: equal bits": first["digest"] == second["digest"],
        "killed and resumed: equal bits": first["digest"] == third["digest"],
        "ms a step": 1e3 * third["seconds"],
        "digest": first["digest"],
    }
