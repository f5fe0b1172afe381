"""RandAugment for images and clips: one draw of operations per image or clip, applied to every frame alike.

The policy is the one of timm's configuration strings as PySlowFast uses them (datasets/rand_augment.py; arXiv
1909.13719): `rand-m7-n4-mstd0.5-inc1` draws 4 of 15 operations with replacement, applies each with probability 0.5, and
draws each one's magnitude from N(7, 0.5) clipped to [0, 10].

PosterizeIncreasing keeps 0 bits at magnitude 10, which makes a black picture: the published pipelines, on the Pillow of
their day, trained on those, and so does this one. Pillow 13 refuses them, and timm 1.0 on it stops in the middle of a
training. With m9 and mstd0.5 that is one use in fifty of the operation.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mvit_video.data.augmentation.image_ops import (
    Colour,
    Interpolation,
    Window,
    any_layout,
    apply_op,
    cut,
    on_gpu,
    reach,
)

MAX_MAGNITUDE = 10.0
APPLY_PROBABILITY = 0.5

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

    def apply(self, frames: torch.Tensor, draws: Sequence[OpDraw]) -> torch.Tensor:
        """Apply the drawn operations to uint8 (T, H, W, 3) frames; `frames` itself comes back if nothing was drawn.

        Raises:
            ValueError: frames of another type or shape.
        """
        return apply_ops(frames, draws, fill=self.fill, interpolation=self.interpolation)


def apply_ops(
    frames: torch.Tensor,
    draws: Sequence[OpDraw],
    *,
    box: Window | None = None,
    fill: int | Colour = 128,
    interpolation: Interpolation = "bicubic",
    by_pillow: Collection[str] = (),
) -> torch.Tensor:
    """Apply drawn operations to a clip, on the device it is on.

    Args:
        frames: uint8 (T, H, W, 3).
        draws: first to last.
        box: (top, left, height, width) of the result that is wanted; the rest is not computed where no operation after
            needs it. All of it by default.
        fill: grey level, or colour, of the corners that a geometric operation leaves empty.
        interpolation: filter of the geometric operations.
        by_pillow: geometric operations that Pillow itself does, on a CPU, see image_ops.py; not together with `box`.

    Returns:
        uint8 (T, height, width, 3); views of `frames` if there are no draws.

    Raises:
        ValueError: frames of another type or shape, or `box` with `by_pillow`.
    """
    if by_pillow and box is not None:
        raise ValueError(f"box={box} with by_pillow: Pillow is given whole frames; leave one of them out")
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames {tuple(frames.shape)} of {frames.dtype}: RandAugment takes uint8 (T, H, W, 3) frames")
    height, width = frames.shape[1:3]
    whole = (0, 0, height, width)
    if not draws:
        return frames if box is None else cut(frames.permute(0, 3, 1, 2), box).permute(0, 2, 3, 1)
    windows = [whole if box is None else box]
    for draw in reversed(draws):
        windows.insert(0, whole if by_pillow else reach(draw.name, draw.argument, windows[0], height, width))
    top, left, rows, columns = windows[0]
    clip = frames[:, top : top + rows, left : left + columns]
    # Planes are quicker to work on, but nothing is worth turning the clip for if every operation takes it as it is.
    in_place = all(any_layout(draw.name) for draw in draws)
    clip = clip.contiguous() if in_place else _planes(clip)
    for draw, have, window in zip(draws, windows, windows[1:]):
        clip = apply_op(
            draw.name,
            clip,
            draw.argument,
            window,
            have=have,
            size=(height, width),
            interpolation=interpolation,
            fill=(fill, fill, fill) if isinstance(fill, int) else fill,
            by_pillow=by_pillow,
        )
    return clip if in_place else _interleaved(clip)


def _planes(frames: torch.Tensor) -> torch.Tensor:
    """(T, H, W, 3) frames as contiguous (T, 3, H, W) planes; on a CPU channel by channel."""
    if on_gpu(frames):
        return frames.permute(0, 3, 1, 2).contiguous()
    out = np.empty((frames.shape[0], 3, *frames.shape[1:3]), np.uint8)
    for channel in range(3):
        out[:, channel] = frames[..., channel].numpy()
    return torch.from_numpy(out)


def _interleaved(planes: torch.Tensor) -> torch.Tensor:
    """(T, 3, H, W) planes as contiguous (T, H, W, 3) frames; on a CPU channel by channel, four times as fast."""
    if on_gpu(planes):
        return planes.permute(0, 2, 3, 1).contiguous()
    out = np.empty((planes.shape[0], *planes.shape[2:], 3), np.uint8)
    for channel in range(3):
        out[..., channel] = planes[:, channel].numpy()
    return torch.from_numpy(out)


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
