"""Which options a run may not change when it goes on: those of which it would compute something else."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mvit_video.config.rules import rule_of
from mvit_video.config.summary import changes
from mvit_video.config.train import Train


def differing_options(options: Any, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(dotted name, value before, value now) of the options that differ and are not neutral.

    An option that is new since the run began counts as if the run had had its default.

    Args:
        options: the present options, instances of their schemas, which say what is neutral.
        before: the options that the run began with, as nested dictionaries.
        now: the present ones.
    """
    kept, defaults = dict(_kept(options, "")), dict(_defaults(options, ""))

    def chosen(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: _value(values, key, defaults.get(key)) for key in kept}

    return changes(chosen(before), chosen(now))


def read_options(path: Path) -> dict[str, Any]:
    """The options in the config.yaml of a run, as nested dictionaries.

    Raises:
        ValueError: the file is damaged; the text names it.
    """
    try:
        options: Any = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged ({reason}): restore it from a copy, or move it away") from error
    if not isinstance(options, dict) or not options:
        raise ValueError(f"{path} is damaged (it holds no options): restore it from a copy, or move it away")
    return options


def neutral_options() -> list[str]:
    """Dotted names of the options of a training that do not change its result; a group's name stands for all of it."""
    return list(_neutral(Train, ""))


def _neutral(schema: type, prefix: str) -> Iterator[str]:
    for declared in fields(schema):
        rule = rule_of(declared)
        if rule is not None and rule.neutral:
            yield f"{prefix}{declared.name}"
        elif is_dataclass(declared.type):
            yield from _neutral(declared.type, f"{prefix}{declared.name}.")  # type: ignore[arg-type]


def _kept(options: Any, prefix: str) -> Iterator[tuple[str, None]]:
    """Names of the options that are not neutral; a group without schema counts as one option."""
    for declared in fields(options):
        value, rule = getattr(options, declared.name), rule_of(declared)
        if rule is not None and rule.neutral:
            continue
        if is_dataclass(value):
            yield from _kept(value, f"{prefix}{declared.name}.")
        else:
            yield f"{prefix}{declared.name}", None


def _defaults(options: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for declared in fields(options):
        value = getattr(options, declared.name)
        if is_dataclass(value):
            yield from _defaults(value, f"{prefix}{declared.name}.")
        elif declared.default is not NO_DEFAULT:
            yield f"{prefix}{declared.name}", declared.default
        elif declared.default_factory is not NO_DEFAULT:
            yield f"{prefix}{declared.name}", declared.default_factory()


def _value(values: Mapping[str, Any], key: str, default: Any) -> Any:
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return default
        found = found[part]
    return found
