"""Masks as polygons and run lengths: drawing, cutting out, packing, and flat memory."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from mvit_video.data.detection.masks import Masks, RunLengths, encode_bitmap
from mvit_video.data.detection.run_lengths import parsed_runs, runs_problem
from mvit_video.data.detection.shape_columns import ShapeColumns
from mvit_video.models.detection.masks import InstanceMasks, mask_targets
from tests.data.detection.coco_files import counts, disc

SQUARE = np.array([[5.0, 6], [15, 6], [15, 16], [5, 16]])


def test_polygons_are_drawn_as_cocos_code_draws_them():
    rings = (np.array([[2.5, 3.1], [20.7, 4], [11, 25.2]]), SQUARE + 9)
    masks = Masks((rings, RunLengths.of_bitmap(disc()), ()), (30, 40))
    expected = coco.decode(coco.merge(coco.frPyObjects([ring.ravel().tolist() for ring in rings], 30, 40)))
    np.testing.assert_array_equal(masks.bitmaps()[0], expected.astype(bool))
    np.testing.assert_array_equal(masks.bitmaps()[1], disc())
    assert not masks.bitmaps()[2].any()
    np.testing.assert_array_equal(masks.select(np.array([1])).bitmaps()[0], disc())
    packed = masks.encode()[1]
    assert packed == encode_bitmap(disc()) and packed["size"] == [30, 40] and isinstance(packed["counts"], str)
    np.testing.assert_array_equal(coco.decode(packed), disc())


def test_targets_are_polygons_drawn_in_their_boxes():
    masks = Masks(((SQUARE,), (SQUARE + 0.5,)), (30, 40))
    boxes = torch.tensor([[5.0, 6, 15, 16], [0, 1, 20, 21], [10, 6, 20, 16], [30, 20, 39, 29]])
    cut = masks.crop(boxes, torch.tensor([0, 0, 0, 1]), 20)
    assert cut.dtype == torch.bool and cut.shape == (4, 20, 20) and isinstance(masks, InstanceMasks)
    assert cut[0].all()
    inner, left = torch.zeros(20, 20, dtype=torch.bool), torch.zeros(20, 20, dtype=torch.bool)
    inner[5:15, 5:15], left[:, :10] = True, True
    torch.testing.assert_close(cut[1], inner)
    torch.testing.assert_close(cut[2], left)
    assert not cut[3].any()
    # Boxes without a side are drawn as if they had a tenth of a pixel, as published.
    assert masks.crop(torch.tensor([[7.0, 8, 7, 8]]), torch.tensor([0]), 4).shape == (1, 4, 4)
    assert masks.crop(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 28).shape == (0, 28, 28)
    assert mask_targets(masks, boxes[:1], torch.tensor([0])).sum() == 28 * 28


def test_targets_of_run_lengths_are_those_of_their_bitmaps():
    masks = Masks((RunLengths.of_bitmap(disc()),), (30, 40))
    boxes = torch.tensor([[17.3, 4.1, 33, 20.5], [20, 5, 26, 30]])
    places = torch.tensor([0, 0])
    bitmaps = torch.from_numpy(masks.bitmaps())
    torch.testing.assert_close(mask_targets(masks, boxes, places), mask_targets(bitmaps, boxes, places))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.floats(0, 1))
def test_run_lengths_are_parsed_as_cocos_code_packs_them(seed, height, width, share):
    bitmap = np.random.default_rng(seed).random((height, width)) < share
    text = RunLengths.of_bitmap(bitmap).counts
    assert parsed_runs(text).tolist() == counts(bitmap)
    assert runs_problem(text, (height, width)) == ""
    assert "pixels in all" in runs_problem(text, (height, width + 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "without a character"),
        (b"01d", "cut off"),
        (b"a b", "a character that they do not have"),
        (b"o" * 9 + b"0", "more than 35 bits"),
        (b"O1", "a run of -1 pixels"),
    ],
)
def test_run_lengths_that_are_none_are_told(text, message):
    assert message in runs_problem(text, (1, 1))


def test_bitmaps_do_not_travel_with_run_lengths():
    masks = Masks((RunLengths.of_bitmap(disc()),), (30, 40))
    before = len(pickle.dumps(masks))
    masks.bitmaps()
    assert len(pickle.dumps(masks)) == before


def test_flat_memory_gives_masks_back_to_the_bit():
    rng = np.random.default_rng(0)
    decimal = np.round(rng.random((7, 2)) * 640, 2)  # as COCO's files have them
    shapes = [(decimal, SQUARE), RunLengths.of_bitmap(disc()), (), (SQUARE,)]
    columns = ShapeColumns.of_shapes(shapes)
    assert columns.corners.dtype == np.int32 and columns.absent.tolist() == [False, False, True, False]
    exact = ShapeColumns.of_shapes([*shapes, (rng.random((3, 2)),)])
    assert exact.corners.dtype == np.float64
    for kept in (columns, exact, columns.select(np.arange(4)), pickle.loads(pickle.dumps(columns))):
        np.testing.assert_array_equal(kept.shape(0)[0], decimal)
        np.testing.assert_array_equal(kept.shape(0)[1], SQUARE)
        assert kept.shape(1) == shapes[1] and kept.shape(2) == ()
    some = columns.select(np.array([3, 1]))
    assert len(some) == 2 and len(some.shape(0)) == 1 and some.shape(1) == shapes[1]
    assert len(ShapeColumns.of_shapes([])) == 0
