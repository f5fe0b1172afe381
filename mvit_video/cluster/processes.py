"""Several ranks on this machine, as torchrun starts them; with other machines, perhaps, where each does the same."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from mvit_video.cluster.rank import run_rank
from mvit_video.config import TorchrunLauncher, Train
from mvit_video.runtime.interruption import EXIT_INTERRUPTED, EXIT_REFUSED, Interrupted
from mvit_video.runtime.processes import process_start
from mvit_video.runtime.run_lock import RunLockedError

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

logger = logging.getLogger(__name__)
Job = Callable[[Any], Any]


def run(job: Job, config: Train, ranks: int) -> Any:
    """Start `ranks` ranks on this machine; the result of its first one.

    Raises:
        Interrupted: asked to stop, and saved.
        RunLockedError: another attempt is training the run.
        RuntimeError: when a rank fails; the others are ended. When the machines do not find each other. Or when Python
            runs the program again for one.
    """
    _refuse_unguarded(ranks)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    options = _launch_config(config, ranks)
    nodes, meeting = options.max_nodes, options.rdzv_endpoint
    if nodes > 1:
        logger.info("meeting the launchers of run %s on %d machines at %s", config.name, nodes, meeting)
    errors, tell = multiprocessing.Pipe(duplex=False)
    os.set_blocking(tell.fileno(), False)
    try:
        with _torch_launcher_as_guest():
            me = (os.getpid(), process_start(os.getpid()))
            results = elastic_launch(options, _run_local_rank)(job, config, me, tell)
    except SignalException as signal:
        raise Interrupted(f"stopped by {signal.sigval.name}; the same command goes on") from signal
    except RendezvousError as error:
        reason = str(error).split(". ")[0].rstrip(".")
        raise RuntimeError(
            f"the {nodes} machines could not meet, or lost each other, at launcher.rendezvous={meeting} ({reason}): "
            "give the same command on each of them. HOST is one of them, and its PORT free: runs at the same time need "
            "different ports, or end with the one that came first. The same command goes on"
        ) from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        _raise_for(failure.exitcode, config)
        said = []
        while errors.poll():
            said.append(errors.recv())
        raise RuntimeError(_failure_text(rank, failure.exitcode, nodes * ranks, said)) from error
    finally:
        errors.close()
        tell.close()
    if any(isinstance(result, _Refused) for result in results.values()):
        _raise_for(EXIT_REFUSED, config)
    return results[min(results)]


def _raise_for(exit_code: int, config: Train) -> None:
    """Raise what the exit code of a rank stands for that did not fail."""
    if exit_code == EXIT_INTERRUPTED:
        raise Interrupted("stopped and saved; the same command goes on")
    if exit_code == EXIT_REFUSED:
        raise RunLockedError(f"{config.run_dir} is being trained by another process, named above")


_ANOTHER = "another rank"  # what ranks say that failed because another one was gone, see distributed/process_group.py


def _failure_text(rank: int, exit_code: int, ranks: int, said: Sequence[tuple[int, str]]) -> str:
    """Which rank failed first and why (pure).

    Args:
        rank, exit_code: of the process that was first seen to have ended; it may be one that noticed so earlier.
        ranks: how many there are.
        said: what ranks told of their errors, in that order.
    """
    if exit_code < 0:
        how, why = f"was killed by {signal.Signals(-exit_code).name}", "The same command goes on"
        return f"rank {rank} of {ranks} {how}; the others were stopped. {why}"
    own = [one for one in said if _ANOTHER not in one[1]]
    if own:
        rank, exit_code = own[-1][0], 1  # of the last start: each has one, but for ranks that all find the same
    text = f"rank {rank} of {ranks} ended first, with exit code {exit_code}; the others were stopped"
    return f"{text}: {own[-1][1]}" if own else f"{text}. Its own message is above"


def _refuse_unguarded(ranks: int) -> None:
    # A process that Python has started first runs the file of the program again, with a call in it that is not guarded.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            f"there are {ranks} processes to start, for each of which Python runs this program's file again: put "
            'the call under `if __name__ == "__main__":`, or give launcher.processes=1'
        )


def _launch_config(config: Train, ranks: int) -> "LaunchConfig":
    """torch's options for ranks on this machine, and on others where the launcher says so."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    launcher = config.launcher
    nodes = launcher.nodes if isinstance(launcher, TorchrunLauncher) else 1
    # One machine has nobody to meet. At an address that runs share, all would end with the one that came first.
    meeting = launcher.rendezvous if isinstance(launcher, TorchrunLauncher) and nodes > 1 else "localhost:0"
    return LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=ranks,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),  # else a folder in /tmp is left behind for each run
        run_id=config.name,
        rdzv_backend="c10d",
        rdzv_endpoint=meeting,
        max_restarts=launcher.max_restarts,
        signals_to_handle="",  # none: see _signals_for_ranks
    )


