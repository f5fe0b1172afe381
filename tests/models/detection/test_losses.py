"""Proposals, heads and cascade: losses and gradients written out, class order, sampling, batch norm over processes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from mvit_video.models.detection import synchronise
from mvit_video.models.detection.batch_norm import BoxBatchNorm
from mvit_video.models.detection.proposals import ProposalGenerator, Scored
from mvit_video.models.detection.roi_heads import Matched, RoIHeads, Target, _box_losses
from tests.models.detection.helpers import tiny_config, tiny_detector


def boxes_of(count: int, side: float = 60.0) -> Tensor:
    corners = torch.rand(count, 2) * side / 2
    return torch.cat([corners, corners + 4 + torch.rand(count, 2) * side / 2], dim=1)


def test_the_pyramid_is_torchvisions():
    backbone = tiny_detector().backbone
    theirs = FeaturePyramidNetwork([16, 32, 64, 128], 16, LastLevelMaxPool())
    for index in range(4):
        theirs.inner_blocks[index][0].load_state_dict(getattr(backbone, f"fpn_lateral{index + 2}").state_dict())
        theirs.layer_blocks[index][0].load_state_dict(getattr(backbone, f"fpn_output{index + 2}").state_dict())
    features = {f"scale{index + 2}": torch.randn(1, 16 * 2**index, 24 >> index, 16 >> index) for index in range(4)}
    for mine, other in zip(backbone.pyramid(features), theirs(features).values(), strict=True):
        torch.testing.assert_close(mine, other)


def test_the_proposals_losses_written_out():
    """All anchors are sampled, so nothing is left to chance; both losses are over the number to be sampled."""
    torch.manual_seed(0)
    generator = ProposalGenerator(tiny_config(anchors_sampled=2000))
    anchors, annotated = boxes_of(40), [boxes_of(3), torch.zeros(0, 4)]
    logits, deltas = torch.randn(2, 40, requires_grad=True), torch.randn(2, 40, 4, requires_grad=True)
    losses = generator.losses(
        Scored([logits[:, :30], logits[:, 30:]], [deltas[:, :30], deltas[:, 30:]], anchors), annotated
    )
    iou = box_iou(annotated[0], anchors)
    classes, boxes = F.softplus(logits[1]).sum(), torch.zeros(())  # no box: every anchor is background
    for index in range(40):
        best = iou[:, index].max()
        positive = best >= 0.7 or any(iou[row, index] == iou[row].max() for row in range(3))
        if positive:
            a, g = anchors[index], annotated[0][iou[:, index].argmax()]
            w, h = a[2] - a[0], a[3] - a[1]
            wanted = torch.stack([
                ((g[0] + g[2]) / 2 - (a[0] + a[2]) / 2) / w, ((g[1] + g[3]) / 2 - (a[1] + a[3]) / 2) / h,
                ((g[2] - g[0]) / w).log(), ((g[3] - g[1]) / h).log(),
            ])  # fmt: skip
            boxes = boxes + (deltas[0, index] - wanted).abs().sum()
            classes = classes + F.softplus(-logits[0, index])
        elif best < 0.3:
            classes = classes + F.softplus(logits[0, index])
    torch.testing.assert_close(losses["loss_rpn_cls"], classes / 4000)
    torch.testing.assert_close(losses["loss_rpn_loc"], boxes / 4000)


def test_proposals_are_the_best_of_each_level_after_suppression():
    generator = ProposalGenerator(tiny_config(proposals_per_level_test=2, proposals=3)).eval()
    anchors = torch.tensor(
        [[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 10], [50, 50, 70, 70], [90, 0, 99, 9]]
    )
    logits = torch.tensor([[3.0, 2.0, 1.0, 2.5, -1.0, 9.0]])
    scored = Scored(list(logits.split([3, 3], 1)), list(torch.zeros(1, 6, 4).split([3, 3], 1)), anchors)
    # Level 1 gives anchors 0 and 1, of which 1 is suppressed (IoU 9/11); level 2 gives 5, which lies outside of the
    # image and is dropped, and 3, which is suppressed by nothing on its own level.
    assert generator.proposals(scored, [(64, 64)])[0].tolist() == [[0, 0, 10, 10], [0, 0, 10, 10]]
    generator.train()
    assert len(generator.proposals(scored, [(64, 100)])[0]) == 3


@pytest.mark.parametrize("agnostic", [False, True])
def test_box_losses_written_out(agnostic):
    """Background is the last class; L1 of the foreground over the number of all boxes."""
    torch.manual_seed(0)
    target = Target(torch.tensor([[0.0, 0, 20, 20], [10, 10, 40, 30]]), torch.tensor([2, 0]), torch.zeros(2, 64, 64))
    boxes = torch.tensor([[1.0, 1, 21, 19], [12, 10, 40, 34], [50, 50, 60, 60]])
    matched = Matched(boxes, torch.tensor([2, 0, 3]), torch.tensor([0, 1, 0]))
    logits, deltas = torch.randn(3, 4), torch.randn(3, 4 if agnostic else 12)
    losses = dict(_box_losses(logits, deltas, [matched], [target], 1))
    chosen = logits.log_softmax(1)
    torch.testing.assert_close(losses["loss_cls"], -(chosen[0, 2] + chosen[1, 0] + chosen[2, 3]) / 3)
    first, second = (deltas[0], deltas[1]) if agnostic else (deltas[0, 8:], deltas[1, :4])
    wanted = torch.tensor([[20 * -1 / 20, 0, 0, 0], [20 * -1 / 28, 20 * -2 / 24, 0, 0]])
    wanted[0, 3] = 10 * torch.tensor(20 / 18).log()
    wanted[1, 2], wanted[1, 3] = 10 * torch.tensor(30 / 28).log(), 10 * torch.tensor(20 / 24).log()
    total = (first - wanted[0]).abs().sum() + (second - wanted[1]).abs().sum()
    torch.testing.assert_close(losses["loss_box_reg"], total / 3)


def heads(kind: str = "mask_rcnn", **changes: object) -> RoIHeads:
    torch.manual_seed(0)
    return RoIHeads(tiny_config(kind=kind, **changes))


def levels(seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(1, 16, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32)]


def a_target() -> Target:
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, 10:40, 8:40] = True
    return Target(torch.tensor([[8.0, 10, 40, 40]]), torch.tensor([1]), masks)


def test_annotated_boxes_are_sampled_and_a_quarter_is_foreground():
    module, target = heads(rois_sampled=16), a_target()
    near = target.boxes + torch.rand(30, 4)
    sampled = module._sample(torch.cat([near, boxes_of(40) * 0.1]), target)
    assert sampled.labels.tolist() == [1] * 4 + [3] * 12
    alone = module._sample(torch.zeros(0, 4), target)
    assert torch.equal(alone.boxes, target.boxes)
    empty = module._sample(
        boxes_of(5), Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 64, 64))
    )
    assert empty.labels.tolist() == [3] * 5


def test_a_cascade_relabels_the_refined_boxes_and_does_not_sample_again(monkeypatch):
    module, target = heads("cascade_mask_rcnn"), a_target()
    seen: list[tuple[Tensor, float]] = []
    match = module._match
    monkeypatch.setattr(module, "_match", lambda boxes, t, iou: seen.append((boxes, iou)) or match(boxes, t, iou))
    with torch.no_grad():  # every stage shifts a box by a tenth of its width
        for stage, weight in enumerate((10.0, 20.0, 30.0)):
            module.box_predictor[stage].bbox_pred.weight.zero_()
            module.box_predictor[stage].bbox_pred.bias.copy_(torch.tensor([weight / 10, 0, 0, 0]))
    # Overlaps after 0, 1 and 2 shifts: foreground of stage 0 (.5) becomes background of the last (.7).
    losses = module.losses(levels(), [torch.tensor([[8.0, 10, 40, 40], [60, 0, 64, 64]])], [target], [(64, 64)])
    assert [iou for _, iou in seen] == [0.5, 0.6, 0.7]
    assert sorted(losses) == sorted(
        ["loss_mask", *(f"loss_{name}_stage{stage}" for name in ("cls", "box_reg") for stage in range(3))]
    )
    first, second, third = (boxes for boxes, _ in seen)
    assert len(first) == len(second) == len(third) == 3  # two proposals and the annotated box
    torch.testing.assert_close(second[:1], torch.tensor([[11.2, 10, 43.2, 40]]))
    torch.testing.assert_close(third[:1], torch.tensor([[14.4, 10, 46.4, 40]]))
    assert second.max() <= 64  # clipped
    assert not second.requires_grad


def test_the_gradient_of_a_cascades_features_is_a_third():
    """One stage's loss, with and without the scaling, on the same weights."""
    module = heads("cascade_mask_rcnn").eval()  # running statistics: the heads are plain functions
    maps = [level.requires_grad_() for level in levels()]
    boxes = [torch.tensor([[8.0, 10, 40, 40]])]
    logits, deltas = module._run_stage(maps, boxes, 1)
    scaled = torch.autograd.grad(logits.sum() + deltas.sum(), maps, allow_unused=True)
    logits, deltas = module.box_predictor[1](module.box_head[1](module._pool(maps, boxes, 7)))
    whole = torch.autograd.grad(logits.sum() + deltas.sum(), maps, allow_unused=True)
    pairs = [(a, b) for a, b in zip(scaled, whole) if b is not None and b.abs().sum()]
    assert pairs
    for one, other in pairs:
        torch.testing.assert_close(one * 3, other)


