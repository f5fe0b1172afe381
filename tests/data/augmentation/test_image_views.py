"""The ImageNet pipeline: equal to Pillow, torchvision and timm pixel for pixel, given the same draws."""

import dataclasses
import math
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import timm.data.auto_augment
import timm.data.random_erasing
import timm.data.transforms
import torch
import torchvision.transforms.functional as tv
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval, transforms_imagenet_train

from mvit_video.data.augmentation.clip_views import ClipSource
from mvit_video.data.augmentation.image_ops import _AFFINE, EXACT_BY_PILLOW
from mvit_video.data.augmentation.image_views import (
    ImageTransform,
    Resampling,
    fill_colour,
    image_eval_view,
)
from mvit_video.data.augmentation.randaugment import OpDraw, apply_ops
from mvit_video.data.augmentation.transforms import normalize_clips

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PUBLISHED = ImageTransform(crop_size=64, randaugment="rand-m9-n6-mstd0.5-inc1", erase_prob=0.25)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """uint8 (1, H, W, 3): smooth colours and noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse).astype(int) + rng.integers(-20, 21, (height, width, 3))
    return torch.from_numpy(np.clip(noisy, 0, 255).astype(np.uint8))[None]


class Draws:
    """What timm asks of `random`, drawn from a generator of NumPy in the same order as this project draws."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def randint(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high, endpoint=True))

    def random(self) -> float:
        return float(self.rng.random())

    def gauss(self, mean: float, deviation: float) -> float:
        return float(self.rng.normal(mean, deviation))


