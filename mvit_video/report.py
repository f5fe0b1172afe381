"""A page about runs: `python -m mvit_video.report runs/A [runs/B ...] [--open]`."""

import argparse
import os
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path

from mvit_video.preparation.report import attention
from mvit_video.reporting.answers import MAIN
from mvit_video.reporting.page import Content, FoldFacts, PageOptions, Written, write_page
from mvit_video.reporting.prepared import REPORT, folders_of, read_prepared
from mvit_video.reporting.run_facts import RunFacts, labels_of, names_of, read_run
from mvit_video.runs import differing, environment_of, find_run, folds_of, known_queue, of_fold, options_of
from mvit_video.runtime.formatting import count_text, size_text
from mvit_video.runtime.output import write_out

_LONGEST = 100  # letters of the name of a page
_DEFAULTS = PageOptions()


def content_of(paths: Sequence[Path], prepared: Sequence[Path], queue: Mapping[str, tuple[str, str]]) -> Content:
    """What the page of some runs is about.

    Args:
        paths: directories of the runs.
        prepared: folders that `prepare` wrote to, besides those that the runs trained from.
        queue: states of cluster jobs.

    Raises:
        ValueError: a file of a run or a report is damaged, or there is no report.
    """
    names = names_of(paths)
    runs = [
        read_run(path, name=name, label=label, options=options_of(path), environment=environment_of(path), queue=queue)
        for path, name, label in zip(paths, names, labels_of(names), strict=True)
    ]
    lacking = [folder for folder in prepared if not (folder / REPORT).is_file()]
    if lacking:
        raise ValueError(f"--prepared {lacking[0]}: holds no {REPORT}; give the folder that was `out` of prepare")
    known = [folder for run in runs for folder in folders_of(run.options, run.start_folders)]
    reports = {folder.resolve(): folder for folder in (*known, *prepared)}
    return Content(
        runs=runs,
        differing_options=differing([run.options for run in runs], without=("name",)),
        differing_environment=differing([run.environment for run in runs]),
        prepared=[read_prepared(folder, attention=attention) for folder in reports.values()],
        folds=_folds(runs, queue),
    )


def _folds(runs: Sequence[RunFacts], queue: Mapping[str, tuple[str, str]]) -> FoldFacts | None:
    """What several runs come to that are all of folds; None for others."""
    if len(runs) < 2 or not all(of_fold(run.options) for run in runs):
        return None
    try:
        found = folds_of([run.path for run in runs], queue)
    except ValueError as error:  # the runs are shown all the same
        return FoldFacts(problem=str(error))
    return FoldFacts(metric=found.metric, summaries=found.summaries, missing=found.missing)


def default_output(paths: Sequence[Path]) -> Path:
    """Where the page of some runs goes: into the directory of one run, beside the first of several."""
    if len(paths) == 1:
        return paths[0] / "report.html"
    name = f"report_{'_'.join(path.name for path in paths)}"
    if len(name) > _LONGEST:
        name = f"report_{paths[0].name[: _LONGEST - 30]}_and_{len(paths) - 1}_more"
    return paths[0].parent / f"{name}.html"


def _check_output(path: Path) -> None:
    """Refuse a place that no file can be written to, with a ValueError."""
    if path.is_dir():
        raise ValueError(f"--output {path}: is a folder; give the name of a file, such as {path / 'report.html'}")
    if not os.access(path.parent, os.W_OK):
        what = "may not be written to" if path.parent.is_dir() else "does not exist"
        raise ValueError(f"{path}: the folder {path.parent} {what}; --output FILE writes the page elsewhere")


def summary(written: Written) -> str:
    """What was written, in a line or two."""
    text = f"{written.path}: {size_text(written.size)}"
    if written.shown:
        what = count_text(written.shown, "mistake")
        text += f", {size_text(written.shown_bytes)} of it the clips or pictures of {what}"
    if written.unreadable:
        text += f"; {count_text(written.unreadable, 'file')} could not be shown, the page says why"
    if written.left_out:
        text += f"; {written.left_out} left out for want of room (--media-mb)"
    return text + "\n"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mvit_video.report", description="One HTML page about a run, or about several side by side."
    )
    parser.add_argument("runs", nargs="+", help="directories of runs, or their names in --folder")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where names of runs are looked for (runs)")
    parser.add_argument("--output", type=Path, help="file to write; by default report.html in the run's directory")
    parser.add_argument("--open", action="store_true", help="show it in a browser")
    parser.add_argument("--evaluation", default=MAIN, help="folder of the evaluation to show (evaluation)")
    parser.add_argument(
        "--mistakes", type=_count, default=_DEFAULTS.mistakes, help=f"mistakes shown at most ({_DEFAULTS.mistakes})"
    )
    parser.add_argument(
        "--media-mb",
        type=_megabytes,
        default=_DEFAULTS.max_bytes / 1e6,
        help=f"MB of the page that clips and pictures take at most ({_DEFAULTS.max_bytes / 1e6:g})",
    )
    parser.add_argument(
        "--prepared", type=Path, action="append", default=[], help="folder that prepare wrote to, for the data's facts"
    )
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be 0 or more")
    return number


def _megabytes(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: must be 0 or more")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    given = parse_arguments(arguments)
    options = PageOptions(
        evaluation=given.evaluation, mistakes=given.mistakes, max_bytes=round(given.media_mb * 1_000_000)
    )
    try:
        paths = list(dict.fromkeys(find_run(given.folder, name, begun=False) for name in given.runs))
        output = given.output or default_output(paths)
        _check_output(output)
        written = write_page(output, content_of(paths, given.prepared, known_queue(paths)), options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    code = write_out(summary(written), sys.stdout)
    if given.open and not webbrowser.open(written.path.resolve().as_uri()):
        print("no browser could be started; open the file by hand", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
