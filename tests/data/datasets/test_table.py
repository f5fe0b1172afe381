import json
import logging
import unicodedata
from pathlib import Path

import pytest

from mvit_video.data.datasets.label_sets import multi_hot
from mvit_video.data.datasets.segments import parse_seconds
from mvit_video.data.datasets.table import TableSource
from mvit_video.data.datasets.table_file import read_table
from tests.conftest import evaluate_options, options
from tests.data.datasets.files import names_of, touch, write
from tests.video_library import Library


def table(folder: Path, text: str, name: str = "table.csv", **options: object) -> TableSource:
    """The source of a table beside a.mp4, b.mp4 and "my, c.mp4"."""
    touch(folder, "a.mp4", "b.mp4", "my, c.mp4")
    return TableSource(table=str(write(folder / name, text)), root=str(folder), **options)  # type: ignore[arg-type]


EVERY_FORM = {
    "plain.csv": 'path,label\na.mp4,riding a bike\nb.mp4,zumba\n"my, c.mp4",zumba\n',
    "windows.csv": '\ufeffpath,label\r\na.mp4,riding a bike\r\n\r\nb.mp4,"zumba"\r\n"my, c.mp4",zumba\r\n',
    "spaces.csv": 'Label , Path\nriding a bike, a.mp4\nzumba,  b.mp4\nzumba, "my, c.mp4"\n',
    "excel.csv": "path;label\na.mp4;riding a bike\nb.mp4;zumba\nmy, c.mp4;zumba\n",
    "tabs.tsv": "path\tlabel\na.mp4\triding a bike\nb.mp4\tzumba\nmy, c.mp4\tzumba\n",
    "lines.jsonl": '{"path": "a.mp4", "label": "riding a bike"}\n\n{"label": "zumba", "path": "b.mp4", "note": null}\n'
    '{"path": "my, c.mp4", "label": "zumba", "note": "two\u2028lines"}\n',
    "list.json": json.dumps([{"path": p, "label": v} for p, v in
                             [("a.mp4", "riding a bike"), ("b.mp4", "zumba"), ("my, c.mp4", "zumba")]]),
}  # fmt: skip


@pytest.mark.parametrize("name", EVERY_FORM)
def test_a_table_in_every_form(tmp_path: Path, name: str) -> None:
    manifest = table(tmp_path, EVERY_FORM[name], name).manifest("train")
    assert names_of(manifest, tmp_path) == ["a.mp4", "b.mp4", "my, c.mp4"]
    assert manifest.class_names == ("riding a bike", "zumba")
    assert manifest.labels == (0, 1, 1)
    assert (manifest.segments, manifest.groups, manifest.weights, manifest.label_sets) == (None, None, None, None)


def test_splits_groups_and_weights_of_one_table(tmp_path: Path) -> None:
    text = "filename,class,subset,scene,weight\na.mp4,x,training,s1,1\nb.mp4,y,train,s1,0.5\na.mp4,y,Validation,s2,\n"
    source = table(tmp_path, text)
    train, val = source.manifest("train"), source.manifest("val")
    assert names_of(train, tmp_path) == ["a.mp4", "b.mp4"]
    assert (train.groups, train.weights) == (("s1", "s1"), (1.0, 0.5))
    assert (val.class_names, val.labels, val.groups) == (("x", "y"), (1,), ("s2",))
    assert source.has("test") and source.manifest("test") == val
    assert train.source.endswith("table.csv (train)")


@pytest.mark.parametrize("again", ["a.mp4", "./a.mp4"])
def test_videos_of_two_splits_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, again: str) -> None:
    text = f"path,label,split\na.mp4,x,train\nb.mp4,x,train\n{again},x,val\n"
    table(tmp_path, text).manifest("val")
    assert f"val split: 1 of its videos are in the training split, too: {again}" in caplog.text


def test_accents_may_be_written_otherwise_than_in_the_training_and_on_disk(tmp_path: Path) -> None:
    together, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    touch(tmp_path, f"{apart}/{apart}.mp4", f"{apart}/folder.mp4/x", "b.mp4")
    text = f"path,label,split\nb.mp4,{together},train\n{together}/{together}.mp4,{apart},val\n"
    source = table(tmp_path, text)
    assert names_of(source.manifest("val"), tmp_path) == [f"{apart}/{apart}.mp4"]
    assert source.manifest("val").labels == source.manifest("train").labels == (0,)
    for absent in (f"{together}/other.mp4", f"{together}/folder.mp4"):
        with pytest.raises(ValueError, match="1 of 1 listed videos do not exist"):
            table(tmp_path, f"path,label\n{absent},x\n").manifest("train")


