"""Python commands as processes of their own, without the seconds that each would take to import torch.

One server process per session imports what a training needs and forks itself for every command. The child has the
arguments, folder, environment and output of the command and runs it as `python -m MODULE` or `python -c CODE` would,
with exit handlers and exit code. What must be seen from a fresh interpreter (what an import brings along) needs one.
Several processes of one session share the server if the process that starts them calls `share` first.

    done = interpreters.run("-m", "mvit_video.train", "+experiment=motion_mvitv2")
    process = interpreters.start("-c", "import time; time.sleep(9)")
"""

import array
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.paths import ROOT

WAIT_S = 600  # for a command, unless it is given another time: far more than any takes on a busy machine
LARGEST_REQUEST = 1 << 20
SHARED = "MVIT_VIDEO_TEST_INTERPRETERS"  # where the server of a session listens


class Process:
    """A command that runs, with the interface of `subprocess.Popen` as far as tests need it. Output goes to files."""

    def __init__(self, arguments: Sequence[str], cwd: str, environment: Mapping[str, str]) -> None:
        self.args = list(arguments)
        self.returncode: int | None = None
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - open as long as this object
        self._status, write_end = os.pipe()
        request = json.dumps({"arguments": self.args, "cwd": cwd, "environment": dict(environment)}).encode()
        try:
            _server().send(request, [*(file.fileno() for file in self._files), write_end])
        finally:
            os.close(write_end)
        self.pid = self._number()

    def _number(self) -> int:
        data = os.read(self._status, 4)
        assert len(data) == 4, "the server of interpreters has ended"
        return array.array("i", data)[0]

    def poll(self) -> int | None:
        """Its exit code, negative for a signal, if it has ended."""
        return self._wait(0)

    def wait(self, timeout: float = WAIT_S) -> int:
        code = self._wait(timeout)
        if code is None:
            out, err = self.output()
            raise subprocess.TimeoutExpired(self.args, timeout, out, err)
        return code

    def _wait(self, timeout: float) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = os.waitstatus_to_exitcode(self._number())
            os.close(self._status)
        return self.returncode

    def output(self) -> tuple[str, str]:
        """What it has written so far to standard output and to standard error."""
        return tuple(os.pread(f.fileno(), os.fstat(f.fileno()).st_size, 0).decode() for f in self._files)  # type: ignore[return-value]

    def communicate(self, timeout: float = WAIT_S) -> tuple[str, str]:
        """Wait for its end; all output."""
        self.wait(timeout)
        return self.output()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(*arguments: str, cwd: Path | str | None = None, **variables: str) -> Process:
    """Start `python ARGUMENTS` in a folder (this one) with the environment of this process and `variables`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return Process(arguments, str(cwd or Path.cwd()), environment)


def run(
    *arguments: str, cwd: Path | str | None = None, check: bool = False, timeout: float = WAIT_S, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run `python ARGUMENTS` to its end; killed, with an error that shows its output, after `timeout` seconds."""
    process = start(*arguments, cwd=cwd, **variables)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.kill()
    assert not check or process.returncode == 0, f"{arguments}: exit code {process.returncode}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode or 0, out, err)


def run_ranks(
    *arguments: str, ranks: int, timeout: float = WAIT_S, patience: float = 20, **variables: str
) -> list[Process]:
    """Run `python ARGUMENTS` as so many ranks, with the variables that torchrun sets; they have ended.

    When one fails, the others get `patience` seconds to say so, and are killed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(ranks)}
    numbers = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    processes = [start(*arguments, cwd=ROOT, **meeting, **number, **variables) for number in numbers]
    deadline = time.monotonic() + timeout
    try:
        while None in (codes := [process.poll() for process in processes]) and time.monotonic() < deadline:
            if any(codes):
                deadline = min(deadline, time.monotonic() + patience)
            time.sleep(0.02)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return processes


# ---- the server


class _Server:
    """A process that listens on a socket, and ends when this one closes its lifeline or ends itself."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="interpreters-")  # its name is short: a socket lies in it
        self.address = f"{self._folder.name}/socket"
        self._lifeline, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(self.address)
            listening.listen()
            descriptors = [theirs.fileno(), listening.fileno()]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.interpreters", *map(str, descriptors)],
                pass_fds=descriptors,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
                stdin=subprocess.DEVNULL,
            )

    def stop(self) -> None:
        self._lifeline.close()
        self._process.wait(60)
        self._folder.cleanup()


