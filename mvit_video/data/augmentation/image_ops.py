"""The operations of RandAugment on images and whole clips, as tensor operations on a CPU or a GPU.

They agree with Pillow's ImageOps, ImageEnhance and Image.transform, which the published recipes were trained with;
torchvision's tensor operations differ (bicubic filter, rounding). Each frame is an image of its own: histograms and
means are per frame.

An operation takes uint8 (T, 3, h, w) planes, the part `have` (top, left, h, w) of whole frames that they show, and the
window (top, left, height, width) of its result that is wanted. It gives uint8 (T, 3, height, width): just what it would
give for whole frames, cut. `reach` says which part of its input it needs for that.

Where a source lies on the border of two grey levels, geometric operations may round it to the other one, which is a
value in some thousands. Operations of `by_pillow` give what Pillow gives, to the last bit, on a CPU.

On a CPU the work goes frame by frame, or by bands of rows, which stay in the cache; on a GPU all at once, and nothing
there waits for the device.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from mvit_video.data.augmentation.pillow_slides import slid

Interpolation = Literal["bilinear", "bicubic"]
Affine = tuple[float, float, float, float, float, float]
Window = tuple[int, int, int, int]
Colour = tuple[int, int, int]  # R, G, B

PILLOW_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Made as Pillow makes them, for one frame: all that tensors round in another way; and what tensors take longer for.
EXACT_BY_PILLOW = frozenset({"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"})
QUICK_BY_PILLOW = frozenset({"Rotate", "ShearX", "ShearY"})
_FRAMES_AT_ONCE = 32  # keeps the float copies of a long clip small
# Pixels of the result that a geometric operation makes at a time: their taps and sums stay in a core's cache.
_BAND_PIXELS, _SLID_PIXELS = 16384, 4096
_STRIP = 32  # rows that are written at a time where rows become columns
# These need the whole frame for any part of their result: its histogram, or its mean.
_WHOLE_FRAME = ("AutoContrast", "Equalize", "Contrast")
# These look at one value at a time, whatever its channel.
_SINGLE_VALUES = ("Invert", "Posterize", "Solarize", "SolarizeAdd", "Brightness")


def apply_op(
    name: str,
    planes: torch.Tensor,
    argument: float,
    window: Window,
    *,
    have: Window,
    size: tuple[int, int],
    interpolation: Interpolation,
    fill: Colour,
    by_pillow: Collection[str] = (),
) -> torch.Tensor:
    """Operation `name` (of randaugment.OPS or INCREASING_OPS) on frames of `size` pixels, see the module's text.

    Those of `by_pillow` need whole frames, and give them.
    """
    if name in _AFFINE:
        if name in by_pillow and not on_gpu(planes):
            return _as_pillow(name, planes, argument, interpolation=interpolation, fill=fill)
        matrix = _AFFINE[name](argument, *size)
        return affine(planes, matrix, window, have=have, size=size, interpolation=interpolation, fill=fill)
    within = (window[0] - have[0], window[1] - have[1], window[2], window[3])
    return _PIXEL_OPS[name.removesuffix("Increasing")](planes, argument, within)


def any_layout(name: str) -> bool:
    """Whether the operation gives the same for (T, H, W, 3) frames as for planes, if the window is all there is."""
    return name.removesuffix("Increasing") in _SINGLE_VALUES


def reach(name: str, argument: float, window: Window, height: int, width: int) -> Window:
    """The part of `height` x `width` frames that operation `name` reads to make `window` of its result."""
    plain = name.removesuffix("Increasing")
    if plain in _WHOLE_FRAME:
        return 0, 0, height, width
    if name in _AFFINE:
        return _sources(_AFFINE[name](argument, height, width), window, height, width)
    if plain == "Sharpness":
        top, left = max(window[0] - 1, 0), max(window[1] - 1, 0)
        bottom, right = min(window[0] + window[2] + 1, height), min(window[1] + window[3] + 1, width)
        return top, left, bottom - top, right - left
    return window


def _sources(matrix: Affine, window: Window, height: int, width: int) -> Window:
    """The part of `height` x `width` frames that `affine` reads for `window`; a pixel more, for sums are rounded."""
    a, b, c, d, e, f = matrix
    top, left, rows, columns = window
    corners = [(x, y) for x in (left + 0.5, left + columns - 0.5) for y in (top + 0.5, top + rows - 0.5)]
    if (a, b, c) != (1, 0, 0):
        left, columns = _span([a * x + b * y + c for x, y in corners], width)
    if (d, e, f) != (0, 1, 0):
        top, rows = _span([d * x + e * y + f for x, y in corners], height)
    return top, left, rows, columns


def _span(sources: Sequence[float], size: int) -> tuple[int, int]:
    """First pixel and number of pixels, of `size` in a line, within reach of a filter between these sources."""
    first = min(max(math.floor(min(sources)) - 3, 0), size - 1)
    return first, max(min(math.floor(max(sources)) + 4, size) - first, 1)


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether work on the tensor is best done all at once, and its values must not be looked at."""
    return tensor.device.type != "cpu"


