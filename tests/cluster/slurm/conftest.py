"""A real SLURM with two nodes on this machine, and what the tests ask it."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests import interpreters
from tests.paths import ROOT

TESTBED = ROOT / "scripts" / "slurm_testbed.sh"
REQUIRED = "MVIT_VIDEO_REQUIRE_SLURM"  # set: what keeps these tests from running is a failure, and is installed


class Cluster:
    """The test bed, by its own commands."""

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def job(self, job_id: str) -> dict[str, str]:
        """What SLURM knows of a job."""
        text = self.run("scontrol", "-o", "show", "job", job_id)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def testbed(self, *words: str) -> None:
        subprocess.run(["bash", str(TESTBED), *words], check=True, timeout=300)

    def train(
        self, overrides: Sequence[str], *, check: bool = True, command: str = "train"
    ) -> "subprocess.CompletedProcess[str]":
        """`python -m mvit_video.train`, or another command, with `overrides`, from this checkout."""
        return interpreters.run("-m", f"mvit_video.{command}", *overrides, cwd=ROOT, check=check, timeout=600)

    def submit(self, overrides: Sequence[str], *, command: str = "train") -> list[str]:
        """Submit a training, or another command; the ids of its jobs."""
        return re.findall(r"submitted job (\S+) for", self.train(overrides, command=command).stderr)


def wait_for(what: str, answer: Callable[[], bool], *, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not answer():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:g} s\n{state_of_slurm()}")
        time.sleep(0.2)


def state_of_slurm() -> str:
    """What SLURM has to say, for those who were not there: the test bed is gone with its logs when the tests end."""
    parts = []
    for kind in ("nodes", "jobs"):
        done = subprocess.run(["scontrol", "-o", "show", kind], capture_output=True, text=True, timeout=60, check=False)
        parts += [line[:1500] for line in (done.stdout + done.stderr).splitlines()]
    for log in sorted(Path(os.environ["MVIT_VIDEO_SLURM_TESTBED"]).glob("log/slurm*.log")):
        parts += [f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-40:]]
    return "\n".join(parts)


def obstacle() -> str | None:
    """Why there can be no test bed here; None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "the SLURM test bed needs Linux and root"
    if shutil.which("slurmctld") is None and not os.environ.get(REQUIRED):
        return f"SLURM is not installed here; {REQUIRED}=1 lets scripts/slurm_testbed.sh install Debian's packages"
    return None


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    why = obstacle()
    if why:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{why}, and {REQUIRED} is set")
        pytest.skip(why)
    base = Path("/tmp") / f"mvit_video-slurm-{os.getpid()}"  # short: sockets lie in it
    os.environ["MVIT_VIDEO_SLURM_TESTBED"] = str(base)
    os.environ["SLURM_CONF"] = str(base / "etc" / "slurm.conf")
    bed = Cluster()
    try:
        bed.testbed("up")
        yield bed
    finally:
        bed.testbed("down")
        del os.environ["SLURM_CONF"], os.environ["MVIT_VIDEO_SLURM_TESTBED"]
