"""The same video twice: by its bytes, and by what it looks like.

Rule for look-alikes: of the eight frames compared at the same relative times, those that show enough structure in both
videos (4 to 60 of 64 bits set) are counted; at least four must be, their hashes may differ in 6 of 64 bits on average,
and the durations by 10 %. Candidates are pairs that share half a hash at the same time exactly.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvit_video.preparation import perceptual_hash

MOST_BITS = 6.0
LEAST_FRAMES = 4
DURATION_RATIO = 1.1
_STRUCTURE = (4, 60)  # set bits of a hash that says something
_CROWD = 256  # videos that share half a hash: something common, such as a title card, and no evidence
_BLOCK = 1024  # videos looked up at a time: 4 million candidates at most
_BATCH = 2**18

RULE = (
    f"at least {LEAST_FRAMES} of {perceptual_hash.FRAMES} frames at the same relative times show enough structure to "
    f"be compared, their 64-bit difference hashes differ in at most {MOST_BITS:g} bits on average, and the durations "
    f"by at most {100 * (DURATION_RATIO - 1):.0f} %"
)
Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LookAlike:
    """A pair of videos, by their places in the two lists compared, and the mean bits their hashes differ in."""

    first: int
    second: int
    bits: float


@dataclass(frozen=True)
class LookAlikes:
    """Attributes:
    count: pairs found.
    nearest: the nearest of them, nearest first.
    """

    count: int
    nearest: list[LookAlike]


def same_bytes(digests: Sequence[str]) -> list[list[int]]:
    """Places with equal digests, for every digest that occurs more than once; empty digests are passed over."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        if digest:
            places[digest].append(place)
    return [group for group in places.values() if len(group) > 1]


def look_alikes(
    first: Words,
    second: Words,
    *,
    first_seconds: Sequence[float],
    second_seconds: Sequence[float],
    most: int,
    different: Callable[[Places, Places], npt.NDArray[np.bool_]] | None = None,
) -> LookAlikes:
    """Pairs of a video of one list and one of another that look the same; see the module's text.

    Videos of the second list are taken a few at a time: those of a fixed camera share so much that their candidates
    fill any memory.

    Args:
        first, second: signatures, uint64 (videos, 8).
        first_seconds, second_seconds: durations.
        most: pairs to keep, the nearest; the others are counted.
        different: says of places in both lists, int64 (pairs,), which pairs are to be counted at all; by default all.
    """
    seconds = np.asarray(first_seconds, float), np.asarray(second_seconds, float)
    keys = _Keys(first)
    count, nearest = 0, _Nearest(most)
    for start in range(0, len(second), _BLOCK):
        a, b = keys.candidates(second[start : start + _BLOCK])
        b += start
        for part in (slice(place, place + _BATCH) for place in range(0, len(a), _BATCH)):
            bits = mean_bits(first[a[part]], second[b[part]])
            longer = np.maximum(seconds[0][a[part]], seconds[1][b[part]])
            shorter = np.minimum(seconds[0][a[part]], seconds[1][b[part]])
            near = np.flatnonzero((bits <= MOST_BITS) & (longer <= DURATION_RATIO * shorter))
            if different is not None:
                near = near[different(a[part][near], b[part][near])]
            count += len(near)
            nearest.add(bits[near], a[part][near], b[part][near])
    return LookAlikes(count, nearest.pairs())


def mean_bits(first: Words, second: Words) -> npt.NDArray[np.float64]:
    """Bits that two videos' hashes differ in, on average over the frames with structure: float64 (pairs,).

    64 where too few frames have any.
    """
    usable = _structured(first) & _structured(second)
    count = usable.sum(1)
    total = (np.bitwise_count(first ^ second) * usable).sum(1)
    return np.where(count >= LEAST_FRAMES, total / np.maximum(count, 1), 64.0)


def _structured(hashes: Words) -> npt.NDArray[np.bool_]:
    bits = np.bitwise_count(hashes)
    return (bits >= _STRUCTURE[0]) & (bits <= _STRUCTURE[1])


class _Nearest:
    """Gathers pairs, and keeps the `most` nearest of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._bits = np.zeros(0)
        self._first = self._second = np.zeros(0, np.int64)

    def add(self, bits: npt.NDArray[np.float64], first: Places, second: Places) -> None:
        """Add pairs (all of shape (pairs,))."""
        self._bits = np.append(self._bits, bits)
        self._first, self._second = np.append(self._first, first), np.append(self._second, second)
        order = np.lexsort((self._second, self._first, self._bits))[: self.most]
        self._bits, self._first, self._second = self._bits[order], self._first[order], self._second[order]

    def pairs(self) -> list[LookAlike]:
        """What is kept, nearest first."""
        columns = self._first.tolist(), self._second.tolist(), self._bits.tolist()
        return [LookAlike(*pair) for pair in zip(*columns)]


class _Keys:
    """The halves of the hashes of some videos, sorted, to look up others by.

    Args:
        words: signatures, uint64 (videos, 8).
    """

    def __init__(self, words: Words) -> None:
        self._count = len(words)
        self._sorted: list[tuple[int, int, Words, Places]] = []
        usable = _structured(words)
        for place in range(perceptual_hash.FRAMES):
            rows = np.flatnonzero(usable[:, place])
            for shift in (0, 32):
                keys = _half(words[rows, place], shift)
                order = np.argsort(keys, kind="stable")
                self._sorted.append((place, shift, keys[order], rows[order]))

    def candidates(self, words: Words) -> tuple[Places, Places]:
        """Places (pairs,) of these videos, and of the ones given, that share half a hash of structure; each pair once.

        Args:
            words: signatures, uint64 (videos, 8).
        """
        usable = _structured(words)
        found = [np.zeros(0, np.int64)]
        for place, shift, keys, rows in self._sorted:
            wanted = np.flatnonzero(usable[:, place])
            one, other = _equal_pairs(keys, _half(words[wanted, place], shift))
            found.append(wanted[other] * self._count + rows[one])
        pairs = np.sort(np.concatenate(found))  # np.unique sorts large arrays of these several times slower
        second, first = np.divmod(pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]], max(self._count, 1))
        return first, second


def _half(words: Words, shift: int) -> Words:
    return (words >> np.uint64(shift)) & np.uint64(2**32 - 1)


def _equal_pairs(sorted_keys: Words, keys: Words) -> tuple[Places, Places]:
    """Places (pairs,) in the one and in the other of keys that are equal, crowded keys left out."""
    low, high = np.searchsorted(sorted_keys, keys, "left"), np.searchsorted(sorted_keys, keys, "right")
    counts = high - low
    counts[counts > _CROWD] = 0
    places = np.repeat(low, counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return places, np.repeat(np.arange(len(keys)), counts)
