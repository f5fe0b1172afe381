import gc
import json
import logging
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mvit_video.data.datasets.manifest import (
    Manifest,
    from_kinetics_csv,
    from_labeled_video_paths,
    from_list,
    from_ssv2_json,
    say_duplicates,
)
from tests.paths import ROOT


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8"))
    return path


def names_of(manifest: Manifest, root: Path) -> list[str]:
    return [str(Path(path).relative_to(root)) for path in manifest.paths]


def test_manifest_counts_videos_per_class() -> None:
    manifest = Manifest(("a", "b", "a"), (0, 2, 0), ("x", "y", "z"), "list.csv")
    assert len(manifest) == 3
    assert manifest.num_classes == 3
    assert manifest.counts() == (2, 0, 1)
    assert manifest.num_duplicates() == 1
    assert repr(manifest) == "Manifest(source='list.csv')"


def test_a_manifest_keeps_no_object_per_video() -> None:
    """Forked workers would copy the pages of 300,000 strings when they count references."""
    manifest = Manifest(tuple(f"{i}.mp4" for i in range(1000)), tuple(i % 3 for i in range(1000)), ("x", "y", "z"), "l")
    reachable = [manifest.__dict__]
    for value in reachable:
        reachable += [other for other in gc.get_referents(value) if not isinstance(other, type | ModuleType)]
        assert len(reachable) < 100
    assert manifest.paths[999] == "999.mp4"
    assert manifest.labels[998] == 2
    assert manifest.shard_of is None
    assert manifest == Manifest(manifest.paths[:], manifest.labels[:], ("x", "y", "z"), "l")
    assert pickle.loads(pickle.dumps(manifest)) == manifest


def test_manifest_refuses_bad_contents() -> None:
    with pytest.raises(ValueError, match=r"list\.csv: 0 videos and 0 labels; give at least one video"):
        Manifest((), (), ("x",), "list.csv")
    with pytest.raises(ValueError, match="1 videos and 2 labels"):
        Manifest(("a",), (0, 0), ("x",), "list.csv")
    with pytest.raises(ValueError, match=r"^b: label 1 is out of range: with 1 classes, labels run from 0 to 0"):
        Manifest(("a", "b"), (0, 1), ("x",), "list.csv")


