"""What the files in a run directory tell of the run: its state, progress and scores."""

import json
import logging
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvit_video.runtime import slurm
from mvit_video.runtime.journal import has_journal, read_events
from mvit_video.runtime.processes import machine_identity, process_start

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
_TAIL_BYTES = 200_000  # of a metrics file: the last thousand steps
_SILENT_S = 900  # a run elsewhere that has logged nothing for so long is taken for dead


@dataclass(frozen=True)
class RunSummary:
    """A run at one glance.

    Attributes:
        name: of the run.
        state: "waiting", "running", "preempted" (waiting to go on), "stopped", "cancelled", "failed" or "done".
        reason: why, where there is something to say.
        step, total_steps: progress; None before the first step.
        top1, map, box_ap: best accuracy of videos or images so far, or mean average precision where they have several
            labels, or average precision of boxes, percent.
        clips_per_s: over the last logged window.
        eta_s: seconds left at the speed of the last steps, for a run that is running.
        restarts: how often it went on after it had stopped; attempts that were refused, and those that found it done,
            do not count.
        job: id of its last cluster job, or "local".
    """

    name: str
    state: str
    reason: str
    step: int | None
    total_steps: int | None
    top1: float | None
    map: float | None
    box_ap: float | None
    clips_per_s: float | None
    eta_s: float | None
    restarts: int
    job: str


@dataclass(frozen=True)
class Score:
    """A value of a metric.

    Attributes:
        value: of the metric.
        step: optimizer step of the validation; None for an evaluation.
        source: "validation", or the folder of the evaluation, such as "evaluation".
        fingerprint: of the split that it was measured on; None where that is not recorded.
        split: that split, in words.
    """

    value: float
    step: int | None
    source: str
    fingerprint: str | None = None
    split: str = ""


def run_dirs(folder: Path) -> list[Path]:
    """The run directories in a folder, by name; a warning names folders that may not be looked into.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give the output_dir of the runs (default: runs)")
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    closed = [path.name for path in folders if not os.access(path, os.R_OK | os.X_OK)]
    if closed:
        logger.warning("%s: left out, because they may not be looked into: %s", folder, ", ".join(closed))
    return [path for path in folders if path.name not in closed and has_journal(path)]


def folder_of_start(output_dir: str, run_dir: Path) -> Path | None:
    """The folder that a run was started in: it lies in <folder>/<output_dir>/<name>. None if that cannot be told.

    Args:
        output_dir: the option of the run.
        run_dir: its folder.
    """
    output, place = Path(output_dir), run_dir.resolve()
    parts = output.parts
    if output.is_absolute() or place.parts[-1 - len(parts) : -1] != parts:
        return None
    return place.parents[len(parts)]


def summarize_run(run_dir: Path, queue: Mapping[str, tuple[str, str]]) -> RunSummary:
    """One run, from its journal, its metrics and what the scheduler knows.

    Args:
        run_dir: its folder.
        queue: states of cluster jobs, see slurm.queue_states.
    """
    events = attempts_made(read_events(run_dir))
    trained = [r for r in read_metrics_tail(run_dir / "metrics.jsonl") if r.get("kind") == "train"]
    validations = read_validations(run_dir)

    def best(*names: str) -> float | None:
        return max((r[name] for r in validations for name in names if r.get(name) is not None), default=None)

    totals = [event["total"] for event in events if event["event"] == "steps"]
    state, reason = run_state(events, queue, silent_s=time.time() - (trained[-1].get("time", 0) if trained else 0))
    step = trained[-1]["step"] if trained else None
    total = totals[-1] if totals else None
    jobs = [str(event["job"]) for event in events if "job" in event]
    return RunSummary(
        name=run_dir.name,
        state=state,
        reason=reason,
        step=step,
        total_steps=total,
        top1=best("video_top1", "top1"),  # of videos, of images
        map=best("map"),
        box_ap=best("box_ap"),
        clips_per_s=trained[-1].get("clips_per_s", trained[-1].get("images_per_s")) if trained else None,
        eta_s=time_left(trained, total) if state == "running" else None,
        restarts=count_restarts(events),
        job=jobs[-1] if jobs else "",
    )


# ---- state


def attempts_made(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The events without the attempts that were refused because another one was training the run.

    A run that was refused and nothing else keeps its events: they say why there is nothing.
    """
    # Counted, not listed: a job that is started every minute beside another is refused thousands of times.
    refused = Counter(_attempt(event) for event in events if event["event"] == "end" and event["status"] == "refused")
    kept = []
    for event in reversed(events):
        if refused[_attempt(event)] and event["event"] in ("start", "end"):
            if event["event"] == "start":
                refused[_attempt(event)] -= 1
            continue
        kept.append(event)
    return kept[::-1] if any(event["event"] == "start" for event in kept) else list(events)


