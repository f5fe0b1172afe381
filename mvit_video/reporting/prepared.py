"""What `prepare` found out about the data of a run: the report beside the index files that it trained from."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvit_video.runtime.formatting import size_text

REPORT = "report.json"
_SPLITS = ("train", "val", "test")
_SHOWN = 20  # problems listed


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One split of a prepared data set.

    Attributes:
        name: of the split.
        usable: entries that its index holds.
        facts: (what, value) in words.
        quantities: (title, [least, 5 %, median, 95 %, greatest]).
        histograms: (title, bars), each bar (value, how often, per cent of the longest bar).
    """

    name: str
    usable: int
    facts: Sequence[tuple[str, str]]
    quantities: Sequence[tuple[str, Sequence[float]]]
    histograms: Sequence[tuple[str, Sequence[tuple[str, int, float]]]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A report of `prepare`.

    Attributes:
        path: of the report.
        item: what the data set is a set of, in the singular.
        created, verify: when, and how thoroughly the files were read.
        splits: what each holds.
        attention: what is worth a look, in lines.
        problems: (split, status, path, reason) of the first entries that are not in order.
        more_problems: how many others there are.
    """

    path: Path
    item: str
    created: str
    verify: str
    splits: Sequence[SplitFacts]
    attention: Sequence[str]
    problems: Sequence[tuple[str, str, str, str]]
    more_problems: int


def folders_of(options: Mapping[str, str], start: Sequence[Path]) -> list[Path]:
    """The folders of the index files that the options name, where a report lies in them.

    Args:
        options: of a run, by dotted names.
        start: folders that relative paths may start from, the likeliest first.
    """
    named = [options.get(f"data.source.{split}", "") for split in _SPLITS]
    found = [folder / name for name in named if name.endswith(".index") for folder in start]
    return list(dict.fromkeys(path.parent for path in found if (path.parent / REPORT).is_file()))


def read_prepared(folder: Path, *, attention: Callable[[Any], Sequence[str]]) -> Prepared:
    """The report in a folder.

    Args:
        folder: that `prepare` wrote to.
        attention: gives what is worth a look in the content of a report, in lines.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: this report of prepare is damaged ({error}); prepare the data again") from error
    problems = [(one["split"], one["status"], one["path"], one["reason"]) for one in report["problems"]]
    return Prepared(
        path=path,
        item=report["item"],
        created=report["created"],
        verify="every frame was decoded" if report["verify"] == "decode" else "packets were read, pictures not decoded",
        splits=[_split(name, held, report) for name, held in report["splits"].items()],
        attention=attention(report),
        problems=problems[:_SHOWN],
        more_problems=max(0, len(problems) - _SHOWN),
    )


def _split(name: str, held: Mapping[str, Any], report: Mapping[str, Any]) -> SplitFacts:
    item = report["item"]
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(held["statuses"].items()) if count)
    facts = [("source", held["source"]), ("listed", str(held["listed"])), ("usable", f"{held['usable']} ({statuses})")]
    facts.append(("classes", str(held["classes"]["number"])))
    if held["classes"]["empty"]:
        facts.append(("classes without a usable " + item, ", ".join(held["classes"]["empty"][:_SHOWN])))
    if "hours" in held:
        facts.append(("hours", f"{held['hours']:.2f}"))
    facts.append(("size", size_text(held["bytes"])))
    quantities = {f"{item}s per class": held["classes"]["videos"]}
    quantities |= {title: held[key] for title, key in report["quantities"].items() if key in held}
    histograms = {title: held.get(key, {}) for title, key in report["histograms"].items()}
    histograms[f"{item.capitalize()}s per class"] = held["classes"]["counts"]
    return SplitFacts(
        name=name,
        usable=held["usable"],
        facts=facts,
        quantities=[(title, list(marks.values())) for title, marks in quantities.items() if marks],
        histograms=[(title, _bars(counts)) for title, counts in histograms.items() if counts],
    )


def _bars(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    most = max(1, *counts.values())
    return [(value, count, round(100 * count / most, 2)) for value, count in counts.items()]