def test_a_table_per_split(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    train = write(tmp_path / "train.csv", "path,label\na.mp4,x\nb.mp4,y\n")
    val = write(tmp_path / "val.csv", "path,label\nb.mp4,y\n")
    source = TableSource(train=str(train), val=str(val), root=str(tmp_path))
    assert source.manifest("val").labels == (1,)
    assert not TableSource(train=str(train)).has("val")
    with pytest.raises(ValueError, match=r"data\.source\.val is not set: give the table of the val split"):
        TableSource(train=str(train)).manifest("val")
    with pytest.raises(ValueError, match=r"data\.source\.table and .* are both given"):
        TableSource(table="a.csv", val="b.csv")


def test_labels_that_are_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "path,label\na.mp4,0\nb.mp4,2\n"
    manifest = table(tmp_path, text).manifest("train")
    assert (manifest.class_names, manifest.labels) == (("class 0", "class 1", "class 2"), (0, 2))
    assert "1 of 3 classes has no video: 'class 1'" in caplog.text
    assert table(tmp_path, text, labels="names").manifest("train").class_names == ("0", "2")
    names = str(write(tmp_path / "names.txt", "x\ny\nz\n"))
    assert table(tmp_path, text, class_names_file=names).manifest("train").labels == (0, 2)
    mixed = table(tmp_path, "path,label\na.mp4,x\nb.mp4,2\n", class_names_file=names).manifest("train")
    assert mixed.labels == (0, 2)
    with pytest.raises(ValueError, match=r"table\.csv:3: label 3 is out of range: with 3 classes"):
        table(tmp_path, "path,label\na.mp4,x\nb.mp4,3\n", class_names_file=names).manifest("train")


def test_a_number_and_its_digits_are_one_name(tmp_path: Path) -> None:
    lines = '{"path": "a.mp4", "label": [1, "x"]}\n{"path": "b.mp4", "label": "1"}\n'
    manifest = table(tmp_path, lines, "l.jsonl").manifest("train")
    assert (manifest.class_names, manifest.label_sets) == (("1", "x"), ((0, 1), (0,)))


def test_columns_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "clip,what,label,when\na.mp4,x,old,12\n"
    with caplog.at_level(logging.INFO):
        manifest = table(tmp_path, text, path_column="Clip", label_column="what").manifest("train")
    assert manifest.class_names == ("x",)
    assert "table.csv: columns that are not used: label, when" in caplog.text


def test_segments_of_long_videos(tmp_path: Path, library: Library) -> None:
    video = library.path("gop12.mp4")  # 60 frames, 2.4 s
    text = f"path,label,start,end\n{video},x,0.4,1.2\n{video},y,00:00:01.2,\n{video},x,,0:02\n{video},x,,\n"
    manifest = table(tmp_path, text).manifest("train")
    assert manifest.segments == ((0.4, 1.2), (1.2, float("inf")), (0.0, 2.0), (0.0, float("inf")))
    assert [str(manifest.segment(index)) for index in (0, 1)] == ["0.4 s to 1.2 s", "1.2 s to the end"]
    assert manifest.num_duplicates() == 0


def test_segments_beyond_the_end(tmp_path: Path, library: Library, caplog: pytest.LogCaptureFixture) -> None:
    video = library.path("gop12.mp4")
    beyond = f"path,label,start,end\n{video},x,0,1\n{video},y,1,9.5\n"
    message = r"table\.csv:3: the segment 1 s to 9\.5 s of .*gop12\.mp4 lies beyond the end .*, 2\.40 s: .*beyond=cut"
    with pytest.raises(ValueError, match=message):
        table(tmp_path, beyond).manifest("train")
    with pytest.raises(ValueError, match=r"table\.csv:2: the segment 2\.4 s to the end of .* lies beyond the end"):
        table(tmp_path, f"path,label,start\n{video},x,2.4\n").manifest("train")
    text = beyond + f"{video},y,3,4\n"
    manifest = table(tmp_path, text, beyond="cut").manifest("train")
    assert len(manifest) == 2
    assert manifest.left_out == {"segment beyond the end": (f"{tmp_path}/table.csv:4",)}
    assert "1 segments end beyond their videos and are cut there" in caplog.text
    with pytest.raises(ValueError, match="every segment lies beyond the end of its video"):
        table(tmp_path, f"path,label,start\n{video},x,3\n", beyond="cut").manifest("train")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("62.5", 62.5),
        ("00:01:02.5", 62.5),
        ("1:02.5", 62.5),
        (" 0 ", 0.0),
        (62, 62.0),
        ("10:00:00", 36000.0),
        (0.04, 0.04),
        ("12,5", 12.5),
        ("0,040", 0.04),
        ("00:00:02,500", 2.5),
    ],
)
def test_times(text: str | float, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["1:75", "00:61:00", "-1", "nan", "inf", "1,5,0", "1m2s", "", True, None])
def test_what_is_no_time(text: object) -> None:
    with pytest.raises(ValueError, match=r"is neither seconds \(62\.5\) nor a time|is no time"):
        parse_seconds(text)  # type: ignore[arg-type]