def test_a_cascade_averages_probabilities_and_answers_the_last_boxes():
    module = heads("cascade_mask_rcnn", score_threshold=0.0, nms_threshold=1.0).eval()
    with torch.no_grad():
        for stage, weight in enumerate((10.0, 20.0, 30.0)):
            predictor = module.box_predictor[stage]
            for linear in (predictor.cls_score, predictor.bbox_pred):
                linear.weight.zero_()
            predictor.cls_score.bias.copy_(torch.tensor([float(stage), 0, 0, 1]))
            predictor.bbox_pred.bias.copy_(torch.tensor([weight / 10, 0, 0, 0]))
        found = module.detect(levels(), [torch.tensor([[8.0, 10, 18, 20]])], [(64, 64)])[0]
    expected = torch.stack([torch.tensor([float(s), 0, 0, 1]).softmax(0) for s in range(3)]).mean(0)[:3]
    torch.testing.assert_close(found["scores"], expected.sort(descending=True).values)
    torch.testing.assert_close(found["boxes"], torch.tensor([[11.0, 10, 21, 20]]).expand(3, 4))
    assert found["labels"][0] == 0
    assert found["masks"].shape == (3, 28, 28)


def test_detections_are_suppressed_within_classes_and_limited():
    module = heads(score_threshold=0.05, detections_per_image=3)
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [30, 30, 40, 40], [50, 50, 60, 60]])[:, None].repeat(1, 3, 1)
    scores = torch.tensor([[0.9, 0.06, 0.0, 0.04], [0.8, 0.7, 0.0, 0.0], [0.04, 0.05, 0.3, 0.61], [float("nan")] * 4])
    found = module._best(boxes, scores, (64, 64))
    assert found["scores"].tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert found["labels"].tolist() == [0, 1, 2]


