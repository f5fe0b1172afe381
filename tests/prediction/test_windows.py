"""Sliding windows: where they lie, which frames they are made of, and how they become a timeline."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segments, SlidingWindows
from mvit_video.data.loading.collation import collate
from mvit_video.data.loading.dataset import DecodeOptions, EvalDataset
from mvit_video.data.loading.window_dataset import WindowDataset
from mvit_video.data.sampling import ClipSampler
from mvit_video.prediction.results import ClassScore, FilePrediction, Window
from mvit_video.prediction.scoring import ScoredViews
from mvit_video.prediction.timeline import TimelineSegment, timeline_names, timeline_segments, write_timeline
from mvit_video.prediction.windows import WindowPlan, window_predictions
from tests.video_library import Library

SAMPLER = ClipSampler(num_frames=4, sampling_rate=2, target_fps=10)
WINDOWS = SlidingWindows(length_s=0.8, stride_s=0.4)


def dataset(*paths: Path | str, group: int = 2, spatial_views: int = 1) -> WindowDataset:
    manifest = Manifest([str(path) for path in paths], [0] * len(paths), ("x", "y"), source="here")
    return WindowDataset(
        manifest,
        windows=WINDOWS,
        group=group,
        sampler=SAMPLER,
        spatial_views=spatial_views,
        short_side=32,
        crop_size=32,
        decoding=DecodeOptions(),
    )


@pytest.mark.parametrize(
    ("duration", "starts"),
    [(0.3, [0.0]), (0.8, [0.0]), (0.9, [0.0, 0.1]), (1.2, [0.0, 0.4]), (2.05, [0.0, 0.4, 0.8, 1.2, 1.25])],
)
def test_windows_cover_the_video(duration: float, starts: list[float]) -> None:
    windows = WINDOWS.of(duration)
    assert [window.start for window in windows] == pytest.approx(starts)
    assert windows[-1].end == pytest.approx(duration)


def test_windows_that_would_leave_something_out() -> None:
    with pytest.raises(ValueError, match="the length must be positive, and the stride positive and at most the length"):
        SlidingWindows(length_s=1, stride_s=1.5)


def test_a_window_is_what_the_segment_is_to_an_evaluation(library: Library) -> None:
    """Every window of every group, the last group with fewer of them."""
    path = library.path("h264.avi")
    windows = dataset(path, group=2)
    segments = windows.windows_of(0)
    assert len(segments) % 2 == 1 or len(segments) > 2
    single = EvalDataset(
        Manifest([str(path)] * len(segments), [0] * len(segments), ("x",), source="x", segments=Segments(segments)),
        sampler=SAMPLER,
        temporal_views=1,
        spatial_views=1,
        short_side=32,
        crop_size=32,
    )
    samples = [windows[group] for group in range(-(-len(segments) // 2))]
    assert torch.equal(torch.cat([sample.clips for sample in samples]), torch.cat([one.clips for one in single]))
    assert torch.cat([sample.views for sample in samples]).tolist() == list(range(len(segments)))


def test_a_picture_that_stays_longer_than_a_window(library: Library) -> None:
    """Frame rates vary: a window in which no new picture begins shows the one before."""
    windows = dataset(library.path("variable.mp4"))
    windows.windows = SlidingWindows(length_s=0.2, stride_s=0.2)
    count = len(windows.windows_of(0))
    assert [len(windows[group].views) for group in range(-(-count // 2))] == [2] * (count // 2) + [1] * (count % 2)


def test_windows_of_several_videos_share_batches(library: Library, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0")
    path = library.path("h264.avi")
    windows = dataset(broken, path, path, group=2)
    plan = WindowPlan(windows, range(3), clips_per_batch=3)
    count = len(windows.windows_of(1))

    def scored() -> list[ScoredViews]:
        found = []
        for keys in plan.batches():
            batch = collate([windows[key] for key in keys])
            assert len(batch) <= 4
            for key in keys:
                views = batch.views[batch.videos == key % 3].numpy()
                views = views[views // 2 == key // 3]
                rows = np.stack([np.array([view / 10, 1 - view / 10], np.float32) for view in views])
                found.append(ScoredViews(key % 3, views, rows))
        return found

    found = [one for one, _ in window_predictions(plan, scored(), class_names=("x", "y"), top_k=1)]
    assert [(one.path, one.error is None) for one in found] == [(str(broken), False), (str(path), True)] + [
        (str(path), True)
    ]
    assert found[1].windows is not None and len(found[1].windows) == count
    assert [window.predictions[0].score for window in found[1].windows[:2]] == pytest.approx([1.0, 0.9])
    assert not plan.windows


def window(start: float, **scores: float) -> Window:
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    return Window(start, start + 2.0, tuple(ClassScore(name, score) for name, score in ranked))


COURSE = [window(0, run=0.9, sit=0.6), window(1, run=0.7, sit=0.1), window(2, sit=0.4, run=0.3), window(3, sit=0.8)]


def test_windows_of_one_class_are_one_segment() -> None:
    assert timeline_segments(COURSE, threshold=0.5, several=False) == [
        TimelineSegment(0.0, 2.5, "run", pytest.approx(0.8)),  # type: ignore[arg-type]
        TimelineSegment(2.5, 3.5, "other", 0.4),
        TimelineSegment(3.5, 5.0, "sit", 0.8),
    ]
    assert [one.name for one in timeline_segments(COURSE, threshold=0.0, several=False)] == ["run", "sit"]


def test_several_classes_at_a_time() -> None:
    found = timeline_segments(COURSE, threshold=0.5, several=True)
    assert [(one.start, one.end, one.name) for one in found] == [
        (0.0, 1.5, "sit"), (0.0, 2.5, "run"), (3.5, 5.0, "sit"),
    ]  # fmt: skip


def test_the_timeline_on_disk(tmp_path: Path) -> None:
    one = FilePrediction("a $x$.mp4", (ClassScore("run", 0.5),), windows=tuple(COURSE))
    write_timeline(tmp_path, "a", one, threshold=0.5, several=False)
    held = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert held["segments"][0] == {"start": 0.0, "end": 2.5, "class": "run", "score": 0.8}
    assert len(held["windows"]) == 4 and (tmp_path / "a.png").stat().st_size > 1000
    assert FilePrediction.from_json(one.to_json()) == one
    assert timeline_names(["x/a.mp4", "y/a.mkv", "b.mp4"]) == {"x/a.mp4": "a", "y/a.mkv": "a-2", "b.mp4": "b"}


def test_no_two_drawings_have_one_name() -> None:
    assert list(timeline_names(["x/a.mp4", "y/a.mp4", "a-2.mp4"]).values()) == ["a", "a-2", "a-2-2"]
    files = ["w/a.mp4", "x/a.mp4", "y/a.mp4", "z/b.mp4"]
    first = timeline_names(files[1:3])
    later = timeline_names(files, first)
    assert later == {"w/a.mp4": "a-3", "x/a.mp4": "a", "y/a.mp4": "a-2", "z/b.mp4": "b"}
    for path, name in later.items():  # a job that starts later knows some of them
        assert timeline_names(files, {**first, path: name}) == later
    assert timeline_names(["c/a.mp4"], first) == {"c/a.mp4": "a-3"}


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u6f22"])
def test_the_name_of_a_drawing_leaves_room_for_more(letter: str, tmp_path: Path) -> None:
    longest = letter * (250 // len(letter.encode()))
    names = list(timeline_names([f"a/{longest}.mp4", f"b/{longest}.mp4"]).values())
    assert names[1] == f"{names[0]}-2" and longest.startswith(names[0]) and len(names[0].encode()) > 190
    (tmp_path / f".{names[1]}.json.12345.tmp").touch()
