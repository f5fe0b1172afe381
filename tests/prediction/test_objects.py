"""Boxes and masks on decoded pictures, and the frames that a detector looks at."""

import numpy as np
import pytest
import torch

from mvit_video.engine.marks import Mark, drawn, overlay
from mvit_video.prediction.frames import chosen_frames
from mvit_video.prediction.object_drawings import object_painter
from mvit_video.prediction.results import FoundObject, Window
from mvit_video.prediction.words import Planes, lay_over
from mvit_video.video.yuv import YuvFrames

SIDE = 320  # of pictures that are not enlarged


def grey(value: int = 90) -> Planes:
    half = SIDE // 2
    return (
        np.full((SIDE, SIDE), value, np.uint8),
        np.full((half, half), 100, np.uint8),
        np.full((half, half), 150, np.uint8),
    )


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_planes_show_what_rgb_shows(matrix: str) -> None:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[100:200, 60:160] = True
    marks = [Mark((60.0, 100.0, 160.0, 200.0), "cat", (68, 119, 170), mask)]
    planes = grey()

    def rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        colours = torch.from_numpy(np.stack([u, v]))[None]
        return YuvFrames(torch.from_numpy(y)[None], colours, matrix, False).rgb()[0].numpy()

    before = rgb(*planes)
    shown = rgb(*lay_over(planes, overlay(marks, SIDE, SIDE), matrix)).astype(int)
    expected = drawn(before, marks).astype(int)
    inside = (slice(110, 190), slice(70, 150))
    assert np.abs(shown - expected)[inside].max() <= 3
    plate = (slice(80, 82), slice(62, 70))
    assert np.abs(shown[plate] - (68, 119, 170)).max() <= 3
    assert np.array_equal(shown[210:], before[210:])


def test_objects_stay_until_the_next_frame_that_was_looked_at() -> None:
    held = FoundObject("cat", 0.9, (10.0, 100.0, 60.0, 200.0))
    paint = object_painter([Window(0, 0.5, (held,)), Window(0.5, 1, ())], ["cat"])
    plain = grey()[0]
    assert not np.array_equal(paint(grey(), 0.0, "bt601")[0], plain)
    assert not np.array_equal(paint(grey(), 0.49, "bt601")[0], plain)
    assert np.array_equal(paint(grey(), 0.5, "bt601")[0], plain)


def test_frames_of_a_rate() -> None:
    seconds = np.array([0, 0.1, 0.2, 0.35, 0.5, 0.9, 1.0])
    assert list(chosen_frames(seconds, None)) == list(range(7))
    assert list(chosen_frames(seconds, 2.0)) == [0, 4, 6]
    assert list(chosen_frames(seconds, 100.0)) == list(range(7))