def test_a_comma_that_may_part_thousands_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'12,500' is 12\.500 or 12500 seconds: write it with a point"):
        parse_seconds("12,500")


def test_what_programs_write_where_a_number_is_missing(tmp_path: Path, library: Library) -> None:
    """pandas and R; NaN is no group of its own, either."""
    video = library.path("gop12.mp4")
    text = f"path,label,start,end,weight\n{video},x,NaN,1,NA\n{video},y,1,<NA>,2\n"
    manifest = table(tmp_path, text).manifest("train")
    assert [manifest.segment(row) for row in range(2)] == [(0, 1), (1, float("inf"))]
    assert manifest.weights == (1, 2)
    lines = "".join(f'{{"path": "{n}.mp4", "label": "x", "start": NaN, "group": {g}}}\n' for n, g in ("aN", "bN", "c1"))
    lines = lines.replace(": N}", ": NaN}")
    for name in "abc":
        (tmp_path / f"{name}.mp4").touch()
    manifest = table(tmp_path, lines, "l.jsonl").manifest("train")
    assert manifest.segments is None and manifest.groups == ("", "", "1")


def test_a_separator_behind_the_last_label(tmp_path: Path) -> None:
    source = table(tmp_path, "path,labels\na.mp4,cup|hand|\nb.mp4,hand|\n", label_separator="|")
    assert source.manifest("train").label_sets == ((0, 1), (1,))
    with pytest.raises(ValueError, match=r"table\.csv:2: label 'cup\|\|hand'"):
        table(tmp_path, "path,labels\na.mp4,cup||hand\n", label_separator="|").manifest("train")


def test_several_labels_a_row(tmp_path: Path) -> None:
    source = table(tmp_path, "path,labels\na.mp4,cup|hand\nb.mp4,hand\n", label_separator="|")
    manifest = source.manifest("train")
    assert manifest.class_names == ("cup", "hand")
    assert manifest.label_sets == ((0, 1), (1,))
    assert manifest.labels == (0, 1)
    assert manifest.counts() == (1, 2)
    assert multi_hot(manifest.label_sets, 2).tolist() == [[1, 1], [0, 1]]
    lines = '{"path": "a.mp4", "label": ["hand", "cup"]}\n{"path": "b.mp4", "label": "door"}\n'
    listed = table(tmp_path, lines, "l.jsonl").manifest("train")
    assert (listed.class_names, listed.label_sets) == (("cup", "door", "hand"), ((0, 2), (1,)))
    mapped = listed.with_classes(("hand", "door", "cup", "more"))
    assert (mapped.label_sets, mapped.labels) == (((0, 2), (1,)), (0, 1))


def test_multi_hot_refuses_labels_out_of_range() -> None:
    with pytest.raises(ValueError, match="label 2 of video 1: with 2 classes"):
        multi_hot([(0,), (2,)], 2)


