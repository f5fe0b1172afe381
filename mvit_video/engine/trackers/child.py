"""The process of a tracker: `python -m mvit_video.engine.trackers.child NAME DESCRIPTOR`, started by process.py.

Messages come in as lines of JSON: `open` first, then `log` and `note`, `finish` at the end. A training that dies sends
nothing more: its run then counts as failed. Reports go out through the descriptor.
"""

import importlib
import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mvit_video.engine.trackers import mlflow_run, trackio_run, wandb_run
from mvit_video.engine.trackers.interface import FinalState, RunInfo, TrackedRun

Open = Callable[[RunInfo], TrackedRun]
Message = Mapping[str, Any]

TRACKERS: dict[str, Open] = {
    "wandb": wandb_run.open_run,
    "mlflow": mlflow_run.open_run,
    "trackio": trackio_run.open_run,
}


def opener(name: str) -> Open:
    """The function that opens a run of the tracker `name`, which may be a dotted path.

    Raises:
        ImportError, AttributeError: there is no such function.
    """
    if name in TRACKERS:
        return TRACKERS[name]
    module, _, function = name.rpartition(".")
    found: Open = getattr(importlib.import_module(module), function)
    return found


def serve(name: str, messages: Iterable[Message], report: Callable[[Message], None]) -> None:
    """Open a run, hand it every message, finish it.

    What a tracker refuses is kept and offered again with the next message. Reports: `opened` with what the run says of
    itself, or `failed`; `taken` with the number of messages behind us; `trouble` when the first message is refused and
    `again` when it was taken after all; `finished` with the number of messages that never were.
    """
    incoming = iter(messages)
    try:
        run = opener(name)(RunInfo(**next(incoming)["open"]))
        report({"opened": run.about()})
    except (Exception, SystemExit) as error:
        report({"failed": text_of(error)})
        return
    kept: deque[Message] = deque()
    state: FinalState = "failed"
    refused = False
    for number, message in enumerate(incoming, start=1):
        if "finish" in message:
            state = message["finish"]
            break
        kept.append(message)
        refused = _hand_over(run, kept, report, refused)
        report({"taken": number})
    _hand_over(run, kept, report, refused)
    try:
        run.finish(state)
    except (Exception, SystemExit) as error:
        report({"trouble": text_of(error)})
    report({"finished": len(kept)})


def _hand_over(run: TrackedRun, kept: deque[Message], report: Callable[[Message], None], refused: bool) -> bool:
    """Hand over what is kept, up to the first message that is refused; whether one is."""
    while kept:
        message = kept[0]
        try:
            if "log" in message:
                run.log(message["log"], message["values"])
            else:
                run.note(message["note"])
        except (Exception, SystemExit) as error:
            if not refused:
                report({"trouble": text_of(error)})
            return True
        kept.popleft()
    if refused:
        report({"again": True})
    return False


def text_of(error: BaseException) -> str:
    """An error in a line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _messages(descriptor: int, *, patience_s: float) -> Iterator[Message]:
    with open(descriptor, "rb") as lines:
        for line in lines:
            message = json.loads(line)
            yield message
            if "finish" in message:
                return
    # The training has died. Nobody ends a tracker that hangs now but itself.
    timer = threading.Timer(patience_s, os._exit, [1])
    timer.daemon = True
    timer.start()


def main() -> None:
    """Entry point of the process."""
    name, descriptor, patience_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):  # they are meant for the training, which tells us
        signal.signal(number, signal.SIG_IGN)
    incoming = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # a library that asks for a password shall not read our messages
    with open(descriptor, "w", encoding="utf-8") as reports:

        def report(message: Message) -> None:
            reports.write(json.dumps(message) + "\n")
            reports.flush()

        serve(name, _messages(incoming, patience_s=patience_s), report)


if __name__ == "__main__":
    main()
