"""The masks of all instances of a data set in flat memory, exactly as the file states them.

Millions of small arrays would cost more than the numbers in them, and every loader process would copy them. Corners
that are whole hundredths of a pixel, as COCO's are, take four bytes a number and come back to the bit: a decimal
fraction and the quotient of two whole numbers round to the same double.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mvit_video.data.detection.masks import Masks, Polygons, RunLengths, Shape
from mvit_video.data.detection.ragged import chosen, starts_of

_UNITS = 100


@dataclass(frozen=True, kw_only=True)
class ShapeColumns:
    """Masks of instances. One without rings and run lengths has no mask: a polygon without rings.

    Attributes:
        ring_starts: int64 (instances + 1): where each instance's rings begin.
        corner_starts: int64 (rings + 1): where each ring's corners begin.
        corners: (corners, 2): hundredths of a pixel (int32), or pixels (float64).
        run_starts: int64 (instances + 1): where each instance's run lengths begin.
        runs: uint8, all run lengths in COCO's compressed text.
        run_sizes: int32 (instances, 2): height and width of their bitmaps; 0 for polygons.
    """

    ring_starts: npt.NDArray[np.int64]
    corner_starts: npt.NDArray[np.int64]
    corners: npt.NDArray[np.int32] | npt.NDArray[np.float64]
    run_starts: npt.NDArray[np.int64]
    runs: npt.NDArray[np.uint8]
    run_sizes: npt.NDArray[np.int32]

    @classmethod
    def of_shapes(cls, shapes: Sequence[Shape]) -> "ShapeColumns":
        """The columns of some masks."""
        rings = [() if isinstance(shape, RunLengths) else shape for shape in shapes]
        runs = [shape.counts if isinstance(shape, RunLengths) else b"" for shape in shapes]
        sizes = [shape.size if isinstance(shape, RunLengths) else (0, 0) for shape in shapes]
        every = [ring for some in rings for ring in some]
        return cls(
            ring_starts=starts_of(map(len, rings)),
            corner_starts=starts_of(map(len, every)),
            corners=compact(np.concatenate(every) if every else np.zeros((0, 2))),
            run_starts=starts_of(map(len, runs)),
            runs=np.frombuffer(b"".join(runs), np.uint8),
            run_sizes=np.array(sizes, np.int32).reshape(-1, 2),
        )

    def __len__(self) -> int:
        return len(self.ring_starts) - 1

    @property
    def absent(self) -> npt.NDArray[np.bool_]:
        """Which instances have no mask, (instances,)."""
        return (np.diff(self.ring_starts) == 0) & (self.run_sizes[:, 0] == 0)

    def shape(self, place: int) -> Shape:
        """The mask of an instance."""
        if self.run_sizes[place, 0]:
            height, width = self.run_sizes[place].tolist()
            return RunLengths((height, width), self.runs[self.run_starts[place] : self.run_starts[place + 1]].tobytes())
        return self._polygons(place)

    def _polygons(self, place: int) -> Polygons:
        starts = self.corner_starts[self.ring_starts[place] : self.ring_starts[place + 1] + 1]
        return tuple(_pixels(self.corners[begin:end]) for begin, end in pairwise(starts))

    def masks(self, begin: int, end: int, *, size: tuple[int, int]) -> Masks:
        """Those of instances begin .. end - 1, of an image of `size`."""
        return Masks(tuple(self.shape(place) for place in range(begin, end)), size)

    def select(self, places: npt.NDArray[np.integer]) -> "ShapeColumns":
        """Those of some instances, in the given order."""
        ring_starts, rings = chosen(self.ring_starts, places)
        corner_starts, corners = chosen(self.corner_starts, rings)
        run_starts, runs = chosen(self.run_starts, places)
        return ShapeColumns(
            ring_starts=ring_starts,
            corner_starts=corner_starts,
            corners=self.corners[corners],
            run_starts=run_starts,
            runs=self.runs[runs],
            run_sizes=self.run_sizes[places],
        )


def compact(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.int32] | npt.NDArray[np.float64]:
    """Corners (n, 2) in pixels as int32 hundredths, where they all are such, exactly; else themselves."""
    with np.errstate(over="ignore", invalid="ignore"):
        units = np.rint(corners * _UNITS)
    fits = np.isfinite(units).all() and (np.abs(units) < 2**31).all() and (units / _UNITS == corners).all()
    return units.astype(np.int32) if fits else corners


def _pixels(corners: npt.NDArray[np.int32] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return corners / _UNITS if corners.dtype == np.int32 else np.asarray(corners, np.float64)
