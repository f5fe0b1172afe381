"""The benchmark of the data path: it runs, checks what peers return, and draws the right conclusions. No timings."""

import json
from pathlib import Path

import bench_data
import bench_data_files
import bench_data_peers
import bench_data_split
import numpy as np
import pytest
import torch
from bench_data import FileResult, Result

TINY = bench_data_files.Recipe("tiny.mp4", "libx264", {"preset": "ultrafast", "x264-params": "bframes=2"}, (96, 128))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / TINY.name
    bench_data_files.write_file(path, TINY, frames=70)
    return path


def test_quick_run_on_one_file(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "result.json"
    arguments = [str(tiny), "--no-generated", "--quick", "--reps", "1", "--peers", "--json", str(report)]
    bench_data.main([*arguments, "--loader-batches", "1", "--gpu-clips-per-second", "400", "--markdown"])
    printed = capsys.readouterr().out
    assert "| tiny.mp4: 128x96, 70 frames" in printed
    assert "| ours, yuv420 |" in printed
    assert "geometric mean over files and patterns" in printed
    assert "cores for 400 clips/s" in printed
    assert "clips made on the device, in this process" in printed
    result = json.loads(report.read_text())
    for reader in ("ours", "ours, not indexed before", "PyAV by hand, linear"):
        for pattern in bench_data.QUICK_PATTERNS:
            measured = result["files"][0]["results"][pattern][reader]
            assert measured["wrong"] == 0 and measured["asked"] == 32 and len(measured["cpu"]) == 2
    split = result["files"][0]["split"]
    assert split["fed"] < split["packets"]  # B-frames that nobody asked for are not decoded
    assert split["seconds"]["decode"] > 0
    assert {run["repeats"] for run in result["loader"]["runs"]} == {2}


def test_wrong_frames_are_counted(tiny: Path) -> None:
    truth = bench_data_peers.Truth(tiny)
    assert len(truth) == 70
    right = bench_data_peers.VideoReader(tiny).read([3, 9, 30])
    assert truth.wrong([3, 9, 30], right) == 0
    assert truth.wrong([4, 9, 30], right) == 1
    assert truth.wrong([4, 10, 31], right) == 3
    assert truth.wrong([3, 9], right) == 2, "another number of pictures than asked for"


def test_another_colour_conversion_is_not_another_frame(tiny: Path) -> None:
    truth = bench_data_peers.Truth(tiny)
    right = bench_data_peers.VideoReader(tiny).read([3, 40])
    assert truth.wrong([3, 40], right.clamp(max=254) + 1) == 0
    assert truth.wrong([3, 40], right.clamp(max=235) + 20) == 2


def test_a_request_by_time_ends_behind_its_last_frame(tiny: Path) -> None:
    request = bench_data_peers.Truth(tiny).request([10, 12, 14])
    assert request.start == pytest.approx(10 / 30)
    assert request.end == pytest.approx(14.5 / 30)


@pytest.mark.parametrize("pattern", bench_data.PATTERNS)
def test_drawn_frames_lie_in_the_video(pattern: str) -> None:
    rng = np.random.default_rng(0)
    for count in (1, 10, 70, 300):
        frames = bench_data.draw(pattern, count, rng)
        assert len(frames) == (32 if pattern == "32x3" else 16)
        assert frames == sorted(frames) and frames[0] >= 0 and frames[-1] < count
    assert np.diff(bench_data.draw("16x4", 300, rng)).tolist() == [4] * 15


def measured(cpu: dict[int, float], *, wrong: int = 0, error: str = "") -> Result:
    return Result(cpu=cpu, wall=cpu, asked=16 * len(cpu), wrong=wrong, error=error)


def test_best_other_is_the_fastest_that_is_exact_in_every_pattern() -> None:
    readers = {
        "ours": measured({0: 1.0, 1: 1.0, 2: 4.0}),
        "wrong": measured({0: 0.1, 1: 0.1, 2: 0.1}, wrong=1),
        "slow": measured({0: 3.0, 2: 9.0}),
        "fast": measured({0: 1.2, 1: 1.2, 2: 4.8}),
        "broken": measured({0: 0.1}, error="RuntimeError"),
    }
    file = FileResult("f", "", True, {"16x4": readers, "16 segments": {**readers, "wrong": readers["fast"]}})
    assert file.best_other("16x4", ["wrong", "slow", "fast", "broken"]) == "fast"
    assert file.ratio("16x4", "fast") == pytest.approx(1.2)
    assert file.ratio("16x4", "slow") == pytest.approx(12 / 5), "over the clips that both decoded"


def test_summary_names_what_misses_its_target() -> None:
    names = {"ours": 1.0, "ours, not indexed before": 1.5, "peer": 1.1}
    results = {"16x4": {name: measured({0: seconds}) for name, seconds in names.items()}}
    text, verdict = bench_data.summary([FileResult("b.mp4", "", True, results)], ["peer"], markdown=False)
    assert "1.10x peer, target 1.15x" in text
    assert "geometric mean over files and patterns 1.10x (target 1.40x): missed" in text
    assert verdict["missed"] == ["b.mp4 16x4: 1.10x peer, target 1.15x"]
    text, _ = bench_data.summary([FileResult("no_b.mp4", "", False, results)], ["peer"], markdown=False)
    assert "each at least 1.00x, 1.15x with B-frames: holds" in text


def test_packets_counts_what_is_left_out(tiny: Path) -> None:
    with bench_data_peers.VideoReader(tiny) as video:
        index = video.frame_index
    every = list(range(70))
    assert bench_data_split.packets_of(index, every) == (70, 70)
    assert index.order is not None
    spanned, fed = bench_data_split.packets_of(index, [0, 60])
    last = int(index.order[60])
    left_out = int(index.droppable[: last + 1].sum()) - int(index.droppable[last])
    assert left_out > 10 and (spanned, fed) == (last + 1, last + 1 - left_out)


def test_generated_files_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_data_files, "RECIPES", (TINY, bench_data_files.Recipe("none.mp4", "no_such_encoder")))
    (made,) = bench_data_files.make_files(tmp_path, ("tiny.mp4", "none.mp4"), frames=4)
    written = made.stat().st_mtime_ns
    assert bench_data_files.make_files(tmp_path, ("tiny.mp4",), frames=4) == [made]
    assert made.stat().st_mtime_ns == written
    assert [path.name for path in made.parent.iterdir()] == ["tiny.mp4"]


def test_a_run_without_files_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_data.parse(["--no-generated"])
    assert "give files" in capsys.readouterr().err


def test_pictures_move_and_are_the_same_each_time() -> None:
    first, second = bench_data_files.Scene(96, 128, 1), bench_data_files.Scene(96, 128, 1)
    assert np.array_equal(first.frame(5), second.frame(5))
    moved = np.abs(first.frame(5).astype(int) - first.frame(8)).mean()
    assert moved > 5
    assert torch.from_numpy(first.frame(0)).float().std() > 20
