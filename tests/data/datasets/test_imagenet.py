"""ImageNet and its evaluation sets as they are distributed, and all the files that can be wrong about them."""

import json
from pathlib import Path

import pytest

from mvit_video.data.datasets.imagenet import ImageNetSource, read_synsets
from mvit_video.data.datasets.imagenet_names import imagenet_class_names, imagenet_wnids, readable_names, wnid_of
from tests.image_library import NAMES, WNIDS, images, write_flat, write_folders

VAL = {
    f"ILSVRC2012_val_0000000{number}": images(1)[f"{WNIDS[label]}_0"] for number, label in enumerate((2, 0, 1, 2), 1)
}
LABELS = [2, 0, 1, 2]
RANKS = [imagenet_wnids().index(WNIDS[label]) for label in LABELS]  # in ImageNet-1k
# The IDs of the devkit have another order than the wnids.
SYNSETS = "n02099601 11 golden_retriever\nn01440764 12 tench\nn01443537 10 goldfish\n"
GROUND_TRUTH = "11\n12\n10\n11\n"


@pytest.fixture
def train(tmp_path: Path) -> str:
    """A training folder of three classes."""
    return str(write_folders(tmp_path / "train", images(1)))


@pytest.fixture
def flat(tmp_path: Path) -> str:
    """A flat validation folder."""
    return str(write_flat(tmp_path / "val", VAL))


def written(folder: Path, name: str, text: str) -> str:
    """Path of a text file."""
    (folder / name).write_text(text)
    return str(folder / name)


def test_the_order_of_the_classes_is_that_of_the_sorted_wnids():
    wnids = imagenet_wnids()
    assert len(set(wnids)) == 1000 and list(wnids) == sorted(wnids) and all(wnid_of(wnid) == wnid for wnid in wnids)
    assert (wnids[0], wnids[207], wnids[999]) == ("n01440764", "n02099601", "n15075141")
    assert imagenet_class_names()[207] == "n02099601 golden retriever"


def test_wnids_are_those_of_timm():
    timm_info = pytest.importorskip("timm.data").ImageNetInfo("imagenet-1k")
    assert list(imagenet_wnids()) == timm_info.label_names()


@pytest.mark.parametrize(
    ("name", "text", "with_synsets"),
    [
        ("ILSVRC2012_validation_ground_truth.txt", GROUND_TRUTH, True),
        (
            "val.txt",
            "".join(f"{name}.JPEG {WNIDS[label]}\n" for name, label in reversed(list(zip(VAL, LABELS)))),
            False,
        ),
        ("numbers.txt", "".join(f"val/{name}.JPEG {label}\n" for name, label in zip(VAL, LABELS)), False),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n"
            + "".join(
                f"{name},{WNIDS[label]} 85 1 499 272 {WNIDS[label]} 1 2 3 4 \n" for name, label in zip(VAL, LABELS)
            ),
            False,
        ),
    ],
)
def test_a_flat_validation_folder_takes_its_classes_from_a_file(name, text, with_synsets, train, flat, tmp_path):
    synsets = written(tmp_path, "map_clsloc.txt", SYNSETS) if with_synsets else None
    source = ImageNetSource(train=train, val=flat, val_labels=written(tmp_path, name, text), synsets=synsets)
    manifest = source.manifest("val")
    assert list(manifest.labels) == LABELS and manifest.class_names == NAMES
    assert [Path(path).stem for path in manifest.paths] == list(VAL)


def test_without_a_training_split_the_classes_are_those_of_imagenet(flat, tmp_path):
    truth = written(tmp_path, "truth.txt", GROUND_TRUTH)
    source = ImageNetSource(val=flat, val_labels=truth, synsets=written(tmp_path, "ids.txt", SYNSETS))
    manifest = source.manifest("val")
    assert list(manifest.labels) == RANKS and manifest.class_names == imagenet_class_names()


