"""Rows of the head that a training starts from go by the names of classes."""

import logging

import pytest
import torch

from mvit_video.build.head_classes import rows_by_name, untrained_head
from mvit_video.models import MViT, create_model

OLD = ["jump", "run", "walk"]


def started(old: object, new: list[str]) -> tuple[MViT, torch.Tensor, torch.Tensor]:
    """A model that starts from weights, its head's weight before, and that of the weights."""
    model = create_model("mvitv2_motion", num_classes=3, depth=2, stage_starts=(1,), num_frames=2, crop_size=32)
    untrained = untrained_head(model)
    assert untrained is not None
    with torch.no_grad():
        for row in range(3):
            model.head.projection.weight[row] = row + 1.0
            model.head.projection.bias[row] = row + 1.0
    rows_by_name(model, untrained, old=old, new=new)
    return model, untrained.weight, untrained.bias


@pytest.mark.parametrize(
    ("old", "new", "rows"),
    [
        (OLD, ["walk", "jump", "run"], [3, 1, 2]),
        (OLD, OLD, [1, 2, 3]),
        (tuple(OLD), ["run", "swim", "jump"], [2, None, 1]),
        (["café", "run", "walk"], ["walk", "cafe\u0301", "run"], [3, 1, 2]),
        (OLD, ["class 0", "class 1", "class 2"], [1, 2, 3]),  # numbers alone have no names
        (None, ["walk", "jump", "run"], [1, 2, 3]),
        (["a", "b"], ["b", "a", "c"], [1, 2, 3]),  # the head is new as a whole
    ],
)
def test_rows_of_classes_in_another_order(old: object, new: list[str], rows: list[int | None]) -> None:
    model, weight, bias = started(old, new)
    for at, row in enumerate(rows):
        expected = weight[at] if row is None else torch.full_like(weight[at], row)
        assert torch.equal(model.head.projection.weight[at], expected)
        assert float(model.head.projection.bias[at]) == (float(bias[at]) if row is None else row)


def test_a_head_that_no_file_had_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    model = create_model("mvitv2_motion", num_classes=3, depth=2, stage_starts=(1,), num_frames=2, crop_size=32)
    untrained = untrained_head(model)
    assert untrained is not None
    with caplog.at_level(logging.INFO):
        rows_by_name(model, untrained, old=OLD, new=OLD[::-1])
    assert torch.equal(model.head.projection.weight, untrained.weight) and not caplog.messages


def test_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        started(OLD, ["run", "swim", "jump"])
    assert "rows go by name, and 1 class of 3 begin anew: 'swim'" in caplog.text
