"""Run one step, or one part of it, in this process: `python -m gpu.child REQUEST`, with REQUEST in JSON."""

import faulthandler
import importlib
import json
import signal
import sys
import time
from pathlib import Path

from gpu.context import Context
from gpu.null_gpu import cudnn_attention


def main(request: str) -> None:
    """Call the module's `measure`; SIGUSR1 writes to standard error where the process is."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=False)
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


if __name__ == "__main__":
    main(sys.argv[1])
