"""Tar shards in the WebDataset convention: what a shard may hold, what is refused, and where shards are found."""

import io
import json
import tarfile
from pathlib import Path

import fsspec
import pytest

from mvit_video.data.datasets import shard_listing
from mvit_video.data.datasets.shard_listing import split_key
from mvit_video.data.datasets.sharded_images import ImageShardsSource, from_shards, shard_names
from mvit_video.images import ImageDecodeError
from tests.image_library import images, jpeg, write_shards


def tar(path: Path, members: dict[str, bytes]) -> str:
    """An archive of some members."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def test_a_key_ends_at_the_first_dot_of_the_file_name():
    assert split_key("a.b/c.seg.PNG") == ("a.b/c", "seg.png")
    assert split_key("x.jpg") == ("/x", "jpg") and split_key("./x.cls") == ("./x", "cls")


def test_labels_lie_before_or_behind_their_image_as_numbers_or_names(tmp_path):
    members = {
        "d/a.cls": b"1\n", "d/a.jpg": jpeg(1), "b.png": jpeg(2), "b.cls": b"0", "c.WebP": jpeg(3),
        "c.json": json.dumps({"label": 2, "width": 5}).encode(), "c.txt": b"a caption", "d/": b"",
    }  # fmt: skip
    manifest = from_shards(tar(tmp_path / "x.tar", members))
    assert [Path(path).name for path in manifest.paths] == ["a.jpg", "b.png", "c.WebP"]
    assert list(manifest.labels) == [1, 0, 2] and manifest.class_names == ("class 0", "class 1", "class 2")
    assert [manifest.read(index) for index in range(3)] == [jpeg(1), jpeg(2), jpeg(3)]
    assert manifest.left_out == {"member of another kind": (f"{tmp_path}/x.tar/c.txt", f"{tmp_path}/x.tar/d/")} or (
        manifest.left_out == {"member of another kind": (f"{tmp_path}/x.tar/c.txt",)}
    )
    named = from_shards(tar(tmp_path / "y.tar", {"a.jpg": b"x", "a.cls": b"wren", "b.jpg": b"y", "b.cls": b"robin"}))
    assert named.class_names == ("robin", "wren") and list(named.labels) == [1, 0]


def test_the_json_field_is_an_option(tmp_path):
    place = tar(tmp_path / "x.tar", {"a.jpg": b"x", "a.json": b'{"class": "wren", "label": -1}'})
    assert ImageShardsSource(train=place, label_key="class").manifest("train").class_names == ("wren",)
    with pytest.raises(ValueError, match=r"x\.tar/a\.jpg: label -1; a label is a number of 0 or more"):
        from_shards(place)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"x"}, r"x\.tar/a\.jpg: has no label; beside an image KEY\.jpg lies KEY\.cls"),
        ({"a.jpg": b"x", "a.json": b"[]"}, "has no label"),
        ({"a.jpg": b"x", "a.json": b"{"}, r"a\.jpg: its label is not readable"),
        ({"a.jpg": b"x", "a.cls": b"\xff\xfe"}, "its label is not readable"),
        ({"a.jpg": b"x", "a.cls": b" \n"}, "has no label"),
        ({"a.jpg": b"x", "a.png": b"x", "a.cls": b"1"}, r"a\.png and a\.jpg have one key"),
        ({"a.cls": b"1"}, "no image in 1 shards; images are members such as"),
    ],
)
def test_shards_that_are_refused(members, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        from_shards(tar(tmp_path / "x.tar", members))


def test_a_shard_that_is_not_whole_is_refused_by_name(tmp_path):
    place = write_shards(tmp_path, images(2)) / "train-000000.tar"
    whole = place.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:-1024], b"no archive at all" * 100):
        place.write_bytes(part)
        with pytest.raises(ValueError, match=r"train-000000\.tar: is no whole, uncompressed tar archive"):
            from_shards(str(place))
    with pytest.raises(ValueError, match=r"gone\.tar: is no whole, .*No such file"):
        from_shards(str(tmp_path / "gone.tar"))


def test_labels_beyond_the_classes_are_refused(tmp_path):
    place = tar(tmp_path / "x.tar", {"a.jpg": b"x", "a.cls": b"3"})
    with pytest.raises(ValueError, match="label 3 is out of range: with 2 classes"):
        from_shards(place, class_names=("a", "b"))


def test_a_shard_that_shrank_is_an_error_that_names_the_image(tmp_path):
    folder = write_shards(tmp_path / "wds", images(2), per_shard=50)
    manifest = from_shards(str(folder))
    (folder / "train-000000.tar").write_bytes(b"x" * 3000)
    with pytest.raises(ImageDecodeError, match=r"n02099601_1\.jpg: bytes \d+ to \d+ of .* is the copy complete\?"):
        manifest.read(5)


def test_places_mean_shards(tmp_path):
    write_shards(tmp_path, images(4))
    every = [str(tmp_path / f"train-00000{number}.tar") for number in range(3)]
    for place in (
        str(tmp_path),
        f"{tmp_path}/train-*.tar",
        f"{tmp_path}/train-{{000000..000002}}.tar",
        f"{tmp_path}/train-00000{{0,1}}.tar {tmp_path}/train-000002.tar",
    ):
        assert shard_names(place) == every
    with pytest.raises(ValueError, match=r"no shards there; give a folder of \.tar files"):
        shard_names(f"{tmp_path}/val-*.tar")
    with pytest.raises(ValueError, match=r"train-000000\.tar more than once"):
        shard_names(f"{every[0]} {tmp_path}")


def test_shards_behind_a_url(tmp_path):
    system = fsspec.filesystem("memory")
    for path in write_shards(tmp_path, images(4)).glob("*.tar"):
        system.pipe_file(f"/in/{path.name}", path.read_bytes())
    for place in ("memory://in", "memory://in/train-*.tar", "memory://in/train-{000000..000002}.tar"):
        manifest = from_shards(place)
        assert [manifest.read(index) for index in range(12)] == [data for data, _ in images(4).values()]
        assert manifest.paths[0].startswith("memory://") and manifest.location(0).remote


def test_listings_are_kept_until_a_shard_changes(tmp_path, monkeypatch, caplog):
    wds, kept = write_shards(tmp_path / "wds", images(4)), tmp_path / "kept"
    source = ImageShardsSource(train=str(wds), listings=str(kept))
    source.prepare()
    assert len(list(kept.glob("*.json"))) == 3
    listed = []
    read = shard_listing.list_shard
    monkeypatch.setattr(shard_listing, "list_shard", lambda url, **given: listed.append(url) or read(url, **given))
    fresh = from_shards(str(wds))
    assert len(listed) == 3
    manifest = source.manifest("train")
    assert len(listed) == 3  # none of them again
    assert manifest.paths == fresh.paths and manifest.labels == fresh.labels
    assert [manifest.location(index) for index in range(12)] == [fresh.location(index) for index in range(12)]
    tar(wds / "train-000001.tar", {"a.txt": b"x", "a.jpg": jpeg(1), "a.cls": b"0"})
    changed = ImageShardsSource(train=str(wds), listings=str(kept)).manifest("train")
    assert listed[3:] == [str(wds / "train-000001.tar")] and len(changed) == 8
    assert changed.left_out == {"member of another kind": (f"{wds}/train-000001.tar/a.txt",)}
    for path in kept.glob("*.json"):
        path.write_text(path.read_text()[:20])
    assert len(source.manifest("train")) == 8 and len(listed) == 7
    assert "cannot be read" in caplog.text and "listed anew" in caplog.text
    (wds / "train-000002.tar").unlink()
    with pytest.raises(ValueError, match=r"train-000002\.tar: cannot be read \(No such file"):
        from_shards(f"{wds}/train-00000{{0..2}}.tar", listings=str(kept))


def test_listings_of_remote_shards_are_kept_too(tmp_path):
    system = fsspec.filesystem("memory")
    for path in write_shards(tmp_path / "wds", images(4)).glob("*.tar"):
        system.pipe_file(f"/kept/{path.name}", path.read_bytes())
    first = from_shards("memory://kept", listings=str(tmp_path / "kept"))
    again = from_shards("memory://kept", listings=str(tmp_path / "kept"))
    assert first.paths == again.paths and again.read(11) == list(images(4).values())[11][0]
