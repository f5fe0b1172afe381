"""Scripts and examples import what exists: they are not type checked, and a benchmark is rarely run."""

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.paths import ROOT

FILES = sorted(path for folder in ("scripts", "examples") for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name) of all that a file imports by name from the project, also inside of functions."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
    ours = [(node, node.module) for node in nodes if node.module and node.module.split(".")[0] in ("mvit_video", "gpu")]
    return [(module, alias.name) for node, module in ours for alias in node.names]


def exists(module: str, name: str) -> bool:
    """Whether the module has the name, or a module of that name in its folder."""
    found = importlib.import_module(module)
    return hasattr(found, name) or (hasattr(found, "__path__") and find_spec(f"{module}.{name}") is not None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_imported_exists(path: Path) -> None:
    assert [where for where in imports(path) if not exists(*where)] == []


def test_imports_of_a_benchmark_are_seen() -> None:
    assert ("mvit_video.data.loading.collation", "collate") in imports(ROOT / "scripts" / "bench_explain.py")
    assert not exists("mvit_video.data.loading.loader", "collate") and not exists("mvit_video.data", "nothing")
