"""RandAugment: the configuration string, the draws, and every operation against Pillow."""

import math
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps

from mvit_video.data.augmentation import randaugment
from mvit_video.data.augmentation.image_ops import any_layout, reach
from mvit_video.data.augmentation.randaugment import (
    INCREASING_OPS,
    OPS,
    OpDraw,
    RandAugment,
    RandAugmentSpec,
    apply_ops,
    op_argument,
    parse_spec,
)
from mvit_video.interop.pytorchvideo import import_pytorchvideo

PUBLISHED = "rand-m7-n4-mstd0.5-inc1"
HEIGHT, WIDTH = 61, 84


def make_clip(kind: str, num_frames: int = 3) -> torch.Tensor:
    """uint8 (T, H, W, 3): noise, or smooth blobs in a limited range of grey levels."""
    generator = torch.Generator().manual_seed(0)
    if kind == "noisy":
        return torch.randint(0, 256, (num_frames, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=generator)
    coarse = torch.rand(num_frames, 3, 5, 6, generator=generator)
    smooth = F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic").clamp(0, 1) * 180 + 30
    return smooth.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def affine_with_pillow(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=(128, 128, 128)
    )


PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
    "Rotate": lambda image, a: image.rotate(a, resample=Image.Resampling.BICUBIC, fillcolor=(128, 128, 128)),
    # ImageOps.posterize with 0 bits: every value becomes 0.
    "Posterize": lambda image, a: image.point(lambda value: value & ~(2 ** (8 - int(a)) - 1)),
    "Solarize": lambda image, a: ImageOps.solarize(image, int(a)),
    "SolarizeAdd": lambda image, a: image.point([min(255, i + int(a)) if i < 128 else i for i in range(256)] * 3),
    "Color": lambda image, a: ImageEnhance.Color(image).enhance(a),
    "Contrast": lambda image, a: ImageEnhance.Contrast(image).enhance(a),
    "Brightness": lambda image, a: ImageEnhance.Brightness(image).enhance(a),
    "Sharpness": lambda image, a: ImageEnhance.Sharpness(image).enhance(a),
    "ShearX": lambda image, a: affine_with_pillow(image, (1, a, 0, 0, 1, 0)),
    "ShearY": lambda image, a: affine_with_pillow(image, (1, 0, 0, a, 1, 0)),
    "TranslateXRel": lambda image, a: affine_with_pillow(image, (1, 0, a, 0, 1, 0)),
    "TranslateYRel": lambda image, a: affine_with_pillow(image, (1, 0, 0, 0, 1, a)),
}


@pytest.mark.parametrize("kind", ["noisy", "smooth"])
@pytest.mark.parametrize("name", sorted({*OPS, *INCREASING_OPS}))
def test_operation_agrees_with_pillow(name: str, kind: str) -> None:
    frames = make_clip(kind)
    augment = RandAugment(PUBLISHED)
    for magnitude in (0.0, 3.3, 7.0, 10.0):
        for sign in (1, -1):
            argument = op_argument(name, magnitude=magnitude, sign=sign, height=HEIGHT, width=WIDTH)
            got = augment.apply(frames, [OpDraw(name=name, magnitude=magnitude, argument=argument)])
            reference = PILLOW[name.removesuffix("Increasing")]
            images = [reference(Image.fromarray(frame.numpy()), argument) for frame in frames]
            expected = torch.stack([torch.from_numpy(np.array(image)) for image in images])
            difference = (got.int() - expected.int()).abs()
            assert difference.max() <= 1, (name, magnitude, sign)
            # Far inside one grey level on average: rounding at the border of two levels is all that may differ.
            assert difference.double().mean() <= 0.05, (name, magnitude, sign)


def test_bilinear_geometry_agrees_with_pillow() -> None:
    frames = make_clip("noisy")
    got = RandAugment(PUBLISHED, fill=7, interpolation="bilinear").apply(
        frames, [OpDraw(name="Rotate", magnitude=5.0, argument=-15.0)]
    )
    for frame, output in zip(frames, got):
        image = Image.fromarray(frame.numpy()).rotate(-15.0, resample=Image.Resampling.BILINEAR, fillcolor=(7, 7, 7))
        assert np.abs(np.array(image).astype(int) - output.numpy().astype(int)).max() <= 1
    assert output[0, 0].tolist() == [7, 7, 7]


def test_long_clips_go_through_the_geometry_in_parts() -> None:
    frames = make_clip("noisy", num_frames=35)
    draw = [OpDraw(name="ShearX", magnitude=5.0, argument=0.15)]
    augment = RandAugment(PUBLISHED)
    whole = augment.apply(frames, draw)
    for i in (0, 15, 16, 34):
        assert torch.equal(whole[i], augment.apply(frames[i : i + 1], draw)[0])