class _Connection:
    """To a server, of this process or of the one that started it."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST_REQUEST)
        self._socket.connect(address)

    def send(self, request: bytes, descriptors: Sequence[int]) -> None:
        socket.send_fds(self._socket, [request], descriptors)

    def close(self) -> None:
        self._socket.close()


_running: _Server | None = None
_connection: _Connection | None = None


def share() -> None:
    """Start the server of all processes that this one starts from now on."""
    global _running
    if _running is None:
        _running = _Server()
        os.environ[SHARED] = _running.address


def _server() -> _Connection:
    global _connection
    if _connection is None:
        if SHARED not in os.environ:
            share()
        _connection = _Connection(os.environ[SHARED])
    return _connection


def stop() -> None:
    """Leave the server, and end it if this process started it."""
    global _running, _connection
    if _connection is not None:
        _connection.close()
        _connection = None
    if _running is not None:
        del os.environ[SHARED]
        _running.stop()
        _running = None


def _serve(lifeline: socket.socket, listening: socket.socket) -> None:
    """Fork for every request, until the lifeline is closed."""
    connections = [lifeline, listening]
    while True:
        for ready in select.select(connections, [], [])[0]:
            if ready is listening:
                connections.append(listening.accept()[0])
                continue
            data, descriptors, _, _ = socket.recv_fds(ready, LARGEST_REQUEST, 3)
            if data:
                _fork(data, descriptors, connections)
            elif ready is lifeline:
                os._exit(0)  # as the children: no exit handlers of what was only imported for them
            else:
                connections.remove(ready)
                ready.close()


def _fork(data: bytes, descriptors: Sequence[int], connections: Sequence[socket.socket]) -> None:
    _preload()
    if os.fork() == 0:
        for connection in connections:
            connection.close()
        _supervise(json.loads(data), *descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    _reap()


@functools.cache
def _preload() -> None:
    importlib.import_module("tests.preload")
    gc.collect()
    gc.freeze()  # the children share these pages for longer


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass  # there are none


def _supervise(request: dict[str, object], stdout: int, stderr: int, status: int) -> None:
    """Fork the command; tell its process id and at its end its wait status."""
    child = os.fork()
    if child == 0:
        os.close(status)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stdout)
        os.close(stderr)
        _become(**request)  # type: ignore[arg-type]
    os.close(stdout)
    os.close(stderr)
    os.write(status, array.array("i", [child]).tobytes())
    ended = os.waitpid(child, 0)[1]
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        os.write(status, array.array("i", [ended]).tobytes())
    os._exit(0)


def renew_thread_pool() -> None:
    """To be called in a fork of a process that has used torch, while it has one thread.

    The first use of torch's pool after a fork replaces the parent's. It does so without a lock: of two threads that
    start at once, as those of backward do, one may find no pool, and torch ends the process (SIGABRT, "Invalid thread
    pool!", seen in 21 of 579 trainings).
    """
    torch = importlib.import_module("torch")  # only the server and its forks need it
    torch.set_num_threads(torch.get_num_threads())


def _become(*, arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Run the command in this process, and end it."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[0] = cwd
    renew_thread_pool()
    code = 1
    try:
        kind, what, *rest = arguments
        sys.argv = [kind, *rest]
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            assert kind == "-c", arguments
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), main.__dict__)
        code = 0
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    _serve(*(socket.socket(fileno=int(number)) for number in sys.argv[1:3]))