def test_reading_lists_needs_neither_torch_nor_pytorchvideo() -> None:
    code = "import sys, mvit_video.data.datasets.manifest; print(sorted({'torch', 'pytorchvideo'} & set(sys.modules)))"
    root = ROOT
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_list_of_paths_and_labels(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4", "b.mp4")
    source = write(tmp_path / "train.csv", "x/a.mp4 2\nb.mp4 0\n")
    manifest = from_list(source, root=tmp_path)
    assert manifest == Manifest(
        (str(tmp_path / "x/a.mp4"), str(tmp_path / "b.mp4")), (2, 0), ("class 0", "class 1", "class 2"), str(source)
    )


def test_list_takes_absolute_paths_without_root(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    assert from_list(write(tmp_path / "l.csv", f"{tmp_path}/a.mp4 1")).paths == (f"{tmp_path}/a.mp4",)


def test_list_paths_start_from_the_current_folder_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.mp4")
    monkeypatch.chdir(tmp_path)
    assert from_list(write(tmp_path / "l.csv", "a.mp4 1")).paths == ("a.mp4",)


@pytest.mark.parametrize(
    ("line", "separator", "path", "label"),
    [
        ("a.mp4 300 4", " ", "a.mp4", 4),
        ("a.mp4\t4", " ", "a.mp4", 4),
        ("my cat.mp4 4", " ", "my cat.mp4", 4),
        ("my fat cat 2.mp4 4", " ", "my fat cat 2.mp4", 4),
        ("my cat.mp4 300 4", " ", "my cat.mp4", 4),
        ("a.mp4,4", ",", "a.mp4", 4),
        ("my cat, 2.mp4, 300, 4 ", ",", "my cat, 2.mp4", 4),
        ("é.mp4|04", "|", "é.mp4", 4),
    ],
)
def test_list_line_forms(tmp_path: Path, line: str, separator: str, path: str, label: int) -> None:
    touch(tmp_path, path)
    manifest = from_list(write(tmp_path / "l.csv", line), root=tmp_path, separator=separator)
    assert names_of(manifest, tmp_path) == [path]
    assert manifest.labels == (label,)


@pytest.mark.parametrize(
    ("line", "separator", "path", "label"),
    [
        ("a.mp4 running", " ", "a.mp4", "running"),
        ("my cat.mp4 300 running", " ", "my cat.mp4", "running"),
        ('"my cat.mp4" riding a bike', " ", "my cat.mp4", "riding a bike"),
        ('"my cat.mp4"\t300  "riding a bike"', " ", "my cat.mp4", "riding a bike"),
        ('my cat.mp4 "riding a bike"', " ", "my cat.mp4", "riding a bike"),
        ('"my, cat.mp4", riding a bike', ",", "my, cat.mp4", "riding a bike"),
        ("a.mp4,riding a bike", ",", "a.mp4", "riding a bike"),
    ],
)
def test_list_lines_with_names_and_quotes(tmp_path: Path, line: str, separator: str, path: str, label: str) -> None:
    touch(tmp_path, path, "z.mp4")
    source = write(tmp_path / "l.csv", f"z.mp4{separator}zumba\n{line}\n")
    manifest = from_list(source, root=tmp_path, separator=separator)
    assert names_of(manifest, tmp_path) == ["z.mp4", path]
    assert (manifest.class_names, manifest.labels) == ((label, "zumba"), (1, 0))


def test_quoted_paths_go_with_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "my cat 2.mp4")
    assert from_list(write(tmp_path / "l.csv", '"my cat 2.mp4" 300 1\n'), root=tmp_path).labels == (1,)


def test_names_of_a_list_go_by_the_file_of_names(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    names = write(tmp_path / "names.txt", "zumba\narchery\nrunning\n")
    source = write(tmp_path / "l.csv", "a.mp4 running\nb.mp4 zumba\n")
    assert from_list(source, root=tmp_path, class_names_file=names).labels == (2, 0)
    with pytest.raises(ValueError, match=r"l\.csv:1: unknown class 'runing' \(did you mean 'running'\?\)"):
        from_list(write(source, "a.mp4 runing\n"), root=tmp_path, class_names_file=names)
    with pytest.raises(ValueError, match=r"l\.csv: 1 names of classes, but num_classes=3; leave num_classes out"):
        from_list(source, root=tmp_path, num_classes=3)


def test_list_without_labels_has_label_0(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    manifest = from_list(write(tmp_path / "l.csv", "a.mp4\nb.mp4\n"), root=tmp_path, num_classes=3)
    assert manifest.labels == (0, 0)
    assert manifest.num_classes == 3
    assert "no labels in the list" in caplog.text


def test_list_tolerates_byte_order_mark_windows_endings_and_empty_lines(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    manifest = from_list(write(tmp_path / "l.csv", "\ufeffa.mp4 1\r\n\r\nb.mp4 0\r\n"), root=tmp_path)
    assert names_of(manifest, tmp_path) == ["a.mp4", "b.mp4"]
    assert manifest.labels == (1, 0)


def test_list_class_names_from_lines_or_json(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    source = write(tmp_path / "l.csv", "a.mp4 1")
    lines = write(tmp_path / "names.txt", "\ufeffarchery\r\nriding a bike\r\n")
    assert from_list(source, root=tmp_path, class_names_file=lines).class_names == ("archery", "riding a bike")
    table = write(tmp_path / "names.json", json.dumps({'"riding a bike"': 1, "archery": "0"}))
    manifest = from_list(source, root=tmp_path, class_names_file=table, num_classes=2)
    assert manifest.class_names == ("archery", "riding a bike")


def test_list_counts_repeated_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.mp4")
    with caplog.at_level(logging.INFO):
        manifest = from_list(write(tmp_path / "l.csv", "a.mp4 0\na.mp4 1\na.mp4 1\n"), root=tmp_path)
    assert manifest.labels == (0, 1, 1)
    assert manifest.num_duplicates() == 2
    assert "2 entries repeat a video" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\nb.mp4 one\n", r"l\.csv:2: 'b\.mp4 one' has the label 'one' where other lines have numbers; a"),
        ("a.mp4 0\n\nb.mp4 1.0\n", r"l\.csv:3: 'b\.mp4 1\.0' has the label '1\.0'"),
        ("a.mp4 b.mp4\n", r"l\.csv:1: 'a\.mp4 b\.mp4' has the label 'b\.mp4'"),
        ("a.mp4 -1\n", r"l\.csv:1: 'a\.mp4 -1' has the label '-1'; .* whole number of 0 or more"),
        ("a.mp4 0\nb.mp4\n", r"l\.csv:2: 'b\.mp4' has no label"),
        ("a.mp4,0\nb.mp4,1\n", r"l\.csv:1: 'a\.mp4,0' has no label; .*separated by ' ': .* pass another separator"),
        ("label,youtube_id\n", r"do not exist under .*/label,youtube_id; check root"),
        ("a.mp4 99999999999\n", r"l\.csv:1: .* has the label '99999999999'"),
        ("a.mp4 20250101\n", r"l\.csv: 20250102 classes, not 1 to 100000; check num_classes or the labels"),
        ("", r"l\.csv: the list is empty; write one `path label` per line"),
        ("\n \n", r"l\.csv: the list is empty"),
    ],
)
def test_list_refuses_bad_lines(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises(ValueError, match=message):
        from_list(write(tmp_path / "l.csv", text), root=tmp_path)


def test_list_refuses_a_line_without_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"l\.csv:1: ',3' has the label '3'"):
        from_list(write(tmp_path / "l.csv", ",3\n"), separator=",")


def test_list_refuses_label_out_of_range(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    source = write(tmp_path / "l.csv", "a.mp4 1\na.mp4 2\n")
    message = (
        r"l\.csv:2: label 2 is out of range: with 2 classes, labels run from 0 to 1; correct the label, or give more"
    )
    with pytest.raises(ValueError, match=message):
        from_list(source, root=tmp_path, num_classes=2)
    with pytest.raises(ValueError, match=message):
        from_list(source, root=tmp_path, class_names_file=write(tmp_path / "n.txt", "x\ny\n"))


def test_list_refuses_bad_numbers_of_classes(tmp_path: Path) -> None:
    source = write(tmp_path / "l.csv", "a.mp4 1\n")
    with pytest.raises(ValueError, match=r"0 classes, not 1 to 100000; check num_classes"):
        from_list(source, num_classes=0)
    with pytest.raises(ValueError, match=r"num_classes=3, but .*n\.txt names 2 classes; leave one of them out"):
        from_list(source, num_classes=3, class_names_file=write(tmp_path / "n.txt", "x\ny\n"))


def test_list_refuses_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.csv: the list does not exist; give the path of the file"):
        from_list(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="the list is a folder"):
        from_list(tmp_path)
    (tmp_path / "l.csv").write_bytes("é.mp4 0".encode("latin-1"))
    with pytest.raises(ValueError, match=r"l\.csv: the list is not UTF-8 text .* save it as UTF-8"):
        from_list(tmp_path / "l.csv")


def test_missing_videos_are_an_error_with_count_and_first_names(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "v0.mp4").mkdir()  # a folder is no video file
    source = write(tmp_path / "l.csv", "a.mp4 0\n" + "".join(f"v{i}.mp4 0\n" for i in range(7)))
    first = ", ".join(re.escape(f"{tmp_path}/v{i}.mp4") for i in range(5))
    way_out = r"check root, or leave them out with data\.source\.missing=skip"
    message = rf"7 of 8 listed videos do not exist under .*: {first}, \.\.\.; {way_out}"
    with pytest.raises(ValueError, match=message):
        from_list(source, root=tmp_path)


def test_missing_videos_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "x/b.mp4")
    source = write(tmp_path / "l.csv", "x/a.mp4 3\nx/b.mp4 1\ny/c.mp4 2\n")
    manifest = from_list(source, root=tmp_path, missing="skip")
    assert names_of(manifest, tmp_path) == ["x/b.mp4"]
    assert manifest.labels == (1,)
    assert manifest.num_classes == 4
    assert manifest.missing == (f"{tmp_path}/x/a.mp4", f"{tmp_path}/y/c.mp4")
    assert "left out 2 of 3 videos" in caplog.text


def test_leaving_out_every_video_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "l.csv", "a.mp4 0\n")
    with pytest.raises(ValueError, match=r"1 of 1 listed videos do not exist under .*a\.mp4; check root$"):
        from_list(source, root=tmp_path / "nowhere", missing="skip")
    with pytest.raises(ValueError, match="under the current folder"):
        from_list(source)


def test_missing_must_be_a_known_choice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing='ignore' must be 'error' or 'skip'"):
        from_list(write(tmp_path / "l.csv", "a.mp4 0\n"), missing="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("n.txt", "x\ny\nx\n", r"n\.txt: class name 'x' occurs more than once"),
        ("n.txt", "\n", r"n\.txt: no class names; give at least one"),
        ("n.json", "{", r"n\.json:1: the file of class names is not JSON"),
        ("n.json", '["x"]', r"n\.json: a JSON object from class name to index is expected"),
        ("n.json", '{"x": "one"}', r"class 'x' has the index 'one'; give it a whole number"),
        ("n.json", '{"x": -1}', r"class 'x' has the index -1"),
        ("n.json", '{"x": 0, "y": "0"}', r"classes 'x' and 'y' share the index 0"),
        ("n.json", '{"x": 0, "y": 2}', r"no class has the index 1; number the 2 classes from 0 without gaps"),
        ("n.csv", "1,x\n2,y\n", r"n\.csv: no class has the index 0; number the 2 classes from 0 without gaps"),
        ("n.csv", "id;name\n0;x\n0;y\n", r"n\.csv: classes 'x' and 'y' share the index 0"),
        ("n.txt", "1 x\n0 y\n", r"n\.txt: the lines stand in another order than the numbers before the names"),
    ],
)
def test_bad_files_of_class_names(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_list(write(tmp_path / "l.csv", "a.mp4 0\n"), class_names_file=write(tmp_path / name, text))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("id,name\n1,y\n0,x\n", ("x", "y")),
        ("\ufeff0\tx, too\r\n1\t'y'\r\n", ("x, too", "y")),
        ("pour water, slowly\n2,3-butane\nx\n", ("pour water, slowly", "2,3-butane", "x")),
        ("1 finger\n2 fingers\n", ("1 finger", "2 fingers")),
    ],
)
def test_a_table_of_class_names_goes_by_its_numbers(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    """Its header was the first class, and gave every number the name of the one before."""
    touch(tmp_path, "a.mp4")
    found = from_list(write(tmp_path / "l.csv", "a.mp4 0\n"), class_names_file=write(tmp_path / "n.csv", text))
    assert found.class_names == names


def test_pytorchvideo_list_equals_from_list(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "my cat.mp4", "c.mp4")
    text = "\ufeffa.mp4 2\r\nmy cat.mp4 0\r\nc.mp4\t1\r\nnone.mp4 1\r\n"
    source = write(tmp_path / "l.csv", text)
    names = write(tmp_path / "n.txt", "x\ny\nz\n")
    ours = from_list(source, root=tmp_path, class_names_file=names, missing="skip")
    theirs = from_labeled_video_paths(source, root=tmp_path, class_names_file=names, missing="skip")
    assert theirs == ours
    assert theirs.labels == (2, 0, 1)
    assert theirs.missing == (f"{tmp_path}/none.mp4",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\na.mp4,1\n", r"l\.csv:2: 'a\.mp4,1' does not suit PyTorchVideo's reader; a line is `path label`"),
        ("a.mp4 0\n\na.mp4 1\n", r"l\.csv:2: '' does not suit"),
        ("a.mp4\n", r"l\.csv:1: 'a\.mp4' does not suit"),
        ("a.mp4 -1\n", r"l\.csv:1: 'a\.mp4 -1' does not suit"),
        ("a.mp4 3\n", r"l\.csv:1: label 3 is out of range: with 2 classes"),
        ("", r"l\.csv: the list is empty"),
        ("b.mp4 1\n", "1 of 1 listed videos do not exist"),
    ],
)
def test_pytorchvideo_list_refuses_bad_lines(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(ValueError, match=message):
        from_labeled_video_paths(write(tmp_path / "l.csv", text), root=tmp_path, num_classes=2)


def test_pytorchvideo_list_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.csv: the labelled list does not exist"):
        from_labeled_video_paths(tmp_path / "none.csv")


HEADER = "label,youtube_id,time_start,time_end,split\n"


def test_kinetics_finds_every_usual_name(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    touch(
        root,
        "-aaaaaaaaaa_000005_000015.mp4",
        "riding a bike/bbbbbbbbbbb_000010_000020.mkv",
        "Abseiling_(rope)/ccccccccccc_000107_000117.webm",
        "riding_a_bike/ddddddddddd.avi",
        "eeeeeeeeeee.MP4",
        "riding a bike/fffffffffff_000001_000011.webm",
        "riding a bike/fffffffffff_000001_000011.mp4",
        "other/ggggggggggg.mp4",
    )
    rows = [
        "abseiling (rope),-aaaaaaaaaa,5,15,train",
        "riding a bike,bbbbbbbbbbb,10,20,train",
        "abseiling (rope),ccccccccccc,107.0,117.0,train",
        "riding a bike,ddddddddddd,0,10,train",
        '"riding a bike",eeeeeeeeeee,0,10,train',
        "riding a bike,fffffffffff,1,11,train",
        "riding a bike,ggggggggggg,1,11,train",
    ]
    source = write(tmp_path / "train.csv", "\ufeff" + HEADER + "\r\n".join(rows) + "\r\n\r\n")
    manifest = from_kinetics_csv(source, root=root, missing="skip")
    assert names_of(manifest, root) == [
        "-aaaaaaaaaa_000005_000015.mp4",
        "riding a bike/bbbbbbbbbbb_000010_000020.mkv",
        "Abseiling_(rope)/ccccccccccc_000107_000117.webm",
        "riding_a_bike/ddddddddddd.avi",
        "eeeeeeeeeee.MP4",
        "riding a bike/fffffffffff_000001_000011.mp4",
    ]
    assert manifest.class_names == ("abseiling (rope)", "riding a bike")
    assert manifest.labels == (0, 1, 0, 1, 1, 1)
    assert manifest.missing == (f"{root}/ggggggggggg_000001_000011",)


def test_kinetics_columns_may_come_in_any_order(tmp_path: Path) -> None:
    touch(tmp_path, "aaaaaaaaaaa_000005_000015.mp4")
    source = write(tmp_path / "k.csv", "time_end,time_start,label,extra,youtube_id\n15,5,archery,1,aaaaaaaaaaa\n")
    assert names_of(from_kinetics_csv(source, root=tmp_path), tmp_path) == ["aaaaaaaaaaa_000005_000015.mp4"]


def test_kinetics_splits_share_class_names(tmp_path: Path) -> None:
    touch(tmp_path, "aaaaaaaaaaa_000005_000015.mp4", "bbbbbbbbbbb_000005_000015.mp4")
    text = HEADER + "archery,aaaaaaaaaaa,5,15,train\nzumba,bbbbbbbbbbb,5,15,train\n"
    train = from_kinetics_csv(write(tmp_path / "train.csv", text), root=tmp_path)
    assert train.class_names == ("archery", "zumba")
    source = write(tmp_path / "val.csv", HEADER + "zumba,bbbbbbbbbbb,5,15,val\n")
    assert from_kinetics_csv(source, root=tmp_path, class_names=train.class_names).labels == (1,)
    names = write(tmp_path / "names.txt", "x\nzumba\ny\n")
    manifest = from_kinetics_csv(source, root=tmp_path, class_names_file=names)
    assert (manifest.labels, manifest.class_names) == ((1,), ("x", "zumba", "y"))
    with pytest.raises(ValueError, match="class_names and class_names_file are both given; give one of them"):
        from_kinetics_csv(source, root=tmp_path, class_names=("zumba",), class_names_file=names)


def test_kinetics_refuses_unknown_class_and_names_the_near_one(tmp_path: Path) -> None:
    source = write(tmp_path / "val.csv", HEADER + "archery,aaaaaaaaaaa,5,15,val\nridding a bike,bbbbbbbbbbb,5,15,val\n")
    message = (
        r"val\.csv:3: unknown class 'ridding a bike' \(did you mean 'riding a bike'\?\), not among the known ones: '"
    )
    with pytest.raises(ValueError, match=message):
        from_kinetics_csv(source, root=tmp_path, class_names=("archery", "riding a bike"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "label,youtube_id,time_start\n",
            r"the header .* lacks the column 'time_end'; a Kinetics CSV has label, youtu",
        ),
        ("youtube_id,time_start,time_end,split\n", r"lacks the column 'label'"),
        ("", r"k\.csv: the header \[\] lacks the column 'label'"),
        (HEADER, r"k\.csv: no rows below the header"),
        (HEADER + "archery\n", r"k\.csv:2: 'archery' lacks a label or youtube_id; fill it in or remove the row"),
        (HEADER + "archery,aaaaaaaaaaa,5,15,train\n,aaaaaaaaaaa,5,15,train\n", r"k\.csv:3: .* lacks a label"),
        (HEADER + '"archery,aaaaaaaaaaa,5,15,train\nzumba,bbbbbbbbbbb,5,15,train\n', r"k\.csv:2: .* lacks a label"),
        (HEADER + "archery,aaaaaaaaaaa,five,15,train\n", r"k\.csv:2: time_start 'five' or time_end '15' is no number"),
        (HEADER + "archery,aaaaaaaaaaa,5,inf,train\n", r"k\.csv:2: time_start '5' or time_end 'inf' is no number"),
        (HEADER + "archery,aaaaaaaaaaa,5\n", r"k\.csv:2: time_start '5' or time_end '' is no number"),
        (
            HEADER + "archery,aaaaaaaaaaa,5,15,train\nzumba,bbbbbbbbbbb,5,15,train\n",
            r"1 of 2 listed videos do not exist under .*bbbbbbbbbbb_000005_000015; .*missing=skip",
        ),
    ],
)
def test_kinetics_refuses_bad_annotations(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "aaaaaaaaaaa_000005_000015.mp4")
    with pytest.raises(ValueError, match=message):
        from_kinetics_csv(write(tmp_path / "k.csv", text), root=tmp_path)


def test_kinetics_refuses_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"k\.csv: the annotation does not exist"):
        from_kinetics_csv(tmp_path / "k.csv", root=tmp_path)
    source = write(tmp_path / "k.csv", HEADER + "archery,aaaaaaaaaaa,5,15,train\n")
    with pytest.raises(ValueError, match=r"nowhere: the folder of videos does not exist; give the path of an existing"):
        from_kinetics_csv(source, root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"k\.csv: the folder of videos is not a folder"):
        from_kinetics_csv(source, root=source)