# ---- in a rank

_ERROR_CHARACTERS = 500  # which a pipe takes whole or not at all


@dataclass(frozen=True)
class _Refused:
    """The result of a rank that finds the run locked, as all of them do.

    An exit code of its own would let torch start them again, up to `launcher.max_restarts` times. Ranks that were asked
    to stop have one all the same: their result would wait to be fetched by a launcher that is ending.
    """


def _run_local_rank(job: Job, config: Train, launcher: tuple[int, str | None], errors: Connection) -> Any:
    """Run one of several local ranks, in a process of its own; the result of rank 0 travels back.

    Args:
        job, config: what is to be done.
        launcher: id and start of the process that started this one. A rank whose launcher is gone ends.
        errors: where to tell the launcher why this rank fails.
    """
    results: list[Any] = []

    def work(config: Train) -> None:
        """Do the job, and tell the launcher of its error."""
        try:
            results.append(job(config))
        except Interrupted:
            raise
        except Exception as error:
            with suppress(OSError):  # full, after very many starts: nobody reads it before the end
                errors.send((int(os.environ["RANK"]), f"{error or type(error).__name__}"[:_ERROR_CHARACTERS]))
            raise

    _end_without(launcher)
    code = run_rank(work, config)
    _end_without(launcher)
    if code == EXIT_REFUSED:
        return _Refused()
    if code:
        sys.exit(code)
    return results[0]


def _end_without(launcher: tuple[int, str | None]) -> None:
    """End this rank if its launcher is gone.

    The kernel tells a rank of that by SIGINT, but only once torch has asked for it, after the imports; and a job that
    has done its last step may take note of SIGINT and not act on it. Nobody would then fetch its result, for which it
    would wait for ever.
    """
    pid, start = launcher
    if process_start(pid) != start:
        logger.error("process %d, which started this rank, is gone: it ends, too", pid)
        os._exit(128 + signal.SIGKILL)


# ---- signals, and torch's launcher as a guest in the program


_ENDING_S = 60.0
"""Seconds in which ranks that were asked to end do so, or are killed by torch's launcher: it gives them 30, twice."""


@contextmanager
def _signals_for_ranks() -> Iterator[None]:
    """While ranks run, a signal to end reaches them through an exception in torch's launcher, SIGUSR2 like the others;
    afterwards all have the meaning again that they had before.

    torch's own handlers (`signals_to_handle` of its options) would raise for every signal. One that comes while the
    launcher waits for the ranks, as by an impatient Ctrl-C, would let it leave them alone, and wait for its threads for
    ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    from torch.distributed.elastic.multiprocessing.api import SignalException

    asked_at: list[float] = []

    def pass_on(number: int, frame: object) -> None:
        now = time.monotonic()
        if not asked_at or now - asked_at[-1] > _ENDING_S:
            asked_at.append(now)
            raise SignalException(f"process {os.getpid()} got signal {number}", sigval=signal.Signals(number))

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python


@contextmanager
def _torch_launcher_as_guest() -> Iterator[None]:
    """While ranks run, torch's launcher is set as they need it; afterwards the program has its own settings again."""
    names = ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "TORCHELASTIC_SIGNALS_TO_HANDLE")
    before = {name: os.environ.get(name) for name in names}
    # Else ranks that start again find the addresses of those that have ended, in the store that they share with them,
    # and wait for ever, or are refused.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    # Its reports repeat in twenty lines what is said here in one.
    reports = logging.getLogger("torch.distributed.elastic")
    level = reports.level
    reports.setLevel(logging.CRITICAL)
    try:
        with _signals_for_ranks():
            yield
    finally:
        reports.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