def test_a_subset_of_the_classes_keeps_their_numbers(tmp_path):
    folder = write_folders(tmp_path / "imagenet-a", images(1))
    manifest = ImageNetSource(val=str(folder)).manifest("val")
    assert list(manifest.labels) == sorted(RANKS[:3]) and manifest.num_classes == 1000
    assert len(manifest.empty_classes()) == 997


def test_folders_of_numbers_count_and_are_not_sorted_as_text(tmp_path):
    content = {f"image_{number}": (images(1)[f"{WNIDS[0]}_0"][0], number) for number in (2, 10, 100, 999)}
    folder = write_folders(tmp_path / "v2", content, names=[str(number) for number in range(1000)])
    manifest = ImageNetSource(val=str(folder)).manifest("val")
    assert dict(zip([Path(path).stem for path in manifest.paths], manifest.labels)) == {
        "image_2": 2, "image_10": 10, "image_100": 100, "image_999": 999,
    }  # fmt: skip
    assert manifest.class_names == imagenet_class_names()


def test_a_number_without_a_class_is_refused(train, tmp_path):
    folder = write_folders(tmp_path / "v2", images(1), names=["0", "1", "7"])
    with pytest.raises(ValueError, match="folder 7 is the number of no class: with 3 classes they run from 0 to 2"):
        ImageNetSource(train=train, val=str(folder)).manifest("val")


def test_readable_names_of_a_file(train, tmp_path):
    text = "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\nn02099601 dog\n"
    path = written(tmp_path, "LOC_synset_mapping.txt", text)
    source = ImageNetSource(train=train, names=path)
    assert source.manifest("train").class_names == ("n01440764 tench", "n01443537 goldfish", "n02099601 dog")
    with pytest.raises(ValueError, match=r"bad\.txt:1: 'tench'; a line is a wnid with its name"):
        readable_names(written(tmp_path, "bad.txt", "tench\n"))
    with pytest.raises(ValueError, match="n01440764 comes a second time"):
        readable_names(written(tmp_path, "twice.txt", "n01440764 a\nn01440764 b\n"))


def test_classes_of_the_large_imagenet_have_no_names_without_a_file(tmp_path):
    folder = write_folders(tmp_path / "train", images(1), names=["n00004475", "n00005787", "n01440764"])
    classes = ("n00004475", "n00005787", "n01440764 tench")
    assert ImageNetSource(train=str(folder)).manifest("train").class_names == classes
    assert ImageNetSource(val=str(folder)).manifest("val").class_names == classes


def test_all_right_labels_of_an_image(flat, train, tmp_path, caplog):
    truth = written(tmp_path, "val.txt", "".join(f"{name} {WNIDS[label]}\n" for name, label in zip(VAL, LABELS)))
    real = [[207, 0], [], [1], [207]]
    source = ImageNetSource(val=flat, val_labels=truth, label_sets=written(tmp_path, "real.json", json.dumps(real)))
    manifest = source.manifest("val")
    assert [Path(path).stem[-1] for path in manifest.paths] == ["1", "3", "4"]
    assert list(manifest.label_sets) == [(0, 207), (1,), (207,)] and list(manifest.labels) == [0, 1, 207]
    assert "1 file is not used. without a right label: 1 (" in caplog.text
    by_name = {f"{name}.JPEG": labels for name, labels in zip(VAL, real)}
    by_name[f"{next(iter(VAL))}.JPEG"] = ["n01440764 tench", 207]
    path = written(tmp_path, "names.json", json.dumps(by_name))
    assert (
        source.__class__(val=flat, val_labels=truth, label_sets=path).manifest("val").label_sets == manifest.label_sets
    )
    with_training = ImageNetSource(train=train, val=flat, val_labels=truth, label_sets=path).manifest("val")
    assert list(with_training.label_sets) == [(0, 2), (1,), (2,)] and with_training.class_names == NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([[1]], r"1 lists of labels for 4 images .* in the sorted order of file names"),
        ([[1], [2], [3], [1000]], r"ILSVRC2012_val_00000004\.JPEG: label 1000 is no class; with 1000 classes"),
        ([[1], [2], [3], ["tensch"]], "unknown class 'tensch'"),
        ([1, 2, 3, 4], "the labels are 1; a list is expected"),
        ([[], [], [], []], "no image has a label"),
        ({"ILSVRC2012_val_00000001": [1]}, "no labels for 3 of 4 images, the first ILSVRC2012_val_00000002"),
        ("x", "a JSON list of lists of labels, or an object from file name"),
    ],
)
def test_files_of_right_labels_that_are_refused(content, message, flat, tmp_path):
    truth = written(tmp_path, "val.txt", "".join(f"{name} {WNIDS[label]}\n" for name, label in zip(VAL, LABELS)))
    path = written(tmp_path, "real.json", json.dumps(content))
    with pytest.raises(ValueError, match=message):
        ImageNetSource(val=flat, val_labels=truth, label_sets=path).manifest("val")