def cut(planes: torch.Tensor, window: Window) -> torch.Tensor:
    """The window of (..., H, W) planes, a view."""
    top, left, height, width = window
    return planes[..., top : top + height, left : left + width]


def affine(
    planes: torch.Tensor,
    matrix: Affine,
    window: Window,
    *,
    have: Window,
    size: tuple[int, int],
    interpolation: Interpolation,
    fill: Colour,
) -> torch.Tensor:
    """Resample every frame at (a x + b y + c, d x + e y + f), pixel centres lying at half integers.

    Every frame reads the same source pixels with the same weights, so the clip is laid out as one table of pixels,
    (h w, T 3), and an output pixel is a weighted sum of at most 4 x 4 of its rows.
    """
    a, b, c, d, e, f = matrix
    if not on_gpu(planes):
        if (a, b, d, e) == (1, 0, 0, 1) and 0 in (c, f):
            dim, offset = (3, c) if f == 0 else (2, f)
            return _moved(planes, offset, window, dim=dim, have=have, size=size, interpolation=interpolation, fill=fill)
        if (a, d, e, f) == (1, 0, 1, 0):
            return _slid(planes, b, c, window, have=have, width=size[1], interpolation=interpolation, fill=fill)
        if (a, b, c, e) == (1, 0, 0, 1):
            turned, had = ((box[1], box[0], box[3], box[2]) for box in (window, have))
            slid = _slid(_turned(planes), d, f, turned, have=had, width=size[0], interpolation=interpolation, fill=fill)
            return _turned(slid)
    frames = len(planes)
    top, left, rows, columns = window
    out = torch.empty((frames, 3, rows, columns), dtype=torch.uint8, device=planes.device)
    band = rows if on_gpu(planes) else max(1, _BAND_PIXELS // columns)
    filled = torch.tensor([fill * min(frames, _FRAMES_AT_ONCE)], dtype=torch.float32)
    filled = filled.to(planes.device, non_blocking=True)
    for chunk, target in zip(planes.split(_FRAMES_AT_ONCE), out.split(_FRAMES_AT_ONCE)):
        table = _pixel_table(chunk)
        for first in range(0, rows, band):
            part = target[:, :, first : first + band]
            place = (top + first, left, part.shape[2], columns)
            indices, weights, outside = _affine_taps(matrix, size, have, place, interpolation, planes.device)
            summed = F.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")
            # Pillow truncates; the sum of float32 weights may be a hair below 1, which must not cost a grey level.
            summed.add_(torch.where(outside[:, None], filled[:, : summed.shape[1]], 1e-3))
            pixels = torch.empty(summed.shape, dtype=torch.uint8, device=planes.device)
            _truncate(summed.clamp_(0, 255), pixels)
            part.copy_(_transposed(pixels).view(part.shape))
    return out


def _as_pillow(
    name: str, planes: torch.Tensor, argument: float, *, interpolation: Interpolation, fill: Colour
) -> torch.Tensor:
    """A geometric operation as Pillow computes it, in double precision: by Pillow itself, or by pillow_slides.py."""
    matrix = _AFFINE[name](argument, *planes.shape[2:])
    if name != "Rotate" and interpolation == "bicubic":
        turned = matrix[1] == matrix[2] == 0  # a column slides, not a row
        lines = (_turned(planes) if turned else planes).flatten(0, 1).numpy()
        slope, offset = (matrix[3], matrix[5]) if turned else (matrix[1], matrix[2])
        made = slid(lines, slope=slope, offset=offset, fill=np.tile(np.array(fill, np.uint8), len(planes)))
        slid_planes = torch.from_numpy(made).view(len(planes), 3, *made.shape[1:])
        return _turned(slid_planes) if turned else slid_planes
    resample = PILLOW_FILTERS[interpolation]
    out = np.empty(planes.shape, np.uint8)
    pixels = np.empty((*planes.shape[2:], 3), np.uint8)
    for frame, target in zip(planes.numpy(), out):
        for channel in range(3):  # several times as fast as a transposed copy
            pixels[..., channel] = frame[channel]
        image = Image.fromarray(pixels)
        if name == "Rotate":
            image = image.rotate(argument, resample=resample, fillcolor=fill)
        else:
            image = image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=fill)
        made = np.asarray(image)
        for channel in range(3):
            target[channel] = made[..., channel]
    return torch.from_numpy(out)


