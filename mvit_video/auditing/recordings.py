"""Which videos are takes of one recording: compared in blocks, every video with every other, and put into groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mvit_video.auditing.fingerprints import Fingerprints

MATCHING_FRAMES = 2  # one frame alone may be a title card
NEAREST = 5  # videos of the other split that are named for one video
_BLOCK = 192  # videos compared with as many at a time


@dataclass(frozen=True)
class Pair:
    """Two videos that look like takes of one recording.

    Attributes:
        first, second: their places.
        similarity: cosine of the second-nearest pair of frames, see `video_similarity`.
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
        members: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            if key:
                members.setdefault(key, []).append(place)
        for places in members.values():
            self.join(places)


def frame_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Cosine of every frame of some videos with every frame of others: the whole picture of one with any cut of both.

    Args:
        first: (A, F, cuts, D).
        second: (B, F, cuts, D).

    Returns:
        (A, B, F, F).
    """
    a, b, frames = first.shape[0], second.shape[0], first.shape[1]
    one = (first[:, :, 0].flatten(0, 1) @ second.flatten(0, 2).T).view(a, frames, b, frames, -1).amax(-1)
    other = (first.flatten(0, 2) @ second[:, :, 0].flatten(0, 1).T).view(a, frames, -1, b, frames).amax(2)
    return torch.maximum(one, other).permute(0, 2, 1, 3)


def video_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(A, B): how much videos look alike, see `frame_similarity`.

    Each frame has its nearest in the other video. The second-largest of these cosines counts, so that two frames of
    either video must find a near one, whenever they are shown.
    """
    frames = frame_similarity(first, second)
    least = min(MATCHING_FRAMES, frames.shape[-1])
    ours = frames.amax(3).topk(least, dim=2).values[..., -1]
    theirs = frames.amax(2).topk(least, dim=2).values[..., -1]
    return torch.minimum(ours, theirs)


def compare(
    prints: Fingerprints,
    *,
    first_part: int,
    threshold: float,
    device: torch.device,
    on_progress: Callable[[int], None],
) -> Comparison:
    """Compare every video with every other.

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

    groups = Groups(count)
    found: list[Pair] = []
    num_pairs = 0
    for start in range(0, count, _BLOCK):
        rows = block(start)
        for other in range(start, count, _BLOCK):
            near = video_similarity(rows, block(other)).cpu().numpy()
            a, b = np.nonzero(near >= threshold)
            apart = a + start < b + other
            a, b = a[apart], b[apart]
            for row in np.unique(a):
                first, last = np.searchsorted(a, [row, row + 1])
                groups.join(np.append(b[first:last] + other, row + start))
            across = (a + start < first_part) & (b + other >= first_part)
            num_pairs += int(across.sum())
            pairs = zip(a[across], b[across])
            found += nearest([Pair(int(x + start), int(y + other), float(near[x, y])) for x, y in pairs])
            on_progress(1)
    return Comparison(nearest(found), num_pairs, groups.of)


def num_blocks(count: int) -> int:
    """How many blocks `compare` goes through."""
    blocks = -(-count // _BLOCK)
    return blocks * (blocks + 1) // 2


def nearest(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The nearest few pairs of each second video, all of them nearest first."""
    kept: dict[int, int] = {}
    chosen = []
    for pair in sorted(pairs, key=lambda pair: (-pair.similarity, pair.second, pair.first)):
        kept[pair.second] = kept.get(pair.second, 0) + 1
        if kept[pair.second] <= NEAREST:
            chosen.append(pair)
    return tuple(chosen)
