"""The options of a run in a few lines."""

from typing import Any

import pytest

from mvit_video.config.summary import Composed, changes, summary_text, value_text

BASE = {"name": "a", "optim": {"lr": 1e-4, "betas": [0.9, 0.999]}, "weights": None, "compile": 1}
CHOICES: dict[str, str | None] = {"experiment": "k400", "model": "s", "data": "k400", "data/source": "kinetics"}


def composed(values: dict[str, Any], **choices: str | None) -> Composed:
    return Composed(values={**BASE, **values}, choices={**CHOICES, **choices})


def test_leaves_that_differ() -> None:
    after = {"name": "a", "optim": {"lr": 2e-4, "betas": [0.9, 0.95]}, "weights": "w.pt", "compile": True, "new": {}}
    assert changes(BASE, after) == [
        ("optim.lr", "0.0001", "0.0002"),
        ("optim.betas", "[0.9,0.999]", "[0.9,0.95]"),
        ("weights", "null", "w.pt"),
        ("compile", "1", "true"),
        ("new", "absent", "{}"),
    ]
    assert changes({"gone": 1}, {}) == [("gone", "1", "absent")]
    assert changes(BASE, BASE) == []
    weights = {"task": {"class_weights": {"rose": 3, "tulip": 0.5}}}
    assert changes({"task": {"class_weights": "none"}}, weights) == [
        ("task.class_weights", "none", "{rose:3,tulip:0.5}")
    ]


def test_what_is_chosen_and_what_is_changed() -> None:
    now = Composed(values={**BASE, "weights": "w.pt"}, choices={**CHOICES, "data/source": "list"})
    text = summary_text(now, experiment=composed({}), same_groups=composed({}), run_dir="runs/a")
    assert text.splitlines() == [
        "options:",
        "  experiment  k400",
        "  name        runs/a",
        "  data        k400, read by data/source=list",
        "  model       s",
        "changed on the command line (the experiment's value -> now):",
        "  data/source  kinetics -> list",
        "  weights      null -> w.pt",
    ]


def test_nothing_changed_and_options_that_do_not_matter() -> None:
    now = composed({})
    text = summary_text(now, experiment=now, same_groups=now, run_dir="runs/a", shown=("data",))
    assert "model" not in text
    assert "runs/a" not in text
    assert text.endswith("nothing is changed on the command line")


def test_without_an_experiment_the_defaults_are_compared_with() -> None:
    now = Composed(values={**BASE, "name": "b"}, choices={"model": "s", "data": "k400"})
    base = Composed(values=BASE, choices={"model": "s", "data": "k400"})
    text = summary_text(now, experiment=base, same_groups=base, run_dir="runs/b")
    assert "experiment  none" in text
    assert text.endswith("(the default -> now):\n  name  a -> b")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("", "''"),
        (" ", "' '"),
        ([1, None], "[1,null]"),
        ({"a": "b"}, "{a:b}"),
        (0.5, "0.5"),
    ],
)
def test_values_read_as_on_a_command_line(value: object, text: str) -> None:
    assert value_text(value) == text
