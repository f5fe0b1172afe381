"""Which videos are takes of one recording: compared in blocks, every video with every other, and put into groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mvit_video.auditing.fingerprints import Fingerprints

MATCHING_FRAMES = 2  # one frame alone may be a title card
NEAREST = 5  # videos of the other split that are named for one video
# Of the threshold: what is farther apart by whole pictures is not compared by their cuts. Crops by 8 % of each side
# were at 0.40 and above, where the default asks for 0.3; half a per cent of the pairs of different scenes reach that.
COARSE = 0.4
_BLOCK = 192  # videos compared with as many at a time
_PAIRS = 512  # that are compared by all cuts at a time
_GATHERED = 2**18  # pairs found, at least, before those that are not among the nearest are dropped

_Columns = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Pair:
    """Two videos that look like takes of one recording.

    Attributes:
        first, second: their places.
        similarity: see `pair_similarity`.
    """

    first: int
    second: int
    similarity: float


@dataclass(frozen=True)
class Comparison:
    """What came of comparing all videos.

    Attributes:
        pairs: of a video of the first part and one of the second, nearest first; for each of the second part its
            NEAREST at most.
        num_pairs: all such pairs.
        groups: int64 (videos,), smallest place among the videos that are joined by looks.
    """

    pairs: tuple[Pair, ...]
    num_pairs: int
    groups: npt.NDArray[np.int64]


class Groups:
    """Videos joined step by step; `of` is always the smallest place in the group of each."""

    def __init__(self, count: int) -> None:
        self.of: npt.NDArray[np.int64] = np.arange(count)

    def join(self, places: npt.NDArray[np.int64] | Sequence[int]) -> None:
        """Put these videos, and all that they are joined with, into one group."""
        roots = np.unique(self.of[np.asarray(places, np.int64)])
        if len(roots) > 1:
            self.of[np.isin(self.of, roots)] = roots[0]

    def join_equal(self, keys: Sequence[str]) -> None:
        """Join the videos with equal keys; an empty key says nothing."""
        # One pass, and no `join` for each key, which looks at all videos: segments of 200,000 files took minutes.
        parent: list[int] = self.of.tolist()

        def root(place: int) -> int:
            while parent[place] != place:
                parent[place] = place = parent[parent[place]]
            return place

        first: dict[str, int] = {}
        for place, key in enumerate(keys):
            if key:
                low, high = sorted((root(first.setdefault(key, place)), root(place)))
                parent[high] = low
        self.of = np.array([root(place) for place in range(len(parent))], np.int64)


def coarse_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """How much every video of one list looks like every one of another, by whole pictures alone.

    Args:
        first: (A, F, cuts, D).
        second: (B, F, cuts, D).

    Returns:
        (A, B), see `pair_similarity`.
    """
    frames = first.shape[1]
    near = (first[:, :, 0].flatten(0, 1) @ second[:, :, 0].flatten(0, 1).T).view(len(first), frames, -1, frames)
    return torch.minimum(_second_largest(near.amax(3), 1), _second_largest(near.amax(1), 2))


def pair_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """How much the two videos of each pair look alike.

    Every frame has its nearest in the other video, by the cosine of the whole picture of one and any cut of the other.
    The second-largest of these counts, so that two frames of either video must find a near one, whenever it is shown.

    Args:
        first: (P, F, cuts, D).
        second: likewise.

    Returns:
        (P,).
    """
    pairs, frames = first.shape[:2]
    one = torch.bmm(first[:, :, 0], second.flatten(1, 2).mT).view(pairs, frames, frames, -1).amax(3)
    other = torch.bmm(second[:, :, 0], first.flatten(1, 2).mT).view(pairs, frames, frames, -1).amax(3)
    near = torch.maximum(one, other.mT)
    return torch.minimum(_second_largest(near.amax(2), 1), _second_largest(near.amax(1), 1))


def _second_largest(values: torch.Tensor, dim: int) -> torch.Tensor:
    """MATCHING_FRAMES is 2; several times faster than topk along a short dimension."""
    slices = values.unbind(dim)
    largest, second = slices[0], torch.full_like(slices[0], -1.0)
    for one in slices[1:]:
        second = torch.maximum(second, torch.minimum(largest, one))
        largest = torch.maximum(largest, one)
    return second


def compare(
    prints: Fingerprints,
    *,
    first_part: int,
    threshold: float,
    device: torch.device,
    on_progress: Callable[[int], None],
) -> Comparison:
    """Compare every video with every other: all of them by whole pictures, and what is not far apart by all cuts.

    Args:
        prints: of the videos of the first part, then of the second.
        first_part: how many are of the first part.
        threshold: similarity from which two videos are takes of one recording.
        device: to compute on.
        on_progress: called with 1 after each of `num_blocks` blocks.
    """
    count = len(prints.numbers)

    def block(start: int) -> torch.Tensor:
        return prints.values[start : start + _BLOCK].to(device).float()

    groups, found = Groups(count), _Nearest()
    num_pairs = 0
    for start in range(0, count, _BLOCK):
        rows = block(start)
        for other in range(start, count, _BLOCK):
            columns = block(other)
            a, b = np.nonzero((coarse_similarity(rows, columns) >= COARSE * threshold).cpu().numpy())
            across = (a + start < first_part) & (b + other >= first_part)
            # Each pair once; of one part only where it says something new.
            wanted = (a + start < b + other) & (across | (groups.of[a + start] != groups.of[b + other]))
            a, b, across = a[wanted], b[wanted], across[wanted]
            similarity = _of_pairs(rows, columns, a, b)
            near = similarity >= threshold
            a, b, across, similarity = a[near], b[near], across[near], similarity[near]
            for row in np.unique(a):
                first, last = np.searchsorted(a, [row, row + 1])
                groups.join(np.append(b[first:last] + other, row + start))
            num_pairs += int(across.sum())
            found.add((a + start)[across], (b + other)[across], similarity[across])
            on_progress(1)
    return Comparison(found.pairs(), num_pairs, groups.of)


class _Nearest:
    """Gathers pairs, and keeps the NEAREST of each second video.

    Arrays, and what is not kept is dropped again and again: videos of a fixed camera all look alike, and a Pair of
    every two of them took gigabytes and hours.
    """

    def __init__(self) -> None:
        self._kept: _Columns = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        self._added: list[_Columns] = []
        self._count = 0  # pairs in `_added`

    def add(
        self, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], similarity: npt.NDArray[np.float32]
    ) -> None:
        """Add pairs (all of shape (pairs,))."""
        self._added.append((first, second, similarity))
        self._count += len(first)
        if self._count > max(_GATHERED, len(self._kept[0])):
            self._prune()

    def pairs(self) -> tuple[Pair, ...]:
        """What is kept, nearest first."""
        self._prune()
        first, second, similarity = self._kept
        order = np.lexsort((first, second, -similarity))
        return tuple(Pair(*pair) for pair in zip(*(column[order].tolist() for column in self._kept)))

    def _prune(self) -> None:
        first, second, similarity = (np.concatenate(columns) for columns in zip(self._kept, *self._added))
        order = np.lexsort((first, -similarity, second))
        # A pair is kept unless the one NEAREST places before it is of the same second video.
        ordered = second[order]
        kept = np.ones(len(order), bool)
        kept[NEAREST:] = ordered[NEAREST:] != ordered[:-NEAREST]
        order = order[kept]
        self._kept = first[order], second[order], similarity[order]
        self._added, self._count = [], 0


def _of_pairs(
    rows: torch.Tensor, columns: torch.Tensor, a: npt.NDArray[np.intp], b: npt.NDArray[np.intp]
) -> npt.NDArray[np.float32]:
    """Similarities (P,) of the pairs (rows[a], columns[b])."""
    parts = [np.zeros(0, np.float32)]
    for start in range(0, len(a), _PAIRS):
        part = slice(start, start + _PAIRS)
        parts.append(pair_similarity(rows[a[part]], columns[b[part]]).cpu().numpy())
    return np.concatenate(parts)


def num_blocks(count: int) -> int:
    """How many blocks `compare` goes through."""
    blocks = -(-count // _BLOCK)
    return blocks * (blocks + 1) // 2
