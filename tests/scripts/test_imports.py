"""Scripts and examples import what exists: they are not type checked, and a benchmark is rarely run."""

import ast
import importlib
from pathlib import Path

import pytest

from tests.paths import ROOT

FILES = sorted(path for folder in ("scripts", "examples") for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name) of all that a file imports by name from the project, also inside of functions."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
    ours = [(node, node.module) for node in nodes if node.module and node.module.split(".")[0] in ("mvit_video", "gpu")]
    return [(module, alias.name) for node, module in ours for alias in node.names]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_imported_exists(path: Path) -> None:
    for module, name in imports(path):
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")


def test_imports_of_a_benchmark_are_seen() -> None:
    assert ("mvit_video.data.loading.collation", "collate") in imports(ROOT / "scripts" / "bench_explain.py")
