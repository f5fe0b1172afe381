"""The page: one HTML file that loads nothing. Whatever a run names, a file or a class, is text here and never markup.

Two things keep it so. Jinja escapes all that is not a template's own, and the page forbids the browser to run or load
anything but its own script and style, which it names by their hashes (Content-Security-Policy).
"""

import base64
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

import mvit_video
from mvit_video.engine.contact_sheet import shorten
from mvit_video.reporting import mistakes
from mvit_video.reporting.answers import MAIN, Evaluation
from mvit_video.reporting.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from mvit_video.reporting.curves import charts_of
from mvit_video.reporting.notes import notes_of
from mvit_video.reporting.pictures import Projector, Shown
from mvit_video.reporting.prepared import Prepared
from mvit_video.reporting.run_facts import RunFacts, event_lines
from mvit_video.runtime.files import write_text
from mvit_video.runtime.fold_record import FoldSummary
from mvit_video.runtime.formatting import count_text

_TEMPLATES = Path(__file__).parent / "templates"
COLOURS = 8  # of the style; further runs are drawn dashed
_MATRIX = 30  # classes of a confusion matrix
_NUMBERED = 20  # classes of a matrix whose cells hold numbers
SHEETS = ("worst", "random", "best")  # pictures that the evaluation of a detector draws
_PAIRS = 15  # confused pairs that are listed
NAME_LENGTH = 20  # letters of a class beside a matrix
_CLASSES = 80  # bars of classes that are shown at once, those of all runs counted

Rows = Sequence[tuple[str, tuple[str, ...]]]


