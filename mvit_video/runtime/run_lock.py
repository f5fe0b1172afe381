"""One attempt at a time trains a run: an exclusive lock on the run directory, that dead owners do not hold.

The lock is the file `run.lock`, a JSON object that tells who holds it. It is made by a hard link, which is atomic on
network file systems, too; flock is not used, since many of those do not support it across machines.

An owner counts as gone when (the first line that applies decides)

| owner | gone if |
|---|---|
| on this machine | its process does not exist, its id belongs to a younger process, or the machine was restarted |
| the SLURM job of this process | SLURM has started the job again since |
| another SLURM job | SLURM says that it has ended, or does not know it; for another user's job silence is needed, too |
| on another machine | it is silent: it has not touched the lock for STALE_AFTER_S, by the file system's own clock |

Where only silence can tell, the new attempt waits for the owner's next sign of life, at most STALE_AFTER_S.
"""

import contextlib
import getpass
import json
import logging
import os
import secrets
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal

from mvit_video.runtime import slurm
from mvit_video.runtime.interruption import EXIT_REFUSED, record_error
from mvit_video.runtime.processes import machine_identity, process_start

logger = logging.getLogger(__name__)

LOCK_FILE = "run.lock"
HEARTBEAT_S = 10.0
"""Seconds between two signs of life of an owner."""
STALE_AFTER_S = 120.0
"""Seconds of silence after which an owner counts as gone: twelve signs of life, twice what NFS may cache."""
_POLL_S = 1.0
_TRIES = 100


class RunLockedError(RuntimeError):
    """Another attempt is training the run."""


@dataclass(frozen=True)
class LockOwner:
    """Who holds a lock.

    Attributes:
        token: unlike that of any other lock ever made.
        host: name of the machine.
        machine: host and process namespace, see `processes.machine_identity`; boot: of that machine.
        pid: process id; process_start: see `processes.process_start`.
        user: name of the account.
        since: when the lock was taken, local time.
        job: SLURM's job id, if any; restart: how often SLURM had started the job before; cluster: SLURM's name.
    """

    token: str
    host: str
    machine: str
    boot: str
    pid: int
    process_start: str
    user: str
    since: str
    job: str | None = None
    restart: int = 0
    cluster: str | None = None

    def __str__(self) -> str:
        if not self.pid:
            return "an unknown process (its lock file cannot be read)"
        job = f", SLURM job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, user {self.user}, since {self.since}"


def current_owner(job: str | None = None) -> LockOwner:
    """This process as an owner; `job` None: the SLURM job it belongs to, if any."""
    machine, boot = machine_identity()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        user = str(os.getuid())
    return LockOwner(
        token=secrets.token_hex(16),
        host=os.uname().nodename,
        machine=machine,
        boot=boot,
        pid=os.getpid(),
        process_start=process_start(os.getpid()) or "",
        user=user,
        since=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        job=job or slurm.current_job(),
        restart=slurm.current_restart(),
        cluster=os.environ.get("SLURM_CLUSTER_NAME"),
    )


State = Literal["gone", "alive", "unknown"]


def owner_state(owner: LockOwner, me: LockOwner) -> tuple[State, str]:
    """(state, why) of an owner, as seen by the process `me`; "unknown": only its silence can tell."""
    if owner.machine == me.machine:
        return _state_here(owner, me)
    if owner.job is None:
        return "unknown", ""
    here = me.cluster or slurm.cluster_name()
    if owner.cluster is not None and here is not None and owner.cluster != here:
        return "unknown", ""  # another cluster's job of the same number is another job
    if owner.job == me.job:
        again = me.restart > owner.restart
        return ("gone", f"SLURM has started job {owner.job} again") if again else ("unknown", "")
    try:
        state = slurm.job_state(owner.job)
    except RuntimeError as error:
        logger.debug("asking for job %s: %s", owner.job, error)
        return "unknown", ""
    if state in slurm.PENDING_STATES:
        return "alive", f"job {owner.job} waits in the queue ({state}) and will go on with the run"
    if state in slurm.ENDED_STATES:
        return "gone", f"job {owner.job} has ended ({state})"
    if state is None and owner.user == me.user:
        return "gone", f"SLURM does not know job {owner.job} any more"
    return "unknown", ""  # another user's job may be hidden, and a running one may have outlived the training in it


