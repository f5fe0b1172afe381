"""Views of drawn shapes: the mask of the transformed picture is the transformed mask."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvit_video.data.detection.annotations import Instances
from mvit_video.data.detection.masks import Masks, RunLengths, rasterize
from mvit_video.data.detection.transforms import LargeScaleJitter, MultiScale, ShortestEdge
from mvit_video.data.detection.views import Crop, DetectionView, Flip, Pad, Resize
from mvit_video.data.detection.visible import visible_box

SIZE = (60, 80)
TRANSFORMS = {
    "jitter": LargeScaleJitter(side=64, fill=0),
    "multi_scale": MultiScale(
        short_sides=(40, 50, 75), long_side=110, crop=0.7, crop_short_sides=(45, 60), crop_range=(30, 50)
    ),
    "shortest_edge": ShortestEdge(short_side=90, long_side=110),
}


def blob(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A star-shaped polygon of some pixels' size, which may reach over the border."""
    corners = int(rng.integers(3, 9))
    angles = np.sort(rng.random(corners) * 2 * np.pi)
    radius = rng.uniform(8, 25, corners)
    centre = rng.random(2) * (size[1], size[0])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None] + centre


def instances(*rings: np.ndarray, as_runs: bool = False) -> Instances:
    """One instance for each polygon."""
    shapes = tuple(RunLengths.of_bitmap(rasterize((ring,), *SIZE)) if as_runs else (ring,) for ring in rings)
    count = len(rings)
    boxes = [np.clip([*ring.min(0), *ring.max(0)], 0, (*SIZE[::-1], *SIZE[::-1])) for ring in rings]
    return Instances(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(count),
        crowds=np.zeros(count, bool),
        ids=np.arange(count),
        areas=np.full(count, 100.0),
        masks=Masks(shapes, SIZE),
        size=SIZE,
    )


def picture(bitmap: np.ndarray) -> torch.Tensor:
    """A bitmap as a picture of black and white."""
    return torch.from_numpy(np.repeat(bitmap[..., None].astype(np.uint8) * 255, 3, axis=2))


def off(first: np.ndarray, second: np.ndarray, reach: int) -> int:
    """Pixels in which two bitmaps differ and which lie further than `reach` pixels from the borders of both."""
    inside = np.ones_like(first)
    for bitmap in (first, second):
        padded = np.pad(bitmap, reach, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
        inside &= windows.all(axis=(2, 3)) | ~windows.any(axis=(2, 3))
    return int(((first != second) & inside).sum())


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(TRANSFORMS)), st.booleans())
def test_the_mask_of_the_transformed_picture_is_the_transformed_mask(seed, name, as_runs):
    rng = np.random.default_rng(seed)
    ring = blob(rng)
    before = instances(ring, as_runs=as_runs)
    view = TRANSFORMS[name].draw(*SIZE, rng)
    after = view.instances(before)
    seen = view.pixels(picture(before.masks.bitmaps()[0]))
    assert seen.shape == (*view.size, 3) and seen.is_contiguous()
    seen = seen[..., 0].numpy() >= 128
    if not len(after):
        assert seen.sum() <= 12  # a splinter may vanish
        return
    moved = after.masks.bitmaps()[0]
    assert after.masks.size == after.size == view.size
    # A pixel of the picture, in which the mask was drawn, is so large in the view.
    scale = (after.areas[0] / before.areas[0]) ** 0.5
    assert off(moved, seen, 1 + round(scale)) == 0
    assert (moved != seen).sum() <= 0.2 * max(moved.sum(), seen.sum()) + 12
    # The box holds the mask, and reaches no further if it is made of it.
    rows, columns = np.nonzero(moved)
    if len(rows):
        x1, y1, x2, y2 = after.boxes[0]
        assert x1 <= columns.min() + 1 and y1 <= rows.min() + 1 and x2 >= columns.max() and y2 >= rows.max()
        if view.boxes_of_masks and not as_runs:
            tight = visible_box(after.masks.shapes[0][0], view.size)
            np.testing.assert_allclose(after.boxes[0], tight, atol=1e-4)
        if view.boxes_of_masks and as_runs:
            assert after.boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    "step", [Flip(80), Crop(10, 20, 30, 40), Pad(70, 90, 0), Resize(SIZE, (120, 160)), Resize(SIZE, (30, 40))]
)
@pytest.mark.parametrize("as_runs", [False, True])
def test_steps_move_a_drawn_rectangle_exactly(step, as_runs):
    before = instances(np.array([[24.0, 14], [50, 14], [50, 36], [24, 36]]), as_runs=as_runs)
    bitmap = before.masks.bitmaps()[0]
    seen = step.pixels(picture(bitmap))[..., 0].numpy() >= 128
    after = DetectionView(steps=(step,), size=seen.shape).instances(before)
    np.testing.assert_array_equal(after.masks.bitmaps()[0], seen)
    rows, columns = np.nonzero(seen)
    assert after.boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_the_visible_box_is_that_of_the_drawn_polygon(seed):
    rng = np.random.default_rng(seed)
    # Drawn twenty times as large, pixels show the true extent to a twentieth.
    ring, fine = blob(rng, (30, 40)), 20
    drawn = rasterize((ring * fine,), 30 * fine, 40 * fine)
    box = visible_box(ring, (30, 40))
    rows, columns = np.nonzero(drawn)
    if box is None:
        assert len(rows) < 4
    elif len(rows):
        expected = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / fine
        slack = np.abs(np.array(box) - expected)
        # Acute corners are thinner than a pixel, so that the drawing ends before them; it never reaches further.
        assert (box[0] <= expected[0] + 0.1) and (box[2] >= expected[2] - 0.1) and (box[3] >= expected[3] - 0.1)
        assert slack.max() < 2


