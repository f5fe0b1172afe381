"""Pictures of matplotlib: missing letters are named once."""

import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mvit_video.engine import figures
from mvit_video.engine.figures import save_figure
from mvit_video.tasks.confusion import plot_confusion


def test_missing_letters_are_named_in_one_line_and_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "_named", set())
    names = ["泳ぐ", "泳走"]  # letters that DejaVu Sans lacks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.png", "b.png"):
            plot_confusion([[1, 0], [0, 1]], names, tmp_path / name)
    assert [record.message for record in caplog.records if record.name == figures.__name__] == [
        f"no font has ぐ 泳 走: {tmp_path / 'a.png'} and other pictures show boxes for these letters; everything else "
        "has them"
    ]
    plot_confusion([[1, 0], [0, 1]], ["泳", "跳"], tmp_path / "c.png")
    assert "no font has 跳:" in caplog.messages[-1]


def test_other_warnings_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def savefig(self: Figure, path: Path, **more: object) -> None:
        warnings.warn("something else", RuntimeWarning, stacklevel=1)
        path.write_bytes(b"png")

    monkeypatch.setattr(Figure, "savefig", savefig)
    with pytest.warns(RuntimeWarning, match="something else"):
        save_figure(Figure(), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"png"
