"""From what was seen and scored to the sections of the page, and the files of an audit."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvit_video.auditing import page
from mvit_video.auditing.accuracy import (
    Difference,
    Measured,
    accuracy_of,
    difference,
    number_verdict,
    order_verdict,
    unseen_verdict,
)
from mvit_video.auditing.duplicates import duplicate_verdict
from mvit_video.auditing.entries import Entries
from mvit_video.auditing.files import regroup_command, regroup_options, write_groups, write_pairs, write_sheet
from mvit_video.auditing.labels import label_findings, label_verdict
from mvit_video.auditing.page import Section
from mvit_video.auditing.survey import Survey
from mvit_video.auditing.takes import take_verdict
from mvit_video.auditing.verdict import Verdict
from mvit_video.data.loading.dataset import DecodeOptions
from mvit_video.runtime.files import write_text

PAGE = "audit.md"
ORDER_NAMES = {
    "forward": "in order",
    "single": "the middle frame alone, repeated",
    "shuffled": "shuffled",
    "reversed": "reversed",
}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the model makes of the audited split.

    Attributes:
        metric: the number by which the task is judged, "video_top1" for instance.
        metrics: by order of the frames, the task's numbers; "forward" is always there.
        correct: by order, bool (videos,), whether each video was named rightly; empty for a task that does not say.
        protocol: of a test, in words.
        again: the task's numbers under the protocol of the validations during training.
        validation_protocol: that, in words.
        logged: what the training logged at the step of the weights for these very videos; None if it did not.
        evaluations: (folder, protocol, value) of results of `evaluate` for these very videos and weights.
    """

    metric: str
    metrics: Mapping[str, Mapping[str, float]]
    correct: Mapping[str, npt.NDArray[np.bool_]]
    protocol: str
    again: Mapping[str, float]
    validation_protocol: str
    logged: float | None = None
    evaluations: Sequence[tuple[str, str, float]] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Audited:
    """All that a report is made of.

    Attributes:
        name: of the run.
        about: what was audited, for audit.json.
        heading: lines at the top of the page.
        trained_with: the command of the training; empty where it is not known.
        entries, survey, scored: the videos, what they look like, and what the model makes of them.
        time_limit_s: for reading the frames of the sheet.
    """

    name: str
    about: Mapping[str, Any]
    heading: Sequence[str]
    trained_with: str
    entries: Entries
    survey: Survey
    scored: Scored
    time_limit_s: float | None = None


