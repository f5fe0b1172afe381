"""Metric sinks: metrics.jsonl over restarts, TensorBoard, console lines and pictures."""

import io
import json
import logging
import math
import shutil
import time
from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mvit_video.engine import curves, tracking
from mvit_video.engine.curves import Curve
from mvit_video.engine.tracking import Tracker, console_formats, read_metrics
from mvit_video.tasks import confusion
from mvit_video.tasks.classification import Classification
from mvit_video.tasks.confusion import drawn_counts, plot_confusion
from tests.conftest import drawn_pictures

LOSS = Curve("train", "loss", "training")
VALUES = {
    "epoch": 1.5,
    "loss": 2.34567,
    "top1": 12.34,
    "lr": 0.00016,
    "clips_per_s": 123.45,
    "data_wait": 3.2,
    "failed_videos": 0,
}


@pytest.fixture(autouse=True)
def _drawn() -> Iterator[None]:
    with drawn_pictures():
        yield


def tracker_for(folder, **options) -> Tracker:
    options.setdefault("console", Console(file=io.StringIO()))
    options.setdefault("formats", console_formats({"top1": "top1 {:.1f}%"}, "clip"))
    options.setdefault("panels", Classification.panels)
    return Tracker(folder, total_steps=100, **options)


def steps(folder) -> list[tuple[str, int]]:
    return [(record["kind"], record["step"]) for record in read_metrics(folder / "metrics.jsonl")]


def test_metrics_file(tmp_path):
    with tracker_for(tmp_path / "run") as tracker:
        tracker.log_step(10, VALUES)
        # Each line is on disk at once: a killed run loses none.
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
        tracker.log_eval(10, {"video_top1": 55.0})
    first, second = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert first.pop("time") > 1.6e9
    assert first == {"kind": "train", "step": 10, **VALUES}
    assert (second["kind"], second["step"], second["video_top1"]) == ("eval", 10, 55.0)


def test_numbers_json_lacks_become_null(tmp_path):
    with tracker_for(tmp_path) as tracker:
        tracker.log_step(1, {"loss": math.nan, "lr": math.inf})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in line
    assert json.loads(line)["loss"] is None
    assert json.loads(line)["lr"] is None


def test_resume_drops_what_will_be_logged_again(tmp_path):
    with tracker_for(tmp_path) as tracker:
        for step in (10, 20, 30):
            tracker.log_step(step, VALUES)
            tracker.log_eval(step, {"video_top1": step})
    with tracker_for(tmp_path, resume_step=20) as tracker:
        tracker.log_step(30, VALUES)
    kept = [("train", 10), ("eval", 10), ("train", 20), ("eval", 20)]
    assert steps(tmp_path) == [*kept, ("train", 30)]


def test_start_names_the_step_when_it_is_known(tmp_path):
    with tracker_for(tmp_path) as tracker:
        tracker.log_step(10, VALUES)
        tracker.log_step(20, VALUES)
    tracker = tracker_for(tmp_path)
    assert steps(tmp_path) == [("train", 10), ("train", 20)]  # building one touches nothing
    tracker.start(10)
    tracker.close()
    assert steps(tmp_path) == [("train", 10)]


def test_a_step_is_logged_once(tmp_path):
    with tracker_for(tmp_path) as tracker:
        tracker.log_eval(20, {"video_top1": 1.0})
    with tracker_for(tmp_path, resume_step=20) as tracker:
        tracker.log_eval(20, {"video_top1": 2.0})
        tracker.log_step(20, VALUES)
        tracker.log_step(20, VALUES)
    assert steps(tmp_path) == [("eval", 20), ("train", 20)]