def count_restarts(events: Sequence[Mapping[str, Any]]) -> int:
    """How often a run went on after it had stopped.

    Not counted: attempts that failed before they came to train, those that found the run done, and the launchers of
    further machines, which note their start beside that of the first.

    Args:
        events: of the attempts that were made, see `attempts_made`.
    """
    attempts: list[list[Mapping[str, Any]]] = []
    for event in events:
        if event["event"] == "start":
            attempts.append([])
        if attempts:
            attempts[-1].append(event)
    real, done = 0, False
    for attempt in attempts:
        kinds = {event["event"] for event in attempt}
        ends = [event["status"] for event in attempt if event["event"] == "end"]
        beside = attempt is not attempts[-1] and not ends  # another start follows: here nothing was trained until then
        came_to_train = "steps" in kinds or not (beside or {"failed", "refused"} & set(ends))
        real += came_to_train and (not done or "forced" in kinds)
        done = done or "done" in ends
    return max(0, real - 1)


def _attempt(event: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(event.get(key) for key in ("job", "restart", "pid"))


def run_state(
    events: Sequence[Mapping[str, Any]], queue: Mapping[str, tuple[str, str]], *, silent_s: float
) -> tuple[str, str]:
    """(state, reason) of a run (pure, but for asking whether a local process exists).

    Args:
        events: of its journal.
        queue: states of cluster jobs.
        silent_s: seconds since it last logged.
    """
    attempts = [event for event in events if event["event"] in ("submit", "start", "end")]
    if not attempts:
        return "failed", "it ended before it began"
    last = attempts[-1]
    job = str(last["job"])
    if job in queue and last.get("status") != "done":
        state, reason = queue[job]
        if state in slurm.PENDING_STATES:
            started = any(event["event"] == "start" for event in attempts)
            return ("preempted" if started else "waiting"), reason
        if state in slurm.RUNNING_STATES:
            return "running", ""
        if last["event"] != "end":
            return ("cancelled" if state.startswith("CANCELLED") else "failed"), f"job {job}: {state.lower()}"
    if last["event"] == "end":
        names = {"saved": "stopped", "refused": "failed"}
        status = str(last["status"])
        return names.get(status, status), "" if status == "done" else str(last["cause"])
    if "pid" in last and _is_here(last):
        began = process_start(last["pid"])
        exists = began is not None and last.get("process_start", began) == began
        return ("running", "") if exists else ("failed", f"process {last['pid']} is gone without a word (killed?)")
    if silent_s < _SILENT_S:
        return "running", ""
    return "failed", f"job {job} has left the queue without a word"


def _is_here(event: Mapping[str, Any]) -> bool:
    """Whether the process ids of an attempt are those of this machine. Journals before had the host's name alone."""
    if "machine" in event:
        return bool(event["machine"] == machine_identity()[0])
    return event.get("nodes") == os.uname().nodename


# ---- metrics


def read_metrics_tail(path: Path) -> list[dict[str, Any]]:
    """The last records of a metrics file; none where it does not exist yet."""
    if not path.exists():
        return []
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().splitlines()
    return list(_records(lines[1 if size > _TAIL_BYTES else 0 :]))


def read_validations(run_dir: Path) -> list[dict[str, Any]]:
    """Every validation of a run, oldest first."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    with open(path, "rb") as file:  # most lines are training steps, and need not be parsed
        return [r for r in _records(line for line in file if b'"eval"' in line) if r.get("kind") == "eval"]


def _records(lines: Sequence[bytes] | Iterator[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line.decode("utf-8", "replace"))
        except json.JSONDecodeError:  # being written just now
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield record


def time_left(trained: Sequence[Mapping[str, Any]], total: int | None) -> float | None:
    """Seconds to the last step at the pace of the last twenty records; None if there is no pace yet."""
    recent = [r for r in trained[-20:] if r.get("time") is not None]
    if total is None or len(recent) < 2 or recent[-1]["step"] <= recent[0]["step"]:
        return None
    pace = (recent[-1]["time"] - recent[0]["time"]) / (recent[-1]["step"] - recent[0]["step"])
    return max(0.0, (total - recent[-1]["step"]) * pace)


# ---- scores


def lower_is_better(metric: str) -> bool:
    """Whether a metric is the better the smaller it is, by its name: losses, errors and counts of failures are."""
    return any(word in metric for word in ("loss", "error", "failed"))


def run_scores(run_dir: Path) -> dict[str, Score]:
    """The scores of a run by metric.

    `video_top1` is the best of all validations; `evaluation/video_top1` is that of the folder `evaluation`, or another
    folder with a results.json in the run directory. A results.json of other content is nobody's evaluation.

    Raises:
        ValueError: a file is damaged; the text names it.
    """
    scores: dict[str, Score] = {}
    split = _split_of(validation_data(run_dir), "val")
    for record in read_validations(run_dir):
        for metric, value in _metrics(record):
            sign = -1 if lower_is_better(metric) else 1
            if metric not in scores or sign * value > sign * scores[metric].value:
                scores[metric] = Score(value, record.get("step"), "validation", *split)
    for path in sorted(run_dir.glob("*/results.json")):
        results = read_json(path)
        if not isinstance(results, dict):
            continue
        split = _split_of(results.get("data"), str(results.get("split", "")))
        for metric, value in _metrics(results):
            scores[f"{path.parent.name}/{metric}"] = Score(value, None, path.parent.name, *split)
    return scores


def best_validation(validations: Sequence[Mapping[str, Any]], metric: str) -> Score | None:
    """The best value of a metric over the validations of a run, the first of equal ones; None if none has it."""
    best: Score | None = None
    sign = -1 if lower_is_better(metric) else 1
    for record in validations:
        value = record.get(metric)
        if isinstance(value, int | float) and (best is None or sign * value > sign * best.value):
            best = Score(float(value), record.get("step"), "validation")
    return best


def validation_data(run_dir: Path) -> Mapping[str, Any] | None:
    """What the run was last recorded to validate on; None where there is no record, or no validation.

    Raises:
        ValueError: the record is damaged.
    """
    path = record_file(run_dir, RUN_FILE)
    data: Mapping[str, Any] | None = read_object(path).get("data", {}).get("val") if path.exists() else None
    return data


# ---- records


def newest_record(run_dir: Path) -> int | None:
    """Number of the newest record of an attempt that went on with something else, `run.2.json`; None if none did."""
    # Copies that people make, such as run.old.json, are none.
    names = (re.fullmatch(r"run\.(\d+)\.json", path.name) for path in run_dir.glob("run.*.json"))
    return max((int(name[1]) for name in names if name), default=None)


def record_file(run_dir: Path, name: str) -> Path:
    """`config.yaml`, `environment.json` or `run.json` as the run was last recorded: `config.2.yaml` of a forced one."""
    number = newest_record(run_dir)
    plain = run_dir / name
    return plain if number is None else plain.with_name(f"{plain.stem}.{number}{plain.suffix}")


def read_json(path: Path) -> Any:
    """The content of a JSON file in a run directory.

    Raises:
        ValueError: it is damaged; the text names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it from a copy, or remove it") from error


def read_object(path: Path) -> dict[str, Any]:
    """As `read_json`, of a file that holds an object.

    Raises:
        ValueError: it is damaged, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (no JSON object): restore it from a copy, or remove it")
    return content


def _split_of(data: Any, name: str) -> tuple[str | None, str]:
    """The fingerprint of a split, and the split in words."""
    if not isinstance(data, Mapping):
        return None, ""
    return data.get("fingerprint"), f"{name}, {data.get('items')} items of {data.get('source')}"


# Numbers beside the metrics of a validation or evaluation: its protocol.
_PROTOCOL = (
    *("step", "time", "temporal_views", "spatial_views", "views_per_video", "short_side", "crop_size", "crop_ratio"),
    "classes_to_choose_from",
)


def _metrics(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The metrics of a record: its numbers, without counts and what else says how it was measured."""
    for key, value in record.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if number and key not in _PROTOCOL and not key.startswith("num_"):
            yield key, float(value)
