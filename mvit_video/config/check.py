"""From a composed config to plain dataclasses, refusing what cannot work before any data is read.

Hydra refuses mistyped keys and wrong types by itself (see the schemas); here its messages get the way out, and values
of the right type that no run can use are named with the rule they break. Every rule stands in the schemas: this module
walks them and knows no option.
"""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationKeyError, OmegaConfBaseException

from mvit_video.config.help import SCHEMA_SUFFIX
from mvit_video.config.nearest import did_you_mean, nearest
from mvit_video.config.registry import SCHEMAS
from mvit_video.config.rules import HasProblems, rule_of
from mvit_video.config.train import Train


def to_object(config: DictConfig) -> Train:
    """The composed config as plain dataclasses, complete and checked.

    Raises:
        ValueError: with one line for everything that is missing, unknown or impossible.
    """
    config = config.copy()
    schema = OmegaConf.get_type(config)
    assert schema is not None and issubclass(schema, Train)
    for key in schema.unneeded(config):
        OmegaConf.update(config, key, "")
    unknown = list(_unknown_keys(config, ""))
    missing = sorted(OmegaConf.missing_keys(config) | schema.unset(config))
    if missing:
        raise ValueError(
            "\n".join(
                [
                    *unknown,
                    "these options have no value yet; give each on the command line or in an experiment file:",
                    *(f"  {key}=..." for key in missing),
                ]
            )
        )
    result = OmegaConf.to_object(config)
    assert isinstance(result, Train)
    problems = [*unknown, *impossible(result)]
    if problems:
        raise ValueError("the configuration cannot work:\n  " + "\n  ".join(problems))
    return result


def impossible(options: Any, prefix: str = "") -> Iterator[str]:
    """One line for each value that breaks its rule, in a schema and the schemas within it.

    Args:
        options: instance of a schema. A null stands for "not set" wherever its type allows it.
        prefix: the schema's own dotted name with a dot behind it.
    """
    good = True
    for declared in fields(options):
        value, rule = getattr(options, declared.name), rule_of(declared)
        lines: list[str] = []
        if is_dataclass(value):
            lines = list(impossible(value, f"{prefix}{declared.name}."))
        elif rule is not None and not rule.allows(value):
            text = rule.text(several=isinstance(value, list))
            lines = [f"{prefix}{declared.name}={value}: {text} ({rule.help})"]
        good = good and not lines
        yield from lines
    # Rules between values take for granted that each value is good on its own.
    if good and isinstance(options, HasProblems):
        yield from options.problems()


def explain(error: BaseException) -> str | None:
    """What to do about a config Hydra refused, or None if its own message says enough."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException | MissingConfigException):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, MissingConfigException):
        return _explain_missing(cause)
    if isinstance(cause, InterpolationKeyError):
        return _explain_reference(cause)
    if not isinstance(cause, ConfigKeyError | ConfigAttributeError) or cause.full_key is None:
        return None
    schema = cause.object_type
    if not (isinstance(schema, type) and is_dataclass(schema)):
        return None
    return f"{cause.full_key}: unknown option; {did_you_mean(str(cause.key), _names(schema))}"


def _explain_missing(error: MissingConfigException) -> str | None:
    """Experiments, and options of a group, that there are instead of the one asked for."""
    if error.missing_cfg_file is None or not error.options:
        return None
    group, _, name = error.missing_cfg_file.rpartition("/")
    known = [known for known in error.options if not known.endswith(SCHEMA_SUFFIX)]
    return f"{group}={name}: unknown; {did_you_mean(name, known, kind=f'choices for {group}')}"


def _explain_reference(error: InterpolationKeyError) -> str | None:
    """An option that follows another one, which the chosen group does not have: a video model with data of images."""
    target = re.search(r"Interpolation key '([\w.]+)' not found", str(error))
    if target is None or error.full_key is None:
        return None
    own, other = (key.split(".")[0] for key in (error.full_key, target[1]))
    return (
        f"{error.full_key}: follows {target[1]}, which the chosen `{other}` does not have; choose a `{own}` made for "
        f"it, or give {error.full_key}=..."
    )


def _names(schema: type) -> list[str]:
    return [declared.name for declared in fields(schema) if not declared.name.startswith("_")]


def _unknown_keys(config: DictConfig, prefix: str) -> Iterator[str]:
    """Keys added with `+` to a group that has a schema: Hydra lets those through."""
    schema = OmegaConf.get_type(config)
    known = None if schema is None or not is_dataclass(schema) else [declared.name for declared in fields(schema)]
    for key in config:
        name = str(key)
        if schema is not None and known is not None and name not in known:
            # A `+group=choice` whose group is mistyped looks like an option, too.
            groups = () if prefix else ("experiment", *sorted({entry.group for entry in SCHEMAS if entry.group}))
            near = nearest(name, (*groups, *known))
            group = f"did you mean the group '{near}'?" if near in groups and near not in known else ""
            yield f"{prefix}{name}: unknown option; {group or did_you_mean(name, _names(schema))}"
        elif not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            yield from _unknown_keys(config[key], f"{prefix}{name}.")