def test_torn_last_line_and_garbage(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\nrubbish\n[]\n{"kind": "train", "step": 2}\n{"kind": "tr')
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    assert "metrics.jsonl:2 is skipped" in caplog.text
    assert "metrics.jsonl:3 is skipped: not an object with a step" in caplog.text
    with tracker_for(tmp_path, resume_step=2) as tracker:
        tracker.log_step(3, VALUES)
    assert steps(tmp_path) == [("train", 1), ("train", 2), ("train", 3)]


def test_tensorboard(tmp_path, monkeypatch):
    with tracker_for(tmp_path) as tracker:
        tracker.log_step(10, VALUES)
        tracker.log_step(20, VALUES)
        tracker.log_eval(20, {"video_top1": 55.0})
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 5)  # event files are read in the order of their seconds
    with tracker_for(tmp_path, resume_step=10) as tracker:
        tracker.log_step(20, {**VALUES, "loss": 1.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(10, pytest.approx(2.34567)), (20, 1.0)]


def test_disabled_tracker_does_nothing(tmp_path):
    with Tracker(tmp_path / "run", total_steps=100, enabled=False) as tracker:
        tracker.start(0)
        tracker.log_step(1, VALUES)
        tracker.log_eval(1, {"video_top1": 1.0})
        tracker.plot_curves()
    assert not (tmp_path / "run").exists()


def test_plain_lines_without_a_terminal(tmp_path, caplog, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now)
    with caplog.at_level(logging.INFO), tracker_for(tmp_path, resume_step=10) as tracker:
        tracker.start()
        now = 1060.0
        tracker.log_step(20, VALUES)
        tracker.log_eval(20, {"video_top1": 55.125, "clip_top1": 50.0})
    lines = [record.getMessage() for record in caplog.records if record.name == tracking.__name__]
    assert lines == [
        "step 20/100 (20%)  epoch 1.50  loss 2.3457  top1 12.3%  lr 1.60e-04  123.5 clips/s  data wait 3%  ETA 0:08:00",
        "validation after step 20: video_top1 55.12  clip_top1 50",
    ]


def test_progress_bar_on_a_terminal(tmp_path, caplog):
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=140, color_system=None)
    with caplog.at_level(logging.INFO), tracker_for(tmp_path, console=console) as tracker:
        tracker.log_step(20, VALUES)
    assert "20/100" in terminal.getvalue()
    assert "loss 2.3457" in terminal.getvalue()
    assert "ETA" in terminal.getvalue()
    assert not [record for record in caplog.records if record.name == tracking.__name__]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (90061, "1d 1:01:01"), (math.nan, "-"), (math.inf, "-")],
)
def test_duration(seconds, text):
    assert tracking._duration(seconds) == text


