"""A detector as a whole: it learns two images, and what it finds depends on the image alone."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from mvit_video.models.detection import create_detector, get_detector_config, list_detectors
from mvit_video.models.detection.detector import MEAN, STD, Detector
from tests.models.detection.helpers import Target, drawn, tiny_backbone, tiny_config, tiny_detector, two_images


def train(detector: Detector, images: list[Tensor], targets: list[Target], steps: int) -> None:
    optimizer = torch.optim.AdamW(detector.parameters(), lr=4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack(list(detector(images, targets).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def test_a_cascade_learns_two_images():
    """Every drawn shape is found, with a box and a mask on it. For Mask R-CNN the tests of the task show it."""
    images, targets = zip(*two_images())
    targets = [target | {"labels": torch.zeros_like(target["labels"])} for target in targets]
    detector = tiny_detector(kind="cascade_mask_rcnn", num_classes=1, rois_sampled=16, hidden=64)
    train(detector, images, targets, 60)
    for found, target in zip(detector.eval()(images), targets, strict=True):
        assert found["scores"].diff().le(0).all()
        for label in target["labels"].unique():
            drawn_here = (target["labels"] == label).nonzero().flatten()
            best = (found["labels"] == label).nonzero().flatten()[: len(drawn_here)]
            assert found["scores"][best].min() > 0.5
            overlaps, which = box_iou(target["boxes"][drawn_here], found["boxes"][best]).max(dim=1)
            assert overlaps.min() > 0.5
            for mask, pasted in zip(target["masks"][drawn_here], found["masks"][best][which], strict=True):
                assert (pasted & mask).sum() / (pasted | mask).sum() > 0.6


def test_every_parameter_has_a_gradient_also_without_any_instance():
    for kind in ("mask_rcnn", "cascade_mask_rcnn"):
        detector = tiny_detector(kind=kind)
        image, target = drawn(40, 56)
        losses = detector([image], [target])
        torch.stack(list(losses.values())).sum().backward()
        assert losses["loss_rpn_loc"] == losses["loss_mask"] == 0
        assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []


def noisy(detector: Detector) -> Detector:
    """Weights that answer something, in evaluation mode."""
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return detector.eval()


def test_what_is_found_depends_on_the_image_alone():
    """Sizes are mixed, two images share one padded size, one comes as uint8: each is found as if it came alone."""
    detector = noisy(tiny_detector())
    torch.manual_seed(1)
    images = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((64, 96), (90, 70), (64, 90), (30, 300))
    ]
    together = detector(images)
    assert sum(len(found["scores"]) for found in together)
    for image, found in zip(images, together, strict=True):
        alone = detector([image.float()])[0]
        for name in ("boxes", "scores", "labels", "masks"):
            torch.testing.assert_close(found[name], alone[name])
        height, width = image.shape[-2:]
        assert found["masks"].shape[1:] == (height, width)
        assert found["masks"].dtype == torch.bool
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= torch.tensor([width, height, width, height])).all()


def test_detection_is_in_float32_under_autocast():
    detector = noisy(tiny_detector())
    image = torch.rand(3, 64, 64) * 255
    plain = detector([image])[0]
    with torch.autocast("cpu", torch.bfloat16):
        under = detector([image])[0]
    assert torch.equal(plain["scores"], under["scores"])
    assert torch.equal(plain["boxes"], under["boxes"])


def test_broken_weights_are_an_error_and_not_nothing_found():
    detector = tiny_detector().eval()
    with torch.no_grad():
        next(detector.backbone.bottom_up.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match=r"features of 2 of 2 images are not finite: its weights are broken"):
        detector([torch.zeros(3, 64, 64)] * 2)


def test_training_under_autocast():
    images, targets = zip(*two_images())
    with torch.autocast("cpu", torch.bfloat16):
        losses = tiny_detector(kind="cascade_mask_rcnn")(images, targets)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_images_are_normalised_and_padded_with_zeros_behind():
    batch = tiny_detector().batch([torch.full((3, 40, 70), 200.0), torch.zeros(3, 33, 96)])
    assert batch.shape == (2, 3, 64, 96)
    torch.testing.assert_close(batch[0, :, 39, 69], (200 - torch.tensor(MEAN)) / torch.tensor(STD))
    torch.testing.assert_close(batch[1, :, 0, 0], -torch.tensor(MEAN) / torch.tensor(STD))
    assert batch[0, :, 40:].eq(0).all()
    assert batch[0, :, :, 70:].eq(0).all()


def test_boxes_and_masks_come_back_in_the_pixels_of_the_image(monkeypatch):
    """48 x 72 is detected at 64 x 96: what is found there is three quarters as large in the image."""
    detector = tiny_detector().eval()
    seen = []

    def found(images):
        seen.extend(tuple(image.shape) for image in images)
        boxes = torch.tensor([[8.0, 16, 40, 64], [95.9, 10, 96, 20]])
        masks = torch.ones(2, 28, 28)
        return [{"boxes": boxes, "scores": torch.tensor([0.9, 0.8]), "labels": torch.tensor([2, 1]), "masks": masks}]

    monkeypatch.setattr(detector, "_detect_batch", found)
    result = detector([torch.zeros(3, 48, 72)])[0]
    assert seen == [(3, 64, 96)]
    torch.testing.assert_close(result["boxes"][0], torch.tensor([6.0, 12, 30, 48]))
    mask = torch.zeros(48, 72, dtype=torch.bool)
    mask[12:48, 6:30] = True
    assert torch.equal(result["masks"][0], mask)


def test_the_backbone_gives_the_maps_of_the_stages():
    backbone = tiny_detector().backbone
    maps = backbone(torch.randn(2, 3, 50, 76))
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "scale2": (2, 16, 13, 19),
        "scale3": (2, 32, 7, 10),
        "scale4": (2, 64, 4, 5),
        "scale5": (2, 128, 2, 3),
    }
    levels = backbone.pyramid(maps)
    assert [tuple(level.shape[1:]) for level in levels] == [
        (16, 13, 19), (16, 7, 10), (16, 4, 5), (16, 2, 3), (16, 1, 2)
    ]  # fmt: skip


def test_presets():
    assert len(list_detectors()) == 11
    config = get_detector_config("cascade_mask_rcnn_mvitv2_h", num_classes=7, backbone={"windows": "all"})
    assert (config.num_classes, config.is_cascade) == (7, True)
    assert (config.backbone.windows, config.backbone.drop_path, config.backbone.depth) == ("all", 0.6, 80)
    assert config.backbone.recomputed_blocks == tuple(range(80))
    with torch.device("meta"):
        assert create_detector("mask_rcnn_mvitv2_t", num_classes=5).roi_heads.box_predictor.cls_score.out_features == 6


def test_initial_values():
    detector = tiny_detector(backbone=tiny_backbone(init="zero_tables"), channels=64, hidden=64)
    state = detector.state_dict()
    zero = [name for name in state if "rel_pos" in name or (name.endswith(".bias") and "patch_embed" not in name)]
    assert all(state[name].eq(0).all() for name in zero)
    for name, std in (
        ("proposal_generator.rpn_head.conv.weight", 0.01),
        ("roi_heads.box_predictor.cls_score.weight", 0.01),
        ("roi_heads.box_predictor.bbox_pred.weight", 0.001),
        ("roi_heads.mask_head.predictor.weight", 0.001),
        ("roi_heads.mask_head.mask_fcn1.weight", (2 / (64 * 9)) ** 0.5),
        ("backbone.fpn_output3.weight", (1 / (64 * 9)) ** 0.5),
        ("roi_heads.box_head.fc1.weight", (1 / (64 * 49)) ** 0.5),
    ):
        assert state[name].std() == pytest.approx(std, rel=0.15), name


def test_depths_of_parameters():
    detector = tiny_detector()
    depths = detector.layer_ids()
    assert depths.keys() == dict(detector.named_parameters()).keys()
    assert depths["backbone.bottom_up.patch_embed.proj.weight"] == 0
    assert depths["backbone.bottom_up.blocks.2.norm1.weight"] == 3
    assert depths["backbone.bottom_up.scale4_norm.weight"] == depths["roi_heads.box_head.fc1.weight"] == 5


GOOD = drawn(64, 64, (1, (10, 10, 30, 30), (0, 0, 0)))


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        ([], None, "a list of images"),
        (torch.zeros(1, 3, 8, 8), None, "a list of images"),
        ([torch.zeros(1, 8, 8)], None, "an image of shape \\(1, 8, 8\\)"),
        ([GOOD[0]], None, "in training mode: call detector.eval"),
        ([GOOD[0]], [], "1 images with 0 targets"),
        ([GOOD[0]], [{"boxes": torch.zeros(0, 4)}], "a target without labels: it needs boxes and labels"),
        ([GOOD[0]], [GOOD[1] | {"labels": torch.tensor([3])}], "labels from 3 to 3 for a detector of 3 classes"),
        ([GOOD[0]], [GOOD[1] | {"labels": torch.tensor([1, 1])}], "1 boxes and 2 labels"),
        ([GOOD[0]], [GOOD[1] | {"masks": torch.zeros(1, 32, 32)}], "masks of \\(32, 32\\) in an image of \\(64, 64\\)"),
        ([GOOD[0]], [GOOD[1] | {"masks": [[1.0, 2.0]]}], "masks of type list"),
    ],
)
def test_what_is_no_image_or_target(images, targets, message):
    with pytest.raises(ValueError, match=message):
        tiny_detector()(images, targets)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "faster_rcnn"}, "kind='faster_rcnn' is not one of"),
        ({"num_classes": 0}, "num_classes=0 must be a whole number"),
        ({"score_threshold": 2}, "score_threshold=2 must lie in"),
        ({"anchor_sides": (8, 16)}, "must be five positive numbers"),
        ({"backbone": tiny_backbone(stage_norms=False)}, "a detector takes an image model"),
        ({"backbone": tiny_backbone(patch_stride=(1, 8, 8), windows="none")}, "must be \\(1, 4, 4\\)"),
    ],
)
def test_impossible_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


def test_unknown_names():
    with pytest.raises(ValueError, match="did you mean 'mask_rcnn_mvitv2_t'"):
        get_detector_config("mask_rcnn_mvit2_t")
    with pytest.raises(ValueError, match="unknown field 'window' of MViTConfig"):
        get_detector_config("mask_rcnn_mvitv2_t", backbone={"window": 7})
    with pytest.raises(ValueError, match="unknown field 'classes' of DetectorConfig"):
        get_detector_config("mask_rcnn_mvitv2_t", classes=7)
