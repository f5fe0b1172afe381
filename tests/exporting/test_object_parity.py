"""Answers of two detectors are compared number by number, and what they find object by object."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mvit_video.exporting.object_parity import ObjectAnswer, ObjectParity, compare_objects
from mvit_video.models.detection import Detections, Examination

BOXES = torch.tensor([[0.0, 0.0, 10.0, 20.0], [30.0, 30.0, 50.0, 40.0]])


def answer(shift: float = 0.0, **changes: Any) -> ObjectAnswer:
    """Two objects; `shift` is added to every number, and to boxes in pixels ten times as much."""
    examined = Examination(
        objectness=torch.tensor([0.5, 0.1]) + shift,
        offsets=torch.zeros(2, 4),
        proposals=BOXES,
        refined=(),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]) + shift,
        boxes=BOXES + 10 * shift,
        masks=torch.full((2, 28, 28), 0.5) + shift,
    )
    masks = torch.zeros(2, 60, 60, dtype=torch.bool)
    masks[0, :20, :10], masks[1, 30:40, 30:50] = True, True
    found = Detections(
        boxes=BOXES + 10 * shift, scores=torch.tensor([0.7, 0.6]) + shift, labels=torch.tensor([0, 1]), masks=masks
    )
    return ObjectAnswer(examined=replace(examined, **changes), found=found)


def compared(other: ObjectAnswer, *, bound: float = 0.02, exact: bool = False) -> ObjectParity:
    return compare_objects([answer()], [other], bound=bound, exact=exact, clips="two objects")


def test_differences_are_shares() -> None:
    found = compared(answer(0.01))
    assert (found.scores, found.masks) == pytest.approx((0.01, 0.01), abs=1e-6)
    assert found.boxes == pytest.approx(0.1 / 20, abs=1e-6)  # of the longer side
    assert (found.objects, found.found_again) == (2, 2)
    assert "2 of 2 objects found again (1 images, two objects)" in found.text()
    assert found.plain()["largest_difference"] == 0.01


@pytest.mark.parametrize(
    "changes",
    [
        {"objectness": torch.tensor([0.5, 0.2])},
        {"offsets": torch.full((2, 4), 0.1)},
        {"boxes": BOXES + 1},
        {"masks": torch.full((2, 28, 28), torch.nan)},
    ],
)
def test_what_is_further_away_is_refused(changes: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"does not compute what the model computes, and is not written"):
        compared(answer(**changes))


def test_an_object_is_found_once_with_its_class_and_mask() -> None:
    twice, other_class, other_mask = answer(), answer(), answer()
    twice.found["boxes"] = BOXES[[0, 0]]
    other_class.found["labels"] = torch.tensor([0, 0])
    other_mask.found["masks"] = other_mask.found["masks"].flip(0)
    for other, again in ((twice, 1), (other_class, 1), (other_mask, 0)):
        assert compared(other).found_again == again
        with pytest.raises(ValueError, match=rf"does not find what the model finds.* {again} of 2 objects found again"):
            compared(other, exact=True)


def test_other_classes_are_another_model() -> None:
    with pytest.raises(ValueError, match="other classes or anchors than the model"):
        compared(answer(scores=torch.zeros(2, 5)))