def test_curves(tmp_path):
    with tracker_for(tmp_path) as tracker:
        for step in range(1, 201):
            tracker.log_step(step, {**VALUES, "loss": 3.0 / step if step != 50 else math.nan})
        tracker.log_eval(200, {"video_top1": 55.0, "clip_top1": 50.0})
        path = tracker.plot_curves()
    assert path == tmp_path / "curves.png"
    picture = imread(path)
    assert min(picture.shape[:2]) > 500
    assert picture[..., :3].std() > 0.05
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_curves_are_drawn_anew_only_where_something_was_logged(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(tracking, "plot_curves", lambda points, *_, **__: drawn.append(len(points.series(LOSS)[0])))
    with tracker_for(tmp_path) as tracker:
        for step in (1, 2):
            tracker.log_step(step, VALUES)
            tracker.plot_curves()
            tracker.plot_curves()
    with tracker_for(tmp_path, resume_step=1) as tracker:
        tracker.start()
        tracker.plot_curves()
    assert drawn == [1, 2, 1]


def test_the_file_is_read_once_however_often_curves_are_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(tracking, "plot_curves", lambda points, *_, **__: drawn.append(points.series(LOSS)))
    with tracker_for(tmp_path) as tracker:
        for step in range(5):
            tracker.log_step(step, {"loss": step / 3, "lr": 0.1})
    read = tracking.each_record
    reads = []
    monkeypatch.setattr(tracking, "each_record", lambda path: reads.append(path) or read(path))
    with tracker_for(tmp_path, resume_step=3) as tracker:
        for step in (4, 5, 6):
            tracker.log_step(step, {"loss": math.nan if step == 5 else 1.0})
            tracker.log_eval(step, {"loss": 2.0})
            tracker.plot_curves()
    assert len(reads) == 1
    steps_drawn, losses = drawn[-1]
    assert steps_drawn.tolist() == [0, 1, 2, 3, 4, 6]
    assert losses.tolist() == [0, 1 / 3, 2 / 3, 1, 1, 1]
    tracker_for(tmp_path).plot_curves()  # never started
    assert drawn[-1][0].tolist() == steps_drawn.tolist()


def test_long_curves_are_drawn_by_their_extremes():
    steps = np.arange(100_000.0)
    values = np.sin(steps / 7)
    values[[17, 99_999]] = 5, -5
    few_steps, few = curves.thinned(steps, values)
    assert 8_000 <= len(few) <= 16_000
    assert (np.diff(few_steps) > 0).all()
    assert few.max() == 5 and few.min() == -5
    np.testing.assert_array_equal(few, values[few_steps.astype(int)])
    assert len(curves.thinned(steps[:16_000], values[:16_000])[1]) == 16_000


def test_curves_of_an_empty_run(tmp_path):
    with tracker_for(tmp_path) as tracker:
        tracker.start(0)
        assert tracker.plot_curves().exists()


def test_smoothing_does_not_sag_at_the_ends():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    curves._plot_series(axes, np.arange(400.0), np.full(400, 5.0), colour="black", label="x", marked=False, exact=False)
    raw, smooth = axes.lines
    np.testing.assert_allclose(smooth.get_ydata(), 5.0)
    assert (raw.get_label().startswith("_"), smooth.get_label()) == (True, "x")


@pytest.mark.parametrize("size", [1, 8, 60])
def test_confusion(tmp_path, size):
    matrix = np.eye(size, dtype=np.int64) * 3
    matrix[0] = 0  # a class without videos
    plot_confusion(matrix, [f"class {i}" for i in range(size)], tmp_path / "deep" / "confusion.png")
    assert imread(tmp_path / "deep" / "confusion.png").ndim == 3


def test_classes_share_rows_where_there_are_many(tmp_path, monkeypatch):
    """The cells of all pairs of ImageNet-21k's classes took 46 GB to draw."""
    labels, named = np.array([0, 1, 2, 2999, 5]), np.array([0, 0, 8, 2998, -1])
    matrix = drawn_counts(labels, named, num_classes=3000)
    assert matrix.shape == (1000, 1000)
    assert [*map(tuple, np.argwhere(matrix))] == [(0, 0), (0, 2), (999, 999)] and matrix[0, 0] == 2
    assert drawn_counts(labels[:3] % 9, named[:3], num_classes=9).shape == (9, 9)
    titles = []
    monkeypatch.setattr(confusion, "save_figure", lambda figure, path: titles.append(figure.axes[0].get_title()))
    names = [f"class {i}" for i in range(3000)]
    plot_confusion(matrix, names, tmp_path / "confusion.png", unreadable=1, right=1)
    assert titles == ["1 of 5 videos right (20.0%), 1 unreadable"]


def test_confusion_refuses_other_shapes(tmp_path):
    with pytest.raises(ValueError, match=r"the matrix is \(2, 2\) and there are 3 class names"):
        plot_confusion(np.eye(2), ["a", "b", "c"], tmp_path / "confusion.png")


def test_a_run_folder_that_is_removed_gets_its_metrics_again(tmp_path, caplog):
    with Tracker(tmp_path / "run", total_steps=100, trackers=tracking.TrackerOptions(names=())) as tracker:
        tracker.log_step(1, VALUES)
        shutil.rmtree(tmp_path / "run")
        tracker.log_step(2, VALUES)
        tracker.log_step(3, VALUES)
    assert [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [2, 3]
    assert sum("was removed while the run goes on" in text for text in caplog.messages) == 1


def test_a_file_system_that_counts_no_links_is_no_removed_file(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(tracking._Lines, "_links", lambda self: 0)
    with Tracker(tmp_path / "run", total_steps=100, trackers=tracking.TrackerOptions(names=())) as tracker:
        tracker.log_step(1, VALUES)
    assert not [text for text in caplog.messages if "was removed" in text]
