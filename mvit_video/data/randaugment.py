"""RandAugment for clips: one draw of operations per clip, applied to every frame alike.

The policy is the one of timm's configuration strings as PySlowFast uses them (datasets/rand_augment.py; arXiv
1909.13719): `rand-m7-n4-mstd0.5-inc1` draws 4 of 15 operations with replacement, applies each with probability 0.5, and
draws each one's magnitude from N(7, 0.5) clipped to [0, 10].
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

Interpolation = Literal["bilinear", "bicubic"]
Affine = tuple[float, float, float, float, float, float]

MAX_MAGNITUDE = 10.0
APPLY_PROBABILITY = 0.5
_FRAMES_AT_ONCE = 16  # keeps the float copies of a long clip small

_SHARED_FIRST = ("AutoContrast", "Equalize", "Invert", "Rotate")
_SHARED_LAST = ("ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
OPS = (
    *_SHARED_FIRST,
    *("Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast", "Brightness", "Sharpness"),
    *_SHARED_LAST,
)
INCREASING_OPS = (
    *_SHARED_FIRST,
    *("PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd", "ColorIncreasing", "ContrastIncreasing"),
    *("BrightnessIncreasing", "SharpnessIncreasing"),
    *_SHARED_LAST,
)
# Operations whose strength has a direction; the sign is drawn with the magnitude.
_SIGNED = frozenset(
    {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}
    | {"ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"}
)


@dataclass(frozen=True, kw_only=True)
class RandAugmentSpec:
    """What a configuration string says.

    Attributes:
        magnitude: mean magnitude, 0 .. 10 (section m).
        num_ops: operations drawn per clip (section n).
        magnitude_std: standard deviation of the magnitude (section mstd).
        increasing: whether every operation gets stronger with the magnitude (section inc).
    """

    magnitude: int = 10
    num_ops: int = 2
    magnitude_std: float = 0.0
    increasing: bool = False

    @property
    def ops(self) -> tuple[str, ...]:
        """Names of the operations to draw from, all equally likely."""
        return INCREASING_OPS if self.increasing else OPS


@dataclass(frozen=True, kw_only=True)
class OpDraw:
    """One operation to apply to every frame of a clip.

    Attributes:
        name: name of the operation, from OPS or INCREASING_OPS.
        magnitude: the magnitude drawn, 0 .. 10.
        argument: what the operation is called with: degrees (Rotate), a shear factor, pixels (Translate), bits to keep
            (Posterize), a threshold (Solarize), an amount (SolarizeAdd) or an enhancement factor; 0 where it takes
            nothing.
    """

    name: str
    magnitude: float
    argument: float


def parse_spec(spec: str) -> RandAugmentSpec:
    """Read a configuration string such as "rand-m7-n4-mstd0.5-inc1".

    Sections left out keep timm's defaults (m10, n2, mstd0, inc0). `inc0` means the plain operations here; PySlowFast
    takes any `inc` section, `inc0` too, as the increasing ones.

    Raises:
        ValueError: the string, a section or a value is not understood.
    """
    head, *sections = spec.split("-")
    if head != "rand":
        raise ValueError(f"RandAugment {spec!r}: the string must start with 'rand', as in 'rand-m7-n4-mstd0.5-inc1'")
    values: dict[str, str] = {}
    for section in sections:
        match = re.fullmatch(r"(m|n|inc)(\d+)|(mstd)(\d+(?:\.\d+)?)", section)
        if match is None:
            raise ValueError(
                f"RandAugment {spec!r}: section {section!r} is not known; "
                "use m<0..10>, n<count>, mstd<number> and inc<0|1>, as in 'rand-m7-n4-mstd0.5-inc1'"
            )
        key, value = (group for group in match.groups() if group is not None)
        if key in values:
            raise ValueError(f"RandAugment {spec!r}: section {key!r} occurs twice; keep one of them")
        values[key] = value
    magnitude, num_ops, increasing = (
        int(values.get(key, default)) for key, default in (("m", 10), ("n", 2), ("inc", 0))
    )
    if magnitude > MAX_MAGNITUDE:
        raise ValueError(f"RandAugment {spec!r}: magnitude m{magnitude} is too large; use m0 to m10")
    if num_ops < 1:
        raise ValueError(
            f"RandAugment {spec!r}: n{num_ops} draws nothing; use n1 or more, or no RandAugment at all (null)"
        )
    if increasing > 1:
        raise ValueError(f"RandAugment {spec!r}: inc{increasing} must be inc0 or inc1")
    return RandAugmentSpec(
        magnitude=magnitude,
        num_ops=num_ops,
        magnitude_std=float(values.get("mstd", 0.0)),
        increasing=bool(increasing),
    )


class RandAugment:
    """RandAugment of whole clips.

    Args:
        spec: configuration string, see `parse_spec`.
        fill: grey level of the corners that a geometric operation leaves empty.
        interpolation: filter of the geometric operations.

    Raises:
        ValueError: a bad string, grey level or interpolation.
    """

    def __init__(self, spec: str, *, fill: int = 128, interpolation: Interpolation = "bicubic") -> None:
        if not 0 <= fill <= 255:
            raise ValueError(f"fill={fill}: a grey level lies in 0..255; 128 is the published value")
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation={interpolation!r}: use 'bicubic' (published) or 'bilinear'")
        self.spec = parse_spec(spec)
        self.fill = fill
        self.interpolation: Interpolation = interpolation

    def draw(self, rng: np.random.Generator, height: int, width: int) -> list[OpDraw]:
        """The operations for one clip of `height` x `width` pixels, first to last: none to num_ops of them."""
        chosen = rng.integers(len(self.spec.ops), size=self.spec.num_ops)
        draws = []
        for index in chosen:
            if rng.random() >= APPLY_PROBABILITY:
                continue
            name = self.spec.ops[index]
            magnitude = float(np.clip(rng.normal(self.spec.magnitude, self.spec.magnitude_std), 0.0, MAX_MAGNITUDE))
            sign = -1 if name in _SIGNED and rng.random() < 0.5 else 1
            argument = op_argument(name, magnitude=magnitude, sign=sign, height=height, width=width)
            draws.append(OpDraw(name=name, magnitude=magnitude, argument=argument))
        return draws

    def apply(self, frames: torch.Tensor, draws: list[OpDraw]) -> torch.Tensor:
        """Apply the drawn operations to uint8 (T, H, W, 3) frames; `frames` itself comes back if nothing was drawn.

        Raises:
            ValueError: frames of another type or shape.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                f"frames {tuple(frames.shape)} of {frames.dtype}: RandAugment takes uint8 (T, H, W, 3) frames"
            )
        if not draws:
            return frames
        planes = frames.permute(0, 3, 1, 2).contiguous()
        for draw in draws:
            planes = self._apply_op(planes, draw)
        return planes.permute(0, 2, 3, 1).contiguous()

    def _apply_op(self, planes: torch.Tensor, draw: OpDraw) -> torch.Tensor:
        if draw.name in _AFFINE:
            height, width = planes.shape[-2:]
            matrix = _AFFINE[draw.name](draw.argument, height, width)
            return affine(planes, matrix, interpolation=self.interpolation, fill=self.fill)
        return _PIXEL_OPS[draw.name.removesuffix("Increasing")](planes, draw.argument)


