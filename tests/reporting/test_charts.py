"""Curves: which there are, and where their points lie."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mvit_video.engine.tracking import each_record
from mvit_video.reporting.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, chart, short, thinned, ticks
from mvit_video.reporting.curves import charts_of
from mvit_video.reporting.logged import Logged


def line(x: list[float], y: list[float], *, marked: bool = False) -> Series:
    return Series(label="a", colour=0, x=np.array(x), y=np.array(y), marked=marked)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (1.61, 2.3, [1.8, 2.0, 2.2]), (0, 0.003, [0, 0.001, 0.002, 0.003])],
)
def test_ticks_are_round_numbers_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, count=5) == pytest.approx(expected)


def test_numbers_in_few_letters() -> None:
    assert [short(value) for value in (0, 0.0004, 0.00015, 0.25, 1.8, 450, 12000, 2.5e6)] == [
        "0", "4e-04", "1.5e-04", "0.25", "1.8", "450", "12k", "2.5M",
    ]  # fmt: skip


def test_long_curves_are_means_of_neighbours() -> None:
    x, y, factor = thinned(np.arange(10.0), np.arange(10.0) ** 2, 4)
    assert factor == 3
    assert x.tolist() == [1, 4, 7, 9]
    assert y.tolist() == pytest.approx([5 / 3, 50 / 3, 149 / 3, 81])
    assert thinned(np.arange(4.0), np.arange(4.0), 4)[2] == 1


def test_points_lie_between_the_axes() -> None:
    made = chart("t", "u", [line([0, 10], [0, 1])], bottom=0.0, top=1.0)
    drawn = made.lines[0]
    assert drawn.path == f"M{LEFT},{HEIGHT - BOTTOM}L{WIDTH - RIGHT},{TOP}"
    assert (drawn.x, drawn.y, drawn.marks) == ([0, 10], [0, 1], ())
    assert made.readable == [{"label": "a", "x": [0, 10], "y": [0, 1]}]


def test_one_value_and_equal_values_make_a_chart() -> None:
    made = chart("t", "u", [line([5], [3]), line([5], [3], marked=True)])
    assert made.y_range[0] < 3 < made.y_range[1] and made.x_range[0] < 5 < made.x_range[1]
    assert [len(one.marks) for one in made.lines] == [1, 1]


def test_a_margin_does_not_leave_the_limits() -> None:
    assert chart("t", "%", [line([0, 1], [20, 100])], limits=(0.0, 100.0)).y_range == pytest.approx((16.8, 100))


RECORDS = [
    {"kind": "train", "step": 1, "time": 5.0, "loss": 2.0, "lr": 0.1, "failed_videos": 0.0, "mine": 3.0},
    {"kind": "train", "step": 2, "time": 6.0, "loss": None, "lr": 0.1, "failed_videos": 0.0, "mine": 4.0},
    {"kind": "eval", "step": 2, "time": 7.0, "loss": 1.5, "video_top1": 50.0, "macro_f1": 40.0, "num_videos": 3},
]


def test_one_run_has_training_and_validation_together() -> None:
    shown, folded = charts_of([Logged(RECORDS)], ["a"])
    assert [(made.title, [one.label for one in made.lines]) for made in shown] == [
        ("Loss", ["training", "validation"]),
        ("Accuracy", ["validation: video_top1", "validation: macro_f1"]),
        ("Learning rate", ["training"]),
        ("mine", ["training"]),
    ]
    assert shown[0].lines[0].x == [1]  # a value that is none is left out
    assert shown[1].y_range == (0, 100) and not folded


def test_several_runs_have_a_drawing_for_each_quantity() -> None:
    other = [dict(record, failed_videos=2.0) for record in RECORDS[:2]]
    shown, _ = charts_of([Logged(RECORDS), Logged(other), Logged()], ["a", "b", "empty"])
    titles = {made.title: [one.label for one in made.lines] for made in shown}
    assert titles["Loss, training"] == ["a", "b"] and titles["Loss, validation"] == ["a"]
    assert titles["failed_videos"] == ["a", "b"]
    assert [one.colour for one in shown[0].lines] == [0, 1]
    assert charts_of([Logged()], ["a"]) == ([], [])


def test_records_are_not_kept(tmp_path: Path) -> None:
    """Those of a million steps took a gigabyte and more, of every run on the page."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({**RECORDS[0], "step": step}) + "\n" for step in range(5000)))
    tracemalloc.start()
    logged = Logged(each_record(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert logged.series(("train", "loss"))[0].tolist() == list(range(5000))
    assert ("train", "failed_videos") not in logged.quantities
    assert peak < 200 * 5000  # bytes; as records it is ten times as much
