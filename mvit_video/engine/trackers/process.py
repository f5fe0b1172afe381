"""The training's end of a tracker's process: nothing here waits for it, until the run has ended.

A tracker talks to a server, starts threads and hooks of its own, and may hang in any of them, also while Python ends.
In a process of its own it can fail or hang as it likes: the training says so once and goes on.
"""

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mvit_video.engine.trackers.interface import FinalState, RunInfo
from mvit_video.runtime.files import write_text

logger = logging.getLogger(__name__)

FOLDER = "trackers"
SILENCE_S = 300.0  # without an answer, after which the training says so
LARGEST_BACKLOG = 20_000  # messages kept for a tracker that does not answer
INSTALL = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


class TrackerProcess:
    """A tracker at work. No method raises, and none but `end` waits.

    In the run directory, `trackers/NAME.json` holds what finds the tracker's run again, and `trackers/NAME.log` what
    the tracker prints.

    Args:
        name: of the tracker, see interface.py.
        info: the run; `earlier` is filled in here.
        timeout_s: how long `end` waits.
        silence_s: see SILENCE_S.
    """

    def __init__(self, name: str, info: RunInfo, *, timeout_s: float, silence_s: float = SILENCE_S) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.silence_s = silence_s
        self.folder = Path(info.run_dir) / FOLDER
        self._place = self.folder / f"{name}.json"
        self._queue: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._sent = self._taken = self._dropped = 0
        self._heard = time.monotonic()
        self._lost = False  # it has ended, or never began: said already
        self._silent = False
        self._finished = False
        self._earlier = self._read_place()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = process = self._start()
        except OSError as error:
            self._lose(f"could not be started: {error}")
            return
        self._queue.put({"open": asdict(info) | {"earlier": self._earlier}})
        threading.Thread(target=self._write, args=[process], name=f"{name}-writer", daemon=True).start()
        self._reader = threading.Thread(target=self._read, name=f"{name}-reader", daemon=True)
        self._reader.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers after `step` optimizer steps."""
        self._send({"log": step, "values": dict(values)})

    def note(self, values: Mapping[str, float]) -> None:
        """Numbers of the whole run."""
        self._send({"note": dict(values)})

    def finish(self, state: FinalState) -> None:
        """Say how the attempt ended; `end` waits until the tracker has taken it."""
        self._queue.put({"finish": state})
        self._queue.put(None)

    def end(self, deadline: float) -> None:
        """Wait until the tracker has ended, up to `deadline` (of time.monotonic); end it then."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            missing = self._sent - self._taken
            self._lose(
                f"has not ended after {self.timeout_s:g} s and is left behind; up to {missing} of {self._sent} records "
                "are missing there. trainer.tracker_timeout_s=... waits longer"
            )
            self._kill(self._process)
        except BaseException:  # a second Ctrl-C
            self._kill(self._process)
            raise
        self._reader.join(5.0)
        if self._dropped:
            logger.warning("%s: %d records were dropped while it did not answer", self.name, self._dropped)

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._lost:
            return
        if self._sent == self._taken:
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > self.silence_s and not self._silent:
            self._silent = True
            logger.warning(
                "%s has not answered for %.0f s; training goes on, and what it misses is kept for it. Its output is in "
                "%s",
                self.name,
                time.monotonic() - self._heard,
                self._output,
            )
        if self._queue.qsize() >= LARGEST_BACKLOG:
            self._dropped += 1
            return
        self._sent += 1
        self._queue.put(message)

    @property
    def _output(self) -> Path:
        return self.folder / f"{self.name}.log"

    def _start(self) -> "subprocess.Popen[bytes]":
        self.folder.mkdir(parents=True, exist_ok=True)
        reports, theirs = os.pipe()
        module = "mvit_video.engine.trackers.child"
        try:
            with open(self._output, "ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", module, self.name, str(theirs), str(self.timeout_s)],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    pass_fds=[theirs],
                    start_new_session=True,  # a Ctrl-C is for the training
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                )
        except OSError:
            os.close(reports)
            raise
        finally:
            os.close(theirs)
        self._reports = reports
        return process

    def _write(self, process: "subprocess.Popen[bytes]") -> None:
        """Hand messages to the process; this thread is the one that waits when it is slow."""
        assert process.stdin is not None
        with contextlib.suppress(OSError), process.stdin as pipe:  # its end is reported by _read
            while (message := self._queue.get()) is not None:
                pipe.write(json.dumps(message, default=str).encode() + b"\n")
                pipe.flush()

    def _read(self) -> None:
        with open(self._reports, encoding="utf-8") as reports:
            for line in reports:
                self._heard = time.monotonic()
                self._take(json.loads(line))
        if not self._finished:
            self._lose(f"has ended by itself; its output is in {self._output}")

    def _take(self, report: Mapping[str, Any]) -> None:
        if "taken" in report:
            self._taken = report["taken"]
            if self._silent and self._taken == self._sent:
                self._silent = False
                logger.info("%s answers again, and has what was kept for it", self.name)
        elif "opened" in report:
            self._opened(report["opened"])
        elif "failed" in report:
            self._finished = True
            self._lose(f"could not be started: {report['failed'].rstrip('.')}.{self._advice(report['failed'])}")
        elif "trouble" in report:
            logger.warning(
                "%s: %s; training goes on, and what it has not taken is offered again. Its output is in %s",
                self.name,
                report["trouble"],
                self._output,
            )
        elif "again" in report:
            logger.info("%s takes records again, those held back included", self.name)
        elif "finished" in report:
            self._finished = True
            if report["finished"]:
                logger.warning("%s has not taken %d of %d records", self.name, report["finished"], self._sent)

    def _opened(self, about: Mapping[str, str]) -> None:
        earlier = self._earlier.get("id")
        if earlier is not None and earlier != about["id"]:
            logger.warning("%s no longer has run %s: the numbers from here on go to a new one", self.name, earlier)
        logger.info("%s: run %s, %s", self.name, about["id"], about.get("place", ""))
        try:
            write_text(self._place, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            logger.warning(
                "%s: %s could not be written (%s): a resumed run starts a new one", self.name, self._place, error
            )

    def _read_place(self) -> dict[str, str]:
        try:
            found = json.loads(self._place.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # the first attempt, or a file that says nothing
            return {}
        return dict(found) if isinstance(found, dict) else {}

    def _advice(self, failure: str) -> str:
        if "ModuleNotFoundError" in failure and self.name in INSTALL:
            return f" Install it: pip install mvit_video[{INSTALL[self.name]}]."
        return f" Its output is in {self._output}."

    def _lose(self, text: str) -> None:
        if not self._lost:
            self._lost = True
            logger.warning(
                "%s %s Training is not affected; metrics.jsonl has every number", self.name, text.rstrip(".") + "."
            )

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        """End the process and those it started, which are a session of their own."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_all(trackers: Sequence[TrackerProcess], state: FinalState) -> None:
    """Finish all of them at once, and wait until they have ended."""
    for tracker in trackers:
        tracker.finish(state)
    deadline = time.monotonic() + max((tracker.timeout_s for tracker in trackers), default=0.0)
    for tracker in trackers:
        tracker.end(deadline)
