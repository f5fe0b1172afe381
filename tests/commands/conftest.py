"""What the tests of predictions share: a trained run, and videos to predict."""

import shutil
from pathlib import Path

import pytest

from mvit_video import build
from mvit_video.build.stored_options import take_stored_options
from mvit_video.config.check import to_object
from tests.composing import compose
from tests.conftest import options, small_overrides


@pytest.fixture(scope="session")
def runs(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on small clips, trained for a step and evaluated with two views."""
    output = tmp_path_factory.mktemp("runs")
    more = ("trainer.max_steps=1", "data.test_temporal_views=2")
    build.train(options(*small_overrides(motion_root, output, *more)))
    config = compose("evaluate", ["run=tiny", f"output_dir={output}"])
    take_stored_options(config, ["run", "output_dir"])
    build.evaluate(to_object(config))  # type: ignore[arg-type]
    return output


@pytest.fixture
def videos(motion_root: Path, tmp_path: Path) -> list[Path]:
    """Three videos, one of them in a folder of its own."""
    copies = [tmp_path / "videos" / name for name in ("a.mp4", "b.mp4", "deep/c.mp4")]
    for source, copy in zip(sorted(motion_root.rglob("*.mp4")), copies):
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
    return copies
