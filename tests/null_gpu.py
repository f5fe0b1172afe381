"""The null GPU for tests: Python processes that see a CUDA device on a machine that has none.

    def test_a_step_can_be_captured(null_gpu: NullGPU) -> None:
        assert null_gpu.run("import torch, json; print(json.dumps(torch.cuda.is_available()))") is True

The library is compiled once per session. Each process imports torch anew, which takes seconds: ask it many things at
once. What Triton and Inductor compile stays in the session's folder.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT


@dataclass(frozen=True)
class NullGPU:
    """Where processes find the null GPU.

    Attributes:
        environment: with which they are started.
        cache: what XDG_CACHE_HOME must be for the kit to find the same library.
    """

    environment: dict[str, str]
    cache: Path

    def run(self, code: str, *arguments: str, **variables: str) -> Any:
        """Run code in a process of its own; what it prints last, which must be JSON.

        Args:
            arguments: its sys.argv[1:].
            variables: further environment variables, such as NULL_GPU_MEMORY_GB="2".

        Raises:
            AssertionError: it fails; the message is what it wrote.
        """
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**self.environment, **variables},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def null_gpu(tmp_path_factory: pytest.TempPathFactory) -> NullGPU:
    """The null GPU; a skip with the reason where it cannot be had."""
    from gpu.null_gpu import NullGPUError, environment

    paths = [str(ROOT / "scripts"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    changes = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    cache = tmp_path_factory.mktemp("null_gpu")
    try:
        return NullGPU(environment(changes, folder=cache / "mvit_video" / "null_gpu"), cache)
    except NullGPUError as error:
        pytest.skip(str(error))