def write_report(folder: Path, audited: Audited) -> tuple[dict[str, Any], list[Section]]:
    """Write audit.md, audit.json and what they refer to; the content of audit.json, and the sections of the page.

    Args:
        folder: made if it is not there; an earlier audit in it is replaced.
        audited: what to report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers, changes = _numbers(audited), _changes(audited)
    sections = [
        _number_section(audited, numbers),
        *_take_sections(folder, audited, numbers),
        _duplicate_section(audited),
        _label_section(audited),
        *_order_sections(audited, numbers["forward"], changes),
    ]
    content = {
        **audited.about,
        "verdicts": [{"question": one.title, **asdict(one.verdict)} for one in sections],
        "numbers": {key: asdict(one) for key, one in numbers.items()},
        "frame_orders": [asdict(change) for change in changes],
        "metrics": {order: dict(found) for order, found in audited.scored.metrics.items()},
        "takes": None if audited.survey.takes is None else asdict(audited.survey.takes),
        "duplicates": asdict(audited.survey.duplicates),
        "labels": asdict(label_findings(audited.entries)),
    }
    write_text(folder / "audit.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / PAGE, page.page(audited.name, audited.heading, sections))
    return content, sections


def _numbers(audited: Audited) -> dict[str, Measured]:
    """The accuracies of the frames in order: of all videos, apart by recording, as logged, and measured again."""
    scored, survey = audited.scored, audited.survey
    recordings = audited.entries.audited_rows(survey.recordings) if survey.takes is not None else None
    videos = len(audited.entries.audited)

    def plain(name: str, value: float | None, protocol: str) -> Measured:
        return Measured(name=name, protocol=protocol, value=value, interval=None, videos=videos)

    found: dict[str, Measured] = {}
    correct = scored.correct.get("forward")
    if correct is None:
        found["forward"] = plain("this audit", scored.metrics["forward"][scored.metric], scored.protocol)
    else:
        found["forward"] = accuracy_of("this audit", correct, protocol=scored.protocol, recordings=recordings)
    again = scored.again.get(scored.metric)
    if scored.validation_protocol != scored.protocol:
        found["again"] = plain("this audit, as the training validates", again, scored.validation_protocol)
    if scored.logged is not None:
        found["logged"] = plain("logged by the training", scored.logged, scored.validation_protocol)
    for folder, protocol, value in scored.evaluations:
        found[folder] = plain(f"evaluate ({folder})", value, protocol)
    if correct is not None and survey.takes is not None:
        for key, name, chosen in (
            ("unseen", "recordings that the training never saw", ~survey.seen),
            ("seen", "recordings that are in the training", survey.seen),
        ):
            assert recordings is not None
            found[key] = accuracy_of(name, correct[chosen], protocol=scored.protocol, recordings=recordings[chosen])
    return found


def _changes(audited: Audited) -> list[Difference]:
    """What other orders of the frames change, where the task says which videos are right."""
    correct, survey = audited.scored.correct, audited.survey
    recordings = audited.entries.audited_rows(survey.recordings)
    return [
        difference(order, correct["forward"], right, recordings)
        for order, right in correct.items()
        if order != "forward"
    ]


def _number_section(audited: Audited, numbers: Mapping[str, Measured]) -> Section:
    scored = audited.scored
    folders = [folder for folder, _, _ in scored.evaluations]
    again = numbers.get("again", numbers["forward"])
    shown = [one for key, one in numbers.items() if key not in ("seen", "unseen")]
    verdict = number_verdict(numbers["forward"], numbers.get("logged"), again, metric=scored.metric)
    lines = page.number_lines(shown, metric=scored.metric)
    if len({scored.validation_protocol, *(one.protocol for one in shown)}) > 1:
        others = [f"{one.name} {one.protocol}" for key, one in numbers.items() if key == "forward" or key in folders]
        lines += [
            "",
            "Compare numbers of one protocol only (temporal x spatial views): a validation during training takes "
            f"{scored.validation_protocol} of each video, {', '.join(others)}.",
        ]
    return Section(title="How exact is the number?", verdict=verdict, lines=lines)


def _take_sections(folder: Path, audited: Audited, numbers: Mapping[str, Measured]) -> list[Section]:
    """What was found on takes, its files, and the accuracy apart by recording."""
    entries, survey = audited.entries, audited.survey
    for name in ("pairs.csv", "pairs.png", "groups.csv"):
        (folder / name).unlink(missing_ok=True)
    title = "Are takes of one recording on both sides of the split?"
    if survey.takes is None:
        text = "Not looked for (takes=false)."
        return [Section(title=title, verdict=Verdict(level="look", text=text, next_step="audit with takes=true"))]
    regroup = ""
    if survey.takes.pairs:
        decoding = DecodeOptions(time_limit_s=audited.time_limit_s)
        write_pairs(folder / "pairs.csv", survey.takes.pairs, split=entries.split)
        write_sheet(folder / "pairs.png", entries, survey.takes.pairs, frames=survey.takes.frames, decoding=decoding)
    if survey.takes.touched:
        write_groups(folder / "groups.csv", entries, survey.recordings)
        options = regroup_options(entries, folder / "groups.csv")
        if options is not None:
            regroup = regroup_command(options, trained_with=audited.trained_with, name=audited.name)
    verdict = take_verdict(survey.takes, split=entries.split, videos=len(entries))
    lines = list(page.take_lines(survey.takes, split=entries.split, regroup=regroup))
    sections = [Section(title=title, verdict=verdict, lines=lines)]
    if "unseen" in numbers:
        seen, unseen = numbers["seen"], numbers["unseen"]
        sections.append(
            Section(
                title="How good is it on recordings that the training never saw?",
                verdict=unseen_verdict(seen, unseen),
                lines=page.number_lines([unseen, seen], metric=audited.scored.metric),
            )
        )
    return sections


def _duplicate_section(audited: Audited) -> Section:
    found = audited.survey.duplicates
    return Section(
        title="Is a video there twice?",
        verdict=duplicate_verdict(found, split=audited.entries.split),
        lines=list(page.duplicate_lines(found)),
    )


def _label_section(audited: Audited) -> Section:
    found, split = label_findings(audited.entries), audited.entries.split
    return Section(
        title="Are the labels and names in order?",
        verdict=label_verdict(found, split=split),
        lines=list(page.label_lines(found, split=split)),
    )


def _order_sections(audited: Audited, forward: Measured, changes: Sequence[Difference]) -> list[Section]:
    """What single, shuffled and reversed frames make of the number, if they were scored."""
    scored = audited.scored
    orders = [order for order in scored.metrics if order != "forward"]
    if not orders:
        return []
    measured = [
        accuracy_of(ORDER_NAMES[order], scored.correct[order], protocol=scored.protocol)
        if order in scored.correct
        else Measured(
            name=ORDER_NAMES[order],
            protocol=scored.protocol,
            value=scored.metrics[order][scored.metric],
            interval=None,
            videos=len(audited.entries.audited),
        )
        for order in orders
    ]
    return [
        Section(
            title="Does the model use motion, and the order of frames?",
            verdict=order_verdict({change.order: change for change in changes}),
            lines=page.order_lines(forward, measured, changes),
        )
    ]
