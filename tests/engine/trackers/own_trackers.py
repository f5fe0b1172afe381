"""Trackers for the tests: one that writes what it is told to a file, and some that fail or hang."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvit_video.engine.trackers import FinalState, RunInfo


class Notes:
    """Writes a line of JSON for everything it is told."""

    def __init__(self, info: RunInfo) -> None:
        self.id = info.earlier.get("id", "first")
        self.path = Path(info.run_dir) / "notes.jsonl"
        self.write(["open", info.name, info.project, dict(info.earlier), info.options])

    def write(self, line: Any) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def about(self) -> dict[str, str]:
        return {"id": self.id, "place": str(self.path)}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.write(["log", step, dict(values)])

    def note(self, values: Mapping[str, float]) -> None:
        self.write(["note", dict(values)])

    def finish(self, state: FinalState) -> None:
        self.write(["finish", state])


class Refusing(Notes):
    """Refuses step 2 once."""

    refused = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step == 2 and not self.refused:
            self.refused = True
            raise ConnectionError("the server is away\nsecond line")
        super().log(step, values)


class Hanging(Notes):
    """Hangs from step 2 on."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step >= 2:
            time.sleep(600)
        super().log(step, values)


class Crashing(Notes):
    """Ends its process at step 2."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step == 2:
            print("a last word", flush=True)
            import os

            os._exit(3)
        super().log(step, values)


class NeverEnding(Notes):
    """Takes everything and hangs at the end."""

    def finish(self, state: FinalState) -> None:
        super().finish(state)
        time.sleep(600)


def refused_at_the_start(info: RunInfo) -> Notes:
    raise RuntimeError("no key")
