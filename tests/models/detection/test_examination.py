"""What the heads of a detector answer, in full: a change of any weight shows somewhere."""

import pytest
import torch

from mvit_video.models.detection import Detector, Examination
from tests.models.detection.helpers import tiny_detector, two_images

FIELDS = ("objectness", "offsets", "scores", "boxes", "masks", "refined")
# A layer, and where a change of it shows first; what comes after it may differ, too.
PARTS = {
    "proposal_generator.rpn_head.objectness_logits": {"objectness"},
    "proposal_generator.rpn_head.anchor_deltas": {"offsets"},
    "roi_heads.box_predictor.0.cls_score": {"scores"},
    "roi_heads.box_predictor.0.bbox_pred": {"refined"},
    "roi_heads.box_predictor.2.bbox_pred": {"boxes"},
    "roi_heads.mask_head.predictor": {"masks"},
}


@pytest.fixture(scope="module")
def cascade() -> Detector:
    return tiny_detector(kind="cascade_mask_rcnn", proposals=10).eval()


def differing(one: Examination, other: Examination) -> set[str]:
    def same(name: str) -> bool:
        ours, theirs = getattr(one, name), getattr(other, name)
        pairs = zip(ours, theirs, strict=True) if name == "refined" else [(ours, theirs)]
        return all(torch.equal(a, b) for a, b in pairs)

    return {name for name in FIELDS if not same(name)}


def test_what_is_found_is_among_what_is_answered() -> None:
    detector = tiny_detector(score_threshold=0.0, nms_threshold=1.0).eval()
    image = two_images()[0][0]
    examined, (found,) = detector.examine(image), detector.detect([image])
    assert len(examined.refined) == 0 and examined.boxes.shape == (len(examined.labels), 4)
    best = examined.scores.gather(1, examined.labels[:, None])[:, 0]
    assert float(best.max()) == float(found["scores"].max())
    assert torch.equal(examined.scores.sum(1).round(decimals=5), torch.ones(len(best)))


def test_a_change_of_any_head_shows(cascade: Detector) -> None:
    image = two_images()[0][0]
    before = cascade.examine(image)
    assert not differing(before, cascade.examine(image, before)) and len(before.refined) == 2
    for name, where in PARTS.items():
        bias = cascade.get_parameter(f"{name}.bias")
        with torch.no_grad():
            kept = bias.clone()
            bias += torch.linspace(0.1, 0.3, len(bias))
            assert differing(before, cascade.examine(image, before)) == where, name
            bias.copy_(kept)
    with pytest.raises(ValueError, match=r"in training mode: call detector\.eval\(\) to examine it"):
        tiny_detector().examine(image)
