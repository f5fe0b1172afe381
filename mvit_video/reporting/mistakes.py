"""Where a model is wrong: which classes are taken for which, and the answers that were given with most confidence.

A task that answers with something else than classes (boxes, say) gets its own kind in answers.py and its own way from
answers to `Mistake`s here; pictures.py shows the entries of whatever mistakes there are.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvit_video.reporting.answers import Answer, Entry, Evaluation


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one run says of an entry.

    Attributes:
        run: its place among the runs.
        name: the class: the one predicted, or the likeliest that is wrong where several are named.
        score: from 0 to 1.
        right: whether the class is right.
        own: the score of the entry's own class; None where it is not among the likeliest.
    """

    run: int
    name: str
    score: float
    right: bool
    own: float | None


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An entry that some run is wrong about.

    Attributes:
        entry: file, or stretch of it.
        right: the classes that are right.
        said: by the runs that were evaluated on it.
    """

    entry: Entry
    right: tuple[str, ...]
    said: tuple[Said, ...]

    @property
    def confidence(self) -> float:
        """The highest score of a wrong answer."""
        return max(one.score for one in self.said if not one.right)


def most_confident(evaluations: Mapping[int, Evaluation], count: int) -> list[Mistake]:
    """The entries that some run is wrong about with most confidence, each once, with the answers of all runs.

    Args:
        evaluations: by the place of the run.
        count: how many at most.
    """
    answers: dict[Entry, dict[int, Answer]] = {}
    for run, evaluation in evaluations.items():
        for answer in evaluation.answers:
            if not answer.failed:
                answers.setdefault(answer.entry, {}).setdefault(run, answer)
    found = []
    for entry, by_run in answers.items():
        said = tuple(_said(run, answer) for run, answer in by_run.items() if _top(answer) is not None)
        if any(not one.right for one in said):
            found.append(Mistake(entry=entry, right=next(iter(by_run.values())).right, said=said))
    found.sort(key=lambda mistake: (-mistake.confidence, mistake.entry.path, mistake.entry.start))
    return found[:count]


def _top(answer: Answer) -> str | None:
    """The class that the answer stands for: the predicted one, or the likeliest that is wrong; None for none."""
    return answer.predicted or next((name for name in answer.scores if name not in answer.right), None)


def _said(run: int, answer: Answer) -> Said:
    name = _top(answer)
    assert name is not None
    return Said(
        run=run,
        name=name,
        score=float(answer.scores.get(name, 0.0)),
        right=name in answer.right,
        own=answer.scores.get(answer.right[0]) if answer.right else None,
    )


def count_mistakes(evaluation: Evaluation) -> int:
    """Entries that could be read and are named wrongly, of an evaluation that names one class each."""
    return sum(not answer.failed and answer.predicted not in answer.right for answer in evaluation.answers)


# ---- confusion


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Which classes are taken for which.

    Attributes:
        names: of the classes shown.
        counts: int (C, C), rows true and columns predicted.
        totals: entries of each class, those predicted to be of a class that is not shown included.
        left_out: number of classes that are not shown.
    """

    names: Sequence[str]
    counts: npt.NDArray[np.int64]
    totals: Sequence[int]
    left_out: int


def confusion(evaluation: Evaluation, *, limit: int) -> Confusion:
    """The confusion matrix of an evaluation that names one class each.

    Args:
        evaluation: what was answered.
        limit: classes shown at most; of more, those in the most confusions, in the order of the model's outputs.
    """
    pairs = Counter(_pairs(evaluation))
    # A task of one's own may write lines and no list of its classes.
    names = list(dict.fromkeys([*evaluation.class_names, *(name for pair in pairs for name in pair)]))
    place = {name: number for number, name in enumerate(names)}
    # Never all cells: those of 21,000 classes take 3.5 GB.
    cells = np.array([(place[true], place[said], number) for (true, said), number in pairs.items()], np.int64)
    true, said, number = cells.reshape(-1, 3).T
    totals, wrong = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    np.add.at(totals, true, number)
    for side in (true, said):
        np.add.at(wrong, side, np.where(true == said, 0, number))
    shown = np.sort(np.argsort(-wrong, kind="stable")[:limit])
    inside = np.isin(true, shown) & np.isin(said, shown)
    counts = np.zeros((len(shown), len(shown)), np.int64)
    counts[np.searchsorted(shown, true[inside]), np.searchsorted(shown, said[inside])] = number[inside]
    return Confusion(
        names=[names[number] for number in shown],
        counts=counts,
        totals=totals[shown].tolist(),
        left_out=len(names) - len(shown),
    )


def confused_pairs(evaluation: Evaluation, *, limit: int) -> list[tuple[str, str, int, int]]:
    """(true class, predicted class, how often, entries of the true class), the most frequent first."""
    pairs = Counter(_pairs(evaluation))
    totals = Counter(true for true, _ in pairs.elements())
    wrong = [(true, said, number, totals[true]) for (true, said), number in pairs.items() if true != said]
    return sorted(wrong, key=lambda row: (-row[2], row[0], row[1]))[:limit]


def _pairs(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """(true, predicted) of the entries that could be read; another class that is right, too, stands for the own."""
    for answer in evaluation.answers:
        if not answer.failed:
            yield (answer.predicted if answer.predicted in answer.right else answer.right[0]), answer.predicted


# ---- two runs


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """On how many entries two runs are right and wrong; `entries` are those that both were evaluated on."""

    entries: int
    both: int
    first: int
    second: int
    neither: int


def agreement(first: Evaluation, second: Evaluation) -> Agreement | None:
    """Of two evaluations that name one class each; None where no entry is in both."""
    right = [{one.entry: _is_right(one) for one in evaluation.answers} for evaluation in (first, second)]
    cells = Counter((right[0][entry], right[1][entry]) for entry in right[0] if entry in right[1])
    if not cells:
        return None
    return Agreement(
        entries=cells.total(),
        both=cells[True, True],
        first=cells[True, False],
        second=cells[False, True],
        neither=cells[False, False],
    )


def _is_right(answer: Answer) -> bool:
    return not answer.failed and answer.predicted in answer.right
