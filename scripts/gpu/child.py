"""Run one step, or one part of it, in this process: `python -m gpu.child REQUEST`, with REQUEST in JSON."""

import faulthandler
import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from gpu.context import Context
from gpu.null_gpu import cudnn_attention


def main(request: str) -> None:
    """Call the module's `measure`; SIGUSR1 writes to standard error where the process is."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    threading.Thread(target=_end_with_runner, name="runner-gone", daemon=True).start()
    asked = json.loads(request)
    context = Context(
        step=asked["step"],
        records=Path(asked["records"]),
        rehearse=asked["rehearse"],
        deadline=time.monotonic() + asked["seconds"],
        part=asked["part"],
        parts=asked["parts"],
        done=frozenset(asked["done"]),
        null_gpu=asked["null_gpu"],
    )
    cudnn_attention.install()
    importlib.import_module(asked["module"]).measure(context)


def _end_with_runner() -> None:
    """End this process, and all that it has started, when the runner is gone: nobody else would free the card.

    Standard input is a pipe that the runner holds open and writes nothing to.
    """
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
