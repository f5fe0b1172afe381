"""docs/architecture.md shows the rooms, layers and names that the code has, and the rules of imports really bite.

`python -m tests.test_architecture` writes the blocks of the page anew that are made of the code.
"""

import ast
import fnmatch
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "mvit_video"
PAGE = ROOT / "docs" / "architecture.md"
REWRITE = "python -m tests.test_architecture writes it"


def pyproject() -> dict[str, Any]:
    """The content of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def contracts(kind: str) -> list[dict[str, Any]]:
    """The import contracts of a kind."""
    return [one for one in pyproject()["tool"]["importlinter"]["contracts"] if one["type"] == kind]


def test_every_folder_of_tests_is_looked_into(pytestconfig: pytest.Config) -> None:
    """pytest passes over folders called `build` unless it is told otherwise."""
    files = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")]
    folders = {name for path in files for name in path.parts[:-1]}
    assert "build" in folders
    passed_over = pytestconfig.getini("norecursedirs")
    assert not [name for name in folders if any(fnmatch.fnmatch(name, pattern) for pattern in passed_over)]


def rooms_of(layer: str) -> list[str]:
    """The modules that stand side by side in a layer."""
    return [room.strip() for room in re.split("[:|]", layer)]


def order_within(package: str) -> list[str]:
    """The modules of a package from the highest layer to the lowest, as far as a contract orders them."""
    return [
        room
        for contract in contracts("layers")
        if package in contract["containers"]
        for layer in contract["layers"]
        for room in rooms_of(layer)
    ]


def first_line(path: Path) -> str:
    """The first line of the docstring of a module or package."""
    file = path / "__init__.py" if path.is_dir() else path
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert text, f"{file.relative_to(ROOT)} has no docstring: one line must say what is in it"
    return text.splitlines()[0]


def tree(folder: Path = PACKAGE, depth: int = 0) -> Iterator[str]:
    """A line for every package, and for every module that a contract names."""
    order = order_within(".".join(folder.relative_to(ROOT).parts))
    packages = [path.name for path in folder.iterdir() if (path / "__init__.py").is_file()]
    modules = [path.stem for path in folder.glob("*.py") if path.stem in order]
    for name in sorted([*packages, *modules], key=lambda name: (order.index(name) if name in order else -1, name)):
        path = folder / name
        shown = f"{name}/" if path.is_dir() else f"{name}.py"
        yield f"{'  ' * depth}- `{shown}` {first_line(path if path.is_dir() else path.with_suffix('.py'))}"
        if path.is_dir():
            yield from tree(path, depth + 1)


def layers() -> Iterator[str]:
    """A table for every contract on layers."""
    for contract in contracts("layers"):
        (container,) = contract["containers"]
        yield from (f"**{contract['name']}** (`{container}`):", "")
        yield "| layer, from above | side by side in it | may these import each other? |"
        yield "|---|---|---|"
        for number, layer in enumerate(contract["layers"], 1):
            answer = "yes, without a circle" if ":" in layer else "no" if "|" in layer else ""
            yield f"| {number} | {', '.join(f'`{room}`' for room in rooms_of(layer))} | {answer} |"
        yield ""


def forbidden() -> Iterator[str]:
    """A table of what a room must not import from other libraries."""
    yield "| contract | room | must not import, directly or through others |"
    yield "|---|---|---|"
    for contract in contracts("forbidden"):
        room, names = ", ".join(contract["source_modules"]), ", ".join(contract["forbidden_modules"])
        yield f"| {contract['name']} | `{room}` | {names} |"


def libraries() -> Iterator[str]:
    """A table of the libraries that few files may import, and of those files."""
    lint = pyproject()["tool"]["ruff"]["lint"]
    yield "| library | rule |"
    yield "|---|---|"
    for name, rule in lint["flake8-tidy-imports"]["banned-api"].items():
        yield f"| `{name}` | {rule['msg']} |"


BLOCKS: dict[str, Callable[[], Iterator[str]]] = {
    "tree": tree,
    "layers": layers,
    "forbidden": forbidden,
    "libraries": libraries,
}


def block_pattern(name: str) -> re.Pattern[str]:
    """Matches a block of the page, with its content as the group `content`."""
    return re.compile(f"(?<=<!-- begin {name} -->\n)(?P<content>.*?)(?=\n<!-- end {name} -->)", flags=re.S)


def content(name: str) -> str:
    """A block as the code has it."""
    return "\n".join(BLOCKS[name]()).strip()


def rewrite() -> None:
    """Write the blocks of the page anew."""
    text = PAGE.read_text(encoding="utf-8")
    for name in BLOCKS:
        text = block_pattern(name).sub(lambda match, name=name: content(name), text)  # type: ignore[misc]
    PAGE.write_text(text, encoding="utf-8")


def resolve(name: str) -> object:
    """What a dotted name means: a module, or something in one.

    Raises:
        AttributeError, ImportError: nothing.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        if path.is_dir() or path.with_suffix(".py").is_file():
            found: object = importlib.import_module(".".join(parts[:length]))
            for attribute in parts[length:]:
                found = getattr(found, attribute)
            return found
    raise ImportError(name)


