"""Random views: the published arithmetic on literals, the ranges of what is drawn, and keys that decide about it."""

import numpy as np
import pytest
import torch
from PIL import Image

from mvit_video.data.detection.transforms import LargeScaleJitter, MultiScale, ShortestEdge
from mvit_video.data.detection.views import Crop, Flip, Pad, Resize


class Fixed:
    """Random numbers that are known: shares of the ranges."""

    def __init__(self, *shares):
        self.shares = list(shares)

    def random(self):
        return self.shares.pop(0)

    def uniform(self, low, high):
        return low + (high - low) * self.shares.pop(0)

    def choice(self, values):
        return values[int(self.shares.pop(0) * len(values))]

    def integers(self, low, high=None):
        low, high = (0, low) if high is None else (low, high)
        return low + int(self.shares.pop(0) * (high - low))


def test_large_scale_jitter_enlarges_and_crops_along_the_diagonal():
    # Flip, s = 2: 480 x 640 fits 2048 at 1536 x 2048; the one number .25 shifts both axes.
    view = LargeScaleJitter().draw(480, 640, Fixed(0.4, 1.0, 0.25))
    assert view.size == (1024, 1024) and view.boxes_of_masks
    assert view.steps == (Flip(640), Resize((480, 640), (1536, 2048), left=256, columns=1024), Crop(128, 0, 1024, 1024))


def test_large_scale_jitter_shrinks_and_pads():
    # s = .1 + 1.9 * .25 = .575: 588.8 / 640 times 480 x 640 is 442 x 589, rounded.
    view = LargeScaleJitter().draw(480, 640, Fixed(0.6, 0.25, 0.9))
    assert view.steps == (Resize((480, 640), (442, 589)), Crop(0, 0, 442, 589), Pad(1024, 1024, 128))
    # Wide images may be cropped on one axis and padded on the other.
    wide = LargeScaleJitter(flip=0, scale=(2, 2)).draw(100, 400, Fixed(0.5, 0, 1.0))
    assert wide.steps == (
        Resize((100, 400), (512, 2048), left=1024, columns=1024),
        Crop(0, 0, 512, 1024),
        Pad(1024, 1024, 128),
    )


def test_multi_scale_as_published():
    # No crop; short side 480; long limit 1333 does not matter; flip.
    view = MultiScale().draw(480, 640, Fixed(0.5, 0.0, 0.49))
    assert view.steps == (Resize((480, 640), (480, 640)), Flip(640)) and view.size == (480, 640)
    # Crop: short side 500 (500 x 667), 384 + .5 of 117 high, 600 wide, at .5 and 0; then short side 800.
    view = MultiScale().draw(480, 640, Fixed(0.4, 0.5, 0.5, 0.999, 0.5, 0.0, 0.999, 0.5))
    assert view.steps == (
        Resize((480, 640), (500, 667), left=0, columns=600),
        Crop(29, 0, 442, 600),
        Resize((442, 600), (800, 1086)),
    )
    # Images that are smaller than the crop's range are taken whole on that axis.
    view = MultiScale(crop_short_sides=(300,)).draw(100, 100, Fixed(0.4, 0, 0.7, 0.7, 0, 0, 0, 0.9))
    assert view.steps[:2] == (Resize((100, 100), (300, 300)), Crop(0, 0, 300, 300))


def test_shortest_edge_has_a_limit_and_nothing_random():
    assert ShortestEdge().draw(480, 640).size == (800, 1067)
    assert ShortestEdge().draw(300, 1000).size == (400, 1333)
    image = torch.arange(30 * 40 * 3, dtype=torch.int64).remainder(256).to(torch.uint8).view(30, 40, 3)
    view = ShortestEdge(short_side=45, long_side=100).draw(30, 40)
    expected = np.asarray(Image.fromarray(image.numpy()).resize((60, 45), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(view.pixels(image).numpy(), expected)


def test_a_cropped_picture_is_part_of_the_resized_one():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    view = LargeScaleJitter(side=100, scale=(2, 2), flip=1).draw(48, 64, np.random.default_rng(1))
    whole = np.asarray(Image.fromarray(image.flip(1).numpy()).resize((200, 150), Image.Resampling.BILINEAR))
    resize, crop = view.steps[1:]
    part = whole[crop.top : crop.top + 100, resize.left : resize.left + 100]
    np.testing.assert_array_equal(view.pixels(image).numpy(), part)


@pytest.mark.parametrize("transform", [LargeScaleJitter(), MultiScale()])
def test_a_view_is_a_function_of_its_key(transform):
    key = [0, 3, 17, 3, 0]  # seed, epoch, draw, what for, repeat
    views = [transform.draw(480, 640, np.random.default_rng(key)) for _ in range(2)]
    assert views[0] == views[1] != transform.draw(480, 640, np.random.default_rng([0, 4, 17, 3, 0]))


def test_scales_and_flips_are_drawn_evenly():
    views = [LargeScaleJitter().draw(480, 640, np.random.default_rng(key)) for key in range(400)]
    resizes = [next(step for step in view.steps if isinstance(step, Resize)) for view in views]
    widths = np.array([step.after[1] for step in resizes])
    assert widths.min() < 130 and widths.max() > 2000 and 950 < widths.mean() < 1200  # 1075
    assert 160 < sum(isinstance(view.steps[0], Flip) for view in views) < 240
    sides = {MultiScale(crop=0).draw(480, 640, np.random.default_rng(key)).size[0] for key in range(200)}
    assert sides == set(range(480, 801, 32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LargeScaleJitter(side=0), "side=0: must be at least 1 pixel"),
        (lambda: LargeScaleJitter(scale=(2, 1)), r"scale=\(2, 1\): a range needs 0 < low <= high"),
        (lambda: LargeScaleJitter(flip=2), r"flip=2: a probability lies in \[0, 1\]"),
        (lambda: LargeScaleJitter(fill=300), "fill=300: the value of a pixel lies in 0 to 255"),
        (lambda: MultiScale(short_sides=()), r"short_sides=\(\): give at least one"),
        (lambda: MultiScale(crop_range=(600, 384)), r"crop_range=\(600, 384\): a range needs"),
        (lambda: MultiScale(crop=-1), "crop=-1: a probability"),
        (lambda: ShortestEdge(long_side=0), "long_side=0: must be at least 1"),
    ],
)
def test_values_out_of_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
