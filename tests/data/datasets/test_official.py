"""The official files, in small literal copies of their formats."""

from pathlib import Path

import pytest

from mvit_video.data.datasets.official import (
    CharadesSource,
    Diving48Source,
    EpicKitchensSource,
    Hmdb51Source,
    JesterSource,
    Ucf101Source,
)
from tests.conftest import options
from tests.data.datasets.files import names_of, touch, write


def places(tmp_path: Path) -> dict[str, str]:
    return {"root": str(tmp_path / "videos"), "annotations": str(tmp_path / "files")}


def ucf101(tmp_path: Path) -> Ucf101Source:
    files = tmp_path / "files"
    write(files / "classInd.txt", "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n")
    train = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nHandstandPushups/v_HandStandPushups_g09_c02.avi 2\n"
    write(files / "trainlist02.txt", train)
    write(files / "testlist02.txt", "HandstandPushups/v_HandStandPushups_g01_c01.avi\n")
    touch(
        tmp_path / "videos",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        "HandstandPushups/v_HandStandPushups_g09_c02.avi",
        "HandstandPushups/v_HandStandPushups_g01_c01.mp4",
    )
    return Ucf101Source(split=2, **places(tmp_path))


def test_ucf101(tmp_path: Path) -> None:
    source = ucf101(tmp_path)
    train, test = source.manifest("train"), source.manifest("test")
    assert train.class_names == test.class_names == ("ApplyEyeMakeup", "HandstandPushups")
    assert (train.labels, test.labels) == ((0, 1), (1,))
    assert train.groups == ("ApplyEyeMakeup g08", "HandstandPushups g09")
    assert names_of(test, tmp_path / "videos") == ["HandstandPushups/v_HandStandPushups_g01_c01.mp4"]
    assert source.has("val") and source.manifest("val") == test


def test_ucf101_files_that_do_not_fit(tmp_path: Path) -> None:
    source = ucf101(tmp_path)
    lists = tmp_path / "files" / "trainlist02.txt"
    write(lists, "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 2\n")
    with pytest.raises(
        ValueError, match=r"trainlist02\.txt:1: class 'ApplyEyeMakeup' has the number 2, and 1 in classInd"
    ):
        source.manifest("train")
    write(lists, "Archery/v_Archery_g08_c01.avi 1\n")
    with pytest.raises(ValueError, match=r"trainlist02\.txt:1: 'Archery/.*' is no `Class/v_Class"):
        source.manifest("train")
    write(lists, "ApplyEyeMakeup/v_ApplyEyeMakeup_g09_c01.avi 1\n")
    with pytest.raises(ValueError, match=r"1 of 1 listed videos do not exist .*ApplyEyeMakeup_g09_c01 \(.*trainlist02"):
        source.manifest("train")
    lists.unlink()
    with pytest.raises(ValueError, match=r"files: holds no trainlist02\.txt; give the folder of the official files"):
        source.manifest("train")
    with pytest.raises(ValueError, match="split=4: there are the splits 1, 2 and 3"):
        Ucf101Source(split=4, **places(tmp_path))


def test_hmdb51(tmp_path: Path) -> None:
    brush, hair = "April_09_brush_hair_u_nm_np1_ba_goo_0", "Brunette_brush_hair_h_nm_np1_le_goo_3"
    files = tmp_path / "files"
    write(files / "brush_hair_test_split1.txt", f"{brush}.avi 1 \n{hair}.avi 2 \n")
    write(
        files / "walk_test_split1.txt", "#20_Crash_walk_f_cm_np1_fr_bad_1.avi 1 \na&b_walk_f_cm_np1_fr_bad_2.avi 0 \n"
    )
    write(files / "walk_test_split2.txt", "other_walk_f.avi 1 \n")
    touch(tmp_path / "videos", f"brush_hair/{brush}.avi", f"brush_hair/{hair}.avi")
    touch(tmp_path / "videos", "walk/#20_Crash_walk_f_cm_np1_fr_bad_1.avi")
    source = Hmdb51Source(**places(tmp_path))
    train, val = source.manifest("train"), source.manifest("val")
    assert (train.class_names, train.labels, val.labels) == (("brush_hair", "walk"), (0, 1), (0,))
    assert train.groups == ("brush_hair April_09", "walk #20_Crash")
    assert train.left_out == {"in neither part of split 1": ("walk/a&b_walk_f_cm_np1_fr_bad_2",)}
    write(files / "walk_test_split1.txt", "#20_Crash_walk_f_cm_np1_fr_bad_1.avi 3\n")
    with pytest.raises(ValueError, match=r"walk_test_split1\.txt:1: .* is no `NAME\.avi` with 0, 1 or 2"):
        source.manifest("train")
    with pytest.raises(ValueError, match=r"holds no CLASS_test_split3\.txt"):
        Hmdb51Source(split=3, **places(tmp_path)).manifest("train")


