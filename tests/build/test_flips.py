"""A training that flips clips of classes which tell left from right says so."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mvit_video.build.common import build_source, build_task_builder
from mvit_video.build.training import _splits
from mvit_video.config.check import to_object
from mvit_video.distributed.process_group import World
from tests.composing import compose


@pytest.mark.parametrize("flip", [0.5, 0.0])
def test_flips_of_mirrored_classes_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, flip: float) -> None:
    for name in ("left to right", "right to left", "up"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").touch()
    words = [
        "+experiment=finetune_folder",
        f"data.source.train={tmp_path}",
        f"augment.flip={flip}",
        "optim.layer_decay=1",
    ]
    config: Any = to_object(compose("config", words))
    world = World(rank=0, size=1, device=torch.device("cpu"))
    _splits(config, build_task_builder(config), build_source(config.data, world))
    text = "augment.flip=0.5: 1 pair of classes are mirror images by their names, such as 'left to right' and 'right to"
    assert (text in caplog.text) == (flip > 0)
