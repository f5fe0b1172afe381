"""What Hydra refused on a command line, in plain words: the value, the rule, the way out.

Hydra names its own search paths and advises to add what it does not know with `+`, which is never the way out here.
"""

import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    KeyValidationError,
    ValidationError,
)

from mvit_video.config.help import SCHEMA_SUFFIX
from mvit_video.config.nearest import did_you_mean, nearest
from mvit_video.config.registry import SCHEMAS, config_dir
from mvit_video.config.rules import rule_of
from mvit_video.config.task import quoted_names

_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_SEVERAL = {int: "whole numbers", float: "numbers", bool: "true or false", str: "texts"}


def explain(error: BaseException, given: Sequence[str]) -> str | None:
    """What is wrong with a command line that Hydra refused; None if its own message says enough.

    Args:
        error: what Hydra raised, with its causes.
        given: the words of the command line that set options.
    """
    for cause in _chain(error):
        if isinstance(cause, KeyValidationError) and (key := str(cause.full_key)):
            return f"{_merged(str(error)) or key}: {quoted_names(key)}"
        if isinstance(cause, MissingConfigException):
            return _missing_choice(cause)
        if isinstance(cause, OverrideParseException):
            return _unreadable(cause)
        if isinstance(cause, InterpolationKeyError):
            return _unknown_reference(cause)
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and _is_schema(cause.object_type):
            return _file_of(error) + _unknown_option(cause)
        if isinstance(cause, ValidationError) and _is_schema(cause.object_type):
            return _file_of(error) + _wrong_type(cause, str(error))
    texts = [str(cause) for cause in _chain(error) if isinstance(cause, HydraException | ValueError)]
    return next((text for text in (_other(text, given) for text in texts) if text), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _file_of(error: BaseException) -> str:
    """The YAML file in which the mistake is, to begin the message with; empty where it is on the command line."""
    found = re.match(r"In '(.+?)': \w+ raised while composing", str(error))
    return f"{found[1]}.yaml: " if found else ""


def _is_schema(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind)


def option_names(schema: type) -> list[str]:
    """The options of a schema."""
    return [declared.name for declared in fields(schema) if not declared.name.startswith("_")]


def group_names() -> list[str]:
    """The groups of options that a command line can choose from."""
    return ["experiment", *sorted({entry.group for entry in SCHEMAS if entry.group})]


def choices_of(group: str) -> list[str]:
    """The choices of a group."""
    held = {path.stem for path in (Path(config_dir()) / group).glob("*.yaml")}
    return sorted(held | {e.name for e in SCHEMAS if e.group == group and not e.name.endswith(SCHEMA_SUFFIX)})


def _missing_choice(error: MissingConfigException) -> str | None:
    if error.missing_cfg_file is None or not error.options:
        return None
    group, _, name = error.missing_cfg_file.rpartition("/")
    known = [known for known in error.options if not known.endswith(SCHEMA_SUFFIX)]
    return f"{group}={name}: unknown; {did_you_mean(name, known, kind=f'choices for {group}')}"


def _unknown_reference(error: InterpolationKeyError) -> str | None:
    """An option that follows another one, which the chosen group does not have: a video model with data of images."""
    target = re.search(r"Interpolation key '([\w.]+)' not found", str(error))
    if target is None or error.full_key is None:
        return None
    own, other = (key.split(".")[0] for key in (error.full_key, target[1]))
    return (
        f"{error.full_key}: follows {target[1]}, which the chosen `{other}` does not have; choose a `{own}` made for "
        f"it, or give {error.full_key}=..."
    )


def _unknown_option(error: ConfigKeyError | ConfigAttributeError) -> str:
    schema: Any = error.object_type
    if "/" in str(error.key):
        return f"{error.key}: unknown; {did_you_mean(str(error.key), group_names(), kind='groups')}"
    group, _, name = str(error.full_key).rpartition(".")
    known = did_you_mean(name, option_names(schema))
    content = _other_content(group, name, schema)
    if content is not None:
        other, own = content
        return (
            f"{error.full_key}: is an option for {other}, and the chosen {group} is for {own}: leave it out, or choose "
            f"a task=... and a {group}=... for {other}; {known}"
        )
    elsewhere = _elsewhere(name) if group else []
    hint = f"there is {' and '.join(elsewhere)}; " if elsewhere else ""
    return f"{error.full_key}: unknown option; {hint}{known}"


def _other_content(group: str, name: str, schema: type) -> tuple[str, str] | None:
    """What a group that has the option is for, and the chosen one: ("videos", "images"); None where there is none."""
    of = {entry.schema: entry.content for entry in SCHEMAS if entry.group == group and entry.content}
    own = of.get(schema)
    found = next((content for other, content in of.items() if content != own and name in option_names(other)), None)
    return None if own is None or found is None else (found, own)


def _elsewhere(name: str) -> list[str]:
    """Options of that name in other groups."""
    schemas = [e for e in SCHEMAS if e.group and "/" not in e.group and e.name.endswith(SCHEMA_SUFFIX)]
    return list(dict.fromkeys(f"{e.group}.{name}" for e in schemas if name in option_names(e.schema)))


def _wrong_type(error: ValidationError, said: str) -> str:
    """A value that is of another type than its option; `said` is Hydra's text, which has the word of a command line."""
    key, schema = str(error.full_key), error.object_type
    declared = next((d for d in fields(schema) if d.name == key.split(".")[-1]), None)  # type: ignore[arg-type]
    shown = _merged(said) or key
    if declared is None:
        return f"{shown}: {str(error).splitlines()[0]}"
    rule = rule_of(declared)
    bounds = rule.brief() if rule is not None else ""
    meaning = f"; it is: {rule.help}" if rule is not None else ""
    kind = type_text(typing.get_type_hints(schema)[declared.name])
    return f"{shown}: must be {kind}{f' ({bounds})' if bounds else ''}{meaning}"


def _merged(said: str) -> str | None:
    """The word of a command line that Hydra's text names."""
    found = re.match(r"Error merging override \+*(.*)", said)
    return found[1] if found else None


def type_text(kind: Any) -> str:
    """A type in words: "a whole number, or null"."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        parts = [type_text(part) for part in typing.get_args(kind) if part is not type(None)]
        return ", or ".join([*parts, *(["null"] if type(None) in typing.get_args(kind) else [])])
    if typing.get_origin(kind) is list:
        (entry,) = typing.get_args(kind)
        return f"a list of {_SEVERAL.get(entry, 'values')} in brackets"
    return _TYPES.get(kind, "another kind of value")


def _unreadable(error: OverrideParseException) -> str:
    """A word that is no `key=value`."""
    word = str(error.override)
    key, sign, value = word.partition("=")
    if not sign:
        near = nearest(key.strip("+~"), group_names())
        meant = f"{near}=..." if near else ""
        if (Path(word) / "config.yaml").is_file():
            meant = f"run={word}, to evaluate this run, or weights={word}, to train from it,"
        return f"{word}: options are given as key=value, without spaces around the sign" + (
            f"; is {meant} meant?" if meant else ""
        )
    quoted = value.strip("'\"").replace("'", "\\'").replace('"', '\\"')  # as a shell takes it in double quotes
    return (
        f"{word}: the value holds characters that have a meaning here, such as = ( ) {{ }} [ ] , : and spaces; put it "
        f"in quotes, and the word in quotes of the other kind: \"{key}='{quoted}'\""
    )


def _other(text: str, given: Sequence[str]) -> str | None:
    """Hydra's messages that say what to do in its own terms."""
    if found := re.match(r"Could not override '(.*)'\. No match in the defaults list", text):
        return _no_such_group(found[1], given)
    if found := re.match(r"Multiple values for ([\w/]+)\.", text):
        group = found[1]
        if group == "experiment":
            return "two experiments are given; give one, and single options besides"
        return f"+{group}=...: {group} has a choice already, which {group}=..., without the plus, replaces"
    if found := re.match(r"Could not append to config\. An item is already at '(.*)'", text):
        return f"+{found[1]}=...: the option is there already; leave the plus out: {found[1]}=..."
    if found := re.match(r"Could not delete from config\. '(.*)' does not exist", text):
        return f"~{found[1]}: there is no such option to leave out"
    if found := re.match(r"Ambiguous value for argument '([^=]*)=(.*)'", text):
        return (
            f"{found[1]}={found[2]}: several values are a sweep, which needs --multirun; a list is written "
            f"{found[1]}=[{found[2]}], a text with commas \"{found[1]}='{found[2]}'\""
        )
    if text.startswith("Config group override must be a string or a list"):
        groups = {word.lstrip("+").partition("=")[0]: word for word in given}
        known = [group for group in groups if group in group_names()]
        shown = next((groups[group] for group in known if re.search(r"=[\d.+-]*$|=(true|false)$", groups[group])), "")
        group = shown.lstrip("+").partition("=")[0]
        return f"{shown}: {group} is a group of options; {did_you_mean('', choices_of(group), kind='choices')}"
    return None


def _no_such_group(name: str, given: Sequence[str]) -> str:
    word = next((word for word in given if word.startswith(f"{name}=")), f"{name}=...")
    if name in group_names():  # a group that has no choice of its own yet
        return f"{word}: is written with a plus: +{word}"
    return f"{word}: unknown; {did_you_mean(name, group_names(), kind='groups')}"
