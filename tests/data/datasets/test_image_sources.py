"""Whatever form images are stored in, their source gives the same bytes, pixels, labels and class names."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mvit_video.data.datasets.class_names import read_class_names
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.image_sources import ImageFolderSource, ImageListSource
from mvit_video.data.datasets.imagenet import ImageNetSource
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.parquet_images import ImageParquetSource
from mvit_video.data.datasets.sharded_images import ImageShardsSource
from mvit_video.data.datasets.sources import Source
from mvit_video.data.datasets.table import ImageTableSource
from mvit_video.images import ImageDecodeError, read_image
from tests.image_library import (
    NAMES,
    WNIDS,
    images,
    write_flat,
    write_folders,
    write_list,
    write_parquet,
    write_shards,
)

FORMS = ("imagenet", "image_folder", "list", "table", "shards", "json shards", "parquet")


def source_of(form: str, folder: Path) -> Source:
    """A miniature ImageNet of 12 training and 6 validation images in a form."""
    train, val = images(4), images(2, first=500)
    folder.mkdir(exist_ok=True)
    names = folder / "names.txt"
    names.write_text("\n".join(NAMES) + "\n")
    if form in ("imagenet", "image_folder"):
        write_folders(folder / "in" / "train", train)
        write_folders(folder / "in" / "val", val)
        if form == "imagenet":
            return ImageNetSource(folder=str(folder / "in"))
        return ImageFolderSource(train=str(folder / "in" / "train"), val=str(folder / "in" / "val"))
    if form == "list":
        places = {
            split: str(write_list(folder / f"{split}.txt", part)) for split, part in (("train", train), ("val", val))
        }
        return ImageListSource(**places, root=str(folder), class_names_file=str(names))
    if form == "table":
        lines = ["image,label,split"]
        for split, part in (("train", train), ("val", val)):
            write_flat(folder / split, part)
            lines += [f"{split}/{name}.JPEG,{label},{split}" for name, (_, label) in part.items()]
        (folder / "table.csv").write_text("\n".join(lines) + "\n")
        return ImageTableSource(table=str(folder / "table.csv"), root=str(folder), class_names_file=str(names))
    if form.endswith("shards"):
        for split, part in (("train", train), ("val", val)):
            write_shards(folder / "wds", part, prefix=split, json_labels=form == "json shards")
        wds = folder / "wds"
        return ImageShardsSource(
            train=f"{wds}/train-{{000000..000002}}.tar", val=f"{wds}/val-*.tar", class_names_file=str(names)
        )
    for split, part in (("train", train), ("val", val)):
        write_parquet(folder / "pq", part, prefix=split)
    return ImageParquetSource(train=f"{folder}/pq/train-*.parquet", val=f"{folder}/pq/val-*.parquet")


def stems(manifest: Manifest) -> list[str]:
    """Names of the images without folder and extension."""
    return [Path(path).stem for path in manifest.paths]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_equal_samples(form, tmp_path):
    source = source_of(form, tmp_path)
    source.prepare()
    for split, content in (("train", images(4)), ("val", images(2, first=500)), ("test", images(2, first=500))):
        assert source.has(split)
        manifest = source.manifest(split)
        assert manifest.kind is IMAGES
        assert stems(manifest) == list(content)
        assert list(manifest.labels) == [label for _, label in content.values()]
        known = WNIDS if form in ("image_folder", "parquet") else NAMES
        assert manifest.class_names == known
        assert manifest.with_classes(NAMES).labels == manifest.labels  # the wnid decides, with or without a name
        for index, (data, _) in enumerate(content.values()):
            assert manifest.read(index) == data
            decoded = read_image(manifest.read(index), name=manifest.paths[index], orientation="ignore")
            assert torch.equal(decoded, read_image(data, orientation="ignore"))


@pytest.mark.parametrize("form", FORMS)
def test_a_manifest_travels_to_workers_and_can_be_cut(form, tmp_path):
    manifest = source_of(form, tmp_path).manifest("train")
    manifest.read(0)
    there = pickle.loads(pickle.dumps(manifest))
    part = there.subset(np.array([7, 2, 11]))
    assert [part.read(index) for index in range(3)] == [manifest.read(index) for index in (7, 2, 11)]
    assert stems(part) == [stems(manifest)[index] for index in (7, 2, 11)]
    if manifest.shard_of is not None:
        assert np.array_equal(part.shard_of, manifest.shard_of[[7, 2, 11]])


def test_shards_and_row_groups_are_visited_a_few_at_a_time(tmp_path):
    shards = source_of("shards", tmp_path / "a").manifest("train")
    assert shards.shard_of.tolist() == [0] * 5 + [1] * 5 + [2] * 2
    parquet = source_of("parquet", tmp_path / "b").manifest("train")
    assert parquet.shard_of.tolist() == [0] * 4 + [1] * 2 + [2] * 4 + [3] * 2


def test_a_file_that_is_gone_is_an_error_that_names_it(tmp_path):
    manifest = source_of("image_folder", tmp_path).manifest("train")
    Path(manifest.paths[3]).unlink()
    with pytest.raises(ImageDecodeError, match=r"n01440764_3\.JPEG: No such file") as caught:
        manifest.read(3)
    assert caught.value.path == manifest.paths[3]


def test_folders_without_images_are_refused_and_other_files_counted(tmp_path, caplog):
    train = write_folders(tmp_path / "train", images(1))
    (train / WNIDS[0] / "notes.txt").write_text("x")
    (train / WNIDS[0] / "clip.mp4").write_text("x")
    (train / "README.md").write_text("x")
    manifest = ImageFolderSource(train=str(train)).manifest("train")
    assert len(manifest) == 3 and sum(map(len, manifest.left_out.values())) == 3
    assert "train split: 3 files are not used" in caplog.text
    (train / "empty").mkdir()
    (train / "empty" / "clip.mp4").write_text("x")
    with pytest.raises(ValueError, match=r"empty: no image in the class folder .* images are known by their extension"):
        ImageFolderSource(train=str(train)).manifest("train")
    with pytest.raises(ValueError, match="no: the folder of images does not exist"):
        ImageFolderSource(train=str(tmp_path / "no")).manifest("train")


def test_a_list_of_images_names_what_is_missing(tmp_path):
    write_list(tmp_path / "a.txt", images(1))
    (tmp_path / "a" / f"{WNIDS[1]}_0.JPEG").unlink()
    with pytest.raises(
        ValueError,
        match=r"1 of 3 listed images do not exist under .*; check root, or leave .* data.source.missing=skip",
    ):
        ImageListSource(train=str(tmp_path / "a.txt"), root=str(tmp_path)).manifest("train")
    manifest = ImageListSource(train=str(tmp_path / "a.txt"), root=str(tmp_path), missing="skip").manifest("train")
    assert len(manifest) == 2 and manifest.class_names == ("class 0", "class 1", "class 2")
    (tmp_path / "b.txt").write_text("dog.JPEG cat.JPEG\n")
    with pytest.raises(ValueError, match=r"has the label 'cat\.JPEG'"):
        ImageListSource(train=str(tmp_path / "b.txt")).manifest("train")


def test_a_table_needs_the_path_of_an_image(tmp_path):
    (tmp_path / "t.csv").write_text("image,label\n,cat\n")
    with pytest.raises(ValueError, match="each row needs the path of an image"):
        ImageTableSource(train=str(tmp_path / "t.csv")).manifest("train")


def test_the_classes_of_imagenet_by_one_word(tmp_path):
    names = read_class_names("imagenet_1k")
    assert len(names) == 1000 and names[0] == "n01440764 tench" and names[-1] == "n15075141 toilet tissue"
    write_list(tmp_path / "a.txt", images(1))
    source = ImageListSource(train=str(tmp_path / "a.txt"), root=str(tmp_path), class_names_file="imagenet_1k")
    assert source.manifest("train").class_names == names
