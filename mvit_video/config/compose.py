"""Options composed in Python: an experiment, and a mapping of what differs, instead of words on a command line."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mvit_video.config.mistakes import explain
from mvit_video.config.registry import SCHEMAS, config_dir, register
from mvit_video.config.summary import Composed

_GIVEN = "_given_in_python"  # the name of a choice that is a class or a dictionary


@dataclass(frozen=True)
class Composition:
    """Composed options, not yet checked.

    Attributes:
        config: the options.
        given: names of the options and groups that were given, besides the experiment's.
        now, experiment, same_groups: for summary.summary_text.
    """

    config: DictConfig
    given: list[str]
    now: Composed
    experiment: Composed
    same_groups: Composed


def compose_options(
    config_name: str,
    *,
    experiment: str | None,
    options: Mapping[str, Any],
    config_folder: str | os.PathLike[str] | None = None,
) -> Composition:
    """The options of `conf/<config_name>.yaml` with an experiment, and with what `options` give.

    Args:
        config_name: file in conf/.
        experiment: file in conf/experiment; None: no experiment.
        options: values by dotted name ("optim.lr"), or nested dictionaries of them. A group ("model", "data/source")
            takes the name of a choice, or a class, or a dictionary with `_target_` and its arguments.
        config_folder: a folder of further YAML files, as --config-dir on a command line.

    Raises:
        ValueError: an unknown experiment, choice or option, or a value of another type.
    """
    register()
    choices, values = _split(options)
    folder = [] if config_folder is None else [f"hydra.searchpath=[{quoted(_url(config_folder))}]"]
    first = [*folder, *([] if experiment is None else [f"+experiment={quoted(experiment)}"])]
    chosen = [f"{group}={quoted(choice)}" for group, choice in choices.items()]
    try:
        with _own_hydra():
            plain = _compose(config_name, first)
            same_groups = _compose(config_name, [*first, *chosen]) if chosen else plain
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_text(error, [*first, *chosen])) from error
    config = same_groups.config.copy()
    for key, value in values.items():
        try:
            OmegaConf.update(config, key, value, merge=True)
        except OmegaConfBaseException as error:
            raise ValueError(f"{key}={value!r}: {_text(error, [])}") from error
    given = [*([] if experiment is None else ["experiment"]), *choices, *values]
    now = _plain(config, same_groups.choices)
    return Composition(
        config, given, now, _plain(plain.config, plain.choices), _plain(same_groups.config, same_groups.choices)
    )


@dataclass(frozen=True)
class _Chosen:
    config: DictConfig
    choices: Mapping[str, str | None]


def _compose(config_name: str, overrides: list[str]) -> _Chosen:
    config = compose(config_name, overrides, return_hydra_config=True)
    choices = {str(key): value for key, value in config.hydra.runtime.choices.items()}
    with open_dict(config):
        del config["hydra"]
    return _Chosen(config, choices)


def _plain(config: DictConfig, choices: Mapping[str, str | None]) -> Composed:
    values: Any = OmegaConf.to_container(config, resolve=False)
    return Composed(values=values, choices=choices)


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Hydra with the folder of this package, also inside of a program that uses Hydra itself."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before


def _split(options: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Choices by group, and values by dotted name; what is given for a group as a class or dictionary is stored."""
    groups = {entry.group.replace("/", "."): entry.group for entry in SCHEMAS if entry.group is not None}
    choices: dict[str, str] = {}
    values: dict[str, Any] = {}
    for key, value in _leaves(options, "", groups):
        dotted = key.replace("/", ".")
        if dotted in groups and (isinstance(value, str | type) or _is_definition(value)):
            choices[groups[dotted]] = value if isinstance(value, str) else _stored(groups[dotted], value)
        elif "/" in key:
            choices[key] = str(value)  # a group that is not ours, or none: Hydra says so
        else:
            values[key] = _value(value)
    return choices, values


def _leaves(options: Mapping[str, Any], prefix: str, groups: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        name = f"{prefix}{key}"
        definition = name.replace("/", ".") in groups and _is_definition(value)
        if isinstance(value, Mapping) and value and not definition and not _takes_mapping(name, groups):
            yield from _leaves(value, f"{name}.", groups)
        else:
            yield name, value


def _takes_mapping(name: str, groups: Mapping[str, str]) -> bool:
    """Whether an option may itself be a mapping, such as weights by the names of classes, and not options below it."""
    group, _, last = name.rpartition(".")
    schemas = [entry.schema for entry in SCHEMAS if entry.group is not None and entry.group == groups.get(group)]
    return name not in groups and any(f.name == last and f.type is Any for schema in schemas for f in fields(schema))


def _is_definition(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _stored(group: str, value: Any) -> str:
    """Store a class, or a dictionary that names one, as a choice of a group."""
    given = {"_target_": value} if isinstance(value, type) else dict(value)
    node = {key: _value(item) for key, item in given.items()}
    ConfigStore.instance().store(group=group, name=_GIVEN, node=node)
    return _GIVEN


def _value(value: Any) -> Any:
    """What YAML could hold: paths as text, tuples as lists, classes by their dotted names."""
    if isinstance(value, type) or callable(value):
        name = getattr(value, "__qualname__", "")
        if not name or "<" in name:
            raise ValueError(
                f"{value!r}: is found again by its name, when a run is resumed or evaluated; define it at the top of a "
                "module"
            )
        return f"{value.__module__}.{name}"
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _value(item) for key, item in value.items()}
    return value


def quoted(text: str) -> str:
    """A value as Hydra's command line takes it, whatever is in it."""
    return "'" + str(text).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _url(folder: str | os.PathLike[str]) -> str:
    path = Path(folder).resolve()
    if not path.is_dir():
        raise ValueError(f"config_dir={folder}: there is no such folder")
    return f"file://{path}"


def _text(error: BaseException, given: Sequence[str]) -> str:
    """The first line of an error, and the nearest name that exists."""
    hint = explain(error, given)
    return hint or str(error).strip().splitlines()[0]
