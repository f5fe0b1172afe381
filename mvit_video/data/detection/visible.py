"""What of a polygon lies inside an image."""

import numpy as np
import numpy.typing as npt

_INSET = (
    1e-6  # pixels: how far inside the image a corner of it is asked for, so that edges along the border do not matter
)


def visible_box(ring: npt.NDArray[np.float64], size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """The box around the part of a polygon that lies inside an image; None if there is none.

    Its extremes are ends of the polygon's edges as far as they run inside, or corners of the image that it covers. So
    no polygon is cut. What only touches the border is outside.

    Args:
        ring: corners x, y, float64 (corners, 2).
        size: (height, width) of the image.

    Returns:
        x1, y1, x2, y2.
    """
    limit = np.array([size[1], size[0]], np.float64)
    low, high = ring.min(axis=0), ring.max(axis=0)
    if (high <= 0).any() or (low >= limit).any() or (low >= high).any():
        return None
    if (low >= 0).all() and (high <= limit).all():
        return (*low.tolist(), *high.tolist())
    points = np.concatenate([_edges_inside(ring, limit), _corners_covered(ring, limit)])
    if not len(points):
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    return (*low.tolist(), *high.tolist()) if (low < high).all() else None


def _edges_inside(ring: npt.NDArray[np.float64], limit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ends of the parts of the edges that run inside [0, limit] (Liang and Barsky, 1984), (points, 2)."""
    along = np.roll(ring, -1, axis=0) - ring
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = np.stack([(0 - ring) / along, (limit - ring) / along])
    enters, leaves = crossings.min(axis=0), crossings.max(axis=0)
    still = along == 0
    inside = (ring > 0) & (ring < limit)
    enters = np.where(still, np.where(inside, -np.inf, np.inf), enters).max(axis=1).clip(min=0)
    leaves = np.where(still, np.where(inside, np.inf, -np.inf), leaves).min(axis=1).clip(max=1)
    seen = enters < leaves
    start, run = ring[seen], along[seen]
    ends = np.concatenate([start + run * enters[seen, None], start + run * leaves[seen, None]])
    return np.clip(ends, 0, limit)


def _corners_covered(ring: npt.NDArray[np.float64], limit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Corners of [0, limit] inside the polygon: a ray from each crosses an odd number of edges. (points, 2)."""
    corners = np.array([[0, 0], [limit[0], 0], [0, limit[1]], limit], np.float64)
    x, y = (corners + np.where(corners == 0, _INSET, -_INSET)).T[..., None]
    x1, y1 = ring.T
    x2, y2 = np.roll(ring, -1, axis=0).T
    crosses = (y1 > y) != (y2 > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x1 + (y - y1) / (y2 - y1) * (x2 - x1)
    covered: npt.NDArray[np.bool_] = (crosses & (x < at)).sum(axis=1) % 2 == 1
    return corners[covered]
