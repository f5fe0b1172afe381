"""The same video twice, by bytes and by looks."""

import tracemalloc

import numpy as np
import pytest

from mvit_video.preparation import duplicates
from mvit_video.preparation.duplicates import look_alikes, mean_bits, same_bytes
from mvit_video.preparation.perceptual_hash import difference_hash, field_means, from_texts, signature_frames, to_text
from tests.preparation.test_scan import scanned
from tests.preparation.videos import write_video


def words(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, (count, 8), np.uint64)


def pairs(first: np.ndarray, second: np.ndarray, a: float = 10.0, b: float = 10.0) -> list[tuple[int, int]]:
    found = compared(first, second, a, b)
    assert found.count == len(found.nearest)
    return [(pair.first, pair.second) for pair in found.nearest]


def compared(first: np.ndarray, second: np.ndarray, a: float = 10.0, b: float = 10.0, *, most: int = 1000, **options):
    seconds = {"first_seconds": [a] * len(first), "second_seconds": [b] * len(second)}
    return look_alikes(first, second, most=most, **seconds, **options)


def flipped(signature: np.ndarray, bits: int) -> np.ndarray:
    """The signature with that many bits of the upper half of every hash turned."""
    return signature ^ np.uint64(((1 << bits) - 1) << 32)


def test_equal_digests():
    assert same_bytes(["a", "b", "a", "", "", "c", "b", "a"]) == [[0, 2, 7], [1, 6]]
    assert same_bytes([]) == []


def test_pairs_within_the_rule_and_only_those():
    first, second = words(50), words(40, seed=1)
    second[7] = first[3]
    second[8] = flipped(first[4], 6)
    second[9] = flipped(first[5], 7)
    assert pairs(first, second) == [(3, 7), (4, 8)]
    assert [pair.bits for pair in compared(first, second).nearest] == [0.0, 6.0]


@pytest.mark.parametrize(("seconds", "expected"), [(10.9, [(0, 0)]), (11.1, []), (9.2, [(0, 0)]), (9.0, [])])
def test_durations_must_fit(seconds, expected):
    one = words(1)
    assert pairs(one, one, a=10.0, b=seconds) == expected


def test_pictures_without_structure_are_no_evidence():
    first = words(1)
    black = np.zeros((1, 8), np.uint64)
    assert pairs(black, black) == []
    few = first.copy()
    few[0, 3:] = 0  # three frames with structure
    assert pairs(few, few) == []
    few[0, 3] = first[0, 3]
    assert pairs(few, few) == [(0, 0)]
    assert mean_bits(black, black)[0] == 64


def test_what_very_many_share_is_no_candidate():
    crowd = np.repeat(words(1), 300, axis=0)
    assert pairs(crowd, words(1)) == []


def test_the_nearest_are_kept_and_all_are_counted(monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    monkeypatch.setattr(duplicates, "_BATCH", 5)
    first = np.repeat(words(3), 4, axis=0)  # 0 to 3, 4 to 7 and 8 to 11 are alike
    second = np.concatenate([flipped(first, bits) for bits in (5, 3, 1, 7)])
    found = compared(first, second, most=20)
    assert found.count == 3 * 4 * 4 * 3
    assert [(pair.bits, pair.first, pair.second) for pair in found.nearest] == [
        (1.0, a, b) for a in range(5) for b in range(24 + a // 4 * 4, 28 + a // 4 * 4)
    ]
    apart = compared(first, second, different=lambda a, b: (a < 4) & (b % 2 == 0))
    assert apart.count == 4 * 2 * 3


def test_a_fixed_camera_fills_no_memory(monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", 64)
    monkeypatch.setattr(duplicates, "_BATCH", 2**14)
    first, second = (np.repeat(words(4), 250, axis=0) for _ in range(2))  # 250,000 pairs, each 16 times a candidate
    tracemalloc.start()
    try:
        found = compared(first, second, most=10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.count == 4 * 250 * 250
    assert peak < 25e6


def test_no_videos():
    assert pairs(words(0), words(3)) == []
    assert pairs(words(3), words(0)) == []


def test_a_video_of_another_size_and_quality_is_found_and_others_are_not(tmp_path):
    options = {"crf": "35", "bf": "2"}
    paths = [
        write_video(tmp_path / "a.mp4", seed=1, frames=20, size=(96, 128)),
        write_video(tmp_path / "b.mp4", seed=1, frames=20, size=(96, 128), options=options),
        write_video(tmp_path / "c.mp4", seed=2, frames=20, size=(96, 128)),
        write_video(tmp_path / "d.mp4", seed=3, frames=20, size=(96, 128)),
    ]
    signatures = from_texts([scanned(path).signature for path in paths])
    assert pairs(signatures[:1], signatures[1:]) == [(0, 0)]


def test_hash_of_a_ramp():
    ramp = np.tile(np.arange(0, 180, 2, dtype=np.uint8), (16, 1))  # brighter to the right
    assert difference_hash(ramp) == 2**64 - 1
    assert difference_hash(ramp[:, ::-1]) == 0
    ramp[:8] = ramp[:8, ::-1]
    assert difference_hash(ramp) == 2**32 - 1


def test_noise_below_the_margin_sets_no_bit():
    noise = np.full((16, 18), 100, np.uint8)
    noise[:, ::4] += 2
    assert difference_hash(noise) == 0


def test_means_of_sizes_that_do_not_divide():
    assert field_means(np.full((11, 13), 7, np.uint8)).tolist() == [[7.0] * 9] * 8
    assert field_means(np.full((3, 4), 7, np.uint8)).tolist() == [[7.0] * 9] * 8
    rows = np.repeat(np.arange(16, dtype=np.uint8)[:, None], 9, axis=1)
    assert field_means(rows)[:, 0].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5, 14.5]


def test_places_of_the_hashed_frames():
    assert signature_frames(80) == [5, 15, 25, 35, 45, 55, 65, 75]
    assert signature_frames(1) == [0] * 8
    assert signature_frames(3) == [0, 0, 0, 1, 1, 2, 2, 2]


def test_text_of_a_signature():
    hashes = [0, 1, 2**64 - 1, 4, 5, 6, 7, 8]
    assert from_texts([to_text(hashes)]).tolist() == [hashes]
