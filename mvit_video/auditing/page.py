"""The page of an audit: a table of verdicts, then a section for each question."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mvit_video.auditing.accuracy import Difference, Measured
from mvit_video.auditing.duplicates import Duplicate, DuplicateFindings
from mvit_video.auditing.labels import LabelFindings
from mvit_video.auditing.takes import TakeFindings
from mvit_video.auditing.verdict import WORDS, Verdict
from mvit_video.data.datasets.class_names import listed
from mvit_video.engine.preview import code, escaped

_ROWS = 20  # of a table on the page; the files beside it have all


@dataclass(frozen=True, kw_only=True)
class Section:
    """A question, what it comes to, and what that rests on.

    Attributes:
        title: heading, without number.
        verdict: what it comes to.
        lines: Markdown below it.
    """

    title: str
    verdict: Verdict
    lines: Sequence[str] = ()


def page(title: str, about: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page, Markdown."""
    lines = [f"# How far to trust {escaped(title)}", "", *(f"{line}  " for line in about), ""]
    lines += ["| question | verdict | in short |", "|---|---|---|"]
    for number, section in enumerate(sections, start=1):
        verdict = section.verdict
        lines.append(
            f"| {number}. {section.title} | **{WORDS[verdict.level]}** | {escaped(first_sentence(verdict.text))} |"
        )
    for number, section in enumerate(sections, start=1):
        lines += ["", f"## {number}. {section.title}", "", escaped(section.verdict.text)]
        if section.verdict.next_step:
            lines += ["", f"**Next:** {section.verdict.next_step}."]
        if section.lines:
            lines += ["", *section.lines]
    return "\n".join(lines).rstrip("\n") + "\n"


def first_sentence(text: str) -> str:
    """A text up to the first full stop, colon or semicolon that is followed by a space."""
    return re.split(r"(?<=[.:;])\s", text, maxsplit=1)[0].rstrip(":;") if text else ""


def number_lines(numbers: Sequence[Measured], *, metric: str) -> list[str]:
    """A table of values of a metric. The intervals by recording are there where some recording has several videos."""
    lines = [
        f"| {code(metric)} | views of a video | per cent | 95 % interval | the same by recording | videos |",
        "|---|---|---|---|---|---|",
    ]
    for one in numbers:
        value = "" if one.value is None else f"{one.value:.2f}"
        cells = (one.name, one.protocol, value, _interval(one.interval), _interval(one.by_recording), str(one.videos))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def order_lines(forward: Measured, orders: Sequence[Measured], differences: Sequence[Difference]) -> list[str]:
    """A table of the accuracies on frames in other orders."""
    lines = [
        "| frames shown to the model | per cent | 95 % interval | change in points | 95 % interval of the change |",
        "|---|---|---|---|---|",
    ]
    lines.append(f"| in order | {_value(forward)} | {_interval(forward.interval)} | | |")
    for place, one in enumerate(orders):
        change = (
            f"{differences[place].points:+.1f} | {_interval(differences[place].interval)}" if differences else " | "
        )
        lines.append(f"| {one.name} | {_value(one)} | {_interval(one.interval)} | {change} |")
    return lines


def take_lines(found: TakeFindings, *, split: str, regroup: str) -> Iterator[str]:
    """The pairs, the picture, and how to train on the groups.

    Args:
        found: the findings.
        split: name of the audited split.
        regroup: the command that trains on another split; empty where there is none.
    """
    if found.pairs:
        yield from ["![Pairs](pairs.png)", ""]
        yield from [f"| similarity | video of {split} | class | video of train | class |", "|---|---|---|---|---|"]
        for pair in found.pairs[:_ROWS]:
            yield (
                f"| {pair.similarity:.3f} | {code(pair.audited)} | {escaped(pair.audited_class)} | {code(pair.train)} "
                f"| {escaped(pair.train_class)} |"
            )
        more = found.num_pairs - min(_ROWS, len(found.pairs))
        yield ""
        yield f"`pairs.csv` has the nearest pairs of every video{f', {more} more' if more else ''}."
        yield ""
    if found.touched:
        yield (
            f"`groups.csv` lists all videos with the recordings found, {found.recordings} of them, the largest with "
            f"{found.largest} videos. A recording is what is joined by looks, bytes, file or stated group."
        )
        if regroup:
            yield from ["", "This trains on a split that keeps recordings whole:", "", "```bash", regroup, "```"]
        yield ""
    if found.one_recording:
        yield (
            f"All videos of these classes are of one recording each, so a split by recording leaves them out of one "
            f"side: {escaped(listed(found.one_recording))}. They need further recordings."
        )
        yield ""
    yield (
        f"Rule: {found.frames} frames of each video are compared with those of every other; two of either video must "
        f"have a frame in the other that is as near as {found.threshold:g} (cosine). Another size, codec or quality "
        "and crops of some per cent change that little. Mirrored copies and takes from another camera are not found. A "
        "fixed camera, or a title that all videos share, makes different recordings look alike: look at the picture."
    )
    yield from _named("Without structure, not compared", found.plain)
    yield from _named("Not readable", [f"{path}: {reason}" for path, reason in found.unreadable])


def duplicate_lines(found: DuplicateFindings) -> Iterator[str]:
    """What is there twice."""
    if found.duplicates:
        yield from ["| videos of the same bytes | classes | what is wrong |", "|---|---|---|"]
        for one in found.duplicates[:_ROWS]:
            videos = "<br>".join(f"{split}: {code(path)}" for split, path in one.videos[:_ROWS])
            yield f"| {videos} | {escaped(', '.join(one.classes))} | {_wrong(one)} |"
        if len(found.duplicates) > _ROWS:
            yield from ["", f"{len(found.duplicates) - _ROWS} more are in `audit.json`."]
    yield from _named("Not compared", found.not_compared)


def label_lines(found: LabelFindings, *, split: str) -> Iterator[str]:
    """Videos per class; the smallest classes where there are many."""
    rows = sorted(found.counts.items(), key=lambda item: item[1])
    if found.always_largest is not None:
        yield (
            f"Always answering {escaped(repr(found.largest))}, the largest class of the training, is right for "
            f"{found.always_largest:.1f} % of the videos: an accuracy must be compared with that."
        )
        yield ""
    yield from [f"| class | videos for training | videos in {split} |", "|---|---|---|"]
    yield from (f"| {escaped(name)} | {ours} | {theirs} |" for name, (ours, theirs) in rows[:_ROWS])
    if len(rows) > _ROWS:
        yield from ["", f"The {len(rows) - _ROWS} other classes have more; `audit.json` lists all."]


def _wrong(one: Duplicate) -> str:
    parts = ["on both sides of the split"] * one.across + ["several classes"] * one.conflicting
    return ", ".join(parts) or "listed more than once"


def _named(title: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        yield from ["", f"{title} ({len(names)}): {', '.join(code(name) for name in names[:_ROWS])}"]
        if len(names) > _ROWS:
            yield f"and {len(names) - _ROWS} more, see `audit.json`."


def _value(one: Measured) -> str:
    return "" if one.value is None else f"{one.value:.2f}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.1f} to {ends[1]:.1f}"
