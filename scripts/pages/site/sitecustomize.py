"""Python imports this by itself on the stage: what small.py replaces is replaced when its module is imported."""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_spec = importlib.util.spec_from_file_location("_pages_small", Path(__file__).parents[1] / "small.py")
assert _spec is not None and _spec.loader is not None
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)


class _Afterwards(MetaPathFinder):
    """Runs a function of small.py right after a module of its table was imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        change = small.CHANGES.get(name)
        spec = None if change is None else PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


if "mvit_video.plan" not in sys.orig_argv:  # computes with the sizes of the recipe, and trains nothing
    sys.meta_path.insert(0, _Afterwards())
