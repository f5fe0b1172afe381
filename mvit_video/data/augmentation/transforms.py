"""From decoded frames to clips of the model's size: crops, flips and erasing boxes; normalisation on the device.

Training follows PySlowFast (datasets/kinetics.py, datasets/transform.py): the frame is brought to the size the decoder
would deliver, RandAugment runs on whole frames, then crop, resize and flip; one erasing box is drawn per clip, filled
after normalisation. All frames of a clip are treated alike. Clips stay uint8 until they are on the device: resizing
rounds to grey levels, off by one level at most, and is several times as fast as in floating point.

What is random is drawn apart from what is done: `TrainTransform.draw` needs the size of the frames alone, and `apply`
does what was drawn, on the device the frames are on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from mvit_video.data.augmentation.image_ops import on_gpu
from mvit_video.data.augmentation.randaugment import OpDraw, RandAugment, apply_ops, parse_spec

Box = tuple[int, int, int, int]
CropKind = Literal["resized", "jitter"]
ChannelOrder = Literal["rgb", "bgr"]

NO_BOX: Box = (0, 0, 0, 0)
ERASE_AREA = (0.02, 1 / 3)
ERASE_ASPECT = (0.3, 1 / 0.3)


@dataclass(frozen=True, kw_only=True)
class ViewDraw:
    """One view of a clip as plain numbers: what to do with every frame, in this order.

    Attributes:
        decoded: (height, width) that frames of another size are brought to first.
        ops: RandAugment on those frames.
        scaled: (height, width) that the frames are then resized to; `decoded` for none.
        box: (top, left, height, width) cut from the scaled frames.
        crop_size: side of the square that the box is resized to.
        flip: left and right are swapped last.
        erase: (top, left, height, width) of the box in the finished view that is filled with noise; zeros for none.
        bgr: `ops` take red for blue and blue for red.
    """

    decoded: tuple[int, int]
    ops: tuple[OpDraw, ...]
    scaled: tuple[int, int]
    box: Box
    crop_size: int
    flip: bool
    erase: Box
    bgr: bool = False

    def begin(self, frames: torch.Tensor) -> torch.Tensor:
        """The frames at the decoder's size, from which all views of a video are made."""
        return resize(frames, *self.decoded, antialias=True)

    def finish(self, frames: torch.Tensor) -> torch.Tensor:
        """The view, see `apply_view`."""
        return apply_view(frames, self)