SSV2_LABELS = {"Moving something up": "1", "Holding something": "0", "Pushing something so it falls": "2"}


def ssv2_files(tmp_path: Path, entries: object) -> tuple[Path, Path]:
    """Annotation and labels file."""
    annotation = write(tmp_path / "validation.json", json.dumps(entries))
    return annotation, write(tmp_path / "labels.json", json.dumps(SSV2_LABELS))


def test_ssv2_label_is_the_template_without_brackets(tmp_path: Path) -> None:
    touch(tmp_path, "78687.webm", "42326.mp4", "42326.webm", "7.mp4")
    entries = [
        {"id": "78687", "label": "moving a cup up", "template": "Moving [something] up", "placeholders": ["a cup"]},
        {"id": 42326, "template": "Pushing [something] so it falls"},
        {"id": "7", "template": "Holding [something]"},
        {"id": "8", "template": "Holding [something]"},
    ]
    annotation, labels_file = ssv2_files(tmp_path, entries)
    manifest = from_ssv2_json(annotation, root=tmp_path, labels_file=labels_file, missing="skip")
    assert names_of(manifest, tmp_path) == ["78687.webm", "42326.webm", "7.mp4"]
    assert manifest.labels == (1, 2, 0)
    assert manifest.class_names == ("Holding something", "Moving something up", "Pushing something so it falls")
    assert manifest.missing == (f"{tmp_path}/8.webm",)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"id": "1"}], r"validation\.json: entry 1 .* lacks an id or a template; the test split has no labels"),
        ([{"id": "1", "template": "Holding [something]"}, {"template": "x"}], r"entry 2 .* lacks an id"),
        ([{"id": "1", "template": "Moving [something] upp"}], r"entry 1 \(id 1\): unknown class .* mean 'Moving some"),
        ([{"id": "2", "template": "Holding [something]"}], r"1 of 1 listed videos do not exist under .*2\.webm"),
        ({"Holding something": "0"}, r"a JSON list of entries is expected; the file may be labels_file"),
        ([], r"validation\.json: 0 videos and 0 labels; give at least one video"),
    ],
)
def test_ssv2_refuses_bad_annotations(tmp_path: Path, entries: object, message: str) -> None:
    touch(tmp_path, "1.webm")
    annotation, labels_file = ssv2_files(tmp_path, entries)
    with pytest.raises(ValueError, match=message):
        from_ssv2_json(annotation, root=tmp_path, labels_file=labels_file)