H = "path,label\n"
S = "path,label,start,end\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, r"table\.csv: the table is empty; its first line names the columns"),
        (H, {}, r"table\.csv: no rows below the header \(path, label\)"),
        ("a.mp4,x\nb.mp4,y\n", {}, r"no column of the path \(one of path, video, .*its columns are a\.mp4, x: name it"),
        ("path,what\na.mp4,x\n", {}, r"no column of the label .*data\.source\.label_column=\.\.\."),
        (H + "a.mp4,x\n", {"group_column": "lable"}, r"no column 'lable' \(did you mean 'label'\?\); its columns"),
        ("path,file,label\na.mp4,b.mp4,x\n", {}, r"columns 'path' and 'file' could both be the path; say which"),
        ("path,path,label\na.mp4,b.mp4,x\n", {}, r"the column 'path' is there twice"),
        (H + "a.mp4,x,y\n", {}, r"table\.csv:2: 3 values \('a\.mp4,x,y'\) under 2 columns \(path, label\); correct"),
        (H + "a.mp4,x\nb.mp4\n", {}, r"table\.csv:3: 1 values"),
        (H + 'a.mp4,"x\nb.mp4,y\n', {}, r"table\.csv:2: not a row of a table"),
        (H + ",x\n", {}, r"table\.csv:2: path ''; each row needs the path of a video"),
        (H + "a.mp4,\n", {}, r"table\.csv:2: label ''; a label is a name or a whole number of 0 or more"),
        (H + "a.mp4,x||y\n", {"label_separator": "|"}, r"table\.csv:2: label 'x\|\|y'; a label is a name"),
        (H + "a.mp4,x\nno.mp4,x\n", {}, r"1 of 2 listed videos do not exist .*no\.mp4 \(.*table\.csv:3\); check"),
        (S + "a.mp4,x,two,\n", {}, r"table\.csv:2: start 'two' is neither seconds \(62\.5\) nor a time \(00:01:02"),
        (S + "a.mp4,x,,-1\n", {}, r"table\.csv:2: end '-1' is no time in a video: seconds are 0 or more"),
        (S + "a.mp4,x,5,5\n", {}, r"table\.csv:2: start '5' and end '5'; a segment must end after its start"),
        (S + "a.mp4,x,5,1:00:02\na.mp4,x,9,0:03\n", {}, r"table\.csv:3: start '9' and end '0:03'; a segment must end"),
        ("path,label,weight\na.mp4,x,-1\n", {}, r"table\.csv:2: weight '-1'; must be a number of 0 or more"),
        ("path,label,weight\na.mp4,x,0\n", {}, r"all weights are 0"),
        ("path,label,split\na.mp4,x,trian\n", {}, r"table\.csv:2: split 'trian'; must be one of train, training, val"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(tmp_path: Path, text: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(tmp_path, text, **options).manifest("train")


def test_json_lines_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"l\.jsonl:2: not JSON"):
        read_table(write(tmp_path / "l.jsonl", '{"path": "a"}\n{"path": \n'))
    with pytest.raises(ValueError, match=r"l\.jsonl: entry 1: '1' is no JSON object"):
        read_table(write(tmp_path / "l.jsonl", "[1]\n"))
    for label in ("true", "-1", "1.5", "[]", "null", '[""]'):
        with pytest.raises(ValueError, match=r"l\.jsonl:1: label .*: fill it in"):
            table(tmp_path, f'{{"path": "a.mp4", "label": {label}}}\n', "l.jsonl").manifest("train")


def test_an_empty_split_is_said(tmp_path: Path) -> None:
    source = table(tmp_path, "path,label,split\na.mp4,x,train\nb.mp4,y,test\n")
    assert not source.has("val")
    with pytest.raises(ValueError, match=r"split 'val' has no row \(column 'split' has train: 1, val: 0, test: 1\)"):
        source.manifest("val")
    with pytest.raises(ValueError, match=r"no column says which rows are 'val', so that all are for training"):
        table(tmp_path, "path,label\na.mp4,x\n").manifest("val")
    place = write(tmp_path / "val.csv", "path,label,split\na.mp4,x,train\n")
    with pytest.raises(ValueError, match=r"val\.csv: none of its 1 rows is of the split 'val', by the column 'split'"):
        TableSource(val=str(place), root=str(tmp_path)).manifest("val")


def test_a_class_that_the_training_lacks_is_refused(tmp_path: Path) -> None:
    text = "path,label,split\na.mp4,archery,train\nb.mp4,zumba,train\na.mp4,zumbaa,val\n"
    with pytest.raises(ValueError, match=r"table\.csv:4: unknown class 'zumbaa' \(did you mean 'zumba'\?\), not among"):
        table(tmp_path, text).manifest("val")
    with pytest.raises(ValueError, match=r"table\.csv:4: unknown class '1'"):
        table(tmp_path, text.replace("zumbaa", "1")).manifest("val")


def test_a_group_in_two_splits_is_refused(tmp_path: Path) -> None:
    text = "path,label,split,group\na.mp4,x,train,kitchen\nb.mp4,x,train,hall\na.mp4,x,val,kitchen\n"
    message = (
        r"table\.csv:4: group 'kitchen' is in 'val' here and in 'train' at .*table\.csv:2; what belongs together must "
        r"be in one split, .*group_column=none"
    )
    with pytest.raises(ValueError, match=message):
        table(tmp_path, text).manifest("val")
    assert table(tmp_path, text, group_column="none").manifest("val").groups is None


def test_the_options_of_a_table() -> None:
    overrides = ("+experiment=finetune_folder", "data=table", "data.source.table=t.csv", "weights=w.pt", "name=x")
    for result in (options(*overrides), evaluate_options(*overrides)):
        assert (result.data.source.table, result.data.source.root) == ("t.csv", None)


def test_what_looks_like_segments_and_is_not_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    table(tmp_path, "path,label,start_frame,end_frame\na.mp4,x,0,9\nb.mp4,y,3,8\n").manifest("train")
    assert "start_frame and end_frame looks like a part of a video, and whole videos are taken" in caplog.text


def test_classes_that_differ_in_case_alone_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    manifest = table(tmp_path, "path,label\na.mp4,run\nb.mp4,Run\nc.mp4,walk\n").manifest("train")
    assert manifest.num_classes == 3
    assert "train split: these are different classes, for names count as written: 'Run', 'run'" in caplog.text
