"""Where metrics go on rank 0: metrics.jsonl, the console, pictures of the curves, TensorBoard and other trackers."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import rich
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

# TensorBoard and matplotlib take seconds to import: only the process that uses them does.
from mvit_video.engine.curves import LEARNING_RATE_PANEL, LOSS_PANEL, CurvePoints, Panel, plot_curves
from mvit_video.engine.trackers import FinalState, RunInfo, TrackerProcess, end_all
from mvit_video.runtime.files import replacing
from mvit_video.runtime.interruption import Interrupted

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

Record = dict[str, float | str | None]

_PANELS = (LOSS_PANEL, LEARNING_RATE_PANEL)
TENSORBOARD = "tensorboard"


@dataclass(frozen=True, kw_only=True)
class TrackerOptions:
    """Which trackers there are beside metrics.jsonl, and what they are told.

    Attributes:
        names: "tensorboard", and those of engine/trackers.
        project: under which they file the run.
        timeout_s: how long the end of a run waits for them.
        options: of the run, as nested dictionaries.
    """

    names: Sequence[str] = (TENSORBOARD,)
    project: str = "mvit_video"
    timeout_s: float = 60.0
    options: Mapping[str, Any] = field(default_factory=dict)


def console_formats(metrics: Mapping[str, str], sample: str) -> dict[str, str]:
    """How the values of a step are shown on the console, in this order; others are not.

    Args:
        metrics: formats of the task's own metrics by name.
        sample: what the model sees, in the singular: "clip".
    """
    return {
        "epoch": "epoch {:.2f}",
        "loss": "loss {:.4f}",
        **metrics,
        "lr": "lr {:.2e}",
        f"{sample}s_per_s": f"{{:.1f}} {sample}s/s",
        "data_wait": "data wait {:.0f}%",
    }


class Tracker:
    """Sinks of a run's metrics. Does nothing where it is not enabled, so that every rank can call it.

    `metrics.jsonl` holds one JSON object per line: kind ("train" or "eval"), step, time (seconds since 1970) and the
    values (null for NaN and infinity, which JSON lacks). TensorBoard events lie in `tensorboard/`. A tracker that fails
    or hangs is said to do so, once, and ends nothing.

    Args:
        run_dir: made if it does not exist.
        total_steps: of the whole training, for the share done and the time left.
        enabled: False on all ranks but the first.
        resume_step: what an earlier attempt of the run logged after this step is dropped, as it will be logged again.
        formats: how a step's values are shown, see `console_formats`.
        panels: what curves.png shows.
        trackers: what goes where beside metrics.jsonl.
        console: where the progress bar goes; by default standard output. Without a terminal, as in a SLURM log, each
            `log_step` gives a plain line through logging instead.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        total_steps: int,
        enabled: bool = True,
        resume_step: int = 0,
        formats: Mapping[str, str] | None = None,
        panels: Sequence[Panel] = _PANELS,
        trackers: TrackerOptions = TrackerOptions(),
        console: Console | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.total_steps = total_steps
        self.enabled = enabled
        self.metrics_path = run_dir / "metrics.jsonl"
        self._first_step = resume_step
        self._formats = console_formats({}, "sample") if formats is None else formats
        self._panels = panels
        self._options = trackers
        self._trackers: list[TrackerProcess] = []
        self._console = console or rich.get_console()
        self._lines: _Lines | None = None
        self._trouble = False  # the disk refused the last write
        self._writer: SummaryWriter | None = None
        self._no_tensorboard = False  # it cannot be used here: said already
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._started = 0.0
        self._points: CurvePoints | None = None  # of all that has been logged; None: not read yet
        self._drawn = False  # curves.png shows all that has been logged
        self._last: dict[str, int] = {}

    def start(self, step: int | None = None) -> None:
        """Open the files to go on after `step` (by default `resume_step`). The first log call does it if nobody did.

        Nothing is touched before, so that a tracker can be built before the step to resume from is known.
        """
        if not self.enabled:
            return
        self.close()
        self._drawn = False
        if step is not None:
            self._first_step = step
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._points = CurvePoints(self._panels)
        self._last = _truncate_metrics(self.metrics_path, last_step=self._first_step, on_kept=self._points.add)
        self._lines = _Lines(self.metrics_path)
        self._writer = self._open_tensorboard(purge_step=self._first_step + 1)
        self._trackers = self._start_trackers()
        self._started = time.monotonic()
        if self._console.is_terminal:
            self._start_progress()

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        """Log a training step. The console shows the values that have a format.

        Args:
            step: optimizer steps done; a step logged before is not logged again.
            values: name -> number.
        """
        if not self._record("train", step, values):
            return
        shown = [form.format(values[key]) for key, form in self._formats.items() if key in values]
        left = f"ETA {_duration(self._seconds_left(step))}"
        if self._progress is not None:
            # What does not fit a narrow terminal is cut off at the right, so the time left goes first.
            self._progress.update(self._task, completed=step, status="  ".join([left, *shown]))
        else:
            share = 100 * step / max(self.total_steps, 1)
            logger.info("step %d/%d (%.0f%%)  %s", step, self.total_steps, share, "  ".join([*shown, left]))

    def log_eval(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of a validation after `step` steps."""
        if self._record("eval", step, values):
            numbers = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
            logger.info("validation after step %d: %s", step, numbers)

    def log_best(self, step: int, metric: str, value: float) -> None:
        """Tell the trackers the best validation so far."""
        for tracker in self._trackers:
            tracker.note({f"best/{metric}": float(value), "best/step": step})

    def plot_curves(self) -> Path:
        """Draw what has been logged so far to `curves.png` in the run directory; its path."""
        path = self.run_dir / "curves.png"
        if self.enabled and not self._drawn and self.metrics_path.exists():
            try:
                plot_curves(self._logged(), self._panels, path, title=self.run_dir.name)
                self._drawn = True
            except OSError as error:
                logger.warning("%s could not be drawn (%s); training goes on", path, error)
        return path

    def _logged(self) -> CurvePoints:
        if self._points is None:
            self._points = CurvePoints(self._panels)
            for record in each_record(self.metrics_path):
                self._points.add(record)
        return self._points

    def close(self, state: FinalState = "done") -> None:
        """Flush and close everything; calling it again does nothing.

        Args:
            state: how the attempt at the run ended.
        """
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            self._warn(error)
        self._writer = None
        if self._lines is not None:
            self._lines.close()
            self._lines = None
        trackers, self._trackers = self._trackers, []
        end_all(trackers, state)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("done" if error is None else "saved" if isinstance(error, Interrupted) else "failed")

    def _start_trackers(self) -> list[TrackerProcess]:
        info = RunInfo(
            name=self.run_dir.name,
            project=self._options.project,
            run_dir=str(self.run_dir.resolve()),
            options=self._options.options,
        )
        names = [name for name in self._options.names if name != TENSORBOARD]
        return [TrackerProcess(name, info, timeout_s=self._options.timeout_s) for name in names]

    def _record(self, kind: Literal["train", "eval"], step: int, values: Mapping[str, float]) -> bool:
        """Write values to the files; False if this tracker is off or the step is there already."""
        if not self.enabled:
            return False
        if self._lines is None:
            self.start()
        if step <= self._last.get(kind, -1):
            return False
        self._last[kind], self._drawn = step, False
        numbers = {key: float(value) for key, value in values.items()}
        record: Record = {"kind": kind, "step": step, "time": round(time.time(), 3)}
        record |= {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        assert self._points is not None
        self._points.add(record)
        try:
            self._write(record, {f"{kind}/{key}": value for key, value in numbers.items()})
        except OSError as error:
            self._warn(error)
        else:
            if self._trouble:
                logger.info("metrics are written to %s again, those held back included", self.metrics_path)
            self._trouble = False
        return True

    def _write(self, record: Record, scalars: Mapping[str, float]) -> None:
        """Write a record to metrics.jsonl and TensorBoard, which is opened anew after it failed."""
        assert self._lines is not None
        for tracker in self._trackers:
            tracker.log(int(_number(record, "step")), scalars)
        self._lines.write(json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n")
        if self._writer is None:
            self._writer = self._open_tensorboard(purge_step=None)
        if self._writer is None:
            return
        try:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, int(_number(record, "step")))
        except OSError:
            self._writer = None  # its thread is dead and its file torn
            raise

    def _open_tensorboard(self, *, purge_step: int | None) -> "SummaryWriter | None":
        """The writer of TensorBoard events; None where there is to be none.

        Raises:
            OSError: the disk refuses.
        """
        if TENSORBOARD not in self._options.names or self._no_tensorboard:
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter

            return SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=purge_step)
        except OSError:
            raise
        except Exception as error:  # an installation that does not fit; no reason to end a run
            self._no_tensorboard = True
            logger.warning("tensorboard could not be started (%s); training goes on without it", error)
            return None

    def _warn(self, error: OSError) -> None:
        """Say once per spell of trouble that metrics are held back."""
        if not self._trouble:
            logger.warning(
                "metrics could not be written to %s (%s): free space or fix the permissions of the folder. Training "
                "goes on; metrics.jsonl gets what is missing as soon as it can be written, TensorBoard does not",
                self.run_dir,
                error,
            )
        self._trouble = True

    def _seconds_left(self, step: int) -> float:
        """Time to the last step at the mean pace since the start of this attempt, validation included."""
        done = step - self._first_step
        if done <= 0:
            return math.nan
        return (time.monotonic() - self._started) / done * max(self.total_steps - step, 0)

    def _start_progress(self) -> None:
        width = 2 * len(str(self.total_steps)) + 1
        columns = (
            TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=Column(min_width=width, no_wrap=True)),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[status]}"),
        )
        self._progress = Progress(*columns, console=self._console, transient=False)
        self._task = self._progress.add_task("train", total=self.total_steps, completed=self._first_step, status="")
        self._progress.start()


class _Lines:
    """Appends whole lines to a file; what the disk refuses is kept and written with the next line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - lives until close
        self._counts_links = self._links() > 0  # some file systems of cloud stores do not
        self._pending = b""

    def write(self, line: str) -> None:
        """Append a line, after those held back.

        Raises:
            OSError: if there is no room; the file is as it was.
        """
        self._pending += line.encode("utf-8", errors="backslashreplace")
        if self._counts_links and self._links() == 0:
            self._begin_anew()
        size = os.fstat(self._file.fileno()).st_size
        written = 0
        try:
            while written < len(self._pending):
                written += self._file.write(self._pending[written:])
        except OSError:
            self._file.truncate(size)
            raise
        self._pending = b""

    def _links(self) -> int:
        return os.fstat(self._file.fileno()).st_nlink

    def _begin_anew(self) -> None:
        """Make a file that was removed, perhaps with its folder, again: what is written to it would be lost."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - lives until close
        self._file.close()
        self._file = file
        logger.warning("%s was removed while the run goes on: it begins anew, and what it held is lost", self._path)

    def close(self) -> None:
        """Write what was held back, if there is room now."""
        try:
            if self._pending:
                self.write("")
        except OSError as error:
            logger.warning("%d bytes of metrics are lost: %s: %s", len(self._pending), self._file.name, error)
        self._file.close()


def read_metrics(path: Path) -> list[Record]:
    """The records of a metrics.jsonl, in order.

    A last line without its end, which a killed process leaves, is dropped; another line that is no JSON object is
    skipped with a warning.
    """
    return list(each_record(path))


def each_record(path: Path) -> Iterator[Record]:
    """See `read_metrics`; one at a time, since there may be millions."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                logger.debug("%s ends in an unfinished line of %d bytes, which is dropped", path, len(line))
                return
            try:
                record = json.loads(line)
                if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                    raise ValueError("not an object with a step")
            except ValueError as error:
                logger.warning("%s:%d is skipped: %s", path, number, error)
                continue
            yield record


def _truncate_metrics(path: Path, *, last_step: int, on_kept: Callable[[Record], None]) -> dict[str, int]:
    """Drop the records after `last_step` and broken lines; the last step of each kind that is left.

    Args:
        path: of metrics.jsonl.
        last_step: see above.
        on_kept: called with every record that is left.
    """
    if not path.exists():
        return {}
    last: dict[str, int] = {}
    with replacing(path) as beside, open(beside, "w", encoding="utf-8", errors="backslashreplace") as file:
        for record in each_record(path):
            if _number(record, "step") <= last_step:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                last[str(record["kind"])] = int(_number(record, "step"))
                on_kept(record)
    return last


def _number(record: Record, key: str) -> float:
    value = record[key]
    assert isinstance(value, int | float), record
    return float(value)


def _duration(seconds: float) -> str:
    """3725 -> "1:02:05", with days beyond 24 hours; "-" for NaN."""
    if not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02d}:{second:02d}"
