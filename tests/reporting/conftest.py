"""Runs to report on, written once."""

from pathlib import Path

import pytest

from tests.reporting.written_runs import evaluate, sure_of, video_manifest, write_run, write_videos


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `runs` with two evaluated runs on the same videos, whose names are markup, and the videos beside it."""
    root = tmp_path_factory.mktemp("report")
    manifest = video_manifest(write_videos(root / "videos"))
    first = write_run(root / "runs", "first <b>run", data__group_pattern="<u>_(\\d+)</u>")
    # Right: 2, 3, 5. The last is the only doubtful one.
    evaluate(first, manifest, [*sure_of(1, 0, 2, 3, 1), *sure_of(1, score=0.4)], failed=[4])
    evaluate(first, manifest, sure_of(1, 1, 1, 1, 1, 1), folder="evaluation_reversed", frame_order="reversed")
    second = write_run(root / "runs", "second", optim__lr=0.01)
    # Right: 0, 1, 3, 4.
    evaluate(second, manifest, [*sure_of(0, 1), *sure_of(3, score=0.95), *sure_of(3, 0), *sure_of(2, score=0.8)])
    return root / "runs"
