"""Equal bits or not: a short training twice, killed and resumed, and as CUDA graphs, each with `trainer.deterministic`
and without.

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
BESIDE = ("first", "second", "killed", "graphs", "graphs killed", "graphs recomputed")


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
                name: start(_request(context, Path(folder), mode, name, kill=name.endswith("killed")))
                for name in BESIDE
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
            "graphs": name.startswith("graphs"),
            "recomputed": name.endswith("recomputed"),
            "checkpoint": str(folder / (f"{mode}_graphs.pt" if name.startswith("graphs") else f"{mode}.pt")),
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
        if (code == 0) == name.endswith("killed"):
            raise RuntimeError(f"the training '{name}' ended with exit code {code}; its message is in the log")
    alone = ("resumed", "graphs resumed")
    for name in alone:
        resumed = start(_request(context, folder, mode, name, resume=True))
        if resumed.wait(timeout=max(context.left_s, 1.0)) != 0:
            raise RuntimeError(f"the training '{name}' failed; its message is in the log")
    ended = [name for name in (*BESIDE, *alone) if not name.endswith("killed")]
    found = {name: json.loads((folder / f"{mode}_{name}.json").read_text()) for name in ended}
    same = {name: result["digest"] == found["first"]["digest"] for name, result in found.items()}
    return {
        "twice: equal bits": same["second"],
        "killed and resumed: equal bits": same["resumed"],
        "as the trainer's graphs: equal bits": same["graphs"],
        "graphs, killed and resumed: equal bits": same["graphs resumed"],
        "graphs, blocks recomputed: equal bits": same["graphs recomputed"],
        "ms a step": 1e3 * found["resumed"]["seconds"],
        "ms a step, graphs": 1e3 * found["graphs resumed"]["seconds"],
        "digest": found["first"]["digest"],
    }
