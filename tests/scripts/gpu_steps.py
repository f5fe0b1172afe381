"""Steps that go wrong in every way, for the tests of scripts/bench_gpu.py; none imports torch."""

import os
import signal
import time

from gpu.context import Context

TABLE = "numbers"


def measure(context: Context) -> None:
    """A step of four cases, named by the environment: what its third case does."""
    kind = os.environ["GPU_STEP_KIND"]
    if kind == "breaks":
        raise OSError("the step's own trouble")
    for number in range(4):
        context.case(TABLE, {"case": number}, lambda n=number: case(kind, n, context))  # type: ignore[misc]


def case(kind: str, number: int, context: Context) -> dict[str, object]:
    """The number doubled, but for the third one."""
    if number == 2:
        if kind == "raises":
            raise ValueError("three is too many")
        if kind == "overruns":
            time.sleep(600)
        if kind == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "loses the card":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
    threads = os.environ.get("OMP_NUM_THREADS")
    return {"twice": 2 * number, "process": os.getpid(), "part": context.part, "threads": threads}
