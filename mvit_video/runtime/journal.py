"""The journal of a run: a line of JSON for each time it was submitted, started and ended, in its run directory.

Events, besides `time` (seconds since 1970):

| `event` | keys | written by |
|---|---|---|
| `submit` | `job` | the command that submits a cluster job |
| `start` | `job`, `restart`, `nodes`; `ranks` (cluster), or `pid`, `process_start`, `machine` (here) | who starts it |
| `steps` | `total`: optimizer steps of the whole training | the training |
| `stopped_early` | `step`, `metric`, `best`, `validations`: without improvement | the training |
| `end` | `job`, `restart`, `status`, `cause` | whatever sees an attempt end |

`job` is a cluster's job id or "local"; `status` is one of `ENDINGS`.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from mvit_video.runtime.files import named

JOURNAL = "journal.jsonl"
LEGACY_JOURNAL = "lives.jsonl"  # what version 0.1 wrote; read, never written

Ending = Literal["done", "saved", "cancelled", "failed", "refused"]
"""How an attempt ended: complete; saved when asked to stop; ended from outside; failed; refused, since another attempt
was training the run."""
ENDINGS: tuple[str, ...] = get_args(Ending)
# What readers rely on.
_KEYS = {"submit": ("job",), "start": ("job",), "end": ("job", "status", "cause"), "steps": ("total",)}

_LEGACY_STATUS = {"ended": "cancelled"}


def append_event(run_dir: Path, event: str, **values: str | int | float | bool | None) -> None:
    """Append an event to the journal of a run; makes the run directory."""
    run_dir.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"time": time.time(), "event": event, **values}, ensure_ascii=False) + "\n"
    with named(run_dir / JOURNAL), open(run_dir / JOURNAL, "ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a line cut short by a crash must not swallow this one
                line = "\n" + line
        file.write(line.encode("utf-8", "backslashreplace"))  # one write: lines of several processes do not mix


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """Events of a run, oldest first, those of a legacy journal included.

    A line cut short by a crash is left out, and one that lacks what its event must have.
    """
    events = [*(_renamed(event) for event in _read(run_dir / LEGACY_JOURNAL)), *_read(run_dir / JOURNAL)]
    return [event for event in events if all(key in event for key in _KEYS.get(str(event["event"]), ()))]


def has_journal(folder: Path) -> bool:
    """Whether a folder is a run directory: one that has a journal."""
    return (folder / JOURNAL).exists() or (folder / LEGACY_JOURNAL).exists()


def _read(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().decode("utf-8", "replace").split("\n") if path.exists() else []:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict) and "event" in event:
            yield event


def _renamed(event: dict[str, Any]) -> dict[str, Any]:
    """An event of a legacy journal with today's names."""
    if "ended" not in event:
        return event
    rest = {key: value for key, value in event.items() if key != "ended"}
    return {**rest, "status": _LEGACY_STATUS.get(event["ended"], event["ended"])}
