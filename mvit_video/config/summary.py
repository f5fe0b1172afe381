"""The options of a run in a few lines: what was chosen, and what the command line changed in the experiment."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A composed config: its values as nested dictionaries, and the choice of each group."""

    values: Mapping[str, Any]
    choices: Mapping[str, str | None]


def summary_text(
    now: Composed, *, experiment: Composed, same_groups: Composed, run_dir: str, shown: Sequence[str] | None = None
) -> str:
    """What is chosen and changed, in a line each.

    Args:
        now: what runs.
        experiment: the experiment alone.
        same_groups: the experiment with the groups chosen on the command line, before any single value is changed.
        run_dir: folder of the run.
        shown: the training's options that matter to the command; None: all.
    """
    lines = {
        "experiment": now.choices.get("experiment") or "none",
        "name": run_dir,
        "data": _data(now.choices),
        "model": now.choices.get("model") or "none",
    }
    rows = [(key, text) for key, text in lines.items() if shown is None or key == "experiment" or key in shown]
    changed = [*changes(experiment.choices, now.choices), *changes(same_groups.values, now.values)]
    changed = [change for change in changed if change[0] != "experiment"]
    text = "options:\n" + _table(rows)
    if not changed:
        return text + "\nnothing is changed on the command line"
    of = "the experiment's value" if now.choices.get("experiment") else "the default"
    return f"{text}\nchanged on the command line ({of} -> now):\n" + _table(
        [(key, f"{before} -> {after}") for key, before, after in changed]
    )


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(dotted key, old value, new value) of every leaf that differs, in the order of `after`; lists are leaves.

    What is a mapping on one side and a value on the other is a leaf, too.
    """
    plain_old, plain_new = dict(_leaves(before, "")), dict(_leaves(after, ""))
    old, new = _joined(plain_old, plain_new), _joined(plain_new, plain_old)
    differ = [key for key in (*new, *(key for key in old if key not in new)) if not _same(old, new, key)]
    return [(key, value_text(old.get(key, _ABSENT)), value_text(new.get(key, _ABSENT))) for key in differ]


def _same(old: Mapping[str, Any], new: Mapping[str, Any], key: str) -> bool:
    # true and 1 are equal to Python and not to a reader.
    return key in old and key in new and (type(old[key]), old[key]) == (type(new[key]), new[key])


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _joined(leaves: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves, those below a leaf of the others as one mapping."""
    joined: dict[str, Any] = {}
    for key, value in leaves.items():
        above = next((key[:at] for at, sign in enumerate(key) if sign == "." and key[:at] in others), None)
        if above is None:
            joined[key] = value
        else:
            joined.setdefault(above, {})[key[len(above) + 1 :]] = value
    return joined


def value_text(value: object) -> str:
    """A value as it is written on a command line."""
    if value is _ABSENT:
        return "absent"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(value_text, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{value_text(item)}" for key, item in value.items()) + "}"
    return repr(value) if value == "" or str(value) != str(value).strip() else str(value)


def _data(choices: Mapping[str, str | None]) -> str:
    data, source = choices.get("data") or "none", choices.get("data/source")
    return data if source is None or source == data else f"{data}, read by data/source={source}"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"  {key:<{width}}  {text}" for key, text in rows)