@pytest.fixture
def drawing_from(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Lets timm draw from a generator."""

    def use(rng: np.random.Generator) -> None:
        draws = Draws(rng)
        for module in (timm.data.transforms, timm.data.auto_augment, timm.data.random_erasing):
            monkeypatch.setattr(module, "random", draws)
        # A sign: this project's are negative for the lower half of the numbers, timm's for the upper.
        negate = lambda value: -value if draws.random() < 0.5 else value  # noqa: E731
        monkeypatch.setattr(timm.data.auto_augment, "_randomly_negate", negate)
        choice = lambda ops, count, replace, p: [ops[i] for i in rng.integers(len(ops), size=count)]  # noqa: E731
        fake = types.SimpleNamespace(random=types.SimpleNamespace(choice=choice))
        monkeypatch.setattr(timm.data.auto_augment, "np", fake)
        monkeypatch.setattr(torch, "rand", lambda *size, **more: torch.tensor([draws.random()]))

    return use


def test_the_published_pipeline_is_timms_to_the_last_bit(drawing_from: Any) -> None:
    reference = transforms_imagenet_train(
        64,
        auto_augment=PUBLISHED.randaugment,
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        re_prob=0.25,
        re_mode="pixel",
    )
    erased = operations = 0
    for seed in range(60):
        image = picture(50 + seed, 120 - seed, seed)
        draw = PUBLISHED.draw(*image.shape[1:3], np.random.default_rng(seed))
        if any(op.name == "PosterizeIncreasing" and op.argument == 0 for op in draw.ops):
            continue  # Pillow refuses what makes a picture black; see the next test
        drawing_from(np.random.default_rng(seed))
        expected = reference(Image.fromarray(image[0].numpy()))
        got = normalize_clips(draw.finish(draw.begin(image))[None], mean=MEAN, std=STD)[0, :, 0]
        top, left, height, width = draw.erase
        if height:
            erased += 1
            box = expected[:, top : top + height, left : left + width]
            assert 0.8 < box.std() < 1.2  # noise, which is drawn apart
            got[:, top : top + height, left : left + width] = box
        operations += len(draw.ops)
        assert torch.equal(got, expected), (seed, draw)
    assert erased > 5
    assert operations > 120


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateXRel", "TranslateYRel"])
def test_what_slides_is_pillows_to_the_last_bit(name: str) -> None:
    arguments = [0.27, -0.3, 0.25, 1 / 3, -0.0613] if name.startswith("Shear") else [17.3, -40.5, 12.0, 63.999, -200.25]
    for seed, argument in enumerate(arguments):
        for height, width in ((64, 64), (37, 90), (2, 3), (1, 1)):
            smooth = picture(height, width, seed)
            # Few levels and saturated values: most sums then lie on the border of two grey levels.
            for image in (smooth, smooth & 0x80, ((smooth.short() - 128) * 4 + 128).clamp(0, 255).to(torch.uint8)):
                matrix = _AFFINE[name](argument, height, width)
                expected = Image.fromarray(image[0].numpy()).transform(
                    (width, height),
                    Image.Transform.AFFINE,
                    matrix,
                    resample=Image.Resampling.BICUBIC,
                    fillcolor=(124, 116, 104),
                )
                op = OpDraw(name=name, magnitude=9.0, argument=argument)
                got = apply_ops(image, [op], fill=(124, 116, 104), by_pillow=EXACT_BY_PILLOW)[0]
                assert np.array_equal(got.numpy(), np.asarray(expected)), (argument, height, width)


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "TranslateYRel"])
def test_bilinear_is_left_to_pillow(name: str) -> None:
    image = picture(40, 30)
    op = OpDraw(name=name, magnitude=9.0, argument=0.2)
    got = apply_ops(image, [op], interpolation="bilinear", by_pillow=EXACT_BY_PILLOW)[0]
    whole, how = Image.fromarray(image[0].numpy()), {"resample": Image.Resampling.BILINEAR, "fillcolor": (128,) * 3}
    if name == "Rotate":
        expected = whole.rotate(0.2, **how)
    else:
        expected = whole.transform(whole.size, Image.Transform.AFFINE, _AFFINE[name](0.2, 40, 30), **how)
    assert np.array_equal(got.numpy(), np.asarray(expected))


def test_zero_bits_make_a_black_picture() -> None:
    black = apply_ops(
        picture(8, 9), [OpDraw(name="PosterizeIncreasing", magnitude=10.0, argument=0)], by_pillow=EXACT_BY_PILLOW
    )
    assert black.shape == (1, 8, 9, 3)
    assert not black.any()
    names = [op.argument for seed in range(400) for op in PUBLISHED.draw(64, 64, np.random.default_rng(seed)).ops
             if op.name == "PosterizeIncreasing"]  # fmt: skip
    assert 0 < names.count(0) < len(names) / 10


def test_corners_have_the_colour_of_the_mean_on_every_path() -> None:
    assert fill_colour(MEAN) == (124, 116, 104)
    turned = OpDraw(name="Rotate", magnitude=9.0, argument=27.0)
    slid = OpDraw(name="ShearX", magnitude=9.0, argument=0.27)
    moved = OpDraw(name="TranslateYRel", magnitude=9.0, argument=12.0)
    for op, corner in ((turned, (0, 0)), (slid, (-1, -1)), (moved, (-1, 0))):
        for by_pillow in (EXACT_BY_PILLOW, frozenset[str]()):
            out = apply_ops(picture(32, 32), [op], fill=(124, 116, 104), by_pillow=by_pillow)
            assert out[0][corner].tolist() == [124, 116, 104], (op.name, by_pillow)


def test_what_is_not_exact_is_a_grey_level_or_two_off() -> None:
    quick = Resampling(exact=False)
    image = picture(90, 70)
    near = quick.resize(image, 64, 64).int() - Resampling().resize(image, 64, 64).int()
    assert near.abs().max() <= 2
    assert 0 < near.bool().float().mean() < 0.4
    with pytest.raises(ValueError, match=r"box=.*with by_pillow: Pillow is given whole frames"):
        apply_ops(image, [OpDraw(name="Rotate", magnitude=1.0, argument=3.0)], box=(0, 0, 8, 8), by_pillow=["Rotate"])


def test_colour_jitter_is_torchvisions() -> None:
    transform = ImageTransform(crop_size=48, color_jitter=0.4, flip=0.0)
    functions = {"Brightness": tv.adjust_brightness, "Contrast": tv.adjust_contrast, "Color": tv.adjust_saturation}
    orders = set()
    for seed in range(20):
        image = picture(60, 80, seed)
        draw = transform.draw(60, 80, np.random.default_rng(seed))
        orders.add(tuple(op.name for op in draw.ops))
        assert all(0.6 <= op.argument <= 1.4 for op in draw.ops)
        top, left, height, width = draw.box
        whole = Image.fromarray(image[0].numpy())
        expected = tv.resized_crop(whole, top, left, height, width, [48, 48], tv.InterpolationMode.BICUBIC)
        for op in draw.ops:
            expected = functions[op.name](expected, op.argument)
        assert np.array_equal(np.asarray(expected), draw.finish(image)[0].numpy()), seed
    assert len(orders) == math.factorial(3)


@pytest.mark.parametrize("ratio", [0.875, 0.9, 0.95, 1.0, 0.0])
def test_the_test_view_is_torchvisions(ratio: float) -> None:
    mode, pct = ("center", ratio) if ratio else ("squash", 1.0)
    for height, width in ((75, 101), (101, 75), (48, 48), (31, 200), (64, 65), (36, 80), (150, 60)):
        for size in (32, 37):
            reference = transforms_imagenet_eval(
                size, crop_pct=pct, crop_mode=mode, interpolation="bicubic", mean=MEAN, std=STD
            )
            image = picture(height, width)
            view = image_eval_view(height, width, crop_size=size, crop_ratio=ratio)
            got = normalize_clips(ClipSource(image, (view,)).clips(), mean=MEAN, std=STD)[0, :, 0]
            assert torch.equal(got, reference(Image.fromarray(image[0].numpy()))), (height, width, size)


def test_a_flip_swaps_left_and_right_of_the_crop() -> None:
    image = picture(40, 50)
    draw = ImageTransform(crop_size=32, flip=0.0).draw(40, 50, np.random.default_rng(1))
    mirrored = dataclasses.replace(draw, flip=True)
    assert torch.equal(mirrored.finish(image), draw.finish(image).flip(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": 0}, "crop_size=0: must be at least 1 pixel"),
        ({"scale": (0.5, 1.5)}, r"scale=\(0.5, 1.5\): a crop is at most the whole image"),
        ({"ratio": (2.0, 1.0)}, r"ratio=\(2.0, 1.0\): a range needs"),
        ({"flip": 2.0}, "flip=2.0: a probability"),
        ({"color_jitter": -1.0}, "color_jitter=-1.0: must not be negative"),
        ({"randaugment": "rand-x9"}, "section 'x9' is not known"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageTransform(**{"crop_size": 32, **changes})
    with pytest.raises(ValueError, match="interpolation='nearest': must be one of bilinear, bicubic"):
        Resampling(interpolation="nearest")  # type: ignore[arg-type]
