"""Bicubic shear and translation to the last bit as Pillow's Image.transform, in a fraction of its time.

Each row slides by itself along its own axis, so that a pixel is a sum of four neighbours in its row. Pillow sums in
double precision and cuts the fraction off. Here the sums are float32, off by less than `_EPSILON`, and only where that
may reach another grey level, some pixels in ten thousand, is the sum made again as Pillow makes it.
"""

import numpy as np
import numpy.typing as npt
import torch

Bytes = npt.NDArray[np.uint8]
# float32 sums of four products, of values to 255 and weights whose sizes add up to 1.25 at most, are off by 1e-4.
_EPSILON = 2e-4


def slid(lines: Bytes, *, slope: float, offset: float, fill: Bytes) -> Bytes:
    """Every row of uint8 (P, H, W) planes resampled at x + slope y + offset, pixel centres lying at half integers.

    Args:
        lines: P planes.
        slope: how much further along each next row reads.
        offset: how much further along every row reads.
        fill: uint8 (P,), what pixels get whose source lies outside of the row.

    Returns:
        uint8 (P, H, W), what Pillow's AFFINE transform with the matrix (1, slope, offset, 0, 1, 0) gives.
    """
    _, height, width = lines.shape
    first = ((0.5 + slope * _centres(height)) + offset) - 0.5  # the source of each row's first pixel
    start = np.floor(first).astype(np.int64)
    t = (first - start)[:, None]
    s = 1 - t
    # The cubic convolution kernel with a = -1 of Pillow's Image.transform.
    weights = np.stack([-t * s * s, 1 - 2 * t * t + t * t * t, 1 - 2 * s * s + s * s * s, -s * t * t])
    windows, places = _windows(lines, start - 1)
    out = np.empty(lines.shape, np.uint8)
    copied = slope == 0 and offset == np.floor(offset)  # every source is a pixel's centre, and no sum is in doubt
    doubtful = _summed(windows[places], torch.from_numpy(weights.astype(np.float32)), out)
    if not copied and len(doubtful):
        plane, row, column = np.unravel_index(doubtful, lines.shape)
        out[plane, row, column] = _as_pillow(lines, plane, row, column, slope=slope, offset=offset)
    # Only these columns at the sides have sources outside of their rows.
    low, high = max(0, -int(start.min())), max(0, width - 1 - int(start.max()))
    _fill(out[..., :low], 0, width, slope=slope, offset=offset, fill=fill)
    _fill(out[..., high:], high, width, slope=slope, offset=offset, fill=fill)
    return out


def _fill(out: Bytes, left: int, width: int, *, slope: float, offset: float, fill: Bytes) -> None:
    """Fill what has its source outside of rows of `width` pixels; `out` is a part of them from column `left` on."""
    _, rows, columns = out.shape
    steps = slope * _centres(rows if slope else 1)
    source = ((left + _centres(columns)) + steps[:, None]) + offset
    outside = (source < 0) | (source >= width)
    for target, level in zip(out, fill):
        np.copyto(target, level, where=outside)


def _centres(count: int) -> npt.NDArray[np.float64]:
    return np.arange(count, dtype=np.float64) + 0.5


def _windows(lines: Bytes, begin: npt.NDArray[np.int64]) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """All runs of W + 3 pixels, a view, and for each plane and row (P, H) the number of that which begins at `begin`.

    Columns before the first and after the last stand for those.
    """
    planes, height, width = lines.shape
    left, right = max(0, -int(begin.min())), max(0, int(begin.max()) + 3)
    padded = np.empty((planes, height, left + width + right), np.uint8)
    padded[:, :, :left] = lines[:, :, :1]
    padded[:, :, left : left + width] = lines
    padded[:, :, left + width :] = lines[:, :, -1:]
    rows = np.arange(planes * height).reshape(planes, height) * padded.shape[2]
    return np.lib.stride_tricks.sliding_window_view(padded.reshape(-1), width + 3), rows + (begin + left)


def _summed(taps: Bytes, weights: torch.Tensor, out: Bytes) -> npt.NDArray[np.int64]:
    """Fill `out` with the sums, and give the flat places where they may be a grey level off."""
    width = out.shape[2]
    values = torch.from_numpy(taps).float()
    total = values[..., :width] * weights[0]
    for tap in range(1, 4):
        total.addcmul_(values[..., tap : tap + width], weights[tap])
    np.copyto(out, (total + _EPSILON).clamp_(0, 255).numpy(), casting="unsafe")
    lowest = total.sub_(_EPSILON).clamp_(0, 255).numpy().astype(np.uint8)
    same = taps[..., 1:] == taps[..., :-1]
    flat = same[..., :-2] & same[..., 1:-1]  # four equal values: their sum is that value, which `out` is
    flat &= same[..., 2:]
    return np.flatnonzero((out != lowest) > flat)


def _as_pillow(
    lines: Bytes,
    plane: npt.NDArray[np.int64],
    row: npt.NDArray[np.int64],
    column: npt.NDArray[np.int64],
    *,
    slope: float,
    offset: float,
) -> Bytes:
    """Single pixels, in Pillow's order of operations in double precision."""
    source = (((column + 0.5) + slope * (row + 0.5)) + offset) - 0.5
    first = np.floor(source)
    d = source - first
    taps = np.clip(first.astype(np.int64) + np.arange(-1, 3)[:, None], 0, lines.shape[2] - 1)
    v1, v2, v3, v4 = lines[plane, row, taps].astype(np.float64)
    value = v2 + d * ((v3 - v1) + d * ((2 * (v1 - v2) + v3 - v4) + d * (-v1 + v2 - v3 + v4)))
    return value.clip(0, 255).astype(np.uint8)