def op_argument(name: str, *, magnitude: float, sign: int, height: int, width: int) -> float:
    """What operation `name` is called with at `magnitude` (0 .. 10); `sign`, +1 or -1, counts where it has a direction.

    The ranges are timm's: rotation to 30 degrees, shear to 0.3, translation to 0.45 of the side, enhancement factors
    from 0.1 to 1.9.
    """
    level = magnitude / MAX_MAGNITUDE
    match name:
        case "AutoContrast" | "Equalize" | "Invert":
            return 0.0
        case "Rotate":
            return sign * level * 30.0
        case "ShearX" | "ShearY":
            return sign * level * 0.3
        case "TranslateXRel":
            return sign * level * 0.45 * width
        case "TranslateYRel":
            return sign * level * 0.45 * height
        case "Posterize":
            return int(level * 4)
        case "PosterizeIncreasing":
            return 4 - int(level * 4)
        case "Solarize":
            return int(level * 256)
        case "SolarizeIncreasing":
            return 256 - int(level * 256)
        case "SolarizeAdd":
            return int(level * 110)
        case "Color" | "Contrast" | "Brightness" | "Sharpness":
            return level * 1.8 + 0.1
        case "ColorIncreasing" | "ContrastIncreasing" | "BrightnessIncreasing" | "SharpnessIncreasing":
            return 1.0 + sign * level * 0.9
        case _:
            raise ValueError(f"operation {name!r} is not known; use one of {sorted({*OPS, *INCREASING_OPS})}")


# The operations. They take and give uint8 (T, 3, H, W) planes and agree with Pillow's ImageOps, ImageEnhance and
# Image.transform, which the published recipes were trained with; torchvision's tensor operations differ (bicubic
# filter, rounding). Each frame is its own image: histograms and means are per frame.