def _moved(
    planes: torch.Tensor,
    offset: float,
    window: Window,
    *,
    dim: int,
    have: Window,
    size: tuple[int, int],
    interpolation: Interpolation,
    fill: Colour,
) -> torch.Tensor:
    """Resample along rows (dim 2) or columns (dim 3) at i + offset, on a CPU: all pixels share their weights."""
    length, begin, count = size[dim - 2], window[dim - 2], window[dim]
    out = torch.empty((*planes.shape[:2], *window[2:]), dtype=torch.uint8)
    out[:] = torch.tensor(fill, dtype=torch.uint8).view(3, 1, 1)
    source = begin + 0.5 + offset
    low, high = max(0, math.ceil(-source)), min(count, math.ceil(length - source))
    if low >= high:
        return out
    position = torch.tensor([[source + low]], dtype=torch.float64)
    first, weights = _axis_taps(position, interpolation, whole=offset % 1 == 0)
    start = int(first) + _offsets(len(weights))[0]
    stop = start + high - low + len(weights) - 1
    inner = max(start, 0), min(stop, length)
    beyond = (inner[0] - start, stop - inner[1])
    other = 5 - dim
    kept = planes.narrow(other, window[other - 2] - have[other - 2], window[other])
    kept = kept.narrow(dim, inner[0] - have[dim - 2], inner[1] - inner[0])
    for frames, target in _parts(kept, out.narrow(dim, low, high - low)):
        values = frames.float()
        if any(beyond):
            values = F.pad(values, (*beyond, 0, 0) if dim == 3 else (0, 0, *beyond), mode="replicate")
        total = values.narrow(dim, 0, high - low) * weights[0].item()
        for tap, weight in enumerate(weights[1:].flatten().tolist(), start=1):
            total.add_(values.narrow(dim, tap, high - low), alpha=weight)
        _truncate(total.add_(1e-3).clamp_(0, 255), target)  # see `affine` for what is added
    return out