@pytest.mark.parametrize(
    ("labels", "synsets", "message"),
    [
        (None, None, "holds no class folders; if it is the flat validation split, give data.source.val_labels"),
        (GROUND_TRUTH, None, "ILSVRC2012_IDs, which are not the ranks of the sorted wnids; give data.source.synsets"),
        ("11\n12\n", SYNSETS, r"2 labels for the 4 images .* give the whole split"),
        ("11\n12\n10\n9\n", SYNSETS, "lacks the ILSVRC2012_ID 9"),
        (
            "ILSVRC2012_val_00000001 n01440764\n",
            None,
            "says nothing about 3 of the 4 names, the first ILSVRC2012_val_00000002",
        ),
        (
            "".join(f"{name} n01440764\n" for name in [*VAL, "extra"]),
            None,
            "has no image of 1 of the 5 names, the first extra",
        ),
        (
            "".join(f"{name} n00000001\n" for name in VAL),
            None,
            "1 class is not among the 3 known ones, the first 'n0000",
        ),
        ("".join(f"{name} 3\n" for name in VAL), None, "line 1: label 3; with 3 classes, labels run from 0 to 2"),
        ("just words\n", None, "line 1, 'just words', is no `name wnid`"),
        ("a 1\na 2\n", None, "line 2: a is n01443537 here|a is n02099601 here and n01443537 before"),
    ],
)
def test_labels_of_a_flat_folder_that_are_refused(labels, synsets, message, train, flat, tmp_path):
    given = {
        "val_labels": None if labels is None else written(tmp_path, "labels.txt", labels),
        "synsets": None if synsets is None else written(tmp_path, "synsets.txt", synsets),
    }
    with pytest.raises(ValueError, match=message):
        ImageNetSource(train=train, val=flat, **given).manifest("val")


def test_synsets_in_either_order(tmp_path):
    expected = {1: "n02119789", 2: "n02100735"}
    for text in ("n02119789 1 kit_fox\nn02100735 2\n", "ID,WNID\n1,n02119789,kit fox\n2,n02100735\n"):
        assert read_synsets(written(tmp_path, "a.txt", text)) == expected
    for text, message in (
        ("n02119789\nn02100735\n", "a line begins with a wnid and its ILSVRC2012_ID"),
        ("n02119789\n", "no line has a wnid and its ILSVRC2012_ID"),
        ("n02119789 1\nn02100735 1\n", "repeats an ID or a wnid"),
    ):
        with pytest.raises(ValueError, match=message):
            read_synsets(written(tmp_path, "a.txt", text))


def test_a_folder_that_holds_no_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no folder train or val; give data\.source\.train"):
        ImageNetSource(folder=str(tmp_path)).prepare()
    with pytest.raises(ValueError, match="the folder of images does not exist"):
        ImageNetSource(folder=str(tmp_path / "no")).prepare()
    with pytest.raises(ValueError, match=r"data\.source\.val is not set"):
        ImageNetSource(folder=str(write_folders(tmp_path / "in" / "train", images(1)).parent)).manifest("val")
    with pytest.raises(ValueError, match="numbers the classes of val_labels, which is not given"):
        ImageNetSource(val="x", synsets="y")