def test_diving48(tmp_path: Path) -> None:
    files = tmp_path / "files"
    vocabulary = '[["Back", "15som", "05Twis", "FREE"], ["Forward", "25som", "NoTwis", "PIKE"]]'
    write(files / "Diving48_vocab.json", vocabulary)
    entry = '{{"vid_name": "{}", "label": {}, "start_frame": 0, "end_frame": 191}}'
    write(files / "Diving48_V2_train.json", f"[{entry.format('_8Vy3dlHg2w_00000', 1)}]")
    write(files / "Diving48_V2_test.json", f"[{entry.format('_8Vy3dlHg2w_00004', 0)}]")
    touch(tmp_path / "videos", "_8Vy3dlHg2w_00000.mp4", "rgb/_8Vy3dlHg2w_00004.mp4")
    source = Diving48Source(**places(tmp_path))
    train = source.manifest("train")
    assert train.class_names == ("Back 15som 05Twis FREE", "Forward 25som NoTwis PIKE")
    assert (train.labels, train.groups, train.segments) == ((1,), ("_8Vy3dlHg2w",), None)
    assert names_of(source.manifest("test"), tmp_path / "videos") == ["rgb/_8Vy3dlHg2w_00004.mp4"]
    write(files / "Diving48_V2_train.json", f"[{entry.format('_8Vy3dlHg2w_00000', 2)}]")
    with pytest.raises(ValueError, match=r"train\.json: entry 1: label 2 is out of range: with 2 classes"):
        source.manifest("train")
    write(files / "Diving48_V2_train.json", '[{"vid_name": "x"}]')
    with pytest.raises(ValueError, match=r"train\.json: entry 1 .* lacks a vid_name or a whole number as label"):
        source.manifest("train")


CHARADES = (
    "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
    '46GP8,HR43,Kitchen,6,7,Yes,"A person cooks, and eats.",food;stove,"A ""fun"" day.",'
    "c001 11.90 21.20;c000 0.00 12.60,24.83\n"
    "N11GT,0KZ7,Stairs,5,7,Yes,Walks.,bag,Walks.,,18.33\n"
    "KRF68,T5X5,Hall,5,7,Yes,Sits.,chair,Sits.,c001 3.00 3.00;c001 2.00 9.00,18.00\n"
)


def charades(tmp_path: Path, **values: object) -> CharadesSource:
    write(tmp_path / "files" / "Charades_v1_classes.txt", "c000 Holding some clothes\nc001 Putting clothes somewhere\n")
    write(tmp_path / "files" / "Charades_v1_train.csv", CHARADES)
    touch(tmp_path / "videos", "46GP8.mp4", "N11GT.mp4", "KRF68.mp4")
    return CharadesSource(**places(tmp_path), **values)  # type: ignore[arg-type]


def test_charades_videos_have_all_their_actions(tmp_path: Path) -> None:
    manifest = charades(tmp_path).manifest("train")
    assert names_of(manifest, tmp_path / "videos") == ["46GP8.mp4", "KRF68.mp4"]
    assert manifest.class_names == ("Holding some clothes", "Putting clothes somewhere")
    assert (manifest.label_sets, manifest.groups) == (((0, 1), (1,)), ("HR43", "T5X5"))
    assert manifest.left_out["without an action"] == ("N11GT",)
    assert len(manifest.left_out["action that does not end after its start"]) == 1


def test_charades_segments_have_one_label_each(tmp_path: Path) -> None:
    manifest = charades(tmp_path, entries="segments").manifest("train")
    assert (manifest.labels, manifest.label_sets) == ((1, 0, 1), None)
    assert manifest.segments == ((11.9, 21.2), (0.0, 12.6), (2.0, 9.0))


def test_charades_rows_that_are_refused(tmp_path: Path) -> None:
    source = charades(tmp_path)
    place = tmp_path / "files" / "Charades_v1_train.csv"
    for text, message in (
        ("id,actions\n46GP8,c9 0 1\n", r"train\.csv:2: action 'c9 0 1'; a known class, a start and an end"),
        ("id,actions\n46GP8,c000 0 x\n", r"train\.csv:2: action 'c000 0 x': 'x' is neither seconds"),
        ("id,labels\n46GP8,c000 0 1\n", r"train\.csv: no column 'actions' among id, labels"),
        ("id,actions\n46GP8,\n", r"train\.csv: lists no video"),
    ):
        write(place, text)
        with pytest.raises(ValueError, match=message):
            source.manifest("train")


