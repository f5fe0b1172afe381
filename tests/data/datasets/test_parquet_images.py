"""Parquet files: what columns they may have, what is refused, and how much of them a process keeps."""

import logging
import re
import sys
from pathlib import Path

import fsspec
import pytest

from mvit_video.data.datasets import parquet_images
from mvit_video.data.datasets.parquet_images import ImageParquetSource, ParquetManifest, from_parquet, parquet_names
from mvit_video.images import ImageDecodeError
from tests.image_library import WNIDS, images, jpeg, write_parquet

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def parquet(path: Path, columns: dict[str, object], schema: object = None) -> str:
    """A file of some columns."""
    pq.write_table(pa.table(columns, schema=schema), path)
    return str(path)


def manifest_of(place: object, **options: object) -> ParquetManifest:
    """The images of a place."""
    return from_parquet(str(place), **options)  # type: ignore[arg-type]


def test_names_of_classes_come_with_the_files_or_from_the_user(tmp_path):
    folder = write_parquet(tmp_path / "a", images(2))
    assert manifest_of(folder).class_names == WNIDS
    assert manifest_of(folder, class_names=("a", "b", "c", "d")).class_names == ("a", "b", "c", "d")
    source = ImageParquetSource(train=str(folder), class_names_file="imagenet_1k")
    assert source.manifest("train").num_classes == 1000
    plain = write_parquet(tmp_path / "b", images(2), names=None)
    assert manifest_of(plain).class_names == ("class 0", "class 1", "class 2")
    assert manifest_of(plain, num_classes=5).num_classes == 5


def test_a_column_of_plain_bytes_and_columns_of_other_names(tmp_path):
    place = parquet(tmp_path / "x.parquet", {"jpg": [jpeg(1), jpeg(2)], "fine_label": [1, 0], "text": ["a", "b"]})
    manifest = manifest_of(place, image_column="jpg", label_column="fine_label")
    assert [manifest.read(index) for index in range(2)] == [jpeg(1), jpeg(2)] and list(manifest.labels) == [1, 0]
    assert list(manifest.paths) == [f"{place}/row 0", f"{place}/row 1"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"x"], "label": [0]}, "has no column 'image'; its columns are picture, label: name it with"),
        ({"image": [b"x"], "class": [0]}, "has no column 'label'.*label_column"),
        ({"image": ["a.jpg"], "label": [0]}, "column 'image' is string; images are binary, or a struct"),
        ({"image": [b"x"], "label": ["wren"]}, "column 'label' is string; labels are whole numbers"),
        ({"image": [b"x"], "label": [-1]}, "label -1; a label is 0 or more. Is it a test split"),
        ({"image": [b"x", b"y"], "label": [0, None]}, "1 rows have no label"),
    ],
)
def test_files_that_are_refused(columns, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        from_parquet(parquet(tmp_path / "x.parquet", columns))


def test_labels_beyond_the_classes_and_differing_names_are_refused(tmp_path):
    folder = write_parquet(tmp_path / "a", images(2))
    with pytest.raises(ValueError, match="label 2 is out of range: with 2 classes, labels run from 0 to 1"):
        from_parquet(str(folder), class_names=("a", "b"))
    write_parquet(folder, images(2), prefix="val", names=("x", "y", "z"))
    with pytest.raises(ValueError, match="carry different lists of class names; give class_names_file"):
        from_parquet(str(folder))
    empty = parquet(tmp_path / "x.parquet", {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())})
    with pytest.raises(ValueError, match="1 files without a row; give files that hold images"):
        from_parquet(empty)
    with pytest.raises(ValueError, match="memory_mb=0"):
        from_parquet(str(folder), memory_mb=0)


def test_a_row_without_bytes_is_an_error_that_names_it(tmp_path):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())])
    rows = [{"bytes": None, "path": "a.jpg"}, None, {"bytes": jpeg(1), "path": "c.jpg"}]
    manifest = from_parquet(parquet(tmp_path / "x.parquet", {"image": rows, "label": [0, 0, 0]}, schema))
    assert manifest.read(2) == jpeg(1)
    with pytest.raises(ImageDecodeError, match=r"x\.parquet/a\.jpg: the row holds no bytes of an image"):
        manifest.read(0)
    with pytest.raises(ImageDecodeError, match=r"x\.parquet/row 1: the row holds no bytes"):
        manifest.read(1)
    with pytest.raises(ValueError, match=r"a\.jpg: is a row of a Parquet file"):
        manifest.location(0)


def test_a_file_that_is_broken_or_gone(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"x\.parquet: cannot be read as Parquet"):
        from_parquet(str(tmp_path / "x.parquet"))
    folder = write_parquet(tmp_path / "a", images(2))
    manifest = from_parquet(str(folder))
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ImageDecodeError, match=r"n01440764_0\.JPEG: the Parquet file cannot be read: .*No such file"):
        manifest.read(0)


def test_a_process_keeps_few_row_groups(tmp_path, caplog, monkeypatch):
    with caplog.at_level(logging.INFO):
        manifest = from_parquet(str(write_parquet(tmp_path, images(4), rows=2)))
    assert "row groups" not in caplog.text  # all of them are kept
    monkeypatch.setattr(parquet_images, "_MB", 1)
    with caplog.at_level(logging.INFO):
        from_parquet(str(tmp_path), memory_mb=1)
    assert re.search(r"row groups of up to .* MiB; data\.source\.memory_mb=1 keeps 1 of them at a time", caplog.text)
    groups = manifest.row_groups
    loaded = []
    load = groups._load
    groups._load = lambda group: loaded.append(group) or load(group)  # type: ignore[method-assign, func-returns-value]
    for index in (0, 1, 0, 2, 3, 0):
        manifest.read(index)
    assert loaded == [0, 1]  # both are kept
    groups._memory = 1  # byte
    for index in (4, 5, 0, 5):
        manifest.read(index)
    assert loaded == [0, 1, 2, 0, 2] and len(groups._kept) == 1


def test_a_forked_process_opens_the_files_itself(tmp_path, monkeypatch):
    manifest = from_parquet(str(write_parquet(tmp_path, images(2))))
    manifest.read(0)
    monkeypatch.setattr("mvit_video.data.datasets.parquet_images.os.getpid", lambda: -1)
    before = manifest.row_groups._open
    assert manifest.read(0) == images(2)["n01440764_0"][0] and manifest.row_groups._open is not before


def test_places_mean_files(tmp_path):
    folder = write_parquet(tmp_path, images(2))
    every = [str(folder / f"train-0000{number}-of-00002.parquet") for number in range(2)]
    assert parquet_names(str(folder)) == parquet_names(f"{folder}/train-*.parquet") == every
    assert parquet_names(every[1]) == every[1:]
    with pytest.raises(ValueError, match="no Parquet files there; give a folder of them"):
        parquet_names(f"{folder}/val-*.parquet")


def test_files_behind_a_url(tmp_path):
    system = fsspec.filesystem("memory")
    for path in write_parquet(tmp_path, images(2)).iterdir():
        system.pipe_file(f"/pq/{path.name}", path.read_bytes())
    for place in ("memory://pq", "memory://pq/train-*.parquet"):
        manifest = from_parquet(place)
        assert [manifest.read(index) for index in range(6)] == [data for data, _ in images(2).values()]


def test_without_pyarrow_the_way_out_is_named(tmp_path, monkeypatch, caplog):
    folder = write_parquet(tmp_path, images(1))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with caplog.at_level(logging.INFO), pytest.raises(RuntimeError, match=r"pip install 'mvit_video\[parquet\]'"):
        from_parquet(str(folder))
