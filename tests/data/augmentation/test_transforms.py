"""Crops, flips, erasing boxes and normalisation: literals, torchvision as the judge, and the order of operations."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

# The module, not its names: pytest would collect test_view as a test.
from mvit_video.data.augmentation import transforms
from mvit_video.data.augmentation.randaugment import OpDraw, RandAugment
from mvit_video.data.augmentation.transforms import TrainTransform
from mvit_video.interop.pytorchvideo import import_pytorchvideo

KINETICS = {"scale": (0.08, 1.0), "ratio": (0.75, 4 / 3)}


def make_frames(height: int = 48, width: int = 64, num_frames: int = 3) -> torch.Tensor:
    """uint8 (T, H, W, 3) of smooth random colours."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(num_frames, 3, 6, 7, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear") * 255
    return smooth.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def ramp_frames(height: int, width: int, *, axis: int) -> torch.Tensor:
    """uint8 (1, H, W, 3) whose value is the row (axis 0) or the column (axis 1)."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (column if axis == 1 else row).to(torch.uint8)[None, :, :, None].expand(1, -1, -1, 3).contiguous()


# Crop parameters


def test_random_resized_crop_has_torchvisions_distribution() -> None:
    height, width, count = 256, 340, 4000
    rng = np.random.default_rng(0)
    ours = np.array([transforms.random_resized_crop_box(height, width, rng=rng, **KINETICS) for _ in range(count)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        oracle = v2.RandomResizedCrop(224, scale=KINETICS["scale"], ratio=KINETICS["ratio"])
        image = torch.empty(3, height, width)
        drawn = [oracle.make_params([image]) for _ in range(count)]
    theirs = np.array([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        # Two independent samples of 4000: the quantiles of a side of ~170 +- 60 pixels lie within a few pixels.
        np.testing.assert_allclose(np.quantile(ours, quantile, axis=0), np.quantile(theirs, quantile, axis=0), atol=9)
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=5)
    areas = [boxes[:, 2] * boxes[:, 3] / (height * width) for boxes in (ours, theirs)]
    assert areas[0].mean() == pytest.approx(areas[1].mean(), abs=0.02)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (10, 100, (0, 43, 10, 13)),  # wider than 4:3, so 10 x 13 in the middle
        (100, 12, (42, 0, 16, 12)),  # narrower than 3:4
        (30, 30, (0, 0, 30, 30)),
    ],
)
def test_random_resized_crop_falls_back_to_the_centre(height: int, width: int, box: tuple[int, ...]) -> None:
    # Twice the frame's area never fits, so every try fails.
    got = transforms.random_resized_crop_box(
        height, width, scale=(2.0, 2.0), ratio=(0.75, 4 / 3), rng=np.random.default_rng(0)
    )
    assert got == box


@pytest.mark.parametrize(
    ("scale", "ratio", "size"),
    [(0.25, 1.0, (50, 50)), (0.5, 2.0, (50, 100)), (0.5, 0.5, (100, 50))],  # the ratio is width / height
)
def test_fixed_scale_and_ratio_give_a_fixed_size(scale: float, ratio: float, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    got = transforms.random_resized_crop_box(100, 100, scale=(scale, scale), ratio=(ratio, ratio), rng=rng)
    assert got[2:] == size


def test_jitter_short_side_ranges_and_means() -> None:
    rng = np.random.default_rng(0)
    uniform = [transforms.jitter_short_side(256, 320, inverse_uniform=False, rng=rng) for _ in range(3000)]
    inverse = [transforms.jitter_short_side(256, 320, inverse_uniform=True, rng=rng) for _ in range(3000)]
    for sizes in (uniform, inverse):
        assert min(sizes) == 256
        assert max(sizes) == 320
    assert np.mean(uniform) == pytest.approx(288, abs=1.5)
    # Mean of 1 / U(1/320, 1/256) is log(320/256) / (1/256 - 1/320).
    assert np.mean(inverse) == pytest.approx(math.log(1.25) / (1 / 256 - 1 / 320), abs=1.5)


def test_erase_box_distribution() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([transforms.erase_box(224, 224, prob=0.25, rng=rng) for _ in range(8000)])
    erased = boxes[boxes[:, 2] > 0]
    assert len(erased) / 8000 == pytest.approx(0.25, abs=0.02)
    assert (boxes[boxes[:, 2] == 0] == 0).all()
    areas = erased[:, 2] * erased[:, 3] / 224**2
    assert areas.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
    assert areas.min() == pytest.approx(0.02, abs=0.002)
    assert areas.max() == pytest.approx(1 / 3, abs=0.005)
    aspects = np.log(erased[:, 2] / erased[:, 3])
    assert aspects.mean() == pytest.approx(0.0, abs=0.06)
    assert np.abs(aspects).max() == pytest.approx(math.log(1 / 0.3), abs=0.03)
    assert (erased[:, 0] + erased[:, 2] <= 224).all()
    assert (erased[:, 1] + erased[:, 3] <= 224).all()


def test_erase_box_never_or_always() -> None:
    rng = np.random.default_rng(0)
    assert {transforms.erase_box(32, 32, prob=0.0, rng=rng) for _ in range(50)} == {(0, 0, 0, 0)}
    assert all(transforms.erase_box(32, 32, prob=1.0, rng=rng)[2] > 0 for _ in range(50))


# Resizing


def test_resize_is_bilinear_without_antialiasing_to_within_one_level() -> None:
    frames = torch.randint(0, 256, (2, 50, 70, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for size in ((24, 24), (61, 99), (50, 20)):
        got = transforms.resize(frames, *size).permute(0, 3, 1, 2).float()
        planes = frames.permute(0, 3, 1, 2).float()
        exact = F.interpolate(planes, size=size, mode="bilinear", align_corners=False)
        assert (got - exact).abs().max() <= 1.01
        assert (got - exact).abs().mean() <= 0.4  # rounding alone costs 0.25
    assert transforms.resize(frames, 50, 70) is frames


@pytest.mark.parametrize(
    ("height", "width", "short_side", "size"),
    [(240, 320, 256, (256, 341)), (320, 240, 256, (341, 256)), (1080, 1920, 224, (224, 398)), (50, 50, 64, (64, 64))],
)
def test_short_side_size(height: int, width: int, short_side: int, size: tuple[int, int]) -> None:
    assert transforms.short_side_size(height, width, short_side) == size


def test_the_decoders_size_is_reached_from_above_with_a_filter_and_from_below() -> None:
    transform = TrainTransform(crop_size=21, flip=0.0, decode_short_side=21, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    # A third of the size: without a filter every third stripe is sampled, which is 0 or 255.
    stripes = (torch.arange(63) % 2 * 255).to(torch.uint8).view(1, 1, 63, 1).expand(1, 63, 63, 3).contiguous()
    smaller, _ = transform(stripes, np.random.default_rng(0))
    assert smaller.shape == (1, 21, 21, 3)
    assert (smaller[:, :, 1:-1].float() - 127.5).abs().max() < 20
    assert transform.decoded_size(63, 84) == (21, 28)
    assert transform.decoded_size(21, 28) == (21, 28)
    assert transform.decoded_size(14, 20) == (21, 30)
    assert dataclasses.replace(transform, decode_short_side=None).decoded_size(14, 20) == (14, 20)


def test_smaller_files_are_enlarged_before_randaugment() -> None:
    """L at 312 from files of short side 256: operations and crop are drawn for, and applied to, frames of 356."""
    spec = "rand-m7-n4-mstd0.5-inc1"
    transform = TrainTransform(crop_size=312, flip=0.0, randaugment=spec, decode_short_side=356)
    frames = make_frames(256, 341)
    enlarged = transforms.resize(frames, 356, 474, antialias=True)
    # Where pictures grow, antialiasing changes nothing but roundings.
    plain = transforms.resize(frames, 356, 474)
    assert (enlarged.short() - plain.short()).abs().max() <= 1
    for seed in range(3):
        rng = np.random.default_rng(seed)
        ops = RandAugment(spec).draw(rng, 356, 474)
        top, left, height, width = transforms.random_resized_crop_box(356, 474, rng=rng, **KINETICS)
        augmented = RandAugment(spec).apply(enlarged, ops)
        expected = transforms.resize(augmented[:, top : top + height, left : left + width], 312, 312)
        assert torch.equal(transform(frames, np.random.default_rng(seed))[0], expected)


def test_files_of_the_decoders_size_stay_as_they_are() -> None:
    frames = make_frames(256, 320)
    draw = TrainTransform(crop_size=224, decode_short_side=256).draw(256, 320, np.random.default_rng(0))
    as_decoded = TrainTransform(crop_size=224).draw(256, 320, np.random.default_rng(0))
    assert draw == as_decoded
    assert torch.equal(transforms.apply_view(frames, draw), transforms.apply_view(frames, as_decoded))


@pytest.mark.parametrize("crop", ["resized", "jitter"])
def test_bgr_swaps_channels_around_randaugment_and_nowhere_else(crop: transforms.CropKind) -> None:
    frames = make_frames(48, 64)
    options = {"crop_size": 24, "crop": crop, "jitter": (30, 40), "randaugment": "rand-m7-n4-mstd0.5-inc1"}
    rgb, bgr = (TrainTransform(**options, channel_order=order) for order in ("rgb", "bgr"))  # type: ignore[arg-type]
    names = set()
    for seed in range(60):
        draw = bgr.draw(48, 64, np.random.default_rng(seed))
        assert draw == dataclasses.replace(rgb.draw(48, 64, np.random.default_rng(seed)), bgr=True)
        one, other = (transform(frames, np.random.default_rng(seed))[0] for transform in (rgb, bgr))
        assert torch.equal(other, rgb(frames.flip(3), np.random.default_rng(seed))[0].flip(3))
        weighs = [op.name for op in draw.ops if op.name in ("ColorIncreasing", "ContrastIncreasing")]
        names |= set(weighs)
        assert bool(weighs) or torch.equal(one, other)
    assert names == {"ColorIncreasing", "ContrastIncreasing"}


def test_color_and_contrast_see_other_greys_in_bgr() -> None:
    """A saturated picture: red weighs 0.299 of the grey as R, and 0.114 as what is taken for B."""
    frames = torch.tensor([200, 40, 10], dtype=torch.uint8).expand(1, 8, 8, 3).contiguous()
    view = {"decoded": (8, 8), "scaled": (8, 8), "box": (0, 0, 8, 8), "crop_size": 8, "flip": False, "erase": (0,) * 4}
    for name, as_rgb, as_bgr in (("Color", [84, 84, 84], [49, 49, 49]), ("Contrast", [84, 84, 84], [49, 49, 49])):
        op = OpDraw(name=name, magnitude=0.0, argument=0.0)
        rgb, bgr = (
            transforms.apply_view(frames, transforms.ViewDraw(**view, ops=(op,), bgr=swap))  # type: ignore[arg-type]
            for swap in (False, True)
        )
        assert (rgb[0, 0, 0].tolist(), bgr[0, 0, 0].tolist()) == (as_rgb, as_bgr)


# Test views


@pytest.mark.parametrize(
    ("height", "width", "position", "box"),
    [
        (224, 300, 0, (0, 0, 224, 224)),
        (224, 301, 1, (0, 39, 224, 224)),  # half of 77 rounds up
        (224, 300, 2, (0, 76, 224, 224)),
        (301, 224, 0, (0, 0, 224, 224)),
        (301, 224, 1, (39, 0, 224, 224)),
        (301, 224, 2, (77, 0, 224, 224)),
        (256, 341, 1, (16, 59, 224, 224)),
        (256, 341, 2, (16, 117, 224, 224)),
    ],
)
def test_uniform_crop_literals(height: int, width: int, position: int, box: tuple[int, ...]) -> None:
    assert transforms.uniform_crop_box(height, width, size=224, position=position) == box


def test_uniform_crop_agrees_with_pytorchvideo() -> None:
    functional = import_pytorchvideo("transforms.functional")
    for height, width in ((31, 45), (45, 31), (40, 40), (32, 33)):
        frames = make_frames(height, width, num_frames=2)
        for view in range(3):
            expected = functional.uniform_crop(frames.permute(3, 0, 1, 2), 30, view).permute(1, 2, 3, 0)
            top, left, _, _ = transforms.uniform_crop_box(height, width, size=30, position=view)
            assert torch.equal(frames[:, top : top + 30, left : left + 30], expected)


def test_three_views_lie_along_the_longer_side() -> None:
    for axis, (height, width) in enumerate([(100, 40), (40, 100)]):
        frames = ramp_frames(height, width, axis=axis)
        firsts = []
        for view in range(3):
            out = transforms.test_view(frames, short_side=40, crop_size=40, spatial_view=view, num_spatial=3)
            assert out.shape == (1, 40, 40, 3)
            assert out.is_contiguous()
            firsts.append(int(out[0, 0, 0, 0]))
        assert firsts == [0, 30, 60]


def test_one_view_is_the_centre_of_the_resized_frame() -> None:
    frames = make_frames(48, 64)
    out = transforms.test_view(frames, short_side=32, crop_size=28, spatial_view=0, num_spatial=1)
    resized = transforms.resize(frames, 32, 42)
    assert torch.equal(out, resized[:, 2:30, 7:35])


def test_views_that_do_not_exist_are_refused() -> None:
    frames = make_frames()
    with pytest.raises(ValueError, match=r"crop_size=224 is larger than short_side=200.*raise short_side"):
        transforms.test_view(frames, short_side=200, crop_size=224, spatial_view=0, num_spatial=1)
    with pytest.raises(ValueError, match=r"num_spatial=2: test clips have 1 or 3 spatial views"):
        transforms.test_view(frames, short_side=32, crop_size=32, spatial_view=0, num_spatial=2)
    with pytest.raises(ValueError, match=r"spatial_view=3: views run from 0 to 2"):
        transforms.test_view(frames, short_side=32, crop_size=32, spatial_view=3, num_spatial=3)
    with pytest.raises(ValueError, match=r"torch\.float32: pass uint8 \(T, H, W, 3\)"):
        transforms.test_view(frames.float(), short_side=32, crop_size=32, spatial_view=0, num_spatial=1)


# Training


def test_resized_crop_follows_its_draws() -> None:
    frames = make_frames()
    clip, box = TrainTransform(crop_size=24, flip=0.0)(frames, np.random.default_rng(5))
    top, left, height, width = transforms.random_resized_crop_box(48, 64, rng=np.random.default_rng(5), **KINETICS)
    assert torch.equal(clip, transforms.resize(frames[:, top : top + height, left : left + width], 24, 24))
    assert (clip.shape, clip.dtype, clip.is_contiguous()) == ((3, 24, 24, 3), torch.uint8, True)
    assert box == (0, 0, 0, 0)


def test_jitter_crop_resizes_the_short_side_and_cuts_a_square() -> None:
    frames = make_frames(48, 64)
    transform = TrainTransform(crop_size=32, crop="jitter", jitter=(40, 40), flip=0.0)
    resized = transforms.resize(frames, 40, 53)
    windows = resized.unfold(1, 32, 1).unfold(2, 32, 1)  # (T, 9, 22, 3, 32, 32)
    seen = set()
    for seed in range(40):
        clip, _ = transform(frames, np.random.default_rng(seed))
        matches = (windows == clip.permute(0, 3, 1, 2)[:, None, None]).all(-1).all(-1).all(-1).all(0).nonzero()
        assert len(matches) == 1
        seen.add(tuple(matches[0].tolist()))
    rows, columns = zip(*seen)
    assert len(seen) > 25
    assert min(rows) == 0
    assert max(rows) == 8
    assert max(columns) > 15


def test_a_clip_as_large_as_the_frame_needs_no_resize() -> None:
    frames = make_frames(32, 32)
    transform = TrainTransform(crop_size=32, crop="jitter", jitter=(32, 32), flip=0.0)
    assert torch.equal(transform(frames, np.random.default_rng(0))[0], frames)


def test_flip_is_one_draw_per_clip() -> None:
    frames = make_frames(32, 32)
    transform = TrainTransform(crop_size=32, crop="jitter", jitter=(32, 32), flip=0.5)
    flipped = 0
    for seed in range(200):
        clip, _ = transform(frames, np.random.default_rng(seed))
        assert torch.equal(clip, frames) or torch.equal(clip, frames.flip(2))
        flipped += not torch.equal(clip, frames)
    assert 70 < flipped < 130
    always = dataclasses.replace(transform, flip=1.0)
    assert torch.equal(always(frames, np.random.default_rng(0))[0], frames.flip(2))


def test_randaugment_runs_on_frames_of_the_decoders_size_before_the_crop() -> None:
    frames = make_frames(96, 128)
    spec = "rand-m7-n4-mstd0.5-inc1"
    transform = TrainTransform(crop_size=24, flip=0.0, randaugment=spec, decode_short_side=48)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        decoded = transforms.resize(frames, 48, 64, antialias=True)
        augment = RandAugment(spec)
        augmented = augment.apply(decoded, augment.draw(rng, 48, 64))
        top, left, height, width = transforms.random_resized_crop_box(48, 64, rng=rng, **KINETICS)
        expected = transforms.resize(augmented[:, top : top + height, left : left + width], 24, 24)
        assert torch.equal(transform(frames, np.random.default_rng(seed))[0], expected)


def test_a_draw_is_plain_numbers_and_applies_anywhere() -> None:
    frames = make_frames(60, 80)
    subject = transforms.TrainTransform(
        crop_size=32, randaugment="rand-m7-n4-mstd0.5-inc1", decode_short_side=48, erase_prob=1.0
    )
    flips = set()
    for seed in range(12):
        draw = subject.draw(60, 80, np.random.default_rng(seed))
        assert draw.decoded == draw.scaled == (48, 64)
        top, left, height, width = draw.box
        assert 0 <= top <= top + height <= 48
        assert 0 <= left <= left + width <= 64
        assert draw == pickle.loads(pickle.dumps(draw)) == subject.draw(60, 80, np.random.default_rng(seed))
        clip, erase = subject(frames, np.random.default_rng(seed))
        assert torch.equal(transforms.apply_view(frames, draw), clip)
        assert draw.erase == erase
        mirrored = transforms.apply_view(frames, dataclasses.replace(draw, flip=not draw.flip))
        assert torch.equal(mirrored, clip.flip(2))
        flips.add(draw.flip)
    assert flips == {True, False}
    jitter = transforms.TrainTransform(crop_size=32, crop="jitter", jitter=(40, 40)).draw(
        60, 80, np.random.default_rng(0)
    )
    assert (jitter.decoded, jitter.scaled, jitter.box[2:], jitter.ops) == ((60, 80), (40, 53), (32, 32), ())


def test_a_view_depends_on_the_generator_alone() -> None:
    frames = make_frames()
    before = frames.clone()
    transform = TrainTransform(crop_size=24, randaugment="rand-m7-n4-mstd0.5-inc1", erase_prob=0.5)
    first = [transform(frames, np.random.default_rng(seed)) for seed in range(6)]
    second = [transform(frames, np.random.default_rng(seed)) for seed in range(6)]
    for (clip, box), (clip_again, box_again) in zip(first, second):
        assert torch.equal(clip, clip_again)
        assert box == box_again
    assert not torch.equal(first[0][0], first[1][0])
    assert torch.equal(frames, before)
    assert len({box for _, box in first}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_size": 0}, r"crop_size=0: must be at least 1 pixel"),
        ({"crop": "center"}, r"crop='center': use 'resized'"),
        ({"scale": (0.5, 0.1)}, r"scale=\(0\.5, 0\.1\): a range needs 0 < low <= high"),
        ({"scale": (0.5, 1.5)}, r"scale=\(0\.5, 1\.5\): a crop is at most the whole frame"),
        ({"ratio": (0.0, 1.0)}, r"ratio=\(0\.0, 1\.0\): a range"),
        ({"crop": "jitter", "jitter": (200, 300)}, r"jitter=\(200, 300\) with crop_size=224.*raise the lower end"),
        ({"flip": 1.1}, r"flip=1\.1: a probability"),
        ({"erase_prob": -0.1}, r"erase_prob=-0\.1: a probability"),
        ({"randaugment": "rand-x1"}, r"section 'x1' is not known"),
        ({"decode_short_side": 0}, r"decode_short_side=0: must be at least 1 pixel"),
        ({"channel_order": "brg"}, r"channel_order='brg': use 'rgb', or 'bgr' as the published SSv2"),
    ],
)
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainTransform(**({"crop_size": 224} | change))


def test_frames_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frames \(3, 48, 64\) of torch\.uint8: pass uint8 \(T, H, W, 3\)"):
        TrainTransform(crop_size=24)(make_frames()[..., 0], np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"frames \(0, 48, 64, 3\)"):
        TrainTransform(crop_size=24)(make_frames()[:0], np.random.default_rng(0))


# Normalisation


def test_normalisation_literals_and_layout() -> None:
    clips = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 1, 3).expand(2, 4, 5, 6, 3)
    out = transforms.normalize_clips(clips, mean=(0.5, 0.2, 0.4), std=(0.5, 0.1, 0.3))
    assert (out.shape, out.dtype, out.is_contiguous()) == ((2, 3, 4, 5, 6), torch.float32, True)
    torch.testing.assert_close(out[1, :, 2, 3, 4], torch.tensor([-1.0, 0.0, 2.0]))


def test_normalisation_keeps_frames_rows_and_columns_in_place() -> None:
    clips = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = transforms.normalize_clips(clips, mean=(0.45,) * 3, std=(0.225,) * 3)
    torch.testing.assert_close(out[1, 2, 0, 3, 4], (clips[1, 0, 3, 4, 2] / 255 - 0.45) / 0.225)


def test_bgr_reverses_the_statistics_and_not_the_channels() -> None:
    clips = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 1, 1, 1, 3)
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    rgb = transforms.normalize_clips(clips, **imagenet).flatten()
    bgr = transforms.normalize_clips(clips, **imagenet, channel_order="bgr").flatten()
    torch.testing.assert_close(rgb, torch.tensor([0.515 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    torch.testing.assert_close(bgr, torch.tensor([0.594 / 0.225, -0.456 / 0.224, -0.485 / 0.229]))


def test_boxes_are_filled_with_noise_of_the_clips_own_seed() -> None:
    clips = torch.full((3, 4, 40, 50, 3), 128, dtype=torch.uint8)
    statistics = {"mean": (0.45,) * 3, "std": (0.225,) * 3}
    erase = torch.tensor([[5, 10, 20, 30], [0, 0, 0, 0], [5, 10, 20, 30]], dtype=torch.int32)
    plain = transforms.normalize_clips(clips, **statistics)
    out = transforms.normalize_clips(clips, **statistics, erase=erase, noise_seeds=torch.tensor([7, 8, 9]))
    outside = torch.ones(40, 50, dtype=torch.bool)
    outside[5:25, 10:40] = False
    assert torch.equal(out[0][..., outside], plain[0][..., outside])
    assert torch.equal(out[1], plain[1])
    noise = out[0, :, :, 5:25, 10:40]
    assert noise.mean() == pytest.approx(0.0, abs=0.05)
    assert noise.std() == pytest.approx(1.0, abs=0.05)
    assert not torch.equal(noise[:, 0], noise[:, 1])  # fresh for every frame
    assert not torch.equal(noise, out[2, :, :, 5:25, 10:40])
    # The same clip alone, or elsewhere in a batch, gets the same noise.
    alone = transforms.normalize_clips(clips[2:], **statistics, erase=erase[2:], noise_seeds=torch.tensor([9]))
    assert torch.equal(alone[0], out[2])


def test_normalisation_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    transforms.normalize_clips(
        torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8),
        mean=(0.45,) * 3,
        std=(0.225,) * 3,
        erase=torch.tensor([[0, 0, 4, 4]], dtype=torch.int32),
        noise_seeds=torch.tensor([1]),
    )
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bad_normalisation_is_refused() -> None:
    clips = torch.zeros(2, 2, 8, 8, 3, dtype=torch.uint8)
    good = {"mean": (0.45,) * 3, "std": (0.225,) * 3}
    with pytest.raises(ValueError, match=r"of torch\.float32: pass uint8 \(B, T, H, W, 3\)"):
        transforms.normalize_clips(clips.float(), **good)
    with pytest.raises(ValueError, match=r"mean=\[0\.5\].*three numbers each"):
        transforms.normalize_clips(clips, mean=(0.5,), std=(0.2,) * 3)
    with pytest.raises(ValueError, match=r"std above 0"):
        transforms.normalize_clips(clips, mean=(0.5,) * 3, std=(0.2, 0.0, 0.2))
    with pytest.raises(ValueError, match=r"channel_order='gbr': use 'rgb'"):
        transforms.normalize_clips(clips, **good, channel_order="gbr")
    with pytest.raises(ValueError, match=r"noise_seeds None for 2 clips: pass one box of four numbers and one seed"):
        transforms.normalize_clips(clips, **good, erase=torch.zeros(2, 4, dtype=torch.int32))