def problem_of(name: str) -> str | None:
    """Why a dotted name means nothing; None if it means something."""
    try:
        resolve(name)
    except (AttributeError, ImportError) as error:
        return f"{name}: {error}"
    return None


@pytest.mark.parametrize("name", BLOCKS)
def test_the_page_shows_what_the_code_has(name: str) -> None:
    found = block_pattern(name).search(PAGE.read_text(encoding="utf-8"))
    assert found, f"{PAGE.name} has no block {name}"
    assert found["content"] == content(name), f"the block {name} should be as follows ({REWRITE}):\n{content(name)}"


def test_every_room_is_in_the_tree() -> None:
    packages = [path.parent.name for path in PACKAGE.rglob("__init__.py")]
    shown = re.findall(r"^ *- `(\w+)/`", content("tree"), flags=re.M)
    assert sorted([*shown, PACKAGE.name]) == sorted(packages)


def test_every_file_and_name_of_the_page_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    files = set(re.findall(r"mvit_video/[\w/]+\.py", text))
    dotted = set(re.findall(r"mvit_video(?:\.\w+)+", text))
    rooms = "|".join(order_within("mvit_video"))
    short = set(re.findall(rf"`((?:{rooms})(?:\.\w+)+)`", text))
    names = dotted | {f"mvit_video.{name}" for name in short if not name.endswith((".py", ".md"))}
    assert len(names) >= 8
    assert not [file for file in files if not (ROOT / file).is_file()]
    assert not [problem for name in sorted(names) if (problem := problem_of(name))]


def test_every_step_of_the_pictures_names_what_takes_it() -> None:
    pictures = re.findall(r"```mermaid\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    assert len(pictures) == 2
    for picture in pictures:
        steps = re.findall(r'\w\["(.*?)"\]', picture)
        assert len(steps) >= 8
        for step in steps:
            named = re.fullmatch(r"[^<>]+<br/>([\w/]+)\.py: ([\w.]+)", step)
            assert named, f"{step}: a step is WHAT<br/>PATH.py: NAME"
            problem = problem_of(f"mvit_video.{named[1].replace('/', '.')}.{named[2]}")
            assert problem is None, problem
        drawn = {*re.findall(r"(\w+) -->", picture), *re.findall(r"--> (?:\|.*?\| )?(\w+)", picture)}
        assert drawn == set(re.findall(r"^ *(\w+)[\[(]", picture, flags=re.M))


def python_files(folder: Path) -> Path:
    """A copy of the package's Python files in `folder`."""
    shutil.copytree(PACKAGE, folder / "mvit_video", ignore=shutil.ignore_patterns("__pycache__", "conf", "*.pyc"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder / "mvit_video"


def lint_imports(folder: Path) -> str:
    """What the import contracts say of the package in `folder`."""
    words = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", words, "--no-logo", "--no-cache"],
        cwd=folder, env={"PYTHONPATH": str(folder), "COLUMNS": "200"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert ("0 broken" in done.stdout) == (done.returncode == 0)
    return done.stdout


def test_wrong_imports_break_the_contracts(tmp_path: Path) -> None:
    copy = python_files(tmp_path)
    assert "BROKEN" not in lint_imports(tmp_path)
    inside = "\n\ndef _late() -> None:\n    "  # an import inside a function counts like any other
    wrong = {
        "engine/average.py": f"{inside}import mvit_video.build.common\n",
        "data/sampling.py": "\nimport mvit_video.data.loading.batch\n",
        "models/config.py": "\nimport torchvision\n",
        "tasks/confusion.py": "\nimport mvit_video.preparation.cost\n",
    }
    for name, line in wrong.items():
        with open(copy / name, "a", encoding="utf-8") as file:
            file.write(line)
    said = lint_imports(tmp_path)
    for contract in ("Imports point down", "Rooms inside data", "Only detectors need torchvision"):
        assert f"{contract} BROKEN" in said
    for contract in ("Rooms inside models", "The video package stands alone"):
        assert f"{contract} KEPT" in said
    for one, other in (("engine", "build"), ("tasks", "preparation"), ("data.sampling", "data.loading")):
        assert f"mvit_video.{one} is not allowed to import mvit_video.{other}" in said


def test_a_new_room_needs_a_layer(tmp_path: Path) -> None:
    room = python_files(tmp_path) / "attic"
    room.mkdir()
    (room / "__init__.py").write_text("")
    said = lint_imports(tmp_path)
    assert "Imports point down BROKEN" in said
    assert "mvit_video.attic" in said


@pytest.mark.parametrize("library", ["hydra", "omegaconf", "submitit", "torch.distributed", "pytorchvideo"])
def test_few_files_import_these_libraries(library: str) -> None:
    ruff = shutil.which("ruff", path=Path(sys.executable).parent)
    assert ruff
    words = [ruff, "check", "--select", "TID251", "--no-cache", "--stdin-filename", "mvit_video/engine/new.py", "-"]
    done = subprocess.run(words, input=f"import {library}\n", cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "TID251" in done.stdout and f"`{library}` is banned" in done.stdout


if __name__ == "__main__":
    rewrite()
