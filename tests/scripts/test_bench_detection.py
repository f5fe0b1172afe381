"""The benchmark of detection: its published form of attention stays what ours computes, forwards and in a step."""

import re
from dataclasses import replace

import bench_detection
import pytest

from mvit_video.models.config import MViTConfig
from tests.models.detection.helpers import tiny_backbone


def fake_backbone(_size: str, **changes: object) -> MViTConfig:
    """The backbone of the tests in the place of a published one, which takes seconds to make."""
    return replace(tiny_backbone(), **changes)  # type: ignore[arg-type]


def test_backbones_agree_and_take_a_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_detection, "detection_backbone", fake_backbone)
    bench_detection.main(["--pixels", "64", "--reps", "1", "--markdown"])
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")]
    labels = ["forward, s", "train step, s", "saved for backward, MB", "peak, MB"]
    assert [row[0] for row in rows[2:]] == labels
    off = re.search(r"largest difference of the features: (\S+)", out)
    assert off is not None and float(off[1]) < 1e-5
