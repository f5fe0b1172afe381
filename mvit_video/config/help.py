"""The text of `--help`: the choices of each group, and each option with its value, meaning and rule."""

import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from mvit_video.config.rules import Rule, rule_of
from mvit_video.config.summary import value_text

SCHEMA_SUFFIX = "_schema"
"""Names that end so are for the defaults lists of YAML files; nobody chooses one on a command line."""

_USAGE = """\
usage: python -m mvit_video.COMMAND [+experiment=NAME] [GROUP=CHOICE ...] [OPTION=VALUE ...]

With an experiment in front of --help the values below are those of the experiment.
--cfg job prints them as YAML and --multirun runs every combination of values separated by commas."""
_COLUMN = 34


def help_text(config: DictConfig) -> str:
    """What `--help` prints of a composed config."""
    width = min(max(shutil.get_terminal_size().columns, 80), 120)
    parts = [
        _USAGE,
        "",
        "GROUPS (GROUP=CHOICE; +experiment=CHOICE)",
        *_group_lines(width),
        "",
        "OPTIONS (OPTION=VALUE)",
    ]
    parts += _option_lines(config, "", width)
    return "\n".join(parts)


def group_choices() -> dict[str, list[str]]:
    """What can be chosen in each config group of the running command, its --config-dir included."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    # The loader's own get_group_options copies every schema at each call, which takes seconds.
    repository: Any = hydra.config_loader.repository  # type: ignore[attr-defined]
    found: dict[str, list[str]] = {}
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        for name in repository.get_group_options(parent, ObjectType.GROUP):
            group = f"{parent}/{name}" if parent else name
            if group != "hydra":
                waiting.append(group)
                found[group] = repository.get_group_options(group, ObjectType.CONFIG)
    return {
        group: [name for name in names if not name.endswith(SCHEMA_SUFFIX)] for group, names in sorted(found.items())
    }


def _group_lines(width: int) -> Iterator[str]:
    for group, names in group_choices().items():
        if names:
            yield from _columns(f"  {group}", ", ".join(names), column=16, width=width)


def _option_lines(config: DictConfig, prefix: str, width: int) -> Iterator[str]:
    """Options of a schema and, behind them, of the groups in it."""
    schema = OmegaConf.get_type(config)
    rules = {declared.name: rule_of(declared) for declared in fields(schema)} if is_dataclass(schema) else {}
    values: Any = OmegaConf.to_container(config, resolve=False)
    groups = [key for key in values if isinstance(values[key], dict) and values[key]]
    for key, value in values.items():
        if key not in groups and not str(key).startswith("_"):
            yield from _columns(f"  {prefix}{key}={value_text(value)}", _meaning(rules.get(key)), _COLUMN, width)
    for key in groups:
        about = OmegaConf.get_type(config[key]).__doc__ if is_dataclass(OmegaConf.get_type(config[key])) else ""
        yield from ("", *textwrap.wrap(f"{prefix}{key}: {about or 'as its _target_ takes them'}", width))
        yield from _option_lines(config[key], f"{prefix}{key}.", width)


def _meaning(rule: Rule | None) -> str:
    if rule is None:
        return ""
    return f"{rule.help} ({rule.brief()})" if rule.brief() else rule.help


def _columns(left: str, right: str, column: int, width: int) -> Iterator[str]:
    """`left`, and `right` wrapped beside it, or below where `left` is too long."""
    lines = textwrap.wrap(right, width - column, break_long_words=False, break_on_hyphens=False) or [""]
    if len(left) > column - 2:
        yield left
    else:
        yield f"{left:<{column}}{lines.pop(0)}".rstrip()
    for line in lines:
        yield " " * column + line
