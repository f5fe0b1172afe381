"""The same video twice: by its bytes, and by what it looks like.

Rule for look-alikes: of the eight frames compared at the same relative times, those that show enough structure in both
videos (4 to 60 of 64 bits set) are counted; at least four must be, their hashes may differ in 6 of 64 bits on average,
and the durations by 10 %. Candidates are pairs that share half a hash at the same time exactly.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvit_video.preparation import perceptual_hash

MOST_BITS = 6.0
LEAST_FRAMES = 4
DURATION_RATIO = 1.1
_STRUCTURE = (4, 60)  # set bits of a hash that says something
_CROWD = 256  # videos that share half a hash: something common, such as a title card, and no evidence
_BATCH = 2**18

RULE = (
    f"at least {LEAST_FRAMES} of {perceptual_hash.FRAMES} frames at the same relative times show enough structure to "
    f"be compared, their 64-bit difference hashes differ in at most {MOST_BITS:g} bits on average, and the durations "
    f"by at most {100 * (DURATION_RATIO - 1):.0f} %"
)
Words = npt.NDArray[np.uint64]
_BITS_IN_BYTE = np.array([value.bit_count() for value in range(256)], np.uint8)


@dataclass(frozen=True)
class LookAlike:
    """A pair of videos, by their places in the two lists compared, and the mean bits their hashes differ in."""

    first: int
    second: int
    bits: float


def same_bytes(digests: Sequence[str]) -> list[list[int]]:
    """Places with equal digests, for every digest that occurs more than once; empty digests are passed over."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        if digest:
            places[digest].append(place)
    return [group for group in places.values() if len(group) > 1]


def look_alikes(
    first: Words, second: Words, *, first_seconds: Sequence[float], second_seconds: Sequence[float]
) -> list[LookAlike]:
    """Pairs of a video of one list and one of another that look the same, nearest first; see the module's text.

    Args:
        first, second: signatures, uint64 (videos, 8).
        first_seconds, second_seconds: durations.
    """
    if not len(first) or not len(second):
        return []
    seconds = np.asarray(first_seconds), np.asarray(second_seconds)
    found: list[LookAlike] = []
    pairs = _candidates(first, second)
    for start in range(0, len(pairs), _BATCH):
        a, b = pairs[start : start + _BATCH].T
        bits = mean_bits(first[a], second[b])
        longer = np.maximum(seconds[0][a], seconds[1][b])
        shorter = np.minimum(seconds[0][a], seconds[1][b])
        near = (bits <= MOST_BITS) & (longer <= DURATION_RATIO * shorter)
        found += [LookAlike(int(a[i]), int(b[i]), float(bits[i])) for i in np.flatnonzero(near)]
    return sorted(found, key=lambda pair: (pair.bits, pair.first, pair.second))


def mean_bits(first: Words, second: Words) -> npt.NDArray[np.float64]:
    """Bits that two videos' hashes differ in, on average over the frames with structure: float64 (pairs,).

    64 where too few frames have any.
    """
    usable = _structured(first) & _structured(second)
    count = usable.sum(1)
    total = (_bit_counts(first ^ second) * usable).sum(1)
    return np.where(count >= LEAST_FRAMES, total / np.maximum(count, 1), 64.0)


def _structured(hashes: Words) -> npt.NDArray[np.bool_]:
    bits = _bit_counts(hashes)
    return (bits >= _STRUCTURE[0]) & (bits <= _STRUCTURE[1])


def _bit_counts(words: Words) -> npt.NDArray[np.int64]:
    """Set bits of each word (numpy.bitwise_count came with NumPy 2)."""
    single = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 8)
    return _BITS_IN_BYTE[single].sum(-1, dtype=np.int64)


def _candidates(first: Words, second: Words) -> npt.NDArray[np.int64]:
    """Pairs that share half a hash of structure: int64 (pairs, 2), each once."""
    found = [np.zeros((0, 2), np.int64)]
    usable = _structured(first), _structured(second)
    for place in range(perceptual_hash.FRAMES):
        rows = np.flatnonzero(usable[0][:, place]), np.flatnonzero(usable[1][:, place])
        for shift in (0, 32):
            keys = [_half(words[r, place], shift) for words, r in zip((first, second), rows)]
            found.append(_equal_pairs(keys[0], keys[1], rows))
    return np.unique(np.concatenate(found), axis=0)


def _half(words: Words, shift: int) -> Words:
    return (words >> np.uint64(shift)) & np.uint64(2**32 - 1)


def _equal_pairs(
    first: Words, second: Words, rows: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]
) -> npt.NDArray[np.int64]:
    """Rows whose keys are equal, crowded keys left out."""
    order = np.argsort(first, kind="stable")
    sorted_keys = first[order]
    low, high = np.searchsorted(sorted_keys, second, "left"), np.searchsorted(sorted_keys, second, "right")
    counts = high - low
    counts[counts > _CROWD] = 0
    places = np.repeat(low, counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([rows[0][order[places]], np.repeat(rows[1], counts)], axis=1).astype(np.int64)