def affine(planes: torch.Tensor, matrix: Affine, *, interpolation: Interpolation, fill: int) -> torch.Tensor:
    """Resample every frame at (a x + b y + c, d x + e y + f), pixel centres lying at half integers.

    Every frame reads the same source pixels with the same weights, so the clip is laid out as one table of pixels
    (H W, T 3), and an output pixel is a weighted sum of at most 4 x 4 of its rows.
    """
    height, width = planes.shape[-2:]
    indices, weights, outside = _affine_taps(matrix, height, width, interpolation)
    # Pillow truncates; the sum of float32 weights may be a hair below 1, which must not cost a grey level.
    offset = torch.where(outside, float(fill), 1e-3)[:, None]
    out = torch.empty_like(planes)
    for chunk, target in zip(planes.split(_FRAMES_AT_ONCE), out.split(_FRAMES_AT_ONCE)):
        table = _transposed(chunk.reshape(-1, height * width)).float()
        summed = F.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")
        pixels = summed.add_(offset).clamp_(0, 255).to(torch.uint8)
        target.view(-1, height * width).copy_(_transposed(pixels))
    return out


def _transposed(matrix: torch.Tensor) -> torch.Tensor:
    """A contiguous transpose; of bytes NumPy makes it three times as fast as torch."""
    return torch.from_numpy(np.ascontiguousarray(matrix.numpy().T))


