"""Clips as decoders make them: a brightness plane, and two colour planes of half its height and width.

They take half the bytes of RGB on the way to a device, and the conversion costs a GPU next to nothing.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

# (weight of red, weight of blue) in the brightness, ITU-T H.273, table 4.
_WEIGHTS = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
    "bt2020": (0.2627, 0.0593),
}
MATRICES = tuple(_WEIGHTS)


def brightness_weights(matrix: str) -> tuple[float, float, float]:
    """Weights of red, green and blue in the brightness, for one of MATRICES."""
    red, blue = _WEIGHTS[matrix]
    return red, 1 - red - blue, blue


@dataclass(frozen=True)
class YuvFrames:
    """Frames of 8-bit YUV 4:2:0.

    Attributes:
        y: uint8 (N, H, W), brightness.
        uv: uint8 (N, 2, ceil(H / 2), ceil(W / 2)), blue and red colour difference.
        matrix: "bt601", "bt709", "fcc", "smpte240m" or "bt2020": how the planes were made from RGB.
        full_range: y uses 0 to 255 rather than 16 to 235.
    """

    y: torch.Tensor
    uv: torch.Tensor
    matrix: str
    full_range: bool

    def __len__(self) -> int:
        return int(self.y.shape[0])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "YuvFrames":
        """The same frames on another device."""
        return replace(
            self, y=self.y.to(device, non_blocking=non_blocking), uv=self.uv.to(device, non_blocking=non_blocking)
        )

    def pin_memory(self) -> "YuvFrames":
        """The same frames in page-locked memory."""
        return replace(self, y=self.y.pin_memory(), uv=self.uv.pin_memory())

    def rgb(self) -> torch.Tensor:
        """uint8 (N, H, W, 3), by tensor operations on the frames' device.

        The result is what `VideoReader.read` gives, within one grey level and mostly equal, because FFmpeg's rounding
        is followed; within two grey levels for pictures of odd height, which FFmpeg converts in another way.
        """
        height, width = self.y.shape[1:]
        gain = 1.0 if self.full_range else 255 / 219
        y = self.y.float() - (0 if self.full_range else 16)
        uv = self.uv.float() - 128
        factors = self._factors()
        if height % 2 == 0:  # products of 13 fractional bits, each rounded down
            y = _rounded_down(y, gain)
            shares = [_total(_rounded_down(uv[:, i], f) for i, f in parts) for parts in factors]
        else:  # FFmpeg repeats a colour over two rows, but interpolates where the height is odd
            size = (height, width if width % 2 else uv.shape[3])
            uv = torch.nn.functional.interpolate(uv, size=size, mode="bilinear", align_corners=False)
            y = y * gain
            if width % 2:
                shares = [_total(uv[:, i] * f for i, f in parts) for parts in factors]
            else:  # tables in steps of brightness, which are a little too dark
                y = y - (0 if self.full_range else 400 - 342 * gain)
                shares = [gain * _total(_looked_up(uv[:, i], f / gain) for i, f in parts) for parts in factors]
        rgb = torch.empty((*self.y.shape, 3), dtype=torch.uint8, device=self.y.device)
        for channel, share in enumerate(shares):
            for dim, length in ((1, height), (2, width)):
                if share.shape[dim] < length:
                    share = share.repeat_interleave(2, dim).narrow(dim, 0, length)
            rgb[..., channel] = (y + share).round_().clamp_(0, 255)
        return rgb

    def _factors(self) -> tuple[tuple[tuple[int, float], ...], ...]:
        """For red, green and blue: (plane of uv, factor) pairs."""
        red, blue = _WEIGHTS[self.matrix]
        green = 1 - red - blue
        spread = 2.0 if self.full_range else 2 * 255 / 224
        return (
            ((1, (1 - red) * spread),),
            ((0, -blue * (1 - blue) / green * spread), (1, -red * (1 - red) / green * spread)),
            ((0, (1 - blue) * spread),),
        )


def _total(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    return functools.reduce(torch.add, parts)


def _rounded_down(values: torch.Tensor, factor: float) -> torch.Tensor:
    """floor(values * factor) with the factor in steps of 2^-13; exact in float32."""
    return (values * round(factor * 8192)).mul_(1 / 8192).floor_()


def _looked_up(values: torch.Tensor, factor: float) -> torch.Tensor:
    """values * factor as FFmpeg's tables have it: whole numbers, counted from the table's middle."""
    return (values.round() + 128).mul_(factor).floor_() - math.floor(128 * factor)
