"""Imports of the launcher and of what lies below it point down only, those inside functions included."""

import ast
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "mvit_video"
# From below to above: a module imports only those in front of it.
CLUSTER = (
    "placement",
    "rank_status",
    "rank",
    "processes",
    "outcome",
    "companions",
    "supervisor",
    "snapshot",
    "submit",
    "launch",
)


def imported(path: Path) -> set[str]:
    """Full names of what a file imports from the package."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("mvit_video.")}


def test_every_module_of_the_launcher_has_its_place() -> None:
    found = {path.stem for path in (PACKAGE / "cluster").glob("*.py")} - {"__init__"}
    assert found == set(CLUSTER)


@pytest.mark.parametrize("module", CLUSTER)
def test_the_launcher_has_no_circles(module: str) -> None:
    below = CLUSTER[: CLUSTER.index(module)]
    names = imported(PACKAGE / "cluster" / f"{module}.py")
    used = {name.split(".")[2] for name in names if name.startswith("mvit_video.cluster.")}
    assert used <= set(below)
    others = {name.split(".")[1] for name in names} - {"cluster"}
    assert others <= {"runtime", "config"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "runtime").glob("*.py")), ids=lambda path: path.stem)
def test_runtime_lies_at_the_bottom(path: Path) -> None:
    assert {name.split(".")[1] for name in imported(path)} <= {"runtime"}


def test_planning_knows_no_process_group() -> None:
    names = {name for path in (PACKAGE / "planning").glob("*.py") for name in imported(path)}
    assert not [name for name in names if name.startswith("mvit_video.distributed")]
