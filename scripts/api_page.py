"""docs/api.md, made of the docstrings: `python scripts/api_page.py docs/api.md` (no path: prints it).

It reads the source and imports nothing of it.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

HEAD = """\
# Python

Made of the docstrings by `python scripts/api_page.py docs/api.md`; edit those. [python.md](python.md) begins with what
one does with it.

What is not on this page may change with every version.
"""

# Module, what it is for, and the names; None: its __all__.
SECTIONS: tuple[tuple[str, str, Sequence[str] | None], ...] = (
    ("mvit_video", "Training and evaluation.", None),
    ("mvit_video.models", "Models and weights; needs PyTorch alone.", None),
    ("mvit_video.models.weights", "Published weights by name: [weights](weights.md).", None),
    ("mvit_video.hub", "Models on a hub: [export](export.md).", ["from_pretrained", "hub_file", "push", "HubError"]),
    ("mvit_video.exporting.about", "What exported files say of themselves.", ["read_about"]),
    ("mvit_video.exporting.programs", "Exported programs as modules.", ["load_program"]),
    ("mvit_video.models.weights.zoo", "What is known of published weights.", ["Entry", "zoo"]),
    (
        "mvit_video.data.datasets.published_names",
        "Names of the classes of published weights.",
        ["published_class_names"],
    ),
    ("mvit_video.data", "Clips of videos, for a `torch.utils.data.DataLoader`.", None),
    ("mvit_video.video", "Exact decoding of any video file.", None),
    (
        "mvit_video.data.datasets.sources",
        "What an own source has to offer: [extending](extending.md).",
        ["Source"],
    ),
    (
        "mvit_video.engine.task",
        "What an own task has to offer.",
        ["Task", "Inputs", "StepLoss", "LoggedMetric", "Evaluation", "Scorer", "TrainBatches"],
    ),
    ("mvit_video.build.task_builder", "What makes the objects of a task.", ["TaskBuilder"]),
    (
        "mvit_video.engine.trackers.interface",
        "What an own tracker has to offer: [trackers](trackers.md).",
        ["RunInfo", "TrackedRun", "FinalState"],
    ),
)
WIDTH = 100
_LISTS = ("Args", "Attributes", "Raises", "Returns", "Yields")
Documented = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Field:
    """A field of a dataclass."""

    name: str
    kind: str
    default: str
    meaning: str


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    listed = [(module, about, names or public_names(module)) for module, about, names in SECTIONS]
    for module, _, names in listed:
        links = ", ".join(f"[{name}](#{name.lower()})" for name in names)
        parts.append(f"- `{module}`: {links}")
    parts.append("")
    for module, about, names in listed:
        parts += [f"## `{module}`", "", about, ""]
        for name in names:
            parts += [*documented(module, name), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip("\n") + "\n"


def source_of(module: str) -> Path:
    """The file that says what a module offers: its stub where it has one."""
    base = ROOT.joinpath(*module.split("."))
    found = [base / "__init__.pyi", base / "__init__.py", base.with_suffix(".py")]
    return next(path for path in found if path.is_file())


def tree_of(module: str) -> ast.Module:
    """The module's source."""
    return ast.parse(source_of(module).read_text(encoding="utf-8"))


