"""A rule stands beside its value: what it allows, what it says, and that each one is looked at."""

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import MISSING, OmegaConf

from mvit_video import config
from mvit_video.config.check import impossible
from mvit_video.config.registry import SCHEMAS
from mvit_video.config.rules import Rule, option, rule_of


@pytest.mark.parametrize(
    ("rule", "good", "bad", "text"),
    [
        ({"at_least": 1}, [1, 7, None], [0, math.nan], "must be at least 1"),
        ({"at_least": 0}, [0, 0.5], [-1], "must not be negative"),
        ({"above": 0}, [1e-9], [0, math.nan], "must be greater than 0"),
        ({"at_least": 0, "at_most": 1}, [0, 1], [-0.1, 1.1], "is a probability or a share, from 0 to 1"),
        ({"at_least": 16, "at_most": 64}, [16, 64], [15, 65], "must be from 16 to 64"),
        ({"at_least": 0, "below": 1}, [0, 0.9], [1], "must be at least 0 and below 1"),
        ({"above": 0, "at_most": 1}, [1], [0], "must be above 0 and at most 1"),
        ({"choices": ["a", "b"]}, ["a"], ["c", ""], "must be one of a, b"),
        ({}, [1, "x", []], [], ""),
    ],
)
def test_rule_of_one_value(rule: dict[str, Any], good: list[object], bad: list[object], text: str) -> None:
    built = built_rule(**rule)
    assert [built.allows(value) for value in good] == [True] * len(good)
    assert [built.allows(value) for value in bad] == [False] * len(bad)
    assert built.text() == text


@pytest.mark.parametrize(
    ("rule", "good", "bad", "text"),
    [
        ({"choices": ["a", "b"]}, [["b", "a"]], [[], ["a", "c"]], "must be some of a, b"),
        (
            {"length": 3, "above": 0, "entries": "R, G and B"},
            [[1, 2, 3]],
            [[1, 2], [1, 0, 1]],
            "needs three values, for R, G and B above 0",
        ),
        (
            {"length": 2, "above": 0, "ascending": True},
            [[1, 1], [1, 2]],
            [[2, 1], [0, 1], [1, math.nan]],
            "needs two values above 0, the lesser first",
        ),
        ({"length": 4}, [[0, 0, 0, 0]], [[]], "needs 4 values"),
    ],
)
def test_rule_of_a_list_holds_for_each_entry(
    rule: dict[str, Any], good: list[object], bad: list[object], text: str
) -> None:
    built = built_rule(**rule)
    assert [built.allows(value) for value in good] == [True] * len(good)
    assert [built.allows(value) for value in bad] == [False] * len(bad)
    assert built.text(several=True) == text


def test_a_word_may_stand_for_a_number() -> None:
    rule = built_rule(at_least=1, word="auto")
    good: list[object] = [1, 7, "auto"]
    bad: list[object] = [0, "all", "7", 2.5, True]
    assert [rule.allows(value) for value in good] == [True] * 3
    assert [rule.allows(value) for value in bad] == [False] * 5
    assert (rule.text(), rule.brief()) == ("must be at least 1, or auto", "at least 1, or auto")


def test_lists_are_copied_for_each_instance() -> None:
    first, second = config.VideoData(), config.VideoData()
    first.mean[0] = 9
    assert second.mean[0] == 0.45
    assert config.VideoData().mean[0] == 0.45


def test_a_problem_names_the_value_the_rule_and_the_meaning() -> None:
    (problem,) = impossible(config.Trainer(log_every=0), "trainer.")
    assert problem == "trainer.log_every=0: must be at least 1 (steps from one log line to the next)"


def test_rules_between_values_wait_for_good_values() -> None:
    """A pair of which one is impossible by itself would be reported in confusing words, or fail."""
    assert [line.split(":")[0] for line in impossible(config.Schedule(epochs=-1.0))] == ["epochs=-1.0"]
    (pair,) = impossible(config.Schedule(epochs=1.0, warmup_epochs=2.0))
    assert pair == "schedule.warmup_epochs=2.0: must be less than schedule.epochs=1.0"