@dataclass(frozen=True, kw_only=True)
class TrainTransform:
    """Random view of a training clip.

    Attributes:
        crop_size: side of the square clip in pixels.
        crop: "resized" cuts a random area of random aspect ratio and resizes it (Kinetics); "jitter" resizes the short
            side to a random length and cuts a square (Something-Something v2).
        scale: range of the area of a "resized" crop, as a share of the frame.
        ratio: range of its aspect ratio, width / height.
        jitter: range of the short side in pixels for a "jitter" crop.
        inverse_uniform: draw the short side as 1 / U(1/max, 1/min) instead of U(min, max).
        flip: chance of a horizontal flip.
        randaugment: configuration string such as "rand-m7-n4-mstd0.5-inc1"; None for none.
        erase_prob: chance of an erasing box.
        decode_short_side: frames are first resized to this short side, as the published Kinetics decoder does: larger
            ones antialiased, smaller ones enlarged. None leaves them as decoded.
        channel_order: "bgr" lets RandAugment see pictures in B, G, R order, as the published Something-Something v2
            pipeline does: other weights of the colours in Color and Contrast.

    Raises:
        ValueError: a value outside its range.
    """

    crop_size: int
    crop: CropKind = "resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    jitter: tuple[int, int] = (256, 320)
    inverse_uniform: bool = False
    flip: float = 0.5
    randaugment: str | None = None
    erase_prob: float = 0.0
    decode_short_side: int | None = None
    channel_order: ChannelOrder = "rgb"

    def __post_init__(self) -> None:
        _check_size("crop_size", self.crop_size)
        if self.crop not in ("resized", "jitter"):
            raise ValueError(f"crop={self.crop!r}: use 'resized' (Kinetics) or 'jitter' (Something-Something v2)")
        for name in ("scale", "ratio", "jitter"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}=({low}, {high}): a range needs 0 < low <= high; swap or correct its ends")
        if self.scale[1] > 1:
            raise ValueError(f"scale={tuple(self.scale)}: a crop is at most the whole frame; lower the upper end to 1")
        if self.crop == "jitter" and self.jitter[0] < self.crop_size:
            raise ValueError(
                f"jitter={tuple(self.jitter)} with crop_size={self.crop_size}: the short side must not become smaller "
                "than the crop; raise the lower end of jitter or lower crop_size"
            )
        for name in ("flip", "erase_prob"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: a probability lies in [0, 1]; set it to 0 to switch this off")
        if self.randaugment is not None:
            parse_spec(self.randaugment)
        if self.decode_short_side is not None:
            _check_size("decode_short_side", self.decode_short_side)
        if self.channel_order not in ("rgb", "bgr"):
            raise ValueError(
                f"channel_order={self.channel_order!r}: use 'rgb', or 'bgr' as the published SSv2 recipes augment"
            )

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, Box]:
        """One random view of uint8 (T, H, W, 3) frames, which stay as they are.

        Returns:
            uint8 (T, crop_size, crop_size, 3), and the erasing box (top, left, height, width) in it, zeros for none.
        """
        _check_frames(frames)
        draw = self.draw(frames.shape[1], frames.shape[2], rng)
        return self.apply(frames, draw), draw.erase

    def draw(self, height: int, width: int, rng: np.random.Generator) -> ViewDraw:
        """A random view of frames of `height` x `width` pixels."""
        decoded = self.decoded_size(height, width)
        ops = () if self.randaugment is None else tuple(RandAugment(self.randaugment).draw(rng, *decoded))
        scaled, box = self._draw_crop(*decoded, rng)
        return ViewDraw(
            decoded=decoded,
            ops=ops,
            scaled=scaled,
            box=box,
            crop_size=self.crop_size,
            flip=rng.random() < self.flip,
            erase=erase_box(self.crop_size, self.crop_size, prob=self.erase_prob, rng=rng),
            bgr=self.channel_order == "bgr",
        )

    def decoded_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after `decode_short_side`."""
        if self.decode_short_side is None or min(height, width) == self.decode_short_side:
            return height, width
        return short_side_size(height, width, self.decode_short_side)

    def _draw_crop(self, height: int, width: int, rng: np.random.Generator) -> tuple[tuple[int, int], Box]:
        """The size frames are resized to before the cut, and the box cut from them."""
        if self.crop == "resized":
            return (height, width), random_resized_crop_box(height, width, scale=self.scale, ratio=self.ratio, rng=rng)
        short_side = jitter_short_side(*self.jitter, inverse_uniform=self.inverse_uniform, rng=rng)
        height, width = short_side_size(height, width, short_side)
        top = int(rng.integers(height - self.crop_size, endpoint=True))
        left = int(rng.integers(width - self.crop_size, endpoint=True))
        return (height, width), (top, left, self.crop_size, self.crop_size)

    def apply(self, frames: torch.Tensor, draw: ViewDraw) -> torch.Tensor:
        """The drawn view of uint8 (T, H, W, 3) frames on any device; see `apply_view`."""
        return apply_view(frames, draw)


def apply_view(frames: torch.Tensor, draw: ViewDraw) -> torch.Tensor:
    """The drawn view of uint8 (T, H, W, 3) frames, which stay as they are.

    On a GPU it waits for nothing, and differs from the CPU's by the rounding of single grey levels.

    Returns:
        uint8 (T, crop_size, crop_size, 3) on the device of the frames, contiguous.
    """
    frames = resize(frames, *draw.decoded, antialias=True)
    size = draw.crop_size
    if draw.scaled == draw.decoded:
        # Nothing stands between RandAugment and the cut, so that only what is cut has to be augmented.
        frames = _augmented(frames, draw, draw.box)
    else:
        frames = _cut(resize(_augmented(frames, draw, None), *draw.scaled), draw.box)
    frames = resize(frames, size, size)
    return (frames.flip(2) if draw.flip else frames).contiguous()


def _augmented(frames: torch.Tensor, draw: ViewDraw, box: Box | None) -> torch.Tensor:
    """`box` of the frames after RandAugment."""
    # Any other operation treats all channels alike.
    if draw.bgr and any(op.name.removesuffix("Increasing") in ("Color", "Contrast") for op in draw.ops):
        return apply_ops(frames.flip(3), draw.ops, box=box).flip(3)
    return apply_ops(frames, draw.ops, box=box)


def random_resized_crop_box(
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """(top, left, height, width) of a crop with uniform area and log-uniform aspect ratio.

    Ten tries to find one inside the frame, then the largest central crop of an allowed ratio (torchvision's
    RandomResizedCrop.get_params; PySlowFast datasets/transform.py _get_param_spatial_crop).
    """
    for _ in range(10):
        area = rng.uniform(*scale) * height * width
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_height, crop_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(rng.integers(height - crop_height, endpoint=True))
            left = int(rng.integers(width - crop_width, endpoint=True))
            return top, left, crop_height, crop_width
    crop_height, crop_width = height, width
    if width / height < ratio[0]:
        crop_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        crop_width = round(height * ratio[1])
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def jitter_short_side(low: int, high: int, *, inverse_uniform: bool, rng: np.random.Generator) -> int:
    """Random short side in pixels, from U(low, high) or, `inverse_uniform`, from 1 / U(1/high, 1/low)."""
    if inverse_uniform:
        return round(1.0 / rng.uniform(1.0 / high, 1.0 / low))
    return round(rng.uniform(low, high))


def erase_box(height: int, width: int, *, prob: float, rng: np.random.Generator, tries: int = 100) -> Box:
    """(top, left, height, width) of a random erasing box, zeros with probability 1 - prob.

    Area uniform in 2 % to a third of the frame, aspect ratio log-uniform in 0.3 .. 1/0.3; `tries` to find one smaller
    than the frame (arXiv 1708.04896; PySlowFast datasets/random_erasing.py: 100 for the cubes of clips, 10 for images).
    """
    if rng.random() >= prob:
        return NO_BOX
    for _ in range(tries):
        area = rng.uniform(*ERASE_AREA) * height * width
        aspect = math.exp(rng.uniform(math.log(ERASE_ASPECT[0]), math.log(ERASE_ASPECT[1])))
        box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_height < height and 0 < box_width < width:
            top = int(rng.integers(height - box_height, endpoint=True))
            left = int(rng.integers(width - box_width, endpoint=True))
            return top, left, box_height, box_width
    return NO_BOX


def test_view(
    frames: torch.Tensor,
    *,
    short_side: int,
    crop_size: int,
    spatial_view: int,
    num_spatial: int,
    decode_short_side: int | None = None,
) -> torch.Tensor:
    """Deterministic square view of a test clip.

    One view is the centre; three lie along the longer side: left, centre, right, or top, middle, bottom of a portrait
    video (PySlowFast datasets/transform.py uniform_crop). Published: short side 256 for one view of 224, and a short
    side equal to the crop for three.

    Args:
        frames: uint8 (T, H, W, 3).
        short_side: the frames are resized to this short side first.
        crop_size: side of the view.
        spatial_view: which view, 0 .. num_spatial - 1.
        num_spatial: spatial views per clip, 1 or 3.
        decode_short_side: that of the training: frames with a larger short side are resized with antialiasing, see
            `shrinks_like_a_decoder`.

    Returns:
        uint8 (T, crop_size, crop_size, 3).

    Raises:
        ValueError: frames of another type, a crop larger than the short side, or a view that does not exist.
    """
    _check_frames(frames)
    _check_size("crop_size", crop_size)
    if crop_size > short_side:
        raise ValueError(
            f"crop_size={crop_size} is larger than short_side={short_side}: a view is cut from the resized frame; "
            "raise short_side or lower crop_size"
        )
    if num_spatial not in (1, 3):
        raise ValueError(f"num_spatial={num_spatial}: test clips have 1 or 3 spatial views; use one of these")
    if not 0 <= spatial_view < num_spatial:
        raise ValueError(f"spatial_view={spatial_view}: views run from 0 to {num_spatial - 1}; lower spatial_view")
    height, width = frames.shape[1:3]
    antialias = shrinks_like_a_decoder(height, width, decode_short_side=decode_short_side)
    frames = resize(frames, *short_side_size(height, width, short_side), antialias=antialias)
    position = 1 if num_spatial == 1 else spatial_view
    box = uniform_crop_box(frames.shape[1], frames.shape[2], size=crop_size, position=position)
    return _cut(frames, box).contiguous()


def uniform_crop_box(height: int, width: int, *, size: int, position: int) -> Box:
    """(top, left, size, size) of the square at the start (0), middle (1, rounded up) or end (2) of the longer side."""
    rows, columns = height - size, width - size
    top, left = math.ceil(rows / 2), math.ceil(columns / 2)
    if height > width:
        top = (0, top, rows)[position]
    else:
        left = (0, left, columns)[position]
    return top, left, size, size


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with the given short side and the same aspect ratio, the long side rounded down."""
    if width < height:
        return height * short_side // width, short_side
    return short_side, width * short_side // height