def _affine_taps(
    matrix: Affine, height: int, width: int, interpolation: Interpolation
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For every output pixel: (H W, K) source pixels, their weights, and (H W,) whether it lies outside the source."""
    a, b, c, d, e, f = matrix
    y = torch.arange(height, dtype=torch.float64)[:, None] + 0.5
    x = torch.arange(width, dtype=torch.float64)[None, :] + 0.5
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    outside = (source_x < 0) | (source_x >= width) | (source_y < 0) | (source_y >= height)
    columns, column_weights = _axis_taps(source_x, width, interpolation)
    rows, row_weights = _axis_taps(source_y, height, interpolation)
    row_weights.masked_fill_(outside[..., None], 0)
    indices = rows.mul_(width)[:, :, :, None] + columns[:, :, None, :]
    weights = row_weights[:, :, :, None] * column_weights[:, :, None, :]
    return indices.view(height * width, -1), weights.view(height * width, -1), outside.view(-1)


def _axis_taps(source: torch.Tensor, size: int, interpolation: Interpolation) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 neighbours along one axis, clamped to the frame, and their float32 weights: (H, W, K) each."""
    source = source - 0.5
    first = source.floor()
    t = (source - first).float()
    if not t.any():
        offsets, weights = [0], [torch.ones_like(t)]
    elif interpolation == "bilinear":
        offsets, weights = [0, 1], [1 - t, t]
    else:
        # The cubic convolution kernel with a = -1 of Pillow's Image.transform; torch's bicubic has a = -0.75.
        s = 1 - t
        offsets = [-1, 0, 1, 2]
        weights = [-t * s * s, 1 - 2 * t * t + t * t * t, 1 - 2 * s * s + s * s * s, -s * t * t]
    neighbours = first.int()[..., None] + torch.tensor(offsets, dtype=torch.int32)
    return neighbours.clamp_(0, size - 1), torch.stack(weights, dim=-1)


def auto_contrast(planes: torch.Tensor) -> torch.Tensor:
    """Stretch each channel of each frame to the full range 0 .. 255."""
    low = planes.amin((2, 3)).double()[..., None]
    high = planes.amax((2, 3)).double()[..., None]
    # A scalar divided by a tensor would be rounded twice (reciprocal, then product) and truncate to other levels.
    scale = torch.full_like(low, 255.0) / (high - low).clamp(min=1)
    identity = torch.arange(256, dtype=torch.float64)
    stretched = (identity * scale - low * scale).clamp(0, 255)
    return _look_up(planes, torch.where(high > low, stretched, identity))


def equalize(planes: torch.Tensor) -> torch.Tensor:
    """Flatten the histogram of each channel of each frame."""
    tables = [_equalizing_table(torch.bincount(plane, minlength=256)) for plane in planes.flatten(0, 1).flatten(1)]
    return _look_up(planes, torch.stack(tables).view(*planes.shape[:2], 256))


def _equalizing_table(histogram: torch.Tensor) -> torch.Tensor:
    filled = histogram[histogram > 0]
    step = int(filled.sum() - filled[-1]) // 255
    if step == 0:
        return torch.arange(256)
    below = histogram.cumsum(0) - histogram
    return ((below + step // 2) // step).clamp(max=255)


def posterize(planes: torch.Tensor, bits: int) -> torch.Tensor:
    """Keep the `bits` highest bits of every value."""
    return planes & ((0xFF << (8 - bits)) & 0xFF)


def solarize(planes: torch.Tensor, threshold: int) -> torch.Tensor:
    """Invert every value from `threshold` on."""
    levels = torch.arange(256)
    return _look_up(planes, torch.where(levels < threshold, levels, 255 - levels))


def solarize_add(planes: torch.Tensor, amount: int) -> torch.Tensor:
    """Add `amount` to every value below 128; the result stays at or below 255."""
    levels = torch.arange(256)
    return _look_up(planes, torch.where(levels < 128, (levels + amount).clamp(max=255), levels))


def adjust_brightness(planes: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with black: factor 0 is black, 1 the frame itself."""
    return _look_up(planes, _blend(torch.zeros(1, 1, 1), torch.arange(256.0), factor))


def adjust_contrast(planes: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with the mean grey level of each frame."""
    means = torch.stack([_luma(frame).double().mean() for frame in planes])
    return _look_up(planes, _blend((means + 0.5).floor().float()[:, None, None], torch.arange(256.0), factor))


def adjust_color(planes: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with the grey version of each frame."""
    out = torch.empty_like(planes)
    for frame, target in zip(planes, out):
        target.copy_(_blend(_luma(frame).float(), frame.float(), factor))
    return out


def adjust_sharpness(planes: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with each frame smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the border pixels stay as they are."""
    out = planes.clone()
    if min(planes.shape[-2:]) < 3:
        return out
    for frame, target in zip(planes, out):
        values = frame.float()
        columns = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
        inner = values[:, 1:-1, 1:-1]
        summed = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:] + 4 * inner
        target[:, 1:-1, 1:-1] = _blend(summed.div_(13).add_(0.5).floor_(), inner, factor).to(torch.uint8)
    return out


def _luma(frame: torch.Tensor) -> torch.Tensor:
    """int32 (H, W) grey levels of a (3, H, W) frame: ITU-R 601-2 in Pillow's fixed point."""
    red, green, blue = frame.int()
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _blend(degenerate: torch.Tensor, values: torch.Tensor, factor: float) -> torch.Tensor:
    """degenerate + factor * (values - degenerate) within 0 .. 255, float32; conversion to uint8 truncates as Pillow."""
    return (values - degenerate).mul_(factor).add_(degenerate).clamp_(0, 255)


def _look_up(planes: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Replace every value by its entry in a table; `tables` broadcasts to (T, 3, 256), fractions are cut off."""
    tables = tables.to(torch.uint8).expand(*planes.shape[:2], 256)
    out = torch.empty_like(planes)
    for frame, frame_tables, target in zip(planes, tables, out):
        for plane, table, plane_target in zip(frame, frame_tables, target):
            torch.index_select(table, 0, plane.view(-1).int(), out=plane_target.view(-1))
    return out


_PIXEL_OPS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "AutoContrast": lambda planes, _: auto_contrast(planes),
    "Equalize": lambda planes, _: equalize(planes),
    "Invert": lambda planes, _: 255 - planes,
    "Posterize": lambda planes, bits: posterize(planes, int(bits)),
    "Solarize": lambda planes, threshold: solarize(planes, int(threshold)),
    "SolarizeAdd": lambda planes, amount: solarize_add(planes, int(amount)),
    "Color": adjust_color,
    "Contrast": adjust_contrast,
    "Brightness": adjust_brightness,
    "Sharpness": adjust_sharpness,
}


def _rotation(degrees: float, height: int, width: int) -> Affine:
    """Counter-clockwise rotation about the middle of the frame."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


_AFFINE: dict[str, Callable[[float, int, int], Affine]] = {
    "Rotate": _rotation,
    "ShearX": lambda factor, height, width: (1.0, factor, 0.0, 0.0, 1.0, 0.0),
    "ShearY": lambda factor, height, width: (1.0, 0.0, 0.0, factor, 1.0, 0.0),
    "TranslateXRel": lambda pixels, height, width: (1.0, 0.0, pixels, 0.0, 1.0, 0.0),
    "TranslateYRel": lambda pixels, height, width: (1.0, 0.0, 0.0, 0.0, 1.0, pixels),
}
