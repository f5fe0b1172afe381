import io
import itertools
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mvit_video.data.datasets.shards import Member, MemberLocation, ShardWriter, list_members, read_member, shard_order
from mvit_video.video.byte_source import locate
from mvit_video.video.index import VideoDecodeError
from mvit_video.video.location import VideoLocation

LONG = "/".join(["a folder with quite a long name"] * 9) + "/video.mp4"  # beyond what one head holds
CONTENTS = {
    "abseiling/a.mp4": b"first" * 100,
    "zumba/ä ö/日本語.mkv": bytes(range(256)) * 2,  # a whole number of blocks
    LONG: b"x",
    "empty.mp4": b"",
    "caf\udce9.avi": b"a name that is no UTF-8",
}


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "shards")
        return
    import fsspec

    yield "memory://bucket/shards"
    fsspec.filesystem("memory").store.clear()


def names_in(folder: str) -> list[str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(folder)
    return sorted(os.path.basename(entry) for entry in system.ls(path, detail=False)) if system.exists(path) else []


def packed(folder: str, **options: int) -> tuple[tuple[str, ...], list[MemberLocation]]:
    with ShardWriter(folder, **options) as writer:  # type: ignore[arg-type]
        places = [writer.add(name, content) for name, content in CONTENTS.items()]
    return writer.shards, places


def test_members_are_where_the_writer_says(folder: str) -> None:
    shards, places = packed(folder, max_videos=2)
    assert shards == ("videos-000000.tar", "videos-000001.tar", "videos-000002.tar")
    assert [place.shard for place in places] == [0, 0, 1, 1, 2]
    assert names_in(folder) == list(shards)
    for place, content in zip(places, CONTENTS.values(), strict=True):
        url = f"{folder}/{shards[place.shard]}"
        assert place.size == len(content)
        if content:
            assert read_member(url, place.start, place.size) == content
    listed = [list_members(f"{folder}/{shard}") for shard in shards]
    expected = [Member(name, place.start, place.size) for name, place in zip(CONTENTS, places, strict=True)]
    assert listed == [expected[:2], expected[2:4], expected[4:]]


def test_a_shard_in_the_place_of_another_is_no_source_of_its_videos(folder: str) -> None:
    shards, places = packed(folder, max_videos=2)
    members = [
        VideoLocation(name, f"{folder}/{shards[place.shard]}", place.start, place.size, member=name)
        for name, place in zip(CONTENTS, places, strict=True)
    ]
    for member in members:
        if member.size:
            assert locate(member).read() == CONTENTS[member.name]
    first, second, *_ = members
    foreign = replace(first, url=f"{folder}/{shards[2]}", size=len(b"a name"))
    with pytest.raises(
        VideoDecodeError, match=r"000002\.tar has changed since it was indexed: caf.+avi of 23 bytes beg"
    ):
        locate(foreign)
    with pytest.raises(VideoDecodeError, match=r"changed .*: abseiling/a.mp4 of 500 bytes begins at byte 512, and not"):
        locate(replace(first, size=499))
    with pytest.raises(VideoDecodeError, match=r"changed since it was indexed: no member begins at byte"):
        locate(replace(second, start=second.start + 1, size=second.size - 1))


def test_tarfile_reads_a_shard(tmp_path: Path) -> None:
    (shard,), places = packed(str(tmp_path))
    with tarfile.open(tmp_path / shard) as archive:
        found = {info.name: (info.offset_data, archive.extractfile(info).read()) for info in archive}  # type: ignore[union-attr]
    starts = [place.start for place in places]
    assert found == {name: (start, CONTENTS[name]) for name, start in zip(CONTENTS, starts, strict=True)}


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar command")
def test_the_tar_command_unpacks_a_shard(tmp_path: Path) -> None:
    (shard,), _ = packed(str(tmp_path / "shards"))
    result = subprocess.run(
        ["tar", "-xf", str(tmp_path / "shards" / shard)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    for name, content in CONTENTS.items():
        assert (tmp_path / name).read_bytes() == content


def test_files_are_packed_with_their_time_and_the_bytes_depend_on_nothing_else(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"content")
    os.utime(video, (1_700_000_000, 1_700_000_000))
    for folder in ("one", "two"):
        with ShardWriter(tmp_path / folder) as writer:
            assert writer.add("a.mp4", video) == MemberLocation(0, 512, 7)
        video.chmod(0o600)
    one, two = ((tmp_path / folder / "videos-000000.tar").read_bytes() for folder in ("one", "two"))
    assert one == two
    with tarfile.open(fileobj=io.BytesIO(one)) as archive:
        (info,) = archive.getmembers()
    assert (info.mtime, info.mode, info.uid, info.uname) == (1_700_000_000, 0o644, 0, "")


def test_a_shard_ends_before_it_exceeds_max_bytes(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, max_bytes=4 * 1024) as writer:
        places = [writer.add(f"{i}.mp4", bytes(size)) for i, size in enumerate([512, 1000, 9000, 1, 1])]
    assert [place.shard for place in places] == [0, 0, 1, 2, 2]  # a video larger than that has a shard of its own
    sizes = [(tmp_path / shard).stat().st_size for shard in writer.shards]
    assert sizes == [1024 + 1536 + 1024, 512 + 9216 + 1024, 2 * 1024 + 1024]


def test_an_interrupted_writer_leaves_whole_shards_alone(folder: str) -> None:
    with pytest.raises(KeyboardInterrupt), ShardWriter(folder, max_videos=1) as writer:
        writer.add("a.mp4", b"a")
        writer.add("b.mp4", b"b")
        assert "videos-000001.tar" not in names_in(folder)
        raise KeyboardInterrupt
    assert names_in(folder) == ["videos-000000.tar"]
    assert [member.name for member in list_members(f"{folder}/videos-000000.tar")] == ["a.mp4"]


def test_a_video_that_fails_leaves_nothing_in_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grows.mp4").write_bytes(b"12345")

    def grow(source: io.BufferedReader, target: io.BufferedWriter, length: int) -> None:
        target.write(source.read() + b"6")

    with ShardWriter(tmp_path / "shards") as writer:
        writer.add("a.mp4", b"a")
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copyfileobj", grow)
            with pytest.raises(
                ValueError, match=r"b\.mp4: changed from 5 to 6 bytes while it was packed; pack it anew"
            ):
                writer.add("b.mp4", tmp_path / "grows.mp4")
        with pytest.raises(FileNotFoundError):
            writer.add("c.mp4", tmp_path / "gone.mp4")
        writer.add("b.mp4", tmp_path / "grows.mp4")
    members = list_members(str(tmp_path / "shards/videos-000000.tar"))
    assert members == [Member("a.mp4", 512, 1), Member("b.mp4", 1536, 5)]


def test_a_writer_without_videos_writes_no_shard(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shards") as writer, pytest.raises(FileNotFoundError):
        writer.add("c.mp4", tmp_path / "gone.mp4")
    assert writer.shards == ()
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("name", ["", "/a.mp4", "../a.mp4", "a/../../b.mp4", "a//b.mp4", "a\0.mp4"])
def test_names_that_reach_outside_are_refused(tmp_path: Path, name: str) -> None:
    with (
        ShardWriter(tmp_path) as writer,
        pytest.raises(ValueError, match=r"is no name for a member of a shard: it must be a relative path"),
    ):
        writer.add(name, b"a")


def test_names_come_once(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, max_videos=1) as writer:
        writer.add("a.mp4", b"a")
        with pytest.raises(ValueError, match=r"a\.mp4: is in the shards already; give each video a name of its own"):
            writer.add("a.mp4", b"b")


def test_shards_that_are_there_are_kept_unless_asked(folder: str) -> None:
    packed(folder)
    with (
        pytest.raises(ValueError, match=r"videos-000000\.tar: exists; pack into another folder, .* overwrite=True"),
        ShardWriter(folder) as writer,
    ):
        writer.add("b.mp4", b"b")
    assert len(list_members(f"{folder}/videos-000000.tar")) == len(CONTENTS)
    with ShardWriter(folder, overwrite=True) as writer:
        writer.add("b.mp4", b"b")
    assert list_members(f"{folder}/videos-000000.tar") == [Member("b.mp4", 512, 1)]


def test_limits_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_bytes=5, max_videos=0: a shard must hold at least one of each"):
        ShardWriter(tmp_path, max_bytes=5, max_videos=0)


def test_a_cut_or_foreign_shard_is_refused(tmp_path: Path) -> None:
    (shard,), places = packed(str(tmp_path))
    whole = (tmp_path / shard).read_bytes()
    cut = tmp_path / "cut.tar"
    for length in (len(whole) - 1024, places[1].start + 10, places[1].start - 100, 0):
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.tar: is no whole, uncompressed tar archive .*; copy or pack it"):
            list_members(str(cut))
    with pytest.raises(VideoDecodeError, match=r"cut\.tar"):
        read_member(str(cut), places[1].start, places[1].size)
    cut.write_bytes(b"this is text" * 100)
    with pytest.raises(ValueError, match="is no whole, uncompressed tar archive"):
        list_members(str(cut))
    with pytest.raises(RuntimeError, match="nonsense://x"):
        list_members("nonsense://x/a.tar")


SHARD_OF = np.repeat(np.arange(23), np.arange(23) % 7 + 2)[::-1]


def order(*, seed: int = 3, epoch: int = 0, window: int = 4) -> np.ndarray:
    return shard_order(SHARD_OF, seed=seed, epoch=epoch, window=window)


def most_open(shards: np.ndarray) -> int:
    """Most shards begun and not finished at any place of a sequence."""
    first = {shard: place for place, shard in reversed(list(enumerate(shards.tolist())))}
    last = {shard: place for place, shard in enumerate(shards.tolist())}
    return max(sum(first[s] <= place <= last[s] for s in first) for place in range(len(shards)))


@pytest.mark.parametrize("window", [1, 2, 4, 5, 22, 23, 100])
def test_an_order_visits_every_video_and_opens_few_shards(window: int) -> None:
    result = order(window=window)
    assert result.dtype == np.int64
    assert sorted(result.tolist()) == list(range(len(SHARD_OF)))
    assert most_open(SHARD_OF[result]) <= window
    if window < 10:  # in larger windows some shards are over before the last has begun
        assert most_open(SHARD_OF[result]) == window


def test_an_order_is_a_pure_function_of_seed_and_epoch() -> None:
    assert order().tolist() == order().tolist()
    assert order().tolist()[:6] == [45, 58, 80, 75, 43, 41]
    others = [order(), order(epoch=1), order(seed=4), order(window=3)]
    for one, other in itertools.combinations(others, 2):
        assert one.tolist() != other.tolist()
    assert SHARD_OF[order()].tolist() != SHARD_OF[order(epoch=1)].tolist()


def test_a_window_mixes_its_shards() -> None:
    visited = SHARD_OF[order(window=5)]
    changes = np.count_nonzero(np.diff(visited))
    assert changes > 0.6 * len(visited)


def test_ranks_share_the_window() -> None:
    """With the loader's arithmetic, what all ranks read in any stretch of steps comes from one window, or from two."""
    result = order(window=4)
    world_size, batch_size, accumulate = 3, 2, 2
    per_step = world_size * batch_size * accumulate
    seen: list[int] = []
    for step in range(len(result) // per_step):
        taken = []
        for place, rank in itertools.product(range(step * accumulate, (step + 1) * accumulate), range(world_size)):
            first = (place * world_size + rank) * batch_size
            taken += result[first : first + batch_size].tolist()
        assert len(set(SHARD_OF[taken].tolist())) <= 8
        seen += taken
    assert seen == result[: len(seen)].tolist()
    assert most_open(SHARD_OF[seen]) <= 4


def test_an_epoch_is_fair_to_every_place() -> None:
    """Over many epochs, each video comes equally often in the first half."""
    early = np.zeros(len(SHARD_OF))
    for epoch in range(400):
        early[order(epoch=epoch)[: len(SHARD_OF) // 2]] += 1
    assert 0.35 < early.min() / 400 < early.max() / 400 < 0.65


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="window=0: at least one shard must be open at a time"):
        order(window=0)