def _state_here(owner: LockOwner, me: LockOwner) -> tuple[State, str]:
    if owner.boot != me.boot:
        return "gone", f"{owner.host} was restarted since"
    start = process_start(owner.pid)
    if start is None:
        return "gone", f"process {owner.pid} does not exist any more"
    if start != owner.process_start:
        return "gone", f"process {owner.pid} is another one now"
    return "alive", ""


class RunLock:
    """The lock of a run directory, for one attempt to train it: a context manager.

    Args:
        run_dir: made if it does not exist.
        job: SLURM's id of the job this process belongs to; None: as SLURM's variables say.
        heartbeat_s: seconds between two signs of life.
        stale_after_s: seconds of silence after which an owner on a machine that cannot be asked counts as gone.
        clock: the file system's time, in seconds; None: the time that it gives to a new file.
        sleep: waits so many seconds.
        on_lost: called in another thread when the lock was taken over although this process lives, say since it
            was suspended, or cut off from the file system; the default ends the process with exit code EXIT_REFUSED,
            because two processes would write into the run directory.

    Raises (entering): RunLockedError, when another attempt holds the lock.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        job: str | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        stale_after_s: float = STALE_AFTER_S,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self.path = run_dir.absolute() / LOCK_FILE
        self.stale_after_s = stale_after_s
        self._job = job
        self._heartbeat_s = heartbeat_s
        self._clock = clock or self._file_system_time
        self._sleep = sleep
        self._on_lost = on_lost or _end_process
        self._owner: LockOwner | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, from an owner that is gone if need be.

        Raises:
            RunLockedError: another attempt holds it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        me = current_owner(self._job)
        for _ in range(_TRIES):
            if self._create(self.path, me) or self._take_over_if_gone(me):
                self._owner = me
                self._stop.clear()
                self._thread = threading.Thread(target=self._beat, name="run-lock-heartbeat", daemon=True)
                self._thread.start()
                return
        raise RunLockedError(f"{self.path} changes its owner all the time: are several attempts being started at once?")

    def release(self) -> None:
        """Give the lock up; one that another process has taken over stays."""
        owner, self._owner = self._owner, None
        if owner is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        claim = self._claim_file(owner)
        # Under another token: who claims a file and who holds it must not be mistaken for one another.
        if not self._create(claim, replace(owner, token=secrets.token_hex(16))):
            return  # it is being taken over just now
        if _token(self.path) == owner.token:
            self.path.unlink()
        claim.unlink(missing_ok=True)

    # ---- taking over

    def _take_over_if_gone(self, me: LockOwner) -> bool:
        """Take the lock over if its owner is gone; False: it has changed meanwhile, try again."""
        owner = _read(self.path)
        if owner is None:
            return False
        why = self._why_gone(self.path, owner, me)
        if why is None or not self._replace(self.path, owner, me):
            return False
        logger.warning("%s: taken over from %s: %s", self.path, owner, why)
        return True

    def _why_gone(self, path: Path, owner: LockOwner, me: LockOwner) -> str | None:
        """Why the owner of a file counts as gone; None if the file has changed meanwhile.

        Raises:
            RunLockedError: it lives.
        """
        state, why = owner_state(owner, me)
        if state == "gone":
            return why
        if state == "alive":
            raise RunLockedError(self._refusal(owner, why))
        first, began = _touched(path), self._clock()
        if first is not None and began - first <= self.stale_after_s:
            logger.info("%s is held by %s: waiting for a sign of life, at most %g s", path, owner, self.stale_after_s)
        while (touched := _touched(path)) is not None and _token(path) == owner.token:
            if touched != first:
                raise RunLockedError(self._refusal(owner, ""))
            # Of a clock that was set back since, the owner's last sign of life lies in the future.
            silence = self._clock() - min(touched, began)
            if silence > self.stale_after_s:
                return f"no sign of life for {silence:.0f} s"
            self._sleep(_POLL_S)
        return None

    def _replace(self, path: Path, gone: LockOwner, me: LockOwner) -> bool:
        """Put this process in the place of an owner that is gone; False if another process does so.

        Two processes may both have found the owner gone. A file named after its token, which exists once and never
        again, lets only one of them through; who dies holding that file is itself replaced in the same way.
        """
        claim = self._claim_file(gone)
        if not self._create(claim, me):
            claimant = _read(claim)
            if claimant is None:
                return False
            if owner_state(claimant, me)[0] == "alive":
                self._sleep(0.05)
                return False
            if self._why_gone(claim, claimant, me) is None or not self._replace(claim, claimant, me):
                return False
        mine = _token(path) == gone.token
        if mine:
            beside = self._write_beside(me)
            os.replace(beside, path)
        claim.unlink(missing_ok=True)
        return mine

    def _claim_file(self, owner: LockOwner) -> Path:
        return self.path.with_name(f".{LOCK_FILE}.claim-{owner.token}")

    def _create(self, path: Path, owner: LockOwner) -> bool:
        """Make a file that names the owner, unless there is one."""
        beside = self._write_beside(owner)
        try:
            os.link(beside, path)
        except FileExistsError:
            return _token(path) == owner.token  # a network file system may have lost its answer to a link that it made
        except OSError:  # no hard links here
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(beside.read_text("utf-8"))
        finally:
            beside.unlink(missing_ok=True)
        return True

    def _write_beside(self, owner: LockOwner) -> Path:
        beside = self.path.with_name(f".{LOCK_FILE}.{owner.token}.tmp")
        with open(beside, "w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(owner), indent=1, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return beside

    def _refusal(self, owner: LockOwner, why: str) -> str:
        end = f" (scancel {owner.job})" if owner.job else f" (kill {owner.pid} on {owner.host})" if owner.pid else ""
        return (
            f"{self.path.parent} is being trained by {owner}{f'; {why}' if why else ''}. Two attempts at one run would "
            f"overwrite each other's files: choose another name=..., wait until that one is done, or end it{end}. If "
            f"you are sure that it does not run any more: rm {shlex.quote(str(self.path))}"
        )

    # ---- signs of life

    def _file_system_time(self) -> float:
        probe = self.path.with_name(f".{LOCK_FILE}.{secrets.token_hex(8)}.clock")
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            try:
                lost = self._sign_of_life()
            except OSError as error:
                logger.warning("%s cannot be touched (%s); trying again", self.path, error)
                continue
            if lost is not None:
                self._on_lost(f"{self.path} was taken over by {lost} while this process was silent; this process ends")
                return

    def _sign_of_life(self) -> LockOwner | None:
        """Touch the lock; its new owner if it was taken over. A lock that was removed is made again."""
        me = self._owner
        if me is None:  # being released
            return None
        found = _read(self.path)
        if found is None and self._create(self.path, me):
            logger.warning("%s was removed while its owner is running: made again", self.path)
            return None
        if found is None or found.token == me.token:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path)  # the file system's time, not this machine's
            return None
        return found


def _end_process(text: str) -> None:
    logger.error("%s", text)
    record_error(f"RunLockedError: {text}")
    os._exit(EXIT_REFUSED)


def _touched(path: Path) -> float | None:
    """When a file was last touched; None if there is none. Opening it makes NFS ask its server."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _read(path: Path) -> LockOwner | None:
    """The owner named in a file; None if there is no such file. An unreadable file has an owner of whom nothing is
    known, so that only its silence tells."""
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return None
    try:
        return LockOwner(**json.loads(text))
    except (ValueError, TypeError):
        unknown = "unknown"
        return LockOwner(
            token=f"unreadable-{path.stat().st_ino}",
            host=unknown,
            machine=unknown,
            boot="",
            pid=0,
            process_start="",
            user=unknown,
            since=unknown,
        )


def _token(path: Path) -> str | None:
    owner = _read(path)
    return None if owner is None else owner.token
