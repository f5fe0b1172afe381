"""Boxes, anchors, levels and pooling, masks and sizes: each published quirk by a case computed by hand."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection._utils import BoxCoder

from mvit_video.models.detection.anchors import anchors_of, shapes_of
from mvit_video.models.detection.boxes import decode, encode, match, sample
from mvit_video.models.detection.masks import mask_targets, paste_masks
from mvit_video.models.detection.pooling import levels_of, pool_boxes
from mvit_video.models.detection.resize import resize_image, resized_size


def test_anchors_are_not_rounded_and_lie_on_multiples_of_the_stride():
    root = math.sqrt(2)
    expected = [
        (-16 * root, -8 * root, 16 * root, 8 * root),
        (-16, -16, 16, 16),
        (-8 * root, -16 * root, 8 * root, 16 * root),
    ]
    torch.testing.assert_close(shapes_of(32), torch.tensor(expected))
    # 800 x 1344: p6 has 13 x 21 places 64 pixels apart, though p5 has 25 rows.
    grids = [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]
    anchors = anchors_of(grids, (32, 64, 128, 256, 512))
    assert len(anchors) == 3 * sum(rows * columns for rows, columns in grids)
    p6 = anchors[-13 * 21 * 3 :].view(13, 21, 3, 4)
    centres = (p6[..., :2] + p6[..., 2:]) / 2
    assert centres[12, 20].tolist() == [[1280.0, 768.0]] * 3  # x, y
    assert p6[0, 1, 1].tolist() == [64 - 256, -256, 64 + 256, 256]
    second = anchors[3:6]  # level p2, row 0, column 1
    torch.testing.assert_close(second, shapes_of(32) + torch.tensor([4.0, 0, 4, 0]))


def test_offsets_are_those_of_the_published_coder():
    boxes, targets = torch.tensor([[10.0, 10, 30, 50]]), torch.tensor([[14.0, 20, 54, 40]])
    deltas = encode(boxes, targets, (10.0, 10.0, 5.0, 5.0))
    expected = [10 * (34 - 20) / 20, 10 * (30 - 30) / 40, 5 * math.log(40 / 20), 5 * math.log(20 / 40)]
    torch.testing.assert_close(deltas, torch.tensor([expected]))
    torch.testing.assert_close(decode(deltas, boxes, (10.0, 10.0, 5.0, 5.0))[:, 0], targets)
    coder, many = BoxCoder((20.0, 20.0, 10.0, 10.0)), torch.randn(50, 8)
    places = torch.rand(50, 4) * 50 + torch.tensor([0.0, 0, 60, 60])
    assert torch.equal(decode(many, places, (20.0, 20.0, 10.0, 10.0)), coder.decode_single(many, places).view(50, 2, 4))


def test_growth_is_limited_and_decoding_is_in_float32():
    deltas = torch.tensor([[0.0, 0.0, 50.0, 4.0]], dtype=torch.bfloat16)
    box = decode(deltas, torch.tensor([[0.0, 0, 16, 16]]), (1.0, 1.0, 1.0, 1.0))[0, 0]
    assert box.dtype == torch.float32
    assert box[2] - box[0] == pytest.approx(1000, rel=1e-5)
    assert box[3] - box[1] == pytest.approx(16 * math.exp(4), rel=1e-5)


def test_matching_thresholds_and_the_best_of_each():
    iou = torch.tensor([[0.69, 0.3, 0.1, 0.0, 0.9], [0.0, 0.5, 0.2, 0.5, 0.0], [0.0, 0.0, 0.0, 0.29, 0.6]])
    matches, labels = match(iou, low=0.3, high=0.7, best_of_each=True)
    assert matches.tolist() == [0, 1, 1, 1, 0]
    # The second box has its best at 1 and 3 (a tie); the third's best is candidate 4, which stays with the first box.
    assert labels.tolist() == [-1, 1, 0, 1, 1]
    assert match(iou, low=0.3, high=0.7, best_of_each=False)[1].tolist() == [-1, -1, 0, -1, 1]
    assert match(torch.tensor([[0.5, 0.49]]), low=0.5, high=0.5, best_of_each=False)[1].tolist() == [1, 0]


def test_a_box_that_touches_no_candidate_makes_those_of_overlap_zero_positive():
    _, labels = match(torch.tensor([[0.8, 0.1, 0.0], [0.0, 0.0, 0.0]]), low=0.3, high=0.7, best_of_each=True)
    assert labels.tolist() == [1, 1, 1]


def test_without_boxes_everything_is_negative():
    matches, labels = match(torch.zeros(0, 4), low=0.3, high=0.7, best_of_each=True)
    assert matches.tolist() == labels.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"), [(200, 500, (128, 128)), (3, 500, (3, 253)), (200, 10, (128, 10))]
)
def test_sampling_fills_up_with_negatives(positives, negatives, expected):
    positive = torch.arange(positives + negatives) < positives
    chosen = sample(positive, ~positive, 256, 0.5)
    assert (len(chosen[0]), len(chosen[1])) == expected
    assert positive[chosen[0]].all() and not positive[chosen[1]].any()
    assert len(torch.cat(chosen).unique()) == sum(expected)


def test_levels_of_boxes():
    sides = torch.tensor([1.0, 111.9, 112.0, 223.9, 224.0, 447.0, 448.0, 2000.0])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert levels_of(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert levels_of(torch.tensor([[0.0, 0, 448, 112]])).tolist() == [2]  # the square root of the area counts
    assert levels_of(torch.zeros(1, 4)).tolist() == [0]


def test_pooling_is_aligned_and_keeps_the_order():
    """A map whose value is the pixel's x coordinate: the mean of a cell is x at its centre, to the half pixel."""
    levels = []
    for stride in (4, 8, 16, 32):
        x = (torch.arange(1024 // stride) + 0.5) * stride
        levels.append(x.expand(2, 1, 1024 // stride, -1).contiguous())
    large, small = [256.0, 256.0, 256 + 448.0, 256 + 448.0], [400.0, 100.0, 456.0, 156.0]
    pooled = pool_boxes(levels, [torch.tensor([large, small]), torch.tensor([small])], 7)
    assert pooled.shape == (3, 1, 7, 7)
    torch.testing.assert_close(pooled[0, 0, 3], 256 + 64 * (torch.arange(7) + 0.5))
    torch.testing.assert_close(pooled[1, 0, 3], 400 + 8 * (torch.arange(7) + 0.5))
    assert torch.equal(pooled[1], pooled[2])
    assert pool_boxes(levels, [torch.zeros(0, 4), torch.zeros(0, 4)], 7).shape == (0, 1, 7, 7)


def test_masks_are_pasted_bilinearly_at_the_centres_of_pixels():
    """A 2 x 2 mask over 4 x 4 pixels: weights of 1/4 and 3/4 between its cells, zero fading in at the border."""
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    pasted = paste_masks(mask, torch.tensor([[1.0, 1, 5, 5]]), (7, 6))[0]
    # Centres are 1/4, 3/4, 5/4 and 7/4 cells from the border of the box; the first cell's centre is at 1/2, and zeros
    # lie a cell outside of the box: its share is 3/4, 3/4, 1/4 and 0 along an axis.
    along = torch.tensor([0.75, 0.75, 0.25, 0.0])
    expected = torch.zeros(7, 6, dtype=torch.bool)
    expected[1:5, 1:5] = (along[:, None] * along[None]) >= 0.5
    assert torch.equal(pasted, expected)
    assert expected.sum() == 4


def test_one_half_belongs_to_the_mask_and_boxes_may_leave_the_image():
    half = torch.full((1, 28, 28), 0.5)
    pasted = paste_masks(half, torch.tensor([[-10.0, 2, 20, 30]]), (20, 12))
    # Near the edge of a mask bilinear sampling mixes in zeros: half a cell of the box is lost at the top.
    assert pasted[0, 3:, :].all()
    assert not pasted[0, :3].any()
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 5)).shape == (0, 5, 5)


def test_a_mask_pastes_as_over_the_whole_image():
    torch.manual_seed(0)
    masks, boxes = torch.rand(3, 28, 28), torch.tensor([[3.3, 4.7, 30.2, 21.9], [0, 0, 40, 30], [35.5, 2, 50, 70]])
    y, x = torch.arange(30) + 0.5, torch.arange(40) + 0.5
    for mask, box, pasted in zip(masks, boxes, paste_masks(masks, boxes, (30, 40))):
        grid_x, grid_y = (x - box[0]) / (box[2] - box[0]) * 2 - 1, (y - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)
        whole = torch.nn.functional.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= 0.5
        assert torch.equal(pasted, whole)


def test_targets_of_masks_are_ones_and_zeros():
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[1, 8:22, 6:20] = True
    targets = mask_targets(masks, torch.tensor([[6.0, 8, 34, 36], [6, 8, 20, 22]]), torch.tensor([1, 1]))
    expected = torch.zeros(28, 28)
    expected[:14, :14] = 1
    assert torch.equal(targets[0], expected)
    assert targets[1].eq(1).all()


def test_targets_may_come_from_other_forms_of_masks():
    class Drawn:
        def crop(self, boxes, instances, side):
            return torch.stack([torch.full((side, side), bool(i)) for i in instances])

    targets = mask_targets(Drawn(), torch.zeros(2, 4), torch.tensor([0, 1]))
    assert targets.dtype == torch.float32
    assert targets.flatten(1).sum(1).tolist() == [0, 28 * 28]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((500, 1000), (667, 1333)),
        ((800, 800), (800, 800)),
        ((1, 4000), (1, 1333)),
    ],
)
def test_sizes_are_rounded_as_published(size, expected):
    assert resized_size(size, 800, 1333) == expected


@pytest.mark.parametrize(
    ("before", "size"),
    [
        *(((48, 64), size) for size in ((37, 53), (90, 61), (48, 120), (48, 64), (20, 50), (19, 50))),
        *(((121, 50), size) for size in ((97, 40), (51, 21), (130, 54), (30, 90))),
    ],
)
def test_resizing_is_pillows(before, size):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*before, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    ours = resize_image(torch.from_numpy(pixels).permute(2, 0, 1), size).permute(1, 2, 0).numpy()
    assert np.array_equal(ours, theirs)