def cut_at_border(ring: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A convex polygon cut at the border of an image, half-plane by half-plane (Sutherland and Hodgman, 1974)."""
    for axis, sign, limit in ((0, 1, 0), (0, -1, -size[1]), (1, 1, 0), (1, -1, -size[0])):
        kept = []
        for start, end in zip(np.roll(ring, 1, axis=0), ring):
            inside = sign * start[axis] >= limit, sign * end[axis] >= limit
            if inside[0] != inside[1]:
                share = (sign * limit - start[axis]) / (end[axis] - start[axis])
                kept.append(start + share * (end - start))
            if inside[1]:
                kept.append(end)
        ring = np.array(kept).reshape(-1, 2)
    return ring


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_the_visible_box_and_targets_are_those_of_the_cut_polygon(seed):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.random(int(rng.integers(3, 12)))) * 2 * np.pi
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(5, 40) + rng.random(2) * SIZE[::-1]
    cut, box = cut_at_border(ring, SIZE), visible_box(ring, SIZE)
    if box is None:
        assert len(cut) < 3 or (np.ptp(cut, axis=0) < 1e-6).any()
        return
    np.testing.assert_allclose(box, [*cut.min(axis=0), *cut.max(axis=0)], atol=1e-9)
    rois = torch.tensor([box], dtype=torch.float32)
    whole, parts = (Masks(((shape,),), SIZE).crop(rois, torch.tensor([0]), 28) for shape in (ring, cut))
    assert (whole != parts).sum() <= 40  # of 784: a row and some


def test_the_visible_box_of_shapes_that_reach_over_corners_and_borders():
    limits = (30, 40)

    def box(*corners):
        return visible_box(np.array(corners, float), limits)

    assert box((-5, -5), (100, -5), (100, 100), (-5, 100)) == (0, 0, 40, 30)  # covers all
    assert box((0, 0), (40, 0), (40, 30), (0, 30)) == (0, 0, 40, 30)
    assert box((30, 20), (60, 20), (60, 50), (30, 50)) == (30, 20, 40, 30)
    assert box((40, 0), (50, 0), (50, 30), (40, 30)) is None  # touches the border
    assert box((-9, 5), (0, 5), (0, 9), (-9, 9)) is None
    assert box((50, 50), (60, 50), (60, 60)) is None
    # A diagonal band beside the corner: its bounding box meets the image, it does not.
    assert box((50, 20), (60, 30), (40, 50), (30, 40)) is None
    # A U around the border, of which one arm is outside: the base alone is seen.
    assert box((10, 10), (60, 10), (60, 20), (10, 20)) == (10, 10, 40, 20)
    # A triangle whose tip alone is inside.
    np.testing.assert_allclose(box((50, 5), (30, 15), (50, 25)), (30, 10, 40, 20))


def test_what_vanishes_is_dropped_with_all_that_belongs_to_it():
    rings = [np.array([[x, 5.0], [x + 10, 5], [x + 10, 15], [x, 15]]) for x in (0, 30, 65)]
    before = instances(*rings)
    view = DetectionView(steps=(Crop(0, 0, 60, 35),), size=(60, 35))
    after = view.instances(before)
    assert after.labels.tolist() == [0, 1] and after.ids.tolist() == [0, 1] and len(after.masks) == 2
    assert after.boxes.tolist() == [[0, 5, 10, 15], [30, 5, 35, 15]]
    # A box alone decides where there are no masks; a mask that is gone decides where a box is left.
    assert len(view.instances(replace(before, masks=None))) == 2
    other = replace(before, boxes=np.tile(np.float32([0, 0, 20, 20]), (3, 1)))
    assert view.instances(other).labels.tolist() == [0, 1]
    # Boxes made of the masks forget what the file says.
    assert replace(view, boxes_of_masks=True).instances(other).boxes.tolist() == after.boxes.tolist()
    assert len(view.instances(before.select(np.zeros(3, bool)))) == 0
    no_mask = replace(before, masks=Masks((*before.masks.shapes[:2], ()), SIZE))
    assert len(DetectionView(steps=(), size=SIZE).instances(no_mask)) == 2


def test_areas_are_scaled_with_the_picture():
    view = DetectionView(steps=(Resize(SIZE, (120, 40)), Crop(0, 0, 50, 40)), size=(50, 40))
    assert view.instances(instances(blob(np.random.default_rng(3)) * 0.2)).areas.tolist() == [100.0]
