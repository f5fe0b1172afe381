"""From a composed config to plain dataclasses, refusing what cannot work before any data is read.

Hydra refuses mistyped keys and wrong types by itself (see the schemas, and mistakes.py for the words); here values of
the right type that no run can use are named with the rule they break. Every rule stands in the schemas: this module
walks them and knows no option.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mvit_video.config.mistakes import group_names, option_names
from mvit_video.config.nearest import did_you_mean, nearest
from mvit_video.config.rules import HasProblems, rule_of
from mvit_video.config.train import Train


def to_object(config: DictConfig) -> Train:
    """The composed config as plain dataclasses, complete and checked.

    Raises:
        ValueError: with one line for everything that is missing, unknown or impossible.
    """
    schema = OmegaConf.get_type(config)
    assert schema is not None and issubclass(schema, Train)
    if unneeded := schema.unneeded(config):
        config = config.copy()  # which takes as long as the rest
        for key in unneeded:
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


def _unknown_keys(config: DictConfig, prefix: str) -> Iterator[str]:
    """Keys added with `+` to a group that has a schema: Hydra lets those through."""
    schema = OmegaConf.get_type(config)
    known = None if schema is None or not is_dataclass(schema) else [declared.name for declared in fields(schema)]
    for key in config:
        name = str(key)
        if schema is not None and known is not None and name not in known:
            # A `+group=choice` whose group is mistyped looks like an option, too.
            groups = () if prefix else group_names()
            near = nearest(name, (*groups, *known))
            group = f"did you mean the group '{near}'?" if near in groups and near not in known else ""
            yield f"{prefix}{name}: unknown option; {group or did_you_mean(name, option_names(schema))}"
        elif not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            yield from _unknown_keys(config[key], f"{prefix}{name}.")
