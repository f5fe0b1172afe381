"""What a step is given: where it computes, how long it may, and where its results go.

Results are rows of tables and notes. Each is one line of JSON, appended to one file when it is known, so that what was
measured survives whatever ends the process.
"""

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FATAL = ("CUDA error", "device-side assert", "illegal memory access", "unspecified launch failure")
"""Texts of errors after which a process can use its GPU no more."""
Row = Mapping[str, object]
CLAIMS = "claims"
"""Folder beside the records: a file for each case that a part of the step has begun."""
OF_THE_HOST = frozenset(
    ("block", "form", "frames", "took", "peak memory, GB", "kept, MB", "largest batch", "GB a further clip")
    + ("launches", "host busy, ms", "first step, s", "first call, s", "remark")
)
"""Columns that mean something on the null GPU: what a line is about, memory, launches, times of the host."""
FACTS_OF_THE_HOST = frozenset(("card", "host", "cores", "versions"))


class FatalError(RuntimeError):
    """The process has lost its GPU; the step goes on with its other cases in a new one."""


@dataclass
class Context:
    """A step's surroundings.

    Attributes:
        step: its name.
        records: the file that results are appended to.
        rehearse: on the CPU at tiny sizes instead of on the GPU.
        null_gpu: on the null GPU, at real sizes: times and values of the device are left out of all results.
        deadline: by `time.monotonic`, when the process will be ended.
        part, parts: this process is one of so many, each of which takes the next case that none has begun.
        done: cases that an earlier process of the step has been at.
    """

    step: str
    records: Path
    rehearse: bool
    deadline: float
    part: int = 0
    parts: int = 1
    done: frozenset[str] = frozenset()
    null_gpu: bool = False
    _cases: int = field(default=0, init=False)
    _since: tuple[float, float] = field(default=(0.0, 0.0), init=False)

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def left_s(self) -> float:
        """Seconds until the process is ended."""
        return self.deadline - time.monotonic()

    def note(self, text: str) -> None:
        """A sentence for the report; of a step in several parts, the first one speaks."""
        if self.part == 0:
            self._append({"note": text})

    def fact(self, **values: object) -> None:
        """Values for results.json and for the heading of the report."""
        if self.null_gpu:
            kept = FACTS_OF_THE_HOST.union(values.get("versions", ()))  # type: ignore[call-overload]
            values = {name: value for name, value in values.items() if name in kept}
        if values:
            self._append({"fact": values})

    def row(self, table: str, row: Row) -> None:
        """A line of a table; columns appear in the order in which they are first seen."""
        self._append({"table": table, "row": self._meant(row)})

    def _meant(self, row: Row) -> dict[str, object]:
        """The columns that mean something here."""
        return {name: value for name, value in row.items() if not self.null_gpu or name in OF_THE_HOST}

    def case(self, table: str, key: Row, measure: Callable[[], Row], *, needs_s: float = 0.0) -> dict[str, Any] | None:
        """Measure one line of a table; an error becomes the line's text, and the step goes on.

        Args:
            table: its heading.
            key: the columns that say what is measured.
            measure: gives the other columns.
            needs_s: with fewer seconds left the case is left out, which the line says.

        Returns:
            What was measured; None if nothing was.

        Raises:
            FatalError: the GPU cannot be used any more by this process.
        """
        name = case_name(table, key)
        if not self._claim() or name in self.done:
            return None
        if self.left_s < needs_s:
            self._since = took()
            self._finished(table, key, {"remark": f"left out: needs {needs_s:.0f} s, and {self.left_s:.0f} s are left"})
            return None
        self._append({"begin": name, "table": table, "key": dict(key)})
        self._since = took()
        try:
            measured = dict(measure())
        except Exception as error:  # whatever a library raises: the report shows it, and the next case runs
            self._failed(table, key, error)
            return None
        self._finished(table, key, {"ran": True, **self._meant(measured)} if self.null_gpu else measured)
        return measured

    def _claim(self) -> bool:
        """Whether this process is the first one to come to the case: whoever makes its file has it."""
        self._cases += 1
        if self.parts == 1:
            return True
        folder = self.records.with_name(CLAIMS)
        folder.mkdir(exist_ok=True)
        try:
            (folder / f"{self.step}-{self._cases}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _finished(self, table: str, key: Row, rest: Row) -> None:
        """Append the line, and beside it the seconds since the case began: by the clock, and of all processors."""
        wall, cpu = (round(now - then, 2) for now, then in zip(took(), self._since))
        self._append({"table": table, "row": {**key, **rest}, "s": wall, "cpu_s": cpu})

    def _failed(self, table: str, key: Row, error: Exception) -> None:
        text = first_line(error)
        print(f"--- {case_name(table, key)}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        self._finished(table, key, {"remark": f"error: {text}"})
        fatal = any(part in str(error) for part in FATAL)
        cause: BaseException | None = error
        while cause is not None:
            cause.__traceback__, cause = None, cause.__context__  # frames hold tensors
        if fatal:
            raise FatalError(text) from None
        free_memory()

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps({"step": self.step, **record}, default=str) + "\n"
        # One write of one line: several parts append to the same file.
        descriptor = os.open(self.records, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def took() -> tuple[float, float]:
    """Seconds by the clock, and of all processors by this process and the compilers it has waited for."""
    times = os.times()
    return time.monotonic(), times.user + times.system + times.children_user + times.children_system


def case_name(table: str, key: Row) -> str:
    return f"{table}: " + ", ".join(f"{name} {value}" for name, value in key.items())


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, with its type."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def free_memory() -> None:
    """Give the memory of what failed back, if torch was imported at all."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def read_records(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The records from byte `start` on, and the byte behind the last whole line."""
    if not path.exists():
        return [], start
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], start + len(whole)