def test_every_option_has_help() -> None:
    without = [f"{schema.__name__}.{declared.name}" for schema, declared in options() if not rule_or_group(declared)]
    assert without == [], "declare these with option(..., help=...)"
    for schema, declared in options():
        rule = rule_of(declared)
        assert rule is None or len(rule.help) > 3, f"{schema.__name__}.{declared.name}"


def test_every_schema_says_what_it_is_for() -> None:
    # dataclasses write the signature where there is no docstring
    assert [s.__name__ for s in schemas() if not s.__doc__ or s.__doc__.startswith(f"{s.__name__}(")] == []


def test_every_default_obeys_its_own_rule() -> None:
    for schema, declared in options():
        rule, default = rule_of(declared), default_of(declared)
        interpolated = isinstance(default, str) and default.startswith("${")
        if rule is not None and default != MISSING and not interpolated:
            assert rule.allows(default), f"{schema.__name__}.{declared.name}={default}"


def test_no_rule_is_orphaned() -> None:
    """Each rule is broken once, and the check must say so."""
    broken = 0
    for schema, declared in options():
        rule = rule_of(declared)
        if rule is None or not rule.brief():
            continue
        value = bad_value(rule, several="list" in str(declared.type))
        instance = OmegaConf.to_object(OmegaConf.structured(filled(schema)))
        setattr(instance, declared.name, value)
        lines = [line for line in impossible(instance) if line.startswith(f"{declared.name}=")]
        assert len(lines) == 1, f"{schema.__name__}.{declared.name}={value}"
        broken += 1
    assert broken > 80


def is_option(declared: "dataclasses.Field[Any]") -> bool:
    return rule_of(declared) is not None or declared.name == "_target_"


def test_every_schema_is_registered() -> None:
    """A schema that no YAML file can name, and that is in no other, would be checked and documented by nobody."""
    declared = {
        value
        for module in pkgutil.iter_modules(config.__path__)
        for value in vars(importlib.import_module(f"mvit_video.config.{module.name}")).values()
        if isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and any(map(is_option, dataclasses.fields(value)))
    }
    covered = {part for schema in schemas() for part in schema.__mro__ if dataclasses.is_dataclass(part)}
    assert declared <= covered


def built_rule(**rule: Any) -> Rule:
    """The rule of a field declared with these arguments."""
    made = rule_of(option(None, help="help", **rule))
    assert made is not None
    return made


def schemas() -> list[type]:
    """The registered schemas and those inside of them."""
    found: list[type] = []

    def add(schema: type) -> None:
        if schema not in found:
            found.append(schema)
        for declared in dataclasses.fields(schema):
            if isinstance(declared.type, type) and dataclasses.is_dataclass(declared.type):
                add(declared.type)

    for entry in SCHEMAS:
        add(entry.schema)
    return found


def options() -> "Iterator[tuple[type, dataclasses.Field[Any]]]":
    """Every option of every schema."""
    for schema in schemas():
        for declared in dataclasses.fields(schema):
            if not declared.name.startswith("_"):
                yield schema, declared


def rule_or_group(declared: "dataclasses.Field[Any]") -> bool:
    return rule_of(declared) is not None or dataclasses.is_dataclass(declared.type)


def default_of(declared: "dataclasses.Field[Any]") -> Any:
    made = declared.default_factory
    return declared.default if made is dataclasses.MISSING else made()


def filled(schema: type) -> Any:
    """An instance without a missing value or an interpolation, whatever else it holds."""
    instance = schema()
    for declared in dataclasses.fields(schema):
        value, kind = getattr(instance, declared.name), str(declared.type)
        if dataclasses.is_dataclass(value):
            setattr(instance, declared.name, filled(type(value)))
        elif isinstance(value, str) and (value == MISSING or value.startswith("${")):
            setattr(instance, declared.name, "x" if "str" in kind or "Any" in kind else 8)
    return instance


def bad_value(rule: Rule, *, several: bool) -> Any:
    """A value that the rule forbids."""
    if rule.choices is not None:
        return ["nonsense"] if several else "nonsense"
    if rule.length is not None:
        return [1.0] * (rule.length + 1)
    for bound, step in ((rule.at_least, -1), (rule.above, 0), (rule.at_most, 1), (rule.below, 0)):
        if bound is not None:
            return bound + step
    raise AssertionError(f"a rule that this test cannot break: {rule}")
