"""Commands that are forked off a process which has imported torch behave as those that a user starts."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import interpreters


def as_a_user(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import sys; print(sys.argv, __name__)",
        "import sys; sys.exit('no')",
        "import sys; sys.exit(7)",
        "import atexit; atexit.register(print, 'the end')",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "1 / 0",
    ],
)
def test_output_and_exit_code_are_those_of_a_fresh_interpreter(code: str) -> None:
    ours, theirs = interpreters.run("-c", code, "a", "b"), as_a_user("-c", code, "a", "b")
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    assert ours.stderr.splitlines()[-1:] == theirs.stderr.splitlines()[-1:]


def test_a_module_with_its_folder_and_environment(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import os, sys\nprint(__name__, os.getcwd(), os.environ['GIVEN'], sys.argv[1:])\n"
    )
    done = interpreters.run("-m", "job", "x", cwd=tmp_path, GIVEN="this")
    assert done.stdout == f"__main__ {tmp_path} this ['x']\n", done.stderr


def test_torch_is_there_already() -> None:
    assert interpreters.run("-c", "import sys; print('torch' in sys.modules)").stdout == "True\n"


def test_signals_reach_it_and_its_output_is_seen_before_it_ends() -> None:
    code = "import signal, sys, time\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(5))\nprint('up', flush=True)\n"
    process = interpreters.start("-c", code + "time.sleep(600)")
    deadline = time.monotonic() + 120
    while process.output()[0] != "up\n":
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 5


def test_what_takes_too_long_is_killed() -> None:
    with pytest.raises(subprocess.TimeoutExpired, match=r"timed out after 0\.2 seconds"):
        interpreters.run("-c", "import time; time.sleep(600)", timeout=0.2)


def test_ranks_know_each_other_and_none_outlives_one_that_fails() -> None:
    code = "import os, sys; print(os.environ['RANK'], os.environ['WORLD_SIZE'], os.environ['MASTER_PORT'])"
    outputs = [process.output()[0].split() for process in interpreters.run_ranks("-c", code, ranks=2)]
    assert [output[:2] for output in outputs] == [["0", "2"], ["1", "2"]]
    assert outputs[0][2] == outputs[1][2]
    code = "import os, time\nif os.environ['RANK'] == '1': os._exit(3)\ntime.sleep(600)"
    ended = interpreters.run_ranks("-c", code, ranks=2, patience=0.1)
    assert [process.returncode for process in ended] == [-signal.SIGKILL, 3]
