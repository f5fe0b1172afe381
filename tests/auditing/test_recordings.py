"""What videos look like, which of them are takes of one recording, and how they are put into groups."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mvit_video.auditing import recordings
from mvit_video.auditing.fingerprints import Fingerprints, fingerprint_frames, fingerprints, frame_places
from mvit_video.auditing.recordings import Comparison, Groups, compare, nearest, num_blocks, pair_similarity
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segments
from mvit_video.video.reader import VideoReader
from tests.auditing.takes import FRAMES, scene, write_take
from tests.paths import SHARED_CLIPS


def looked_at(paths: Sequence[Path | str], **more: object) -> Fingerprints:
    manifest = Manifest([str(path) for path in paths], [0] * len(paths), ("a",), "here", **more)  # type: ignore[arg-type]
    return fingerprints(manifest, frames=5, time_limit_s=None, threads=1, on_progress=lambda done: None)


def similarities(first: Fingerprints, second: Fingerprints) -> np.ndarray:
    """Of every video with every other."""
    a, b = np.indices((len(first.numbers), len(second.numbers))).reshape(2, -1)
    found = pair_similarity(first.values.float()[a], second.values.float()[b])
    return found.view(len(first.numbers), -1).numpy()


def compared(prints: Fingerprints, first_part: int) -> Comparison:
    return compare(
        prints, first_part=first_part, threshold=0.75, device=torch.device("cpu"), on_progress=lambda done: None
    )


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory) -> Fingerprints:
    """Six scenes; then takes of the first three: smaller, cropped and worse; of another time; and both."""
    folder = tmp_path_factory.mktemp("takes")
    paths = [write_take(folder / f"{seed}.mp4", seed) for seed in range(6)]
    paths.append(write_take(folder / "0small.mp4", 0, cut=3, size=48, crf=36))
    paths.append(write_take(folder / "1later.mp4", 1, first=14))
    paths.append(write_take(folder / "2both.mp4", 2, first=10, cut=4, size=54, crf=30))
    return looked_at(paths)


def test_takes_are_near_and_other_scenes_are_far(takes: Fingerprints) -> None:
    similarity = similarities(takes, takes)
    same = np.zeros_like(similarity, bool)
    np.fill_diagonal(same, True)
    for place, of in ((6, 0), (7, 1), (8, 2)):
        same[place, of] = same[of, place] = True
    assert similarity[same].min() > 0.9
    assert similarity[~same].max() < 0.6


@pytest.mark.parametrize("block", [2, 100])
def test_exactly_the_pairs_across_the_split_are_found(
    takes: Fingerprints, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(recordings, "_BLOCK", block)
    found = compared(takes, first_part=6)
    assert {(pair.first, pair.second) for pair in found.pairs} == {(0, 6), (1, 7), (2, 8)}
    assert found.num_pairs == 3
    assert found.groups.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert compared(takes, first_part=9).pairs == ()  # all on one side: joined, and no pair across
    assert compared(takes, first_part=9).groups.tolist() == found.groups.tolist()


def test_every_block_is_counted(takes: Fingerprints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "_BLOCK", 4)
    blocks: list[int] = []
    compare(takes, first_part=6, threshold=0.75, device=torch.device("cpu"), on_progress=blocks.append)
    assert sum(blocks) == num_blocks(9) == 6


def test_one_frame_in_common_is_no_take(takes: Fingerprints) -> None:
    """Such as a title card that two videos begin with."""
    one, other = takes.values[3].clone(), takes.values[4].clone()
    other[0] = one[0]
    assert float(pair_similarity(one[None].float(), other[None].float())) < 0.75
    other[1] = one[1]
    assert float(pair_similarity(one[None].float(), other[None].float())) > 0.99


def test_pictures_without_structure_are_near_nothing() -> None:
    flat = fingerprint_frames(torch.full((2, 40, 60, 3), 90, dtype=torch.uint8))
    noise = torch.randint(88, 93, (2, 40, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert not flat.any() and not fingerprint_frames(noise).any()
    prints = Fingerprints(torch.stack([flat, flat]), np.zeros((2, 2), np.int64), {})
    assert prints.plain.tolist() == [True, True]
    assert compared(prints, first_part=1).num_pairs == 0


def test_brightness_and_contrast_do_not_matter() -> None:
    pictures = torch.from_numpy(scene(3)[:2])
    dark = (pictures.float() * 0.6 + 20).round().byte()
    a, b = fingerprint_frames(pictures).float(), fingerprint_frames(dark).float()
    assert float((a[:, 0] * b[:, 0]).sum(-1).min()) > 0.97


def test_unreadable_videos_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    found = looked_at([write_take(tmp_path / "a.mp4", 0), tmp_path / "broken.mp4"])
    assert list(found.failures) == [1] and found.plain.tolist() == [False, False]
    joined = found.joined(found)
    assert list(joined.failures) == [1, 3] and len(joined.numbers) == 4
    assert compared(found, first_part=1).num_pairs == 0


def test_frames_of_a_segment_are_of_the_segment(tmp_path: Path) -> None:
    path = write_take(tmp_path / "a.mp4", 0)
    found = looked_at([path, path], segments=Segments([(0.0, 1.0), (1.0, 2.0)]))
    with VideoReader(path) as video:
        assert video.info.num_frames == FRAMES
    assert found.numbers.tolist() == [[1, 3, 6, 8, 10], [13, 15, 18, 20, 22]]


def test_places_leave_out_openings_and_ends() -> None:
    assert frame_places(100, 5) == [10, 30, 50, 70, 90]
    assert frame_places(1, 3) == [0, 0, 0]


def test_of_each_video_the_nearest_are_named() -> None:
    pairs = [recordings.Pair(first, 100 + first // 8, first / 100) for first in range(16)]
    assert [(pair.first, pair.second) for pair in nearest(pairs)] == [
        *((first, 101) for first in (15, 14, 13, 12, 11)),
        *((first, 100) for first in (7, 6, 5, 4, 3)),
    ]


def test_groups_hang_together() -> None:
    groups = Groups(6)
    groups.join([4, 1])
    groups.join_equal(["", "", "x", "", "x", ""])
    assert groups.of.tolist() == [0, 1, 1, 3, 1, 5]


def test_many_small_groups_are_joined_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every group looked at all videos: minutes for the segments of 200,000 files."""
    groups = Groups(3000)
    groups.join([0, 2999])
    monkeypatch.setattr(np, "isin", None)
    groups.join_equal([f"file {place // 3}" for place in range(3000)])
    wanted = [3 * (place // 3) for place in range(2997)] + [0, 0, 0]
    assert groups.of.tolist() == wanted


@pytest.mark.skipif(not SHARED_CLIPS.is_dir(), reason="the real clips are not here")
def test_real_clips_are_far_from_each_other_and_near_to_their_parts() -> None:
    names = sorted(path for path in SHARED_CLIPS.iterdir() if path.suffix in (".mp4", ".mkv", ".avi"))
    whole = looked_at(names)
    halves = looked_at([*names, *names], segments=Segments([(0.0, 3.0)] * len(names) + [(3.0, 6.0)] * len(names)))
    similarity = similarities(whole, halves)
    same = np.tile(np.eye(len(names), dtype=bool), 2)
    assert similarity[same].min() > 0.75
    assert similarity[~same].max() < 0.6
