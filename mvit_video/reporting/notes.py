"""What a reader of the page should know before the numbers: what is unfinished, missing, or does not compare."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from mvit_video.reporting.answers import Evaluation
from mvit_video.reporting.prepared import Prepared
from mvit_video.reporting.run_facts import RunFacts
from mvit_video.runtime.formatting import count_text, option_text


class Note(NamedTuple):
    """A line. "bad" is wrong or lost, "look" is for a person to decide."""

    level: Literal["look", "bad"]
    text: str


def notes_of(
    runs: Sequence[RunFacts], evaluations: Sequence[Evaluation | None], prepared: Sequence[Prepared]
) -> list[Note]:
    """The notes of a page, run by run, then those on their comparison and on their data.

    Args:
        runs: of the page.
        evaluations: the one of each run that the page is about.
        prepared: reports on data that the page shows.
    """
    found = [note for run, evaluation in zip(runs, evaluations, strict=True) for note in _of_run(run, evaluation)]
    return [*found, *_of_comparison(runs, evaluations), *_of_data(runs, prepared)]


def _of_run(run: RunFacts, evaluation: Evaluation | None) -> Iterator[Note]:
    summary = run.summary
    if summary.state != "done":
        why = f": {summary.reason}" if summary.reason else ""
        level: Literal["look", "bad"] = "bad" if summary.state in ("failed", "cancelled") else "look"
        yield Note(level, f"{run.label} is {summary.state}{why}. What follows is as far as it came.")
    if not run.options:
        yield Note("look", f"{run.label} ended before it wrote its options.")
    if run.failed:
        yield Note("look", f"{run.label}: {count_text(run.failed, 'file')} could not be read in training.")
    if run.environment.get("git_dirty") == "true":
        yield Note("look", f"{run.label} was trained by code with changes that no commit holds.")
    if evaluation is None:
        command = shlex.join(["python", "-m", "mvit_video.evaluate", option_text("run", str(run.path))])
        yield Note("look", f"{run.label} has no evaluation, so nothing is said of classes and mistakes: {command}")
    if evaluation is not None and evaluation.results.get("split") == "train":
        yield Note("bad", f"{run.label} was evaluated on what it was trained on, which says nothing of new files.")
    if evaluation is not None and evaluation.results.get("num_failed"):
        failed = count_text(int(evaluation.results["num_failed"]), evaluation.item)
        yield Note("look", f"{run.label}: {failed} of the evaluation could not be read, and count as wrong.")
    for question, level_of_audit, text, _ in run.verdicts:
        if level_of_audit == "bad":
            yield Note("bad", f"{run.label}, audit: {question} {text}")


def _of_comparison(runs: Sequence[RunFacts], evaluations: Sequence[Evaluation | None]) -> Iterator[Note]:
    """Where numbers stand side by side that do not mean the same."""
    held = [one for one in evaluations if one is not None]
    measured = {one.fingerprint for one in held} - {None}
    if len(measured) > 1:
        yield Note("bad", "The evaluations are of different sets of files: their scores do not compare.")
    protocols = sorted({one.protocol for one in held if one.protocol})
    if len(protocols) > 1:
        yield Note("look", f"The evaluations differ in what the model was shown: {'; '.join(protocols)}.")
    splits = {run.data["val"].get("fingerprint") for run in runs if "val" in run.data} - {None}
    if len(splits) > 1 and len(measured) <= 1:
        yield Note("look", "The runs were validated on different sets of files, so those curves do not compare.")
    if len({tuple(one.class_names) for one in held}) > 1:
        yield Note("look", "The runs do not have the same classes.")


def _of_data(runs: Sequence[RunFacts], prepared: Sequence[Prepared]) -> Iterator[Note]:
    """Where a report of `prepare` is of other files than a run had."""
    for report in prepared:
        for split in report.splits:
            had = {run.label: run.data.get(split.name, {}).get("items") for run in runs}
            others = [f"{label} {items}" for label, items in had.items() if items not in (None, split.usable)]
            if others:
                held = count_text(split.usable, report.item)
                text = f"{report.path} has {held} in {split.name}, trained or validated on were: {', '.join(others)}. "
                yield Note("look", text + "It is of other data, made since, or divided by data.holdout or data.folds.")