def _slid(
    planes: torch.Tensor,
    slope: float,
    offset: float,
    window: Window,
    *,
    have: Window,
    width: int,
    interpolation: Interpolation,
    fill: Colour,
) -> torch.Tensor:
    """Resample every row at x + slope y + offset, on a CPU: half the time of a table of pixels.

    All pixels of a row share their weights, which are those of the window's first column: others differ in last bits.
    """
    top, left, rows, columns = window
    source = planes.numpy().reshape(-1, *planes.shape[2:])
    out = np.empty((len(source), rows, columns), np.uint8)
    # Where the window's first column comes from, and the columns whose source lies inside the frame, row by row.
    first = torch.arange(top, top + rows, dtype=torch.float64).add_(0.5).mul_(slope).add_(left + 0.5)[:, None] + offset
    begins = (-first).ceil_().clamp_(0, columns).int().flatten().tolist()
    ends = (width - first).ceil_().clamp_(0, columns).int().flatten().tolist()
    pixel, weights = _axis_taps(first, interpolation, whole=slope == 0 and offset % 1 == 0)
    starts = (pixel.int().flatten() + (_offsets(len(weights))[0] - have[1])).tolist()
    reached = columns + len(weights) - 1
    band = max(1, _SLID_PIXELS // columns)
    aligned = np.empty((len(source), min(band, rows), reached), np.uint8)
    for place in range(0, rows, band):
        part = slice(place, min(place + band, rows))
        for row, start in enumerate(starts[part]):
            _copy_clamped(source[:, top - have[0] + place + row], start, aligned[:, row])
        values = torch.from_numpy(aligned[:, : part.stop - place]).float()
        total = values[..., :columns] * weights[0][part]
        for tap, weight in enumerate(weights[1:], start=1):
            total.addcmul_(values[..., tap : tap + columns], weight[part])
        # See `affine` for what is added.
        np.copyto(out[:, part], total.add_(1e-3).clamp_(0, 255).numpy(), casting="unsafe")
    filled = np.tile(np.array(fill, np.uint8), len(planes))[:, None]
    for row, (begin, end) in enumerate(zip(begins, ends)):
        if begin:
            out[:, row, :begin] = filled
        if end < columns:
            out[:, row, end:] = filled
    return torch.from_numpy(out).view(*planes.shape[:2], rows, columns)


def _copy_clamped(source: npt.NDArray[np.uint8], start: int, out: npt.NDArray[np.uint8]) -> None:
    """out[:, i] = source[:, start + i], columns before the first and after the last standing for those."""
    columns, width = out.shape[1], source.shape[1]
    low, high = min(max(-start, 0), columns), min(max(width - start, 0), columns)
    if low:
        out[:, :low] = source[:, :1]
    if low < high:
        out[:, low:high] = source[:, start + low : start + high]
    if high < columns:
        out[:, high:] = source[:, -1:]


def _turned(planes: torch.Tensor) -> torch.Tensor:
    """Rows and columns exchanged, contiguous; in strips whose lines stay in the cache, in half the time."""
    source = planes.numpy().swapaxes(2, 3)
    out = np.empty(source.shape, np.uint8)
    for first in range(0, source.shape[2], _STRIP):
        out[:, :, first : first + _STRIP] = source[:, :, first : first + _STRIP]
    return torch.from_numpy(out)


def _pixel_table(planes: torch.Tensor) -> torch.Tensor:
    """float32 ((h + 4) (w + 4), T 3): a pixel a row, the planes with their border pixels repeated twice on every side.

    Filters of sources inside the frame reach that far.
    """
    frames, _, height, width = planes.shape
    pixels = _transposed(planes.reshape(-1, height * width)).view(height, width, frames * 3)
    table = torch.empty((height + 4, width + 4, frames * 3), device=planes.device)
    table[2:-2, 2:-2] = pixels
    table[2:-2, :2], table[2:-2, -2:] = table[2:-2, 2:3], table[2:-2, -3:-2]
    table[:2], table[-2:] = table[2:3], table[-3:-2]
    return table.view(-1, frames * 3)


def _transposed(matrix: torch.Tensor) -> torch.Tensor:
    """A contiguous transpose; of bytes NumPy makes it three times as fast as torch."""
    if on_gpu(matrix):
        return matrix.t().contiguous()
    return torch.from_numpy(np.ascontiguousarray(matrix.numpy().T))


def _affine_taps(
    matrix: Affine,
    size: tuple[int, int],
    have: Window,
    window: Window,
    interpolation: Interpolation,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For every pixel of the window: (n, K) rows of `have`'s pixel table, their weights, and (n,) if it lies outside.

    K is 1, 2, 4 or 16: an axis along which every source lies on a pixel's centre has one tap.
    """
    a, b, c, d, e, f = matrix
    top, left, rows, columns = window
    y = torch.arange(top, top + rows, dtype=torch.float64, device=device)[:, None] + 0.5
    x = torch.arange(left, left + columns, dtype=torch.float64, device=device)[None, :] + 0.5
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    inside = (source_x >= 0) & (source_x < size[1]) & (source_y >= 0) & (source_y < size[0])
    column, column_weights = _axis_taps(source_x, interpolation, whole=(a, b, c % 1) == (1, 0, 0))
    row, row_weights = _axis_taps(source_y, interpolation, whole=(d, e, f % 1) == (0, 1, 0))
    pitch = have[3] + 4
    first = ((row + (2 - have[0])) * pitch + (column + (2 - have[1]))).mul_(inside).int().view(-1, 1)
    # Pixels outside read the first rows of the table, with weight 0.
    offsets = [i * pitch + j for i in _offsets(len(row_weights)) for j in _offsets(len(column_weights))]
    shift = min(offsets)
    indices = first.clamp_(min=-shift) + torch.tensor(offsets, dtype=torch.int32).to(device, non_blocking=True)
    row_weights.mul_(inside)
    weights = torch.empty((rows, columns, len(row_weights), len(column_weights)), device=device)
    for i, row_weight in enumerate(row_weights):
        for j, column_weight in enumerate(column_weights):
            torch.mul(row_weight, column_weight, out=weights[:, :, i, j])
    return indices, weights.view(rows * columns, -1), ~inside.view(-1)


def _offsets(taps: int) -> range:
    """Distance of each tap from the pixel at or before the source."""
    return range(-1, 3) if taps == 4 else range(taps)


def _axis_taps(source: torch.Tensor, interpolation: Interpolation, *, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 (H, W) pixel at or before the source along one axis, and the float32 (K, H, W) weights from there on."""
    source = source - 0.5
    first = source.floor()
    if whole:
        return first, torch.ones((1, *source.shape), device=source.device)
    t = source.sub_(first).float()
    s = 1 - t
    if interpolation == "bilinear":
        return first, torch.stack([s, t])
    # The cubic convolution kernel with a = -1 of Pillow's Image.transform; torch's bicubic has a = -0.75.
    return first, torch.stack(
        [-t * s * s, 1 - 2 * t * t + t * t * t, 1 - 2 * s * s + s * s * s, -s * t * t],
    )


def auto_contrast(planes: torch.Tensor, window: Window) -> torch.Tensor:
    """Stretch each channel of each frame to the full range 0 .. 255."""
    low = planes.amin((2, 3)).double()[..., None]
    high = planes.amax((2, 3)).double()[..., None]
    # A scalar divided by a tensor would be rounded twice (reciprocal, then product) and truncate to other levels.
    scale = torch.full_like(low, 255.0) / (high - low).clamp(min=1)
    identity = torch.arange(256, dtype=torch.float64, device=planes.device)
    stretched = (identity * scale - low * scale).clamp(0, 255)
    return _look_up(cut(planes, window), torch.where(high > low, stretched, identity).to(torch.uint8))


def equalize(planes: torch.Tensor, window: Window) -> torch.Tensor:
    """Flatten the histogram of each channel of each frame."""
    histograms = _histograms(planes)
    levels = torch.arange(256, device=planes.device)
    last = torch.where(histograms > 0, levels, 0).amax(-1, keepdim=True)
    step = (histograms.sum(-1, keepdim=True) - histograms.gather(-1, last)) // 255
    below = histograms.cumsum(-1) - histograms
    flattened = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    return _look_up(cut(planes, window), torch.where(step > 0, flattened, levels).to(torch.uint8))


def _histograms(planes: torch.Tensor) -> torch.Tensor:
    """int64 (T, 3, 256): how often each value occurs in each plane."""
    flat = planes.flatten(2).flatten(0, 1)
    if not on_gpu(planes):
        counted = torch.stack([torch.bincount(plane, minlength=256) for plane in flat])
    else:
        counted = torch.zeros((len(flat), 256), dtype=torch.int64, device=planes.device)
        counted.scatter_add_(1, flat.long(), torch.ones((), dtype=torch.int64, device=planes.device).expand(flat.shape))
    return counted.view(*planes.shape[:2], 256)


def posterize(planes: torch.Tensor, bits: int) -> torch.Tensor:
    """Keep the `bits` highest bits of every value."""
    return planes & ((0xFF << (8 - bits)) & 0xFF)


def solarize(planes: torch.Tensor, threshold: int) -> torch.Tensor:
    """Invert every value from `threshold` on."""
    if threshold > 255:
        return planes.contiguous()
    inverted = _ones(planes, "from", threshold).neg_()  # 0 or 255: v ^ 255 is 255 - v
    return inverted.bitwise_xor_(planes)


def solarize_add(planes: torch.Tensor, amount: int) -> torch.Tensor:
    """Add `amount`, at most 127, to every value below 128."""
    return _ones(planes, "below", 128).mul_(amount).add_(planes)


def _ones(planes: torch.Tensor, side: Literal["below", "from"], limit: int) -> torch.Tensor:
    """uint8, 1 where values lie on that side of the limit, else 0; NumPy compares bytes 16 times as fast as torch."""
    if on_gpu(planes):
        return (planes < limit if side == "below" else planes >= limit).view(torch.uint8)
    values = planes.numpy()
    return torch.from_numpy((values < limit if side == "below" else values >= limit).view(np.uint8))


def adjust_brightness(planes: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with black: factor 0 is black, 1 the frame itself."""
    out = torch.empty(planes.shape, dtype=torch.uint8, device=planes.device)
    for frames, target in _parts(planes, out):
        _truncate(frames.float().mul_(factor).clamp_(0, 255), target)
    return out


def adjust_contrast(planes: torch.Tensor, factor: float, window: Window) -> torch.Tensor:
    """Blend with the mean grey level of each frame."""
    pixels = planes.shape[2] * planes.shape[3]
    kept = cut(planes, window)
    out = torch.empty(kept.shape, dtype=torch.uint8, device=planes.device)
    for frames, values, target in _parts(planes, kept, out):
        # Sums of a row are whole numbers that float32 holds exactly.
        mean = _luma(frames.float()).sum(-1).sum((1, 2), dtype=torch.float64) / pixels
        _blend((mean + 0.5).floor_().float()[:, None, None, None], values.float(), factor, target)
    return out


def adjust_color(planes: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with the grey version of each frame."""
    out = torch.empty(planes.shape, dtype=torch.uint8, device=planes.device)
    for frames, target in _parts(planes, out):
        values = frames.float()
        _blend(_luma(values), values, factor, target)
    return out


def adjust_sharpness(planes: torch.Tensor, factor: float, window: Window) -> torch.Tensor:
    """Blend with each frame smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the border pixels stay as they are.

    The sides of `planes` are borders of the frame, or lie one pixel outside of the window, see `reach`.
    """
    out = cut(planes, window).clone(memory_format=torch.contiguous_format)
    height, width = planes.shape[-2:]
    if min(height, width) < 3:
        return out
    top, left = 1 - window[0], 1 - window[1]
    inner = out[:, :, top : top + height - 2, left : left + width - 2]
    for frames, target in _parts(planes, inner):
        values = frames.short()  # the largest sum is 13 * 255
        columns = values[:, :, :-2] + values[:, :, 1:-1]
        columns += values[:, :, 2:]
        summed = columns[..., :-2] + columns[..., 1:-1]
        summed += columns[..., 2:]
        own = values[:, :, 1:-1, 1:-1]
        summed.add_(own, alpha=4)
        _blend(summed.float().div_(13).add_(0.5).floor_(), own.float(), factor, target)
    return out


def _luma(values: torch.Tensor) -> torch.Tensor:
    """float32 (T, 1, H, W) grey levels of float32 planes: ITU-R 601-2 in Pillow's fixed point.

    Its weights are 65536ths, so that products and sums are below 2**24 of these: float32 makes no error.
    """
    red, green, blue = values.split(1, dim=1)
    grey = red * (19595 / 65536)
    return grey.add_(green, alpha=38470 / 65536).add_(blue, alpha=7471 / 65536).add_(0.5).floor_()


def _blend(degenerate: torch.Tensor, values: torch.Tensor, factor: float, out: torch.Tensor) -> None:
    """out = degenerate + factor * (values - degenerate) within 0 .. 255, truncated as Pillow; overwrites `values`."""
    _truncate(values.sub_(degenerate).mul_(factor).add_(degenerate).clamp_(0, 255), out)


def _truncate(values: torch.Tensor, out: torch.Tensor) -> None:
    """out, uint8 = values, floats in 0 .. 255, without their fractions; NumPy does it in a fifth of torch's time."""
    if on_gpu(out):
        out.copy_(values)
    else:
        np.copyto(out.numpy(), values.numpy(), casting="unsafe")


def _look_up(planes: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Replace every value by its entry in its plane's table, uint8 (T, 3, 256)."""
    if on_gpu(planes):
        return tables.gather(-1, planes.flatten(2).long()).view(planes.shape)
    out = np.empty(planes.shape, np.uint8)
    for values, of_frame, targets in zip(planes.numpy(), tables.numpy(), out):
        for plane, table, target in zip(values, of_frame, targets):  # quicker than NumPy's and torch's ways
            target[:] = np.frombuffer(plane.tobytes().translate(table.tobytes()), np.uint8).reshape(target.shape)
    return torch.from_numpy(out)


def _parts(*clips: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The clips frame by frame; on a GPU all their frames at once."""
    size = len(clips[0]) if on_gpu(clips[0]) else 1
    return zip(*(clip.split(size) for clip in clips))


_PIXEL_OPS: dict[str, Callable[[torch.Tensor, float, Window], torch.Tensor]] = {
    "AutoContrast": lambda planes, _, window: auto_contrast(planes, window),
    "Equalize": lambda planes, _, window: equalize(planes, window),
    "Invert": lambda planes, _, window: 255 - planes,
    "Posterize": lambda planes, bits, window: posterize(planes, int(bits)),
    "Solarize": lambda planes, threshold, window: solarize(planes, int(threshold)),
    "SolarizeAdd": lambda planes, amount, window: solarize_add(planes, int(amount)),
    "Color": lambda planes, factor, window: adjust_color(planes, factor),
    "Contrast": adjust_contrast,
    "Brightness": lambda planes, factor, window: adjust_brightness(planes, factor),
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
