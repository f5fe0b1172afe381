"""docs/options.md, made of the schemas: `python -m mvit_video.config.document docs/options.md` (no path: prints it)."""

import sys
import types
from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from mvit_video.config.help import SCHEMA_SUFFIX
from mvit_video.config.registry import SCHEMAS, Registered, choices_over
from mvit_video.config.rules import Rule, rule_of
from mvit_video.config.summary import value_text
from mvit_video.config.train import Train

_HEAD = """\
# Options

Made of the schemas in `mvit_video/config` by `python -m mvit_video.config.document docs/options.md`; edit those.

Every command takes `option=value`, and `group=choice` for the files of `conf/GROUP`. `+experiment=NAME` chooses groups
and values together, and `--help` behind it prints these options with the experiment's values. The default below is the
schema's; the files of a group set others. Where it is `required`, a file or the command line must give the value.
`null` means "not set". A value that breaks its rule is refused before any data is read.
"""


def document() -> str:
    """The whole page."""
    parts = [_HEAD]
    for entry in SCHEMAS:
        parts.append("\n".join(_section(entry)) + "\n")
    return "\n".join(parts)


def _section(entry: Registered) -> Iterator[str]:
    """A heading, what the schema is for, the choices of its group, a table."""
    prefix = "" if entry.group is None else entry.group.replace("/", ".") + "."
    if entry.group is None:
        yield f"## `python -m mvit_video.{entry.name.removesuffix(SCHEMA_SUFFIX)}`"
    elif entry.name == f"{entry.group}{SCHEMA_SUFFIX}":
        yield f"## Group `{entry.group}`"
    else:
        yield f"## Group `{entry.group}`: {entry.name.removesuffix(SCHEMA_SUFFIX)}"
    yield ""
    yield _paragraph(entry.schema)
    if entry.schema is not Train and issubclass(entry.schema, Train):
        yield "It takes the options of `mvit_video.train` too."
    names = choices_over(entry)
    if names:
        yield "Choices: " + ", ".join(f"`{name}`" for name in names) + "."
    yield ""
    yield "| option | type | default | rule | meaning |"
    yield "|---|---|---|---|---|"
    yield from _rows(entry.schema, prefix)


def _rows(schema: type, prefix: str) -> Iterator[str]:
    """A row for each option that the schema adds to the one it derives from; groups with a section are left out."""
    known = {entry.schema for entry in SCHEMAS}
    types_of = get_type_hints(schema)
    for declared in fields(schema):
        name, rule = f"{prefix}{declared.name}", rule_of(declared)
        if rule is not None and not _inherited(schema, declared):
            yield _row(name, types_of[declared.name], declared, rule)
        elif is_dataclass(types_of[declared.name]) and types_of[declared.name] not in known:
            yield from _rows(types_of[declared.name], f"{name}.")


def _inherited(schema: type, declared: "Field[Any]") -> bool:
    """Whether the option has its row in the section of a schema that this one adds to."""
    listed = {entry.schema for entry in SCHEMAS}
    return any(
        declared is parent.__dataclass_fields__.get(declared.name)
        for parent in schema.__mro__[1:]
        if is_dataclass(parent) and parent in listed
    )


def _row(name: str, kind: Any, declared: "Field[Any]", rule: Rule) -> str:
    default = declared.default if declared.default_factory is NO_DEFAULT else declared.default_factory()
    shown = "required" if default == MISSING else f"`{value_text(default)}`"
    cells = (f"`{name}`", type_text(kind), shown, _escaped(rule.brief()), _escaped(rule.help))
    return "| " + " | ".join(cells) + " |"


def type_text(kind: Any) -> str:
    """A type in words: "int or null", "list of float"."""
    arguments = get_args(kind)
    if kind is Any:
        return "any"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(type_text, arguments))
    if get_origin(kind) is list:
        return f"list of {type_text(arguments[0])}"
    if get_origin(kind) is dict:
        return f"{type_text(arguments[0])} by {type_text(arguments[1])}"
    return "null" if kind is type(None) else str(kind.__name__)


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("<", r"\<")


def _paragraph(schema: type) -> str:
    return " ".join((schema.__doc__ or "").split())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        if sys.argv[1].startswith("-"):  # --help must not become a file of that name
            sys.exit(f"{sys.argv[1]}: the only argument is the file to write; without one the page is printed")
        Path(sys.argv[1]).write_text(document(), encoding="utf-8")
    else:
        print(document(), end="")