def shrinks_like_a_decoder(height: int, width: int, *, decode_short_side: int | None) -> bool:
    """Whether test views of `height` x `width` frames are resized with antialiasing, like the frames of the training.

    The published decoder brings every file to the size of the test while it decodes, which antialiases. Frames no
    larger than those that training augments keep the plain bilinear resize that the published numbers were seen with.
    """
    return decode_short_side is not None and min(height, width) > decode_short_side


def resize(frames: torch.Tensor, height: int, width: int, *, antialias: bool = False) -> torch.Tensor:
    """Bilinear resize of uint8 (T, H, W, 3) frames, rounded to uint8; `frames` itself if the size is already right."""
    if frames.shape[1:3] == (height, width):
        return frames
    planes = frames.permute(0, 3, 1, 2)
    if on_gpu(frames):
        planes = planes.float()
    # Channels-last uint8 has a vectorised kernel of its own on the CPU: a quarter of the time of float32.
    resized = F.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False, antialias=antialias)
    if resized.dtype != torch.uint8:
        resized = resized.round_().clamp_(0, 255).to(torch.uint8)
    return resized.permute(0, 2, 3, 1)


def normalize_clips(
    clips: torch.Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    erase: torch.Tensor | None = None,
    noise_seeds: torch.Tensor | None = None,
    channel_order: ChannelOrder = "rgb",
) -> torch.Tensor:
    """Normalise clips on the device they are on, then fill the erasing boxes with N(0, 1) noise.

    The noise is fresh for every pixel, channel and frame; it depends on the clip's seed, the box and the device type.

    Args:
        clips: uint8 (B, T, H, W, 3), RGB.
        mean: of the pixel values divided by 255, three numbers in R, G, B order.
        std: likewise.
        erase: int32 (B, 4), (top, left, height, width) per clip, height 0 for none. Keep it on the CPU: reading it from
            a GPU waits for the GPU.
        noise_seeds: int64 (B,), seed of each clip's noise; needed with `erase`. On the CPU, too.
        channel_order: "bgr" applies `mean` and `std` in reverse order to the RGB channels. The published SSv2-L model
            was trained on frames read as BGR, normalised with RGB statistics and turned to RGB last.

    Returns:
        float32 (B, 3, T, H, W), contiguous.

    Raises:
        ValueError: clips of another type or shape, statistics that are not three numbers, or boxes without seeds.
    """
    if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] != 3:
        raise ValueError(f"clips {tuple(clips.shape)} of {clips.dtype}: pass uint8 (B, T, H, W, 3) clips")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean={list(mean)}, std={list(std)}: give three numbers each (R, G, B), std above 0")
    if channel_order not in ("rgb", "bgr"):
        raise ValueError(f"channel_order={channel_order!r}: use 'rgb', or 'bgr' for the published SSv2-L weights")
    order = slice(None) if channel_order == "rgb" else slice(None, None, -1)
    means = torch.tensor(list(mean)[order], dtype=torch.float32).view(1, 3, 1, 1, 1).to(clips.device)
    stds = torch.tensor(list(std)[order], dtype=torch.float32).view(1, 3, 1, 1, 1).to(clips.device)
    batch, frames, height, width, _ = clips.shape
    out = torch.empty((batch, 3, frames, height, width), dtype=torch.float32, device=clips.device)
    out.copy_(clips.permute(0, 4, 1, 2, 3)).div_(255).sub_(means).div_(stds)
    if erase is not None:
        if noise_seeds is None or erase.shape != (batch, 4) or noise_seeds.shape != (batch,):
            raise ValueError(
                f"erase {tuple(erase.shape)} and noise_seeds "
                f"{None if noise_seeds is None else tuple(noise_seeds.shape)} for {batch} clips: "
                "pass one box of four numbers and one seed per clip"
            )
        _fill_with_noise(out, erase, noise_seeds)
    return out


def _fill_with_noise(clips: torch.Tensor, erase: torch.Tensor, noise_seeds: torch.Tensor) -> None:
    """Overwrite each clip's box, in place, with noise from its seed."""
    generator = torch.Generator(device=clips.device)
    for clip, (top, left, height, width), seed in zip(clips, erase.tolist(), noise_seeds.tolist()):
        if height == 0 or width == 0:
            continue
        generator.manual_seed(seed)
        noise = torch.randn((*clip.shape[:2], height, width), generator=generator, device=clips.device)
        clip[:, :, top : top + height, left : left + width] = noise


def _cut(frames: torch.Tensor, box: Box) -> torch.Tensor:
    top, left, height, width = box
    return frames[:, top : top + height, left : left + width]


def _check_size(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value}: must be at least 1 pixel; 224 is the published crop")


def _check_frames(frames: torch.Tensor) -> None:
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.numel() == 0:
        raise ValueError(
            f"frames {tuple(frames.shape)} of {frames.dtype}: pass uint8 (T, H, W, 3) frames, none of them 0"
        )
