"""`python -m mvit_video.report`: where the page goes, and what is refused."""

import os
import webbrowser
from pathlib import Path

import pytest

from mvit_video import report
from mvit_video.api import EvaluationResult
from mvit_video.reporting.answers import read_evaluation
from mvit_video.reporting.run_facts import labels_of, names_of
from tests.reporting.written_runs import evaluate, image_manifest, sure_of, write_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `runs` in the current one, with two runs; there is no SLURM."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("birds", "flowers"):
        write_run(tmp_path / "runs", name)
    return Path("runs")


def test_runs_are_named_or_given_by_path(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["birds"]) == 0
    assert capsys.readouterr().out.startswith("runs/birds/report.html: ")
    assert report.main(["runs/birds", "flowers", "birds"]) == 0  # one of them twice
    assert capsys.readouterr().out.startswith("runs/report_birds_flowers.html: ")
    assert report.main(["flowers", "--folder", os.path.abspath("runs"), "--output", "here.html"]) == 0
    assert "<title>Run flowers</title>" in Path("here.html").read_text(encoding="utf-8")
    assert not list(Path().rglob("*.tmp"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bird", "no run 'bird' with a config.yaml or a journal, did you mean 'birds'?"),
        ("runs/flower", "no run 'runs/flower' with a config.yaml or a journal, did you mean 'flowers'?"),
        ("xyz", "no run 'xyz' with a config.yaml or a journal: give the name of a run in runs, or the path of one"),
        ("runs", "no run 'runs' with a config.yaml or a journal"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(
    runs: Path, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    assert report.main([name]) == 1
    assert capsys.readouterr().err.startswith(told)


def test_numbers_must_make_sense(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--mistakes", "-1"], ["--media-mb", "nan"]):
        with pytest.raises(SystemExit):
            report.main(["birds", *words])
        assert f"{words[1]}: must be 0 or more" in capsys.readouterr().err


def test_the_page_needs_a_place(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["birds", "--output", "nowhere/a.html"]) == 1
    told = "nowhere/a.html: the folder nowhere does not exist; --output FILE writes the page elsewhere\n"
    assert capsys.readouterr().err == told
    assert report.main(["birds", "--output", "runs"]) == 1
    assert capsys.readouterr().err.startswith("--output runs: is a folder; give the name of a file, such as runs/")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert report.main(["birds"]) == 1
    assert "the folder runs/birds may not be written to" in capsys.readouterr().err


def test_the_line_separators_of_unicode_in_names_end_no_line(runs: Path) -> None:
    names = ["a\u2028b.png", "c\u0085d.png", "e\u2029f.png"]
    evaluate(runs / "birds", image_manifest(names), sure_of(0, 1, 2))
    assert [answer.entry.path for answer in read_evaluation(runs / "birds" / "evaluation").answers] == names
    found = EvaluationResult(folder=runs / "birds" / "evaluation", results={})
    assert [line["image"] for line in found.predictions] == names


def test_what_is_damaged_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(runs / "birds", image_manifest(["0.png", "1.png", "2.png"]), sure_of(0, 1, 2))
    (runs / "birds" / "evaluation" / "results.json").write_text("{")
    assert report.main(["birds"]) == 1
    assert "runs/birds/evaluation: a file of this evaluation is damaged" in capsys.readouterr().err


def test_it_opens_a_browser(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(opened.append(address)))
    assert report.main(["birds", "--open"]) == 0
    assert opened == [(runs / "birds" / "report.html").resolve().as_uri()]
    assert "no browser could be started; open the file by hand" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart() -> None:
    paths = [Path("/a/runs/birds"), Path("/b/runs/birds")]
    assert names_of(paths) == ["a/runs/birds", "b/runs/birds"]
    assert names_of([Path("/a/runs/x"), Path("/a/runs/y")]) == ["x", "y"]


def test_long_names_have_numbers_for_the_heads_of_columns() -> None:
    assert labels_of(["birds", "flowers"]) == ["birds", "flowers"]
    assert labels_of(["birds", "f" * 25]) == ["run 1", "run 2"]
    assert labels_of(["f" * 25]) == ["f" * 25]


def test_names_of_many_runs_are_cut() -> None:
    paths = [Path(f"runs/{'a' * 20}{number}") for number in range(9)]
    assert report.default_output(paths) == Path(f"runs/report_{'a' * 20}0_and_8_more.html")
