"""The two commands: what they do before there is anything to run."""

import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.mark.parametrize("script", ["scripts/env.sh", "scripts/test.sh", "scripts/quickstart.sh", ".ci/run"])
def test_scripts_parse(script: str) -> None:
    result = subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_without_a_fit_python_the_way_out_is_named(tmp_path: Path) -> None:
    result = subprocess.run(
        ["bash", "-c", f"set -eu; source {ROOT}/scripts/env.sh; ensure_environment"],
        env={"VENV": str(tmp_path / "venv"), "PYTHON": "false", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "needs Python 3.11 or newer" in result.stderr
    assert "PYTHON=python3.12" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_an_installed_environment_is_not_made_again(tmp_path: Path) -> None:
    """The stamp that ensure_environment writes lets the next call pass without Python or network."""
    stamp = "$(cat $ROOT/pyproject.toml $ROOT/constraints.txt $ROOT/scripts/env.sh | cksum) $ROOT"
    code = f'set -eu; source {ROOT}/scripts/env.sh; mkdir -p "$VENV"; echo "{stamp}" > "$VENV/.installed"'
    result = subprocess.run(
        ["bash", "-c", f"{code}; ensure_environment; echo ready"],
        env={"VENV": str(tmp_path / "venv"), "PYTHON": "false", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert result.stdout == "ready\n", result.stderr