EPIC = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)


def epic(tmp_path: Path, label: str) -> EpicKitchensSource:
    files = tmp_path / "files"
    rows = (
        "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,2,door,1,['door'],[1]\n"
        "P01_01_1,P01,P01_01,00:00:02.629,00:01:04.37,00:01:06.17,262,370,turn on light,turn-on,1,"
        "light,2,\"['light', 'a']\",\"[2, 0]\"\n"
    )
    write(files / "EPIC_100_train.csv", EPIC + rows)
    last = "P02_11_0,P02,P02_11,00:00:00.560,00:00:00.00,00:00:01.89,1,113,take plate,take,0,plate,0,['plate'],[0]\n"
    write(files / "EPIC_100_validation.csv", EPIC + last)
    write(
        files / "EPIC_100_verb_classes.csv",
        "id,key,instances,category\n0,take,\"['take', 'grab']\",retrieve\n2,open,['open'],access\n1,turn-on,['on'],x\n",
    )
    write(files / "EPIC_100_noun_classes.csv", "id,key,instances,category\n0,plate,[],a\n1,door,[],b\n2,light,[],b\n")
    touch(tmp_path / "videos", "P01/videos/P01_01.MP4", "P02/P02_11.MP4")
    return EpicKitchensSource(label=label, **places(tmp_path))  # type: ignore[arg-type]


def test_epic_kitchens(tmp_path: Path) -> None:
    train = epic(tmp_path, "verb").manifest("train")
    assert names_of(train, tmp_path / "videos") == ["P01/videos/P01_01.MP4"] * 2
    assert (train.class_names, train.labels) == (("take", "turn-on", "open"), (2, 1))
    assert train.segments == ((0.14, 3.37), (64.37, 66.17))
    assert epic(tmp_path, "noun").manifest("val").labels == (0,)
    source = epic(tmp_path, "action")
    for split, labels in (("train", (0, 2)), ("val", (1,))):
        manifest = source.manifest(split)  # type: ignore[arg-type]
        assert manifest.class_names == ("open door", "take plate", "turn-on light")
        assert manifest.labels == labels


def test_epic_kitchens_refuses_what_does_not_fit(tmp_path: Path) -> None:
    source = epic(tmp_path, "verb")
    place = tmp_path / "files" / "EPIC_100_train.csv"
    text = place.read_text()
    write(place, text.replace("00:00:03.37", "00:00:00.10"))
    with pytest.raises(ValueError, match=r"EPIC_100_train\.csv:2: the segment 0\.14 s to 0\.1 s does not end after"):
        source.manifest("train")
    write(place, text.replace("open,2,door", "open,7,door"))
    with pytest.raises(ValueError, match=r"EPIC_100_train\.csv:2: verb_class 7, and EPIC_100_verb_classes\.csv has 3"):
        source.manifest("train")
    write(place, text.replace("verb_class", "verbs"))
    with pytest.raises(ValueError, match=r"no column 'verb_class' among"):
        source.manifest("train")


def test_jester(tmp_path: Path) -> None:
    files = tmp_path / "files"
    write(files / "jester-v1-labels.csv", "Swiping Left\nDrumming Fingers\n")
    write(files / "jester-v1-train.csv", "34870;Drumming Fingers\n56557;Swiping Left\n")
    touch(tmp_path / "videos", "34870/00001.jpg", "56557/00001.jpg")
    source = JesterSource(**places(tmp_path))
    manifest = source.manifest("train")
    assert (names_of(manifest, tmp_path / "videos"), manifest.labels) == (["34870", "56557"], (1, 0))
    assert manifest.location(0).frame_rate == 12
    write(files / "jester-v1-train.csv", "34870;Drumming\n")
    with pytest.raises(ValueError, match=r"train\.csv:1: '34870;Drumming'; `34870;Name of a known class`"):
        source.manifest("train")


@pytest.mark.parametrize(
    ("name", "classes"),
    [("ucf101", 101), ("hmdb51", 51), ("diving48", 48), ("charades", 157), ("epic_kitchens", 97), ("jester", 27)],
)
def test_the_options_of_each(name: str, classes: int) -> None:
    places = ("data.source.root=v", "data.source.annotations=a")
    result = options("+experiment=finetune_folder", f"data={name}", *places, "weights=w.pt", "name=x")
    assert (result.data.num_classes, result.data.source.root, result.data.source.annotations) == (classes, "v", "a")
