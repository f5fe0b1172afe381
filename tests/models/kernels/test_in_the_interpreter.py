"""The Triton kernels on the CPU, in Triton's interpreter.

TRITON_INTERPRET is read when the kernels are defined, so their numerical tests need a process of their own: pytest on
the files that have them, with the variable set. There the tests under `if INTERPRETED` are defined.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.kernels import test_triton_attention, test_triton_norm, test_triton_pool
from tests.paths import ROOT

MODULES = (test_triton_pool, test_triton_norm, test_triton_attention)


@pytest.mark.slow
def test_kernels_equal_the_plain_forms() -> None:
    pytest.importorskip("triton")
    files = [str(Path(module.__file__).resolve()) for module in MODULES]
    command = [sys.executable, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", *files]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    expected = sum(module.INTERPRETED_TESTS for module in MODULES)
    assert re.search(rf"^{expected} passed", run.stdout, re.MULTILINE), run.stdout