@dataclass(frozen=True, kw_only=True)
class FoldFacts:
    """What runs of folds come to.

    Attributes:
        metric: of the scores.
        summaries, missing: see runs.Folds.
        problem: why they are not summed up; empty where they are.
    """

    metric: str = ""
    summaries: Sequence[FoldSummary] = ()
    missing: Mapping[int, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What is shown.

    Attributes:
        evaluation: folder of the evaluation of each run.
        mistakes: entries shown at most.
        max_bytes: of all clips and pictures.
    """

    evaluation: str = MAIN
    mistakes: int = 12
    max_bytes: int = 8_000_000


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a page is about.

    Attributes:
        runs: at least one.
        differing_options, differing_environment: (name, value in each run) of what is not the same in all.
        prepared: reports of `prepare` on their data.
        folds: where the runs are of folds.
    """

    runs: Sequence[RunFacts]
    differing_options: Rows = ()
    differing_environment: Rows = ()
    prepared: Sequence[Prepared] = ()
    folds: FoldFacts | None = None


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written: the file, its bytes, and its clips and pictures, with those that could not be shown."""

    path: Path
    size: int
    shown: int
    shown_bytes: int
    unreadable: int
    left_out: int


def write_page(path: Path, content: Content, options: PageOptions) -> Written:
    """Write the page, beside its place and renamed.

    Args:
        path: of the .html file; its folder is there.
        content: what it is about.
        options: what of it is shown.
    """
    evaluations = [run.evaluation(options.evaluation) for run in content.runs]
    projector = _projector(content.runs, options)
    found = mistakes.most_confident({n: one for n, one in enumerate(evaluations) if one is not None}, options.mistakes)
    items = {answer.entry: one.item for one in evaluations if one is not None for answer in one.answers}
    shown = [(mistake, projector.show(mistake.entry, items[mistake.entry])) for mistake in found]
    sheets = list(_sheets(content.runs, evaluations, projector))
    text = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            **_frame(), **_about(content, evaluations), mistakes=shown, sheets=sheets, options=options, held=evaluations
        )
    )
    write_text(path, text)
    return Written(
        path=path,
        size=path.stat().st_size,
        shown=sum(one.kind != "nothing" for _, one in shown),
        shown_bytes=projector.spent,
        unreadable=projector.unreadable,
        left_out=projector.left_out,
    )


def _projector(runs: Sequence[RunFacts], options: PageOptions) -> Projector:
    rates = [run.options.get("data.source.frame_rate", "null") for run in runs]
    known = [float(rate) for rate in rates if rate != "null"]
    folders = dict.fromkeys(folder for run in runs for folder in run.start_folders)
    return Projector(folders=list(folders), frame_rate=known[0] if known else None, max_bytes=options.max_bytes)


def _sheets(
    runs: Sequence[RunFacts], evaluations: Sequence[Evaluation | None], projector: Projector
) -> Iterator[tuple[str, str, Shown]]:
    """(run, name, picture) of the sheets that evaluations drew: the worst images of all runs first."""
    for name in SHEETS:
        for run, one in zip(runs, evaluations, strict=True):
            path = None if one is None else run.path / one.folder / f"{name}.png"
            if path is not None and path.is_file():
                yield run.label, name, projector.sheet(path)


def _about(content: Content, evaluations: Sequence[Evaluation | None]) -> dict[str, Any]:
    """What the template is given of the runs."""
    runs = content.runs
    open_charts, folded_charts = charts_of([run.logged for run in runs], [run.label for run in runs])
    return {
        "runs": runs,
        "several": len(runs) > 1,
        "shown_classes": max(10, _CLASSES // max(2, len(runs))),
        "notes": notes_of(runs, evaluations, content.prepared),
        "charts": open_charts,
        "folded_charts": folded_charts,
        "scores": score_rows(evaluations),
        "others": [(run, one) for run, main in zip(runs, evaluations) for one in run.evaluations if one is not main],
        "class_rows": class_rows(evaluations),
        "confusions": [
            _matrix(n, one) for n, one in enumerate(evaluations) if one is not None and one.kind == "classes"
        ],
        "agreements": _agreements(runs, evaluations),
        "prepared": content.prepared,
        "folds": content.folds,
        "differing_options": content.differing_options,
        "differing_environment": content.differing_environment,
        "all_options": _side_by_side([run.options for run in runs]),
        "all_environment": _side_by_side([run.environment for run in runs]),
        "splits": _side_by_side([_data(run) for run in runs]),
        "events": [event_lines(run) for run in runs],
    }


def _data(run: RunFacts) -> dict[str, str]:
    return {f"{split}: {what}": str(value) for split, held in run.data.items() for what, value in held.items()}


def _side_by_side(held: Sequence[Mapping[str, str]]) -> Rows:
    names = dict.fromkeys(name for one in held for name in one)
    return [(name, tuple(one.get(name, "") for one in held)) for name in names]


# ---- scores and classes


_HIDDEN = ("num_views", "num_failed_views", "step", "seed")


def score_rows(evaluations: Sequence[Evaluation | None]) -> Rows:
    """(title, text for each run) of the scores of evaluations, with their intervals where they have some."""
    held = [{} if one is None else one.results for one in evaluations]
    names = dict.fromkeys(
        name
        for results in held
        for name, value in results.items()
        if isinstance(value, float) or (name.startswith("num_") and isinstance(value, int))
    )
    shown = [name for name in names if name not in _HIDDEN and name != "crop_ratio"]
    return [(name, tuple(_score(results, name) for results in held)) for name in shown]


def _score(results: Mapping[str, Any], name: str) -> str:
    value, interval = results.get(name), results.get(f"{name}_ci95")
    if not isinstance(value, int | float):
        return ""
    text = f"{value:.2f}" if isinstance(value, float) else f"{value:,}"
    return text if interval is None else f"{text} ({interval[0]:.1f} to {interval[1]:.1f})"


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """A class: its score in each run (per cent; None where it has none), and its entries in the first that knows it."""

    name: str
    scores: tuple[float | None, ...]
    count: int


def class_rows(evaluations: Sequence[Evaluation | None]) -> list[ClassRow]:
    """The classes by their mean score, the worst first; those without entries last."""
    held = [({}, {}) if one is None else (one.class_scores, one.class_counts) for one in evaluations]
    names = dict.fromkeys(name for known, _ in held for name in known)
    rows = []
    for name in names:
        scores = tuple(known.get(name) for known, _ in held)
        counts = [numbers.get(name) for _, numbers in held]
        rows.append(ClassRow(name=name, scores=scores, count=next((one for one in counts if one is not None), 0)))
    return sorted(rows, key=_mean_score)


def _mean_score(row: ClassRow) -> float:
    known = [score for score in row.scores if score is not None]
    return sum(known) / len(known) if known else float("inf")


# ---- confusion


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a matrix: its place, what it says, how strong it is drawn, and its number where there is room."""

    row: int
    column: int
    title: str
    strength: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The confusions of a run as they are drawn.

    Attributes:
        run: its place among the runs.
        item, total, wrong: what was named, in the singular, how many, and how many of them wrongly.
        rows: (class, its number).
        cells: those that are not empty.
        left_out: classes that are not drawn.
        side, room: of a cell, and for the names, pixels.
        pairs: see mistakes.confused_pairs.
    """

    run: int
    item: str
    total: int
    wrong: int
    rows: Sequence[tuple[str, int]]
    cells: Sequence[Cell]
    left_out: int
    side: int
    room: int
    pairs: Sequence[tuple[str, str, int, int]]


def _matrix(run: int, evaluation: Evaluation) -> Matrix:
    found = mistakes.confusion(evaluation, limit=_MATRIX)
    numbered = len(found.names) <= _NUMBERED
    cells = []
    for row, column in np.argwhere(found.counts > 0).tolist():
        number, total = int(found.counts[row, column]), max(1, found.totals[row])
        share = number / total
        title = f"{found.names[row]} → {found.names[column]}: {number} of {total} ({100 * share:.0f} %)"
        text = f"{100 * share:.0f}" if numbered else ""
        # Among many classes the confusions are a few per cent each: a square root shows them.
        cells.append(Cell(row=row, column=column, title=title, strength=round(share**0.5, 3), text=text))
    return Matrix(
        run=run,
        item=evaluation.item,
        total=len(evaluation.answers),
        wrong=mistakes.count_mistakes(evaluation),
        rows=list(zip(found.names, found.totals, strict=True)),
        cells=cells,
        left_out=found.left_out,
        side=34 if numbered else 20,
        room=16 + 7 * min(NAME_LENGTH, max(map(len, found.names), default=0)),
        pairs=mistakes.confused_pairs(evaluation, limit=_PAIRS),
    )


def _agreements(
    runs: Sequence[RunFacts], evaluations: Sequence[Evaluation | None]
) -> list[tuple[str, str, mistakes.Agreement]]:
    """(first run, other run, on what they agree) of the first run that names one class each with every other."""
    known = [(run, one) for run, one in zip(runs, evaluations) if one is not None and one.kind == "classes"]
    found = [(known[0][0].label, run.label, mistakes.agreement(known[0][1], one)) for run, one in known[1:]]
    return [(first, other, cells) for first, other, cells in found if cells is not None]


# ---- the template


def printable(value: Any) -> Any:
    """A text without what no page can show: control characters, signs that turn the line, and halves of letters."""
    if hasattr(value, "__html__") or not isinstance(value, str | Path):  # what a template made is no text of a run
        return value
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in str(value))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=count_text, shorten=shorten)
    plot = {"w": WIDTH, "h": HEIGHT, "l": LEFT, "r": RIGHT, "t": TOP, "b": BOTTOM}
    environment.globals.update(colours=COLOURS, name_length=NAME_LENGTH, plot=plot)
    return environment


def _frame() -> dict[str, Any]:
    """Style, script and the policy that admits nothing else."""
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    return {
        "style": style,
        "script": script,
        "policy": policy,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": mvit_video.__version__,
    }


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
