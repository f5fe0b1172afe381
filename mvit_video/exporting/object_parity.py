"""How far what an exported detector finds may be from what its model finds, and how far it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from mvit_video.models.detection import Detections, Detector, Examination

OVERLAP = 0.9  # of boxes and of masks that are the same object's


@dataclass(frozen=True, kw_only=True)
class ObjectAnswer:
    """What a detector says of an image: what its heads answer, and what it finds."""

    examined: Examination
    found: Detections


@dataclass(frozen=True, kw_only=True)
class ObjectParity:
    """Answers of a file and of the model for the same images.

    Attributes:
        inputs: how many images were compared.
        clips: where they came from, in words.
        boxes: largest difference of a coordinate, as a share of the longer side of the box.
        scores: largest difference of a score, of 1.
        masks: largest difference of the probability of a pixel of a mask, of 1.
        bound: what each of the three may be.
        objects: that the model finds.
        found_again: those of them that the file finds, with the same class, a score within the bound, and boxes and
            masks that overlap by OVERLAP or more.
    """

    inputs: int
    clips: str
    boxes: float
    scores: float
    masks: float
    bound: float
    objects: int
    found_again: int

    @property
    def difference(self) -> float:
        """The largest of the three; NaN where one is."""
        return float(torch.tensor([self.boxes, self.scores, self.masks]).max())

    def text(self) -> str:
        """In words."""
        return (
            f"boxes within {self.boxes:.1e} of their side, scores within {self.scores:.1e}, masks within "
            f"{self.masks:.1e} ({self.bound:g} is the bound), {self.found_again} of {self.objects} objects found again "
            f"({self.inputs} images, {self.clips})"
        )

    def plain(self) -> dict[str, Any]:
        """For the file's own record."""
        differences = {name: float(f"{getattr(self, name):.3g}") for name in ("boxes", "scores", "masks")}
        return {
            "inputs": self.inputs,
            "clips": self.clips,
            "largest_difference": float(f"{self.difference:.3g}"),
            **differences,
            "bound": self.bound,
            "objects": self.objects,
            "found_again": self.found_again,
        }


def answers_of(
    detector: Detector, images: Sequence[Tensor], like: Sequence[ObjectAnswer] | None = None
) -> list[ObjectAnswer]:
    """What a detector says of images, each (3, H, W).

    Args:
        like: answers of the detector that it is compared with.
    """
    return [
        ObjectAnswer(
            examined=detector.examine(image, None if like is None else like[index].examined),
            found=detector.detect([image])[0],
        )
        for index, image in enumerate(images)
    ]


def compare_objects(
    expected: Sequence[ObjectAnswer], found: Sequence[ObjectAnswer], *, bound: float, exact: bool, clips: str
) -> ObjectParity:
    """The answers of a file against the model's.

    Args:
        expected: of the model.
        found: of the file, for the same images and the model's proposals.
        bound: see ObjectParity.
        exact: every object must be found again, and no other.
        clips: see ObjectParity.

    Raises:
        ValueError: they are of another shape, not finite, further away than the bound, or not those objects.
    """
    pairs = [(one.examined, other.examined) for one, other in zip(expected, found, strict=True)]
    shapes = [(one.scores.shape, one.objectness.shape) for one, _ in pairs]
    if shapes != [(other.scores.shape, other.objectness.shape) for _, other in pairs]:
        raise ValueError("the file has other classes or anchors than the model, and is not written")
    result = ObjectParity(
        inputs=len(expected),
        clips=clips,
        boxes=_largest([_box_difference(*pair) for pair in pairs]),
        scores=_largest([_apart(a, b) for one, other in pairs for a, b in zip(_scores(one), _scores(other))]),
        masks=_largest([_apart(one.masks, other.masks) for one, other in pairs]),
        bound=bound,
        objects=sum(len(one.found["scores"]) for one in expected),
        found_again=sum(_found_again(one.found, other.found, bound) for one, other in zip(expected, found)),
    )
    if not result.difference <= bound:  # also for NaN
        raise ValueError(
            f"the file does not compute what the model computes, and is not written: {result.text()}. A higher "
            "precision (--dtype) may do"
        )
    if exact and not result.objects == result.found_again == sum(len(other.found["scores"]) for other in found):
        raise ValueError(
            f"the file does not find what the model finds, and is not written: {result.text()}, and "
            f"{sum(len(other.found['scores']) for other in found)} in all"
        )
    return result


def _scores(one: Examination) -> tuple[Tensor, Tensor]:
    return one.objectness, one.scores


def _box_difference(one: Examination, other: Examination) -> float:
    """Of all boxes on the way from anchors to objects, as a share of their longer side."""
    found = [_apart(one.offsets, other.offsets)]
    for ours, theirs in ((one.boxes, other.boxes), *zip(one.refined, other.refined)):
        side = (ours[:, 2:] - ours[:, :2]).amax(dim=1, keepdim=True).clamp(min=1.0)
        found.append(_apart(ours / side, theirs / side))
    return _largest(found)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max()) if one.numel() else 0.0


def _largest(values: Sequence[float]) -> float:
    """The largest value; NaN where one is, 0 of none."""
    return float(torch.tensor(values or [0.0]).max())


def _found_again(one: Detections, other: Detections, bound: float) -> int:
    """How many objects are among others, each of which is taken once, in the order of the scores."""
    overlaps = box_iou(one["boxes"], other["boxes"])
    near = (one["scores"][:, None] - other["scores"]).abs() <= bound
    fits = (overlaps >= OVERLAP) & near & (one["labels"][:, None] == other["labels"])
    count = 0
    for row in range(len(one["scores"])):
        places: list[int] = fits[row].nonzero().flatten().tolist()
        same = next((place for place in places if _mask_overlap(one, row, other, place) >= OVERLAP), None)
        if same is not None:
            fits[:, same] = False
            count += 1
    return count


def _mask_overlap(one: Detections, row: int, other: Detections, place: int) -> float:
    """Intersection over union of two masks; 1 where both are empty, as those of a detector of boxes alone are."""
    first, second = one["masks"][row], other["masks"][place]
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0