def test_the_mask_loss_written_out():
    module, target, maps = heads(), a_target(), levels()
    matched = Matched(torch.tensor([[8.0, 10, 40, 40], [0, 0, 9, 9]]), torch.tensor([1, 3]), torch.tensor([0, 0]))
    loss = module._mask_loss(maps, [matched], [target])
    logits = module.mask_head(module._pool(maps, [matched.boxes[:1]], 14))
    assert logits.shape == (1, 3, 28, 28)
    torch.testing.assert_close(loss, F.softplus(-logits[0, 1]).mean())  # the mask fills its box
    nothing = module._mask_loss(maps, [matched.pick(torch.tensor([1]))], [target])
    nothing.backward()
    assert nothing == 0
    assert all(parameter.grad is not None for parameter in module.mask_head.parameters())


def test_batch_norm_over_processes_equals_one_process():
    """Three processes with 5, 0 and 2 boxes against one with all of them: outputs, gradients, running means."""
    torch.manual_seed(0)
    x, weight = torch.randn(7, 4, 3, 3, dtype=torch.float64), torch.randn(7, 4, 3, 3, dtype=torch.float64)
    one = BoxBatchNorm(4).double()
    nn.init.uniform_(one.weight)
    whole = x.clone().requires_grad_()
    (one(whole) * weight).sum().backward()

    norms = [BoxBatchNorm(4).double() for _ in range(3)]
    parts = [part.clone().requires_grad_() for part in x.split([5, 0, 2])]
    sums: list[Tensor] = []
    for norm in norms:
        norm.load_state_dict(BoxBatchNorm(4).state_dict() | {"weight": one.weight.data})
        synchronise(norm, lambda vector: sums.append(vector) or vector)
    for norm, part in zip(norms, parts):  # first round: what each process sends
        norm(part)
    total = sum(sums)
    outputs = []
    for norm, part in zip(norms, parts):
        norm.running_mean.zero_()
        synchronise(norm, lambda vector: total)
        outputs.append(norm(part))
    (torch.cat(outputs) * weight).sum().backward()
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), whole.grad)
    for norm in norms:
        torch.testing.assert_close(norm.running_mean, one.running_mean)


def test_the_running_variance_over_processes_is_the_biased_one():
    x = torch.randn(4, 2, 3, 3)
    norm = BoxBatchNorm(2)
    assert synchronise(norm, lambda vector: vector) == 1
    norm(x)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x.transpose(0, 1).flatten(1).var(1, unbiased=False))
    before = norm.running_var.clone()
    assert norm(x[:0]).shape == (0, 2, 3, 3)
    assert torch.equal(norm.running_var, before)
    assert BoxBatchNorm(2)(x[:0]).shape == (0, 2, 3, 3)
    assert synchronise(norm, None) == 1