def test_ssv2_refuses_broken_json(tmp_path: Path) -> None:
    _, labels_file = ssv2_files(tmp_path, [])
    broken = write(tmp_path / "validation.json", '[\n{"id": "1",\n]')
    with pytest.raises(ValueError, match=r"validation\.json:3: the annotation is not JSON .* repair the file"):
        from_ssv2_json(broken, root=tmp_path, labels_file=labels_file)
    with pytest.raises(ValueError, match=r"none\.json: the file of class names does not exist"):
        from_ssv2_json(write(broken, "[]"), root=tmp_path, labels_file=tmp_path / "none.json")


def test_a_video_under_several_classes_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = Manifest(("a.mp4", "b.mp4", "a.mp4", "b.mp4"), (0, 1, 1, 1), ("run", "walk"), "list.csv")
    say_duplicates(manifest)
    assert "list.csv: 1 video is listed under several classes" in caplog.text
    assert "a.mp4 is run and walk" in caplog.text and "b.mp4" not in caplog.text
    assert manifest.conflicting() == [("a.mp4", ("run", "walk"))]


def test_accents_apart_from_their_letters_make_no_other_class() -> None:
    """As names of folders copied from a Mac have them."""
    apart = Manifest(("a.mp4",), (0,), ("Gru\u0308ße",), "val")
    assert apart.with_classes(("x", "Gr\u00fcße")).labels[0] == 1


def test_relative_paths_are_found_beside_the_list_where_none_is_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "v.mp4").touch()
    (tmp_path / "set" / "list.csv").write_text("a/v.mp4 0\n")
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        assert from_list("set/list.csv").paths == ("set/a/v.mp4",)
    assert f"taken from its own folder, for none of them leads anywhere from the current one, {tmp_path}" in caplog.text
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "v.mp4").touch()
    assert from_list("set/list.csv").paths == ("a/v.mp4",)
    with pytest.raises(
        ValueError, match=rf"do not exist under elsewhere \(from {tmp_path}\)"
    ):  # a given root is the only place
        from_list("set/list.csv", root="elsewhere")
    (tmp_path / "set" / "list.csv").write_text("b/v.mp4 0\n")
    with pytest.raises(ValueError, match=rf"do not exist under the current folder \({tmp_path}\), nor beside the list"):
        from_list("set/list.csv")