def test_operations_are_chained_in_order_and_leave_the_input_alone() -> None:
    frames = make_clip("smooth")
    before = frames.clone()
    augment = RandAugment(PUBLISHED)
    solarize = OpDraw(name="SolarizeIncreasing", magnitude=6.0, argument=103)
    invert = OpDraw(name="Invert", magnitude=7.0, argument=0.0)
    both = augment.apply(frames, [solarize, invert])
    assert torch.equal(both, augment.apply(augment.apply(frames, [solarize]), [invert]))
    assert not torch.equal(both, augment.apply(frames, [invert, solarize]))
    assert torch.equal(frames, before)
    assert augment.apply(frames, []) is frames
    for name in sorted({*OPS, *INCREASING_OPS}):
        argument = op_argument(name, magnitude=8.0, sign=1, height=HEIGHT, width=WIDTH)
        augmented = augment.apply(frames, [OpDraw(name=name, magnitude=8.0, argument=argument)])
        assert torch.equal(frames, before), name
        assert augmented.dtype == torch.uint8
        assert augmented.is_contiguous()


def test_identical_frames_stay_identical() -> None:
    frames = make_clip("noisy", num_frames=1).expand(4, -1, -1, -1)
    augment = RandAugment("rand-m9-n6-mstd0.5-inc1")
    for seed in range(8):
        out = augment.apply(frames, augment.draw(np.random.default_rng(seed), HEIGHT, WIDTH))
        assert all(torch.equal(out[0], frame) for frame in out)


def test_flat_and_tiny_frames_survive_every_operation() -> None:
    augment = RandAugment(PUBLISHED)
    for shape in ((1, 8, 8, 3), (2, 1, 1, 3), (1, 2, 5, 3)):
        frames = torch.full(shape, 77, dtype=torch.uint8)
        for name in INCREASING_OPS:
            argument = op_argument(name, magnitude=7.0, sign=1, height=shape[1], width=shape[2])
            assert augment.apply(frames, [OpDraw(name=name, magnitude=7.0, argument=argument)]).shape == shape


@pytest.mark.parametrize(
    ("name", "magnitude", "sign", "argument"),
    [
        ("Rotate", 7.0, -1, -21.0),
        ("ShearX", 5.0, 1, 0.15),
        ("TranslateXRel", 10.0, -1, -0.45 * 340),
        ("TranslateYRel", 10.0, 1, 0.45 * 256),
        ("Posterize", 7.0, 1, 2),
        ("PosterizeIncreasing", 7.0, 1, 2),
        ("PosterizeIncreasing", 10.0, 1, 0),
        ("Posterize", 10.0, 1, 4),
        ("Solarize", 7.0, 1, 179),
        ("SolarizeIncreasing", 7.0, 1, 77),
        ("SolarizeAdd", 7.0, 1, 77),
        ("Color", 7.0, 1, 1.36),
        ("ColorIncreasing", 7.0, 1, 1.63),
        ("SharpnessIncreasing", 10.0, -1, 0.1),
        ("Invert", 7.0, 1, 0.0),
    ],
)
def test_magnitudes_become_arguments_as_in_timm(name: str, magnitude: float, sign: int, argument: float) -> None:
    got = op_argument(name, magnitude=magnitude, sign=sign, height=256, width=340)
    assert got == pytest.approx(argument, abs=1e-9)


def test_ranges_agree_with_pytorchvideo() -> None:
    published = import_pytorchvideo("transforms.rand_augment")._TRANSFORM_RANDAUG_MAX_PARAMS
    names = {"AdjustBrightness": "BrightnessIncreasing", "AdjustContrast": "ContrastIncreasing"}
    names |= {"AdjustSaturation": "ColorIncreasing", "AdjustSharpness": "SharpnessIncreasing", "Rotate": "Rotate"}
    names |= {"ShearX": "ShearX", "ShearY": "ShearY", "TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel"}
    for theirs, ours in names.items():
        base, reach = published[theirs]
        for magnitude in (0.0, 4.0, 10.0):
            got = op_argument(ours, magnitude=magnitude, sign=-1, height=1, width=1)
            assert got == pytest.approx(base - magnitude / 10 * reach), ours


