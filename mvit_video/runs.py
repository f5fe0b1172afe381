"""List and compare runs: `python -m mvit_video.runs [FOLDER]`, `--best METRIC`, `--diff RUN RUN`, `--folds NAME`."""

import argparse
import difflib
import fnmatch
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mvit_video.config.identity import neutral_options, read_options
from mvit_video.runtime.fold_record import (
    FoldScore,
    FoldSummary,
    fold_score,
    item_of,
    metric_of,
    summarize_folds,
    videos_of_all_folds,
)
from mvit_video.runtime.journal import has_journal, read_events
from mvit_video.runtime.output import write_out
from mvit_video.runtime.run_record import (
    RunSummary,
    Score,
    lower_is_better,
    read_object,
    record_file,
    run_dirs,
    run_scores,
    summarize_run,
)
from mvit_video.runtime.slurm import queue_states

_STATE_COLOURS = {"running": "green", "done": "blue", "failed": "red", "preempted": "yellow", "waiting": "yellow"}
_NARROWEST = 20  # columns of a name or a reason that is wrapped
_GAP = 2  # between columns
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its head.
        cell: its text for an item.
        right: aligned to the right.
        wraps: may be narrower than its text.
        optional: left out where the table is too wide: those with the highest number first, 0 never.
    """

    title: str
    cell: Callable[[Any], str]
    right: bool = False
    wraps: bool = False
    optional: int = 0


_RUN_COLUMNS = (
    Column("run", lambda run: run.name, wraps=True),
    Column("state", lambda run: run.state),
    Column("step", lambda run: "" if run.step is None else f"{run.step}/{run.total_steps or '?'}", right=True),
    Column("top-1", lambda run: _optional(run.top1, ".2f"), right=True),
    Column("mAP", lambda run: _optional(run.map, ".2f"), right=True),
    Column("box AP", lambda run: _optional(run.box_ap, ".2f"), right=True),
    Column("ETA", lambda run: "" if run.eta_s is None else _duration(run.eta_s), right=True, optional=1),
    Column("clips/s", lambda run: _optional(run.clips_per_s, ".1f"), right=True, optional=2),
    Column("restarts", lambda run: str(run.restarts), right=True, optional=4),
    Column("job", lambda run: run.job, optional=3),
    Column("why", lambda run: run.reason, wraps=True),
)


def fit_columns(columns: Sequence[Column], items: Sequence[Any], width: int) -> tuple[list[Column], dict[str, int]]:
    """The columns that fit `width` characters, and how wide each of them is.

    Columns without any text are left out. Where the rest is too wide, columns that wrap get narrower, down to
    _NARROWEST; where that is not enough, optional columns are left out.
    """
    full = {c.title: max([cell_len(line) for i in items for line in c.cell(i).split("\n")] or [0]) for c in columns}
    kept = [column for column in columns if full[column.title]]
    full = {column.title: max(full[column.title], cell_len(column.title)) for column in kept}
    while True:
        least = sum(min(full[c.title], _NARROWEST) if c.wraps else full[c.title] for c in kept) + _GAP * (len(kept) - 1)
        optional = max(kept, key=lambda column: column.optional)
        if least <= width or not optional.optional:
            break
        kept.remove(optional)
    return kept, _widths(kept, full, width)


def _widths(columns: Sequence[Column], full: Mapping[str, int], width: int) -> dict[str, int]:
    """Full width for all, but the widest of those that wrap give way until all of them fit."""
    widths = {column.title: full[column.title] for column in columns}
    wrapping = [column.title for column in columns if column.wraps]
    while sum(widths.values()) + _GAP * (len(columns) - 1) > width and wrapping:
        widest = max(wrapping, key=lambda title: widths[title])
        if widths[widest] <= 1:
            break
        widths[widest] -= 1
    return widths


def render(columns: Sequence[Column], items: Sequence[Any], *, width: int, colours: bool) -> str:
    """A table of at most `width` characters a line; what it leaves out is named below it."""
    kept, widths = fit_columns(columns, items, width)
    table = Table(box=None, header_style="bold", padding=(0, _GAP, 0, 0), pad_edge=False, collapse_padding=True)
    for column in kept:
        justify = "right" if column.right else "left"
        size = widths[column.title]
        table.add_column(column.title, justify=justify, width=size, overflow="fold")  # type: ignore[arg-type]
    for item in items:
        cells = [Text(column.cell(item)) for column in kept]  # not markup: names may hold brackets
        for column, cell in zip(kept, cells):
            if column.title == "state":
                cell.stylize(_STATE_COLOURS.get(cell.plain, "default"))
        table.add_row(*cells)
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=colours, no_color=not colours).print(table)
    left_out = [c.title for c in columns if c not in kept and any(c.cell(item).strip() for item in items)]
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    if left_out:
        note = Text(f"left out for want of width: {', '.join(left_out)} (a wider terminal, COLUMNS=200 or --json)")
        lines += [line.plain.rstrip() for line in note.wrap(Console(width=width), width)]
    return "\n".join(lines) + "\n"


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d}" if hours < 48 else f"{hours // 24} d {hours % 24} h"


# ---- the best runs


def best_runs(folder: Path, metric: str) -> list[tuple[str, Score]]:
    """(name, score) of the runs that have a metric, the best first.

    Raises:
        ValueError: no run has it; the message names those that there are.
    """
    scores = dict(_read_each(run_dirs(folder), run_scores))
    found = [(name, run[metric]) for name, run in scores.items() if metric in run]
    if not found:
        known = sorted({name for run in scores.values() for name in run})
        near = difflib.get_close_matches(metric, known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        listing = f"known are {', '.join(known)}" if known else f"no run in {folder} has been validated or evaluated"
        raise ValueError(f"no run in {folder} has the metric {metric!r}{hint}: {listing}")
    sign = 1 if lower_is_better(metric) else -1
    return sorted(found, key=lambda item: (sign * item[1].value, item[0]))


def _read_each(folders: Sequence[Path], read: Callable[[Path], _Read]) -> Iterator[tuple[str, _Read]]:
    """(name, what was read) of each run; one that cannot be read is named on standard error, and the others follow."""
    for folder in folders:
        try:
            yield folder.name, read(folder)
        except (ValueError, OSError) as error:
            print(f"{folder.name} is left out: {error}", file=sys.stderr)


_BEST_COLUMNS = (
    Column("run", lambda item: item[0], wraps=True),
    Column(
        "score", lambda item: f"{item[1].value:.4g}" if abs(item[1].value) < 1 else f"{item[1].value:.2f}", right=True
    ),
    Column("step", lambda item: "" if item[1].step is None else str(item[1].step), right=True, optional=1),
    Column("measured by", lambda item: item[1].source, optional=2),
)


# ---- the difference of two runs

_ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """What two runs do not have in common: option or fact, and its value in each of them."""

    name: str
    first: str
    second: str


def find_run(folder: Path, name: str, *, begun: bool = True) -> Path:
    """The run directory of a name in `folder`, or of a path.

    Args:
        folder: of the runs.
        name: of a run there, or a path.
        begun: a run that ended before it wrote its options will not do.

    Raises:
        ValueError: there is none; the message names the nearest.
    """
    for path in (folder / name, Path(name)):
        if (path / "config.yaml").is_file() or (not begun and has_journal(path)):
            return path
    places = [path for path in dict.fromkeys((folder, Path(name).parent)) if path.is_dir() and path.name]
    names = [run.name for place in places for run in run_dirs(place)]
    near = difflib.get_close_matches(Path(name).name, names, n=1)
    hint = f", did you mean {near[0]!r}?" if near else f": give the name of a run in {folder}, or the path of one"
    raise ValueError(f"no run {name!r} with a config.yaml{'' if begun else ' or a journal'}{hint}")


def options_of(run_dir: Path) -> dict[str, str]:
    """The options a run was last recorded with, by dotted names; none where it ended before it wrote them."""
    path = record_file(run_dir, "config.yaml")
    return _flat(read_options(path)) if path.is_file() else {}


def environment_of(run_dir: Path) -> dict[str, str]:
    """Versions, hardware and state of the code of a run, by dotted names; none where it did not write them."""
    path = record_file(run_dir, "environment.json")
    return _flat(read_object(path)) if path.is_file() else {}


def option_differences(first: Path, second: Path) -> list[Difference]:
    """The options in which two runs differ, by name; the runs' own names are left out."""
    return _differences(options_of(first), options_of(second), without=("name",))


