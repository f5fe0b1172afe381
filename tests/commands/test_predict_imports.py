"""The budget of imports before the first answer: what is imported, not how long it takes on a busy machine."""

import ast
import sys
from pathlib import Path

from tests.paths import ROOT

ENTRIES = ("mvit_video.predict", "mvit_video.build.prediction_options", "mvit_video.build.prediction_job")
ALLOWED = {"torch", "numpy", "av", "hydra", "omegaconf", "rich", "PIL", "antlr4", "yaml"}
MOST_MODULES = 290  # of the package; today 240


def imports_of(path: Path) -> set[str]:
    """What a file imports when it is imported, but for type checkers and inside of functions; whole names."""
    names: set[str] = set()
    stack: list[ast.AST] = list(ast.parse(path.read_text("utf-8")).body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            stack += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try | ast.ClassDef):
            stack += node.body
    return names


def file_of(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    places = (base.with_suffix(".py"), base / "__init__.py")
    return next((place for place in places if place.is_file()), None)


def test_the_first_answer_imports_nothing_heavy_but_torch() -> None:
    seen: dict[str, set[str]] = {}
    waiting = [name for entry in ENTRIES for name in (entry, entry.rpartition(".")[0])]
    others: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        path = file_of(name)
        if name in seen or path is None:
            continue
        seen[name] = imports_of(path)
        for imported in seen[name]:
            if imported.partition(".")[0] == "mvit_video":
                parts = imported.split(".")
                waiting += [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
            else:
                others.setdefault(imported.partition(".")[0], name)
    heavy = {top: name for top, name in others.items() if top not in ALLOWED and top not in sys.stdlib_module_names}
    assert heavy == {}, "import these where they are used"
    assert {"torch", "av", "omegaconf"} <= set(others)
    assert 150 < len(seen) <= MOST_MODULES, len(seen)
