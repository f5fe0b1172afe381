"""Results as tables, of files whose names hold what tables are made of."""

import csv
import unicodedata
from pathlib import Path

import pytest
from rich.cells import cell_len

from mvit_video.prediction.folder import LINES, TABLE, ResultsFolder
from mvit_video.prediction.results import ClassScore, FilePrediction, FoundObject, Window
from mvit_video.prediction.tables import ResultTable

NAMES = (
    "a\nb.mp4",
    "a\rb.mp4",
    'a "b", c.mp4',
    "\x1b[31mred\t.mp4",
    "\u202egnp.mp4",
    "鳥の動画.mp4",
    "e\u0301.mp4",
    "\udcff.mp4",
)


def test_every_file_has_its_lines_on_the_screen() -> None:
    found = [FilePrediction(name, (ClassScore("a\nclass", 0.5), ClassScore("wren", 0.25))) for name in NAMES]
    text = ResultTable().text([*found, FilePrediction("x.mp4", error="broken\nfile")], noun="video")
    lines = text.split("\n")
    assert len(lines) == 1 + 2 * len(NAMES) + 1 + 1
    assert lines[1].startswith(r"a\nb.mp4") and lines[-2].endswith(r"could not be read: broken\nfile")
    assert not any(unicodedata.category(character) == "Cc" for character in "".join(lines))
    # The classes stand under one another, however wide a terminal shows what is before them.
    assert len({cell_len(line[: line.index(" %")]) for line in lines if " %" in line}) == 1


@pytest.mark.parametrize("boxes", [False, True])
def test_csv_and_lines_give_back_the_names(tmp_path: Path, boxes: bool) -> None:
    folder = ResultsFolder(tmp_path, rank=0, about={}, table=ResultTable(boxes=boxes))
    folder.begin()
    thing = FoundObject("a\rclass", 0.5, (1, 2, 3, 4)) if boxes else ClassScore("a\rclass", 0.5)
    found = [FilePrediction(name, (thing,), windows=(Window(0.0, 1.0, (thing,)),)) for name in NAMES]
    for one in [*found, FilePrediction("broken.mp4", error="bad\r\nfile")]:
        folder.add(one, state=None)
    assert list(folder.finish([*NAMES, "broken.mp4"]))[:-1] == found
    with open(tmp_path / TABLE, encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert [row[0] for row in rows[1:-2]] == list(NAMES[:-1])
    assert rows[-2][0] == r"\udcff.mp4"  # what is no text is written as an escape
    assert rows[-1][0] == "broken.mp4" and rows[-1][-1] == "bad\r\nfile"
    assert len((tmp_path / LINES).read_bytes().splitlines()) == len(NAMES) + 1