def environment_differences(first: Path, second: Path) -> list[Difference]:
    """Versions, hardware and state of the code in which two runs differ."""
    return _differences(environment_of(first), environment_of(second), without=())


def differing(held: Sequence[Mapping[str, str]], *, without: Sequence[str] = ()) -> list[tuple[str, tuple[str, ...]]]:
    """The names whose values are not the same in all of several runs, and the value in each of them."""
    names = sorted({name for one in held for name in one if name not in without})
    rows = [(name, tuple(one.get(name, _ABSENT) for one in held)) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _differences(a: Mapping[str, str], b: Mapping[str, str], *, without: Sequence[str]) -> list[Difference]:
    return [Difference(name, first, second) for name, (first, second) in differing((a, b), without=without)]


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested options as dotted names with values as YAML writes them; a list is one value."""
    if isinstance(value, Mapping) and (value or not prefix):
        parts = [_flat(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
        return {name: text for part in parts for name, text in part.items()}
    return {prefix: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def _diff_columns(first: str, second: str) -> tuple[Column, ...]:
    return (
        Column("option", lambda item: item.name, wraps=True),
        Column(first, lambda item: item.first, wraps=True),
        Column(second if second != first else f"{second} (2)", lambda item: item.second, wraps=True),
    )


def _show_diff(folder: Path, names: Sequence[str], *, as_json: bool, width: int, colours: bool) -> str:
    first, second = (find_run(folder, name) for name in names)
    parts = {
        "options": option_differences(first, second),
        "environment": environment_differences(first, second),
    }
    if as_json:
        runs = [str(first), str(second)]
        plain = {title: [asdict(item) for item in items] for title, items in parts.items()}
        return _json({"runs": runs, **plain}) + "\n"
    text = []
    for title, items in parts.items():
        if items:
            table = render(_diff_columns(first.name, second.name), items, width=width, colours=colours)
            text.append(f"{title}:\n{table}")
        else:
            text.append(f"{title}: no difference\n")
    return "\n".join(text)


# ---- the folds of one data set


@dataclass(frozen=True)
class Folds:
    """The runs of folds that belong together.

    Attributes:
        metric: of their numbers.
        scores: of each run, by fold.
        missing: the folds without a finished run, with the reason.
        left_out: runs that have the name but are of no fold.
        summaries: over the finished ones.
    """

    metric: str
    scores: list[FoldScore]
    missing: dict[int, str]
    left_out: list[str]
    summaries: list[FoldSummary]


def find_folds(folder: Path, pattern: str, queue: Mapping[str, tuple[str, str]]) -> Folds:
    """The runs of folds whose names match a pattern, or begin with a name.

    Raises:
        ValueError: there are none; two are of one fold; or they differ in more than the fold.
    """
    wild = any(sign in pattern for sign in "*?[")
    named = [
        path
        for path in run_dirs(folder)
        if (fnmatch.fnmatch(path.name, pattern) if wild else path.name.startswith(pattern))
        and (path / "config.yaml").is_file()
    ]
    if not any(of_fold(options_of(path)) for path in named):
        raise ValueError(
            f"no run in {folder} whose name {'matches' if wild else 'begins with'} {pattern!r} is of a fold: train "
            "with data.folds=5 data.fold=0, then 1, 2 ... (--multirun with data.fold=0,1,2,3,4 trains all)"
        )
    return folds_of(named, queue)


def of_fold(options: Mapping[str, str]) -> bool:
    """Whether the options of a run are those of a fold."""
    return options.get("data.folds", "null") != "null"


def folds_of(named: Sequence[Path], queue: Mapping[str, tuple[str, str]]) -> Folds:
    """What the runs of folds come to; at least one of `named` is of a fold.

    Raises:
        ValueError: two are of one fold, or they differ in more than the fold.
    """
    runs = {path: held for path in named if of_fold(held := options_of(path))}
    _refuse_mixture(runs)
    metric = metric_of(list(runs))
    scores = [fold_score(path, int(held["data.fold"]), metric, queue) for path, held in runs.items()]
    scores.sort(key=lambda score: score.fold)
    count = int(next(iter(runs.values()))["data.folds"])
    by_fold = {score.fold: score for score in scores}
    missing = {
        fold: f"{by_fold[fold].name} is {by_fold[fold].state}" if fold in by_fold else "no run"
        for fold in range(count)
        if fold not in by_fold or by_fold[fold].state != "done" or by_fold[fold].last is None
    }
    left_out = [path.name for path in named if path not in runs]
    finished = [score for score in scores if score.fold not in missing]
    return Folds(metric, scores, missing, left_out, summarize_folds(finished, metric) if finished else [])


def _refuse_mixture(runs: Mapping[Path, Mapping[str, str]]) -> None:
    """Refuse runs that differ in more than the fold, and two of one fold."""
    (first, expected), *others = runs.items()
    skipped = ("name", "data.fold", *(name for name in neutral_options() if name != "data.source"))

    def counts(name: str) -> bool:
        return not any(name == one or name.startswith(f"{one}.") for one in skipped)

    for path, held in others:
        different = [one for one in _differences(expected, held, without=skipped) if counts(one.name)]
        if different:
            listed = "\n".join(f"  {one.name}: {one.first} -> {one.second}" for one in different)
            raise ValueError(
                f"{first.name} and {path.name} differ in more than the fold, and their mean would mean nothing:\n"
                f"{listed}\nGive a pattern that holds the runs of one experiment alone, such as 'NAME-fold-*'"
            )
    seen: dict[str, str] = {}
    for path, held in runs.items():
        if held["data.fold"] in seen:
            raise ValueError(
                f"{seen[held['data.fold']]} and {path.name} are both of fold {held['data.fold']}; give a pattern that "
                "holds one run of each fold"
            )
        seen[held["data.fold"]] = path.name
    totals = {path.name: total for path in runs if (total := videos_of_all_folds(path)) is not None}
    if len(set(totals.values())) > 1:
        listed = ", ".join(f"{name}: {total}" for name, total in totals.items())
        raise ValueError(
            f"the data set has changed between the folds (samples for training and validation: {listed}), so that "
            "their parts are not parts of one set; train the folds again on the same samples"
        )


_FOLD_COLUMNS = (
    Column("fold", lambda score: str(score.fold), right=True),
    Column("run", lambda score: score.name, wraps=True),
    Column("state", lambda score: score.state),
    Column("videos", lambda score: str(score.videos), right=True, optional=2),
    Column("last", lambda score: _optional(score.last, ".2f"), right=True),
    Column("best", lambda score: _optional(score.best, ".2f"), right=True, optional=1),
    Column("evaluation", lambda score: _optional(score.evaluation, ".2f"), right=True, optional=3),
)


def _show_folds(folder: Path, pattern: str, *, as_json: bool, width: int, colours: bool) -> str:
    found = find_folds(folder, pattern, known_queue(run_dirs(folder)))
    if as_json:
        return _json(asdict(found)) + "\n"
    lines = [f"{found.metric} of each fold: at the last validation, at the best one, and by `evaluate`"]
    item = item_of(found.metric)
    columns = [replace(column, title=f"{item}s") if column.title == "videos" else column for column in _FOLD_COLUMNS]
    text = lines[0] + "\n" + render(columns, found.scores, width=width, colours=colours)
    if found.missing:
        text += "missing: " + "; ".join(f"fold {fold} ({why})" for fold, why in found.missing.items()) + "\n"
    if found.left_out:
        text += f"of no fold, left out: {', '.join(found.left_out)}\n"
    other = [f"{score.name}/{folder}" for score in found.scores for folder in score.elsewhere]
    if other:
        text += f"of other {item}s than those that were held out, left out: {', '.join(other)}\n"
    for one in found.summaries:
        deviation = "" if one.deviation is None else f", standard deviation {one.deviation:.2f}"
        text += f"{one.measured}: mean {one.mean:.2f}{deviation}"
        if one.pooled is not None and one.interval is not None:
            low, high = one.interval
            text += f"; {one.pooled:.2f} % of all {one.videos} {item}s, 95 % interval {low:.1f} to {high:.1f}"
        text += "\n"
    if found.summaries:
        text += f"Each {item} is tested once, by the model that was not trained on it" + (
            ", but for those of the missing folds.\n" if found.missing else ".\n"
        )
        text += "`best`, and an evaluation of best.pt, were chosen on what they are tested on: they are too high.\n"
    return text


# ---- the command


def _json(value: Any) -> str:
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return json.dumps(value, ensure_ascii=not encoding.startswith("utf"))


def known_queue(folders: Iterable[Path]) -> Mapping[str, tuple[str, str]]:
    """States of cluster jobs; none where SLURM does not answer. Where no run was a job, it is not asked."""
    if all(event.get("job", "local") == "local" for folder in folders for event in read_events(folder)):
        return {}
    try:
        return queue_states()
    except RuntimeError as error:  # SLURM's tools are here, SLURM is not: the runs' own files still tell most
        print(f"{error}; what follows is from the run directories alone", file=sys.stderr)
        return {}


def _show_best(folder: Path, metric: str, *, as_json: bool, width: int, colours: bool) -> str:
    ranked = best_runs(folder, metric)
    groups: dict[str | None, list[tuple[str, Score]]] = {}
    for name, score in ranked:
        groups.setdefault(score.fingerprint, []).append((name, score))
    if as_json:
        return "".join(_json({"name": name, "metric": metric, **asdict(score)}) + "\n" for name, score in ranked)
    order = "the smallest first" if lower_is_better(metric) else "the largest first"
    tables = [render(_BEST_COLUMNS, items, width=width, colours=colours) for items in groups.values()]
    if len(groups) == 1:
        return f"{metric}, {order}\n{tables[0]}"
    text = f"{metric}, {order}; measured on {len(groups)} sets of videos, and scores of different sets do not compare\n"
    for (fingerprint, items), table in zip(groups.items(), tables):
        where = "a set that is not recorded" if fingerprint is None else f"{items[0][1].split} ({fingerprint})"
        text += f"\non {where}:\n{table}"
    return text


def _show_runs(folder: Path, *, as_json: bool, width: int, colours: bool) -> str:
    directories = run_dirs(folder)
    queue = known_queue(directories)
    runs: list[RunSummary] = [run for _, run in _read_each(directories, lambda path: summarize_run(path, queue))]
    if as_json:
        return "".join(_json(asdict(run)) + "\n" for run in runs)
    if not runs:
        return f"no runs in {folder}\n"
    return render(_RUN_COLUMNS, runs, width=width, colours=colours)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(prog="python -m mvit_video.runs", description="State and progress of runs.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="output_dir of the runs")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--best", metavar="METRIC", help="runs by the best value of a metric, such as video_top1")
    mode.add_argument("--diff", nargs=2, metavar="RUN", help="options, versions and code in which two runs differ")
    mode.add_argument("--folds", metavar="NAME", help="runs of folds: pattern ('birds-fold-*') or beginning of names")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table: one object per run")
    options = parser.parse_args(arguments)
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    layout: dict[str, Any] = {
        "as_json": options.json,
        "width": shutil.get_terminal_size((80, 24)).columns,
        "colours": colours,
    }
    try:
        if options.diff:
            text = _show_diff(options.folder, options.diff, **layout)
        elif options.folds:
            text = _show_folds(options.folder, options.folds, **layout)
        elif options.best:
            text = _show_best(options.folder, options.best, **layout)
        else:
            text = _show_runs(options.folder, **layout)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return write_out(text, sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