def test_draws_have_the_published_distribution() -> None:
    augment = RandAugment(PUBLISHED)
    rng = np.random.default_rng(0)
    clips = [augment.draw(rng, 256, 340) for _ in range(5000)]
    # Four draws, each applied with probability one half.
    lengths = Counter(len(draws) for draws in clips)
    for length in range(5):
        assert lengths[length] / 5000 == pytest.approx(math.comb(4, length) / 16, abs=0.03)
    draws = [draw for clip in clips for draw in clip]
    names = Counter(draw.name for draw in draws)
    assert set(names) == set(INCREASING_OPS)
    for name in INCREASING_OPS:  # standard error 0.0025
        assert names[name] / len(draws) == pytest.approx(1 / 15, abs=0.011), name
    # With replacement: some clips hold an operation twice.
    assert any(len({draw.name for draw in clip}) < len(clip) for clip in clips)
    magnitudes = np.array([draw.magnitude for draw in draws])
    assert magnitudes.mean() == pytest.approx(7.0, abs=0.03)
    assert magnitudes.std() == pytest.approx(0.5, abs=0.02)
    for name, neutral in (("Rotate", 0.0), ("ShearX", 0.0), ("TranslateYRel", 0.0), ("ColorIncreasing", 1.0)):
        arguments = np.array([draw.argument for draw in draws if draw.name == name])
        assert (arguments > neutral).mean() == pytest.approx(0.5, abs=0.08), name


def published_draw(generator: random.Random, magnitude: float, std: float, number: int) -> list[tuple[str, float]]:
    """timm's algorithm, as its documentation and the paper describe it, in our own words: with replacement, each drawn
    operation is applied with probability 0.5, with a magnitude from a clipped normal distribution, and a random sign
    where it has a direction. Returns the operations applied and their arguments."""
    signed = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel", "ColorIncreasing")
    signed += ("ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing")
    reach = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45 * 340, "TranslateYRel": 0.45 * 256}
    applied = []
    for name in generator.choices(INCREASING_OPS, k=number):
        if generator.random() > 0.5:
            continue
        level = min(10.0, max(0.0, generator.gauss(magnitude, std))) / 10
        argument = 0.0
        if name in signed:
            sign = -1 if generator.random() > 0.5 else 1
            argument = sign * level * reach[name] if name in reach else 1.0 + sign * level * 0.9
        elif name == "PosterizeIncreasing":
            argument = 4 - int(level * 4)
        elif name == "SolarizeIncreasing":
            argument = 256 - int(level * 256)
        elif name == "SolarizeAdd":
            argument = int(level * 110)
        applied.append((name, float(argument)))
    return applied


def test_draws_follow_the_published_algorithm() -> None:
    """Chi-square of (operation, direction) counts, and the quantiles of each operation's arguments."""
    generator, rng, augment = random.Random(1), np.random.default_rng(1), RandAugment(PUBLISHED)
    theirs = [op for _ in range(6000) for op in published_draw(generator, 7.0, 0.5, 4)]
    ours = [(d.name, float(d.argument)) for _ in range(6000) for d in augment.draw(rng, 256, 340)]
    assert len(ours) == pytest.approx(len(theirs), rel=0.03)
    middle = {name: 1.0 if name in ("ColorIncreasing", "ContrastIncreasing") else 0.0 for name in INCREASING_OPS}
    middle |= {"BrightnessIncreasing": 1.0, "SharpnessIncreasing": 1.0}
    counts = [Counter((name, argument > middle[name]) for name, argument in draws) for draws in (ours, theirs)]
    assert counts[0].keys() == counts[1].keys()
    assert len(counts[0]) == 9 * 2 + 6
    chi_square = sum((counts[0][key] - counts[1][key]) ** 2 / (counts[0][key] + counts[1][key]) for key in counts[0])
    assert chi_square < 45  # 23 degrees of freedom: 0.4 % of such pairs lie above
    for name in INCREASING_OPS:
        one, other = (np.array([argument for drawn, argument in draws if drawn == name]) for draws in (ours, theirs))
        spread = max(float(np.ptp(other)), 1e-9)
        for share in (0.1, 0.25, 0.75, 0.9):
            assert np.quantile(one, share) == pytest.approx(np.quantile(other, share), abs=0.05 * spread), name


def test_magnitudes_are_clipped_and_may_be_fixed() -> None:
    rng = np.random.default_rng(0)
    wide = [d.magnitude for _ in range(300) for d in RandAugment("rand-m9-n2-mstd3").draw(rng, 64, 64)]
    assert max(wide) == 10.0
    assert min(wide) >= 0.0
    fixed = [d.magnitude for _ in range(50) for d in RandAugment("rand-m9-n2").draw(rng, 64, 64)]
    assert set(fixed) == {9.0}


