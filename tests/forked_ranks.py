"""Ranks as forked processes, so that torch is imported once: for scripts that a test starts."""

import contextlib
import faulthandler
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from mvit_video.build import training
from mvit_video.engine.tracking import Tracker
from mvit_video.runtime.logs import configure_logging
from tests.interpreters import renew_thread_pool

LIMIT_S = 500


def leave_out_metrics() -> None:
    """Write no metrics and draw no curves, which takes long."""

    def silent(run_dir: Path, *, total_steps: int, **_: object) -> Tracker:
        return Tracker(run_dir, total_steps=total_steps, enabled=False)

    training.Tracker = silent  # type: ignore[assignment,misc]


def start(job: Callable[[], object], *, ranks: int, port: int) -> list[int]:
    """Fork `ranks` processes that do `job`; their ids."""
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child:
            children.append(child)
            continue
        if ranks > 1:
            names = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": ranks,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            os.environ.update({name: str(value) for name, value in names.items()})
        renew_thread_pool()
        faulthandler.dump_traceback_later(LIMIT_S - 2)  # a rank that hangs shows where, before it is killed
        try:
            configure_logging()
            job()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return children


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def run(job: Callable[[], object], *, ranks: int) -> list[int]:
    """Do `job` on all ranks; exit codes, negative for signals. The others of a rank that was killed are killed too."""
    (port,) = free_ports(1)
    running, codes = start(job, ranks=ranks, port=port), []
    deadline = time.monotonic() + LIMIT_S
    while running:
        for child in list(running):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                running.remove(child)
                codes.append(os.waitstatus_to_exitcode(status))
        if running and (any(codes) or time.monotonic() > deadline):
            time.sleep(0.5)
            for child in running:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
    return codes
