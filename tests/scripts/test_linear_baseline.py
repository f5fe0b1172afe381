"""scripts/linear_baseline.py: it fits what is linear, and counts test images."""

from pathlib import Path

import linear_baseline
import pytest
import torch

from mvit_video.data.embedded.shapes import ShapesSpec, generate_shapes


def test_what_is_linear_is_learnt() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(60, 5, generator=generator)
    data = pixels, (pixels[:, 0] > 0).long()
    assert linear_baseline.accuracy(data, linear_baseline.fit(data, decay=1e-3, classes=2)) > 95


def test_it_prints_the_best_accuracy_and_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    linear_baseline.main(generate_shapes(tmp_path, ShapesSpec(train_images=12, test_images=4)))
    assert "of 4 test images; chance is 25.0 %" in capsys.readouterr().out