def test_draw_depends_on_the_generator_alone() -> None:
    augment = RandAugment(PUBLISHED)
    first = [augment.draw(np.random.default_rng(seed), 64, 80) for seed in range(30)]
    assert first == [RandAugment(PUBLISHED).draw(np.random.default_rng(seed), 64, 80) for seed in range(30)]
    assert len({str(draws) for draws in first}) > 20


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        (PUBLISHED, RandAugmentSpec(magnitude=7, num_ops=4, magnitude_std=0.5, increasing=True)),
        ("rand-inc1-mstd0.5-n6-m9", RandAugmentSpec(magnitude=9, num_ops=6, magnitude_std=0.5, increasing=True)),
        ("rand", RandAugmentSpec(magnitude=10, num_ops=2, magnitude_std=0.0, increasing=False)),
        ("rand-m0-inc0", RandAugmentSpec(magnitude=0, num_ops=2, magnitude_std=0.0, increasing=False)),
    ],
)
def test_configuration_strings(text: str, spec: RandAugmentSpec) -> None:
    assert parse_spec(text) == spec


def test_inc_chooses_the_list_of_operations() -> None:
    assert len(OPS) == len(INCREASING_OPS) == 15
    assert "Posterize" in parse_spec("rand-inc0").ops
    assert "PosterizeIncreasing" in parse_spec("rand-inc1").ops


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("augmix-m5", r"'augmix-m5': the string must start with 'rand'"),
        ("", r"must start with 'rand'"),
        ("rand-m7-w0", r"section 'w0' is not known; use m<0\.\.10>"),
        ("rand-m7--n4", r"section '' is not known"),
        ("rand-m7.5", r"section 'm7\.5' is not known"),
        ("rand-mstd", r"section 'mstd' is not known"),
        ("rand-m7-m8", r"section 'm' occurs twice"),
        ("rand-m11", r"magnitude m11 is too large; use m0 to m10"),
        ("rand-n0", r"n0 draws nothing"),
        ("rand-inc2", r"inc2 must be inc0 or inc1"),
    ],
)
def test_malformed_configuration_strings(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_spec(text)


def test_bad_settings_and_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fill=300: a grey level lies in 0\.\.255"):
        RandAugment(PUBLISHED, fill=300)
    with pytest.raises(ValueError, match=r"interpolation='nearest': use 'bicubic'"):
        RandAugment(PUBLISHED, interpolation="nearest")
    with pytest.raises(ValueError, match=r"of torch\.float32: RandAugment takes uint8"):
        RandAugment(PUBLISHED).apply(torch.zeros(2, 8, 8, 3), [])
    with pytest.raises(ValueError, match=r"operation 'Blur' is not known"):
        op_argument("Blur", magnitude=1.0, sign=1, height=8, width=8)


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("TranslateYRel", 20.0, (47, 30, 14, 20)),  # rows 50 to 57, and those a filter of four taps may touch
        ("TranslateXRel", -60.0, (30, 0, 8, 1)),  # all from outside of the frame: the least that there is to have
        ("TranslateXRel", 0.0, (30, 30, 8, 20)),
        ("ShearX", 0.2, (30, 33, 8, 28)),
        ("ShearY", -0.5, (2, 30, 24, 20)),
        ("Sharpness", 1.5, (29, 29, 10, 22)),
        ("Invert", 0.0, (30, 30, 8, 20)),
        ("Contrast", 0.5, (0, 0, 100, 120)),
    ],
)
def test_operations_read_no_more_than_they_need(
    name: str, argument: float, expected: tuple[int, int, int, int]
) -> None:
    assert reach(name, argument, (30, 30, 8, 20), 100, 120) == expected


def test_a_rotation_reads_the_part_that_it_turns() -> None:
    # Counter-clockwise about the middle: what comes to the top was at the right.
    assert reach("Rotate", 90.0, (0, 50, 20, 20), 100, 120) == (37, 87, 26, 26)


def test_operations_on_single_values_need_no_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And give the same when others, between which the clip is turned, come with them."""
    frames = make_clip("noisy")
    names = [name for name in sorted({*OPS, *INCREASING_OPS}) if any_layout(name)]
    assert len(names) == 8
    draws = [
        OpDraw(name=name, magnitude=4, argument=op_argument(name, magnitude=4, sign=1, height=HEIGHT, width=WIDTH))
        for name in names
    ]
    nothing = OpDraw(name="ColorIncreasing", magnitude=0, argument=1.0)
    expected = [apply_ops(frames, [draw, nothing], box=(3, 4, 20, 30)) for draw in draws]
    monkeypatch.setattr(randaugment, "_planes", lambda frames: pytest.fail("turned"))
    for draw, result in zip(draws, expected):
        assert torch.equal(apply_ops(frames, [draw], box=(3, 4, 20, 30)), result)