def imported(module: str) -> dict[str, str]:
    """The modules that a module's names come from, also those imported for type checkers alone."""
    return {
        alias.asname or alias.name: node.module or ""
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def public_names(module: str) -> list[str]:
    """The names in the module's __all__, without the version."""
    tree = ast.parse(source_of(module).with_suffix(".py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [name for name in ast.literal_eval(node.value) if not name.startswith("__")]
    raise ValueError(f"{module} has no __all__")


def definition(module: str, name: str) -> tuple[ast.stmt, str]:
    """Where a name is defined: the statement, and the docstring of an assignment."""
    home = imported(module).get(name, module)
    body = tree_of(home).body
    for place, node in enumerate(body):
        if isinstance(node, Documented) and node.name == name and not _overloads(node):
            return node, ""
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == name:
                return node, string_after(body, place)
    raise ValueError(f"{home} defines no {name}")


def _overloads(node: Documented) -> bool:
    return any(ast.unparse(one) == "overload" for one in node.decorator_list)


def string_after(body: Sequence[ast.stmt], place: int) -> str:
    """The string that stands below a statement; "" if there is none."""
    below = body[place + 1] if place + 1 < len(body) else None
    if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
        return inspect.cleandoc(below.value.value)
    return ""


def choices(module: str) -> dict[str, str]:
    """The names of a module that stand for a choice of words, and the choice."""
    return {
        ast.unparse(node.targets[0]): ast.unparse(node.value)
        for node in tree_of(module).body
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal[")
    }


def documented(module: str, name: str) -> Iterator[str]:
    """Heading, signature and text of a public name."""
    node, text = definition(module, name)
    yield from (f"### {name}", "")
    if isinstance(node, ast.FunctionDef):
        yield from _block(signature(name, node))
        yield from markdown(ast.get_docstring(node) or "")
    elif isinstance(node, ast.ClassDef):
        yield from _class(node, choices(imported(module).get(name, module)))
    else:
        yield from _block(ast.unparse(node))
        yield from markdown(text)


def _class(node: ast.ClassDef, words: Mapping[str, str]) -> Iterator[str]:
    text, fields = ast.get_docstring(node) or "", fields_of(node)
    made = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    if made is not None:
        yield from _block(signature(node.name, made))
    yield from markdown(text)
    if fields and not re.search(r"^(Attributes|Args):", text, flags=re.M):
        yield from ("", "| field | type | default | meaning |", "|---|---|---|---|")
        for field in fields:
            kind = words.get(field.kind, field.kind)
            cells = (f"`{field.name}`", f"`{kind}`", f"`{field.default}`" if field.default else "", field.meaning)
            yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
    for member in node.body:
        if not isinstance(member, ast.FunctionDef) or (member.name.startswith("_") and member.name != "__call__"):
            continue
        about = ast.get_docstring(member)
        if about is None:
            continue
        kinds = [ast.unparse(one).split(".")[-1] for one in member.decorator_list]
        yield from ("", f"#### {node.name}.{member.name}", "")
        if "property" in kinds or "cached_property" in kinds:
            returns = ast.unparse(member.returns) if member.returns else ""
            yield from _block(f"{member.name}: {returns}")
        else:
            yield from _block(signature(member.name, member))
        yield from markdown(about)


def fields_of(node: ast.ClassDef) -> list[Field]:
    """The fields of a dataclass, with the strings below them; none of another class."""
    if not any("dataclass" in ast.unparse(one) for one in node.decorator_list):
        return []
    found = []
    for place, statement in enumerate(node.body):
        if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.target).startswith("_"):
            default = "" if statement.value is None else ast.unparse(statement.value)
            meaning = " ".join(without_roles(string_after(node.body, place)).split())
            found.append(Field(ast.unparse(statement.target), ast.unparse(statement.annotation), default, meaning))
    return found


def signature(name: str, node: ast.FunctionDef) -> str:
    """How a function is called, in one line or a line for each argument."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = len(positional) - len(arguments.defaults)
    parts = [
        _argument(one, arguments.defaults[place - missing] if place >= missing else None)
        for place, one in enumerate(positional)
        if one.arg not in ("self", "cls")
    ]
    if arguments.vararg is not None:
        parts.append(f"*{_argument(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        parts.append("*")
    parts += [_argument(one, value) for one, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg is not None:
        parts.append(f"**{_argument(arguments.kwarg, None)}")
    returns = "" if node.returns is None or node.name == "__init__" else f" -> {ast.unparse(node.returns)}"
    line = f"{name}({', '.join(parts)}){returns}"
    return line if len(line) <= WIDTH else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg if argument.annotation is None else f"{argument.arg}: {ast.unparse(argument.annotation)}"
    if default is None:
        return text
    return f"{text} = {ast.unparse(default)}" if argument.annotation is not None else f"{text}={ast.unparse(default)}"


def without_roles(text: str) -> str:
    """Text without the roles of Sphinx."""
    return re.sub(r":\w+:`", "`", text)


def markdown(docstring: str) -> Iterator[str]:
    """A docstring as Markdown: its lists of arguments, errors and so on as lists, indented lines as code."""
    lines = without_roles(docstring).splitlines()
    place = 0
    while place < len(lines):
        line = lines[place]
        if line.rstrip(":") in _LISTS and line.endswith(":"):
            end = _end(lines, place + 1)
            yield from (f"{line.rstrip(':')}:", "")
            yield from _items(lines[place + 1 : end])
            place = end
        elif line.startswith("    "):
            end = _end(lines, place)
            yield from _block(inspect.cleandoc("\n".join(lines[place:end])))
            place = end
        else:
            yield line
            place += 1
    yield ""


def _end(lines: Sequence[str], place: int) -> int:
    """Where the indented lines from `place` on end."""
    return next((i for i in range(place, len(lines)) if lines[i] and not lines[i].startswith(" ")), len(lines))


def _items(lines: Sequence[str]) -> Iterator[str]:
    """The items of a list, the continued lines joined."""
    items: list[str] = []
    for line in (one[4:] for one in lines if one.strip()):
        if line.startswith(" ") and items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(line.strip())
    for item in items:
        named = re.match(r"([\w*, ]+): (.*)$", item)
        names = ", ".join(f"`{name.strip()}`" for name in named[1].split(",")) if named else ""
        yield f"- {names}: {named[2]}" if named else f"- {item}"
    yield ""


def _block(text: str) -> Iterator[str]:
    yield from ("```text", *text.splitlines(), "```", "")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
