"""What videos look like, which of them are takes of one recording, and how they are put into groups."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mvit_video.auditing import recordings
from mvit_video.auditing.fingerprints import Fingerprints, fingerprint_frames, fingerprints, frame_places
from mvit_video.auditing.recordings import Comparison, Groups, compare, num_blocks, pair_similarity
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segments
from mvit_video.video.reader import VideoReader
from tests.auditing.takes import FRAMES, scene, write_take
from tests.paths import SHARED_CLIPS


def looked_at(paths: Sequence[Path | str], **more: object) -> Fingerprints:
    manifest = Manifest([str(path) for path in paths], [0] * len(paths), ("a",), "here", **more)  # type: ignore[arg-type]
    return fingerprints([manifest], frames=5, time_limit_s=None, threads=1, on_progress=lambda done: None)


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


def test_two_splits_are_looked_at_in_one_array(tmp_path: Path) -> None:
    """Joined from two, the array was there twice: 11 GB for 300,000 videos."""
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    one = Manifest([str(write_take(tmp_path / "a.mp4", 0)), str(tmp_path / "broken.mp4")], [0, 0], ("a",), "here")
    both = fingerprints([one, one], frames=5, time_limit_s=None, threads=2, on_progress=lambda done: None)
    assert list(both.failures) == [1, 3] and len(both.numbers) == 4
    assert torch.equal(both.values[:2], both.values[2:]) and both.numbers.tolist()[0] == both.numbers.tolist()[2]


def alike(monkeypatch: pytest.MonkeyPatch, first: int, second: int) -> np.ndarray:
    """Have every video of a first and a second part look like every other, float32 (first, second) says how much."""
    count = first + second
    similarity = np.random.default_rng(0).integers(80, 99, (count, count)).astype(np.float32) / 100
    monkeypatch.setattr(recordings, "coarse_similarity", lambda a, b: torch.ones(len(a), len(b)))
    monkeypatch.setattr(
        recordings,
        "_of_pairs",
        lambda rows, columns, a, b: similarity[rows[a].long().ravel(), columns[b].long().ravel()],
    )
    return similarity[:first, first:]


@pytest.mark.parametrize("gathered", [1, 10**6])
def test_of_each_video_the_nearest_are_named(monkeypatch: pytest.MonkeyPatch, gathered: int) -> None:
    similarity = alike(monkeypatch, 30, 20)
    monkeypatch.setattr(recordings, "_BLOCK", 8)
    monkeypatch.setattr(recordings, "_GATHERED", gathered)
    places = torch.arange(50.0).view(50, 1, 1, 1)
    found = compared(Fingerprints(places, np.zeros((50, 1), np.int64), {}), first_part=30)
    every = sorted((-similarity[a, b], b + 30, a) for a in range(30) for b in range(20))
    kept = [one for one in every if sum(other[1] == one[1] for other in every[: every.index(one)]) < 5]
    assert [(-pair.similarity, pair.second, pair.first) for pair in found.pairs] == kept
    assert len(kept) == 100 and found.num_pairs == 600


def test_pairs_of_a_fixed_camera_are_dropped_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were kept to the end, of every two videos up to one: gigabytes, and hours of sorting them."""
    alike(monkeypatch, 80, 4)
    monkeypatch.setattr(recordings, "_BLOCK", 4)
    monkeypatch.setattr(recordings, "_GATHERED", 50)
    sizes: list[int] = []
    prune = recordings._Nearest._prune
    monkeypatch.setattr(recordings._Nearest, "_prune", lambda self: (sizes.append(self._count), prune(self)))
    places = torch.arange(84.0).view(84, 1, 1, 1)
    assert len(compared(Fingerprints(places, np.zeros((84, 1), np.int64), {}), first_part=80).pairs) == 20
    assert len(sizes) > 4 and max(sizes) < 100


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
