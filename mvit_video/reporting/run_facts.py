"""What the directory of a run holds, read once: a run may be unfinished, killed or never evaluated."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mvit_video.engine.tracking import each_record
from mvit_video.reporting.answers import MAIN, Evaluation, read_evaluations
from mvit_video.reporting.logged import Logged
from mvit_video.runtime.fold_record import METRICS
from mvit_video.runtime.journal import read_events
from mvit_video.runtime.run_record import (
    RUN_FILE,
    RunSummary,
    Score,
    best_validation,
    folder_of_start,
    read_object,
    read_validations,
    record_file,
    summarize_run,
)

_LONGEST_LABEL = 24  # letters
_MOST_EVENTS = 1000  # of a journal on the page


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run.

    Attributes:
        path: its directory.
        name: of the run, with folders above where several share it.
        label: what the page calls it besides.
        summary: state and progress.
        options, environment: by dotted names; empty where the run ended before it wrote them.
        data: of each split: source, number of items, fingerprint.
        logged: the numbers of metrics.jsonl.
        events: of the journal.
        evaluations: the main one first.
        failed: number of entries that could not be read in training.
        verdicts: (question, level, text, next step) of its audit.
    """

    path: Path
    name: str
    label: str
    summary: RunSummary
    options: Mapping[str, str]
    environment: Mapping[str, str]
    data: Mapping[str, Mapping[str, Any]]
    logged: Logged = field(repr=False)
    events: Sequence[Mapping[str, Any]] = field(repr=False)
    evaluations: Sequence[Evaluation]
    failed: int
    verdicts: Sequence[tuple[str, str, str, str]]

    @property
    def metric(self) -> str | None:
        """The score of its validations by which it is judged; None before the first, and for a task of one's own."""
        return next((name for name in METRICS if name in self.logged.validated), None)

    @property
    def best(self) -> Score | None:
        """The best validation by that score."""
        return None if self.metric is None else best_validation(read_validations(self.path), self.metric)

    @property
    def start_folders(self) -> list[Path]:
        """Where the run's relative paths may start from, the likeliest first."""
        started = folder_of_start(self.options.get("output_dir", "runs"), self.path)
        return [Path.cwd()] if started is None else [started, Path.cwd()]

    def evaluation(self, folder: str) -> Evaluation | None:
        """The evaluation of a folder; the first that there is for the usual one. None where there is none."""
        found = next((one for one in self.evaluations if one.folder == folder), None)
        if found is None and folder == MAIN:
            # Frames in another order measure something else than the model's accuracy.
            forward = (one for one in self.evaluations if one.results.get("frame_order", "forward") == "forward")
            return next(forward, None)
        return found


def read_run(
    path: Path,
    *,
    name: str,
    label: str,
    options: Mapping[str, str],
    environment: Mapping[str, str],
    queue: Mapping[str, tuple[str, str]],
) -> RunFacts:
    """A run, from its directory.

    Args:
        path: the directory.
        name, label: see RunFacts.
        options, environment: by dotted names.
        queue: states of cluster jobs, see runtime.slurm.

    Raises:
        ValueError: a file of an evaluation is damaged.
    """
    metrics = path / "metrics.jsonl"
    return RunFacts(
        path=path,
        name=name,
        label=label,
        summary=summarize_run(path, queue),
        options=options,
        environment=environment,
        data=_json(record_file(path, RUN_FILE)).get("data", {}),
        logged=Logged(each_record(metrics) if metrics.is_file() else ()),
        events=read_events(path),
        evaluations=read_evaluations(path),
        failed=len(_failed_paths(path)),
        verdicts=list(_verdicts(path / "audit" / "audit.json")),
    )


def _failed_paths(path: Path) -> set[str]:
    """Training files of a run that could not be read; several ranks, or attempts, may have listed the same one."""
    found = set()
    for listing in path.glob("failed_*.jsonl"):
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):  # the last line of a process that was killed
                found.add(str(json.loads(line)["path"]))
    return found


def _json(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _verdicts(path: Path) -> Iterator[tuple[str, str, str, str]]:
    for one in _json(path).get("verdicts", []):
        yield one["question"], one["level"], one["text"], one["next_step"]


def names_of(paths: Sequence[Path]) -> list[str]:
    """The names of runs, with as many of the folders above as tell them apart."""
    resolved = [path.resolve() for path in paths]
    depth = 1
    while depth < max(len(path.parts) for path in resolved):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
        depth += 1
    return [str(path) for path in resolved]


def labels_of(names: Sequence[str]) -> list[str]:
    """What to call runs in the head of a column: their names, or numbers where some name is too long for that."""
    if len(names) == 1 or max(map(len, names)) <= _LONGEST_LABEL:
        return list(names)
    return [f"run {number}" for number in range(1, len(names) + 1)]


def event_lines(run: RunFacts) -> list[tuple[str, str, str]]:
    """(time, event, details) of the journal; of thousands of them the first and the last, and how many lie between.

    A job that is started every minute beside another is refused thousands of times, and a page is to be mailed.
    """
    events = list(run.events)
    if len(events) > _MOST_EVENTS:
        half = _MOST_EVENTS // 2
        between = f"{len(events) - 2 * half} events between are in journal.jsonl alone"
        events[half:-half] = [{"event": "...", "left out": between}]
    return [
        (
            datetime.fromtimestamp(event["time"]).isoformat(" ", "seconds") if "time" in event else "",
            str(event["event"]),
            ", ".join(f"{key} {value}" for key, value in event.items() if key not in ("time", "event")),
        )
        for event in events
    ]
