"""Labels in YOLO's text form."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvit_video.data.detection.assembly import EMPTY_IMAGE, NO_MASK
from mvit_video.data.detection.sources import YoloSource
from mvit_video.data.detection.yolo import NO_LABEL_FILE, REPEATED, STRAY, UNREADABLE, from_yolo
from mvit_video.data.detection.yolo_files import read_data_yaml
from tests.data.datasets.files import write

NAMES = ("cat", "dog")


def write_yolo(folder: Path, labels: dict[str, str | None], *, split: str = "train") -> Path:
    """Pictures of 40 x 20 pixels and their labels, None for no file of labels. Returns the folder of the pictures."""
    pictures = folder / "images" / split
    for name, text in labels.items():
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(pictures / f"{name}.png")
        if text is not None:
            write(folder / "labels" / split / f"{name}.txt", text)
    return pictures


def test_boxes_are_shares_of_the_picture(tmp_path):
    pictures = write_yolo(
        tmp_path, {"a": "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.25 0.2 0.1\r\n", "b": "", "c": None, "deep/d": "0 0.5 0.5 1 1"}
    )
    write(tmp_path / "labels" / "train" / "lost.txt", "0 0.5 0.5 1 1")
    write(tmp_path / "labels" / "train" / "classes.txt", "cat\ndog")
    manifest = from_yolo(pictures, class_names=NAMES)
    assert [Path(path).name for path in manifest.paths] == ["a.png", "b.png", "c.png", "d.png"]
    assert manifest.image_ids == (1, 2, 3, 4) and manifest.size(0) == (20, 40) and manifest.category_ids == (0, 1)
    found = manifest.instances(0)
    np.testing.assert_allclose(found.boxes, [[15, 5, 25, 15], [0, 4, 8, 6]], rtol=1e-6)
    assert found.labels.tolist() == [1, 0] and found.areas.tolist() == pytest.approx([100, 16]) and found.masks is None
    assert len(manifest.instances(1)) == 0 and manifest.instances(3).boxes.tolist() == [[0, 0, 40, 20]]
    assert [Path(name).name for name in manifest.repaired[NO_LABEL_FILE]] == ["c.png"]
    assert [Path(name).name for name in manifest.left_out[STRAY]] == ["lost.txt"]
    fewer = from_yolo(pictures, class_names=NAMES, empty_images="leave_out")
    assert len(fewer) == 2 and len(fewer.left_out[EMPTY_IMAGE]) == 2


def test_polygons_are_masks(tmp_path):
    pictures = write_yolo(tmp_path, {"a": "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n1 0.5 0.5 0.25 0.5"})
    manifest = from_yolo(pictures, class_names=NAMES)
    found = manifest.instances(0)
    assert found.boxes[0].tolist() == [10, 5, 30, 15] and found.areas.tolist() == [200, 100]
    assert found.masks.bitmaps().sum((1, 2)).tolist() == [200, 0]
    assert manifest.repaired == {NO_MASK: ("a.txt:2 (a.png)",)}
    whole = from_yolo(pictures, class_names=NAMES, boxes_as_masks=True)
    assert whole.instances(0).masks.bitmaps().sum((1, 2)).tolist() == [200, 100]
    assert from_yolo(pictures, class_names=NAMES, masks=False).instances(0).masks is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"1 line of a class that the file does not list: a\.txt:2: class 2 of 2 \(0 to 1\)"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 of 2"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 of 2"),
        ("0 15 5 10 10", r"1 line with values outside of 0 to 1: a\.txt:2: '0 15 5 10 10'\. YOLO's are shares"),
        ("0 -0.2 0.5 0.1 0.1", "1 line with values outside of 0 to 1"),
        ("0 0.5 0.5 0.1", r"1 line that are neither a box .*: a\.txt:2: '0 0\.5 0\.5 0\.1'"),
        ("0 0.5 0.5 0.1 0.1 0.9", "that are neither a box"),
        ("0 0.5 0.5 0.1 nan", "that are neither a box"),
        ("cat 0.5 0.5 0.1 0.1", "that are neither a box"),
    ],
)
def test_lines_that_are_no_labels_are_named(tmp_path, line, message):
    pictures = write_yolo(tmp_path, {"a": f"0 0.5 0.5 0.1 0.1\n{line}\n"})
    with pytest.raises(ValueError, match=message):
        from_yolo(pictures, class_names=NAMES)
    manifest = from_yolo(pictures, class_names=NAMES, mistakes="leave_out")
    assert len(manifest.annotations) == 1 and len(manifest.left_out) == 1


def test_repeated_lines_and_rounding_at_the_border_do_no_harm(tmp_path):
    pictures = write_yolo(tmp_path, {"a": "0 0.5 0.5 1.004 0.5\n0 0.5 0.5 1.004 0.5\n"})
    manifest = from_yolo(pictures, class_names=NAMES)
    assert manifest.instances(0).boxes.tolist() == [[0, 5, 40, 15]]
    assert manifest.left_out == {REPEATED: ("a.txt:2",)} and not manifest.repaired


def test_pictures_that_are_missing_or_have_no_header_are_named(tmp_path):
    pictures = write_yolo(tmp_path, {"a": "0 0.5 0.5 1 1", "b": "0 0.5 0.5 1 1"})
    (pictures / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 images have no readable header, .*b\.png: .*missing=skip"):
        from_yolo(pictures, class_names=NAMES)
    manifest = from_yolo(pictures, class_names=NAMES, missing="skip")
    assert len(manifest) == 1 and len(manifest.left_out[UNREADABLE]) == 1
    some = write(tmp_path / "some.txt", "./images/train/a.png\n./images/train/gone.png\n")
    with pytest.raises(ValueError, match=r"1 of 2 listed images do not exist: .*gone\.png"):
        from_yolo(some, class_names=NAMES)
    assert len(from_yolo(some, class_names=NAMES, missing="skip")) == 1


def test_a_folder_without_pictures_or_labels_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match=r"no images there; images have extensions such as \.jpg"):
        from_yolo(tmp_path / "images", class_names=NAMES)
    pictures = write_yolo(tmp_path, {"a": None})
    with pytest.raises(ValueError, match=r"none of the 1 images has a file of labels, .*looked for .*train/a\.txt"):
        from_yolo(pictures, class_names=NAMES)


def test_labels_may_lie_beside_the_pictures(tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    write(tmp_path / "a.txt", "0 0.5 0.5 1 1")
    assert len(from_yolo(tmp_path, class_names=NAMES).instances(0)) == 1


def test_pictures_are_measured_as_exif_turns_them(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    write(tmp_path / "a.txt", "0 0.5 0.5 1 1")
    assert from_yolo(tmp_path, class_names=NAMES).size(0) == (40, 20)
    assert from_yolo(tmp_path, class_names=NAMES, orientation="ignore").size(0) == (20, 40)


def test_a_data_yaml_has_names_and_splits(tmp_path):
    write_yolo(tmp_path, {"a": "0 0.5 0.5 1 1"})
    write_yolo(tmp_path, {"b": "1 0.5 0.5 1 1", "c": None}, split="val")
    yaml = write(
        tmp_path / "data.yaml", "path: .\ntrain: images/train\nval: [images/val]\nnc: 2\nnames: {1: dog, 0: cat}\n"
    )
    source = YoloSource(data=str(yaml), empty_images="leave_out")
    assert source.has("train") and source.has("test")
    assert source.manifest("train").class_names == NAMES and len(source.manifest("train")) == 1
    assert len(source.manifest("test")) == 2  # an evaluation keeps images without objects
    assert len(YoloSource(data=str(yaml), train=str(tmp_path / "images")).manifest("train")) == 3
    # As exports write it: places that only fit a folder further down.
    exported = write(tmp_path / "data.yaml", "train: ../images/train\nvalid: ../images/val\nnames: [cat, dog]\n")
    assert len(YoloSource(data=str(exported)).manifest("val")) == 2
    quoted = write(tmp_path / "data.yaml", "nc: '2'\nnames: {'1': dog, '0': cat}\n")
    assert read_data_yaml(quoted).names == NAMES
    names = write(tmp_path / "classes.txt", "cat\ndog\n")
    given = YoloSource(train=str(tmp_path / "images" / "train"), class_names_file=str(names))
    assert given.manifest("train").instances(0).labels.tolist() == [0] and not given.has("val")
    with pytest.raises(ValueError, match=r"data\.source\.val is not set, and no data\.yaml .* has it"):
        given.manifest("val")
    with pytest.raises(ValueError, match=r"neither data\.source\.data nor data\.source\.class_names_file is set"):
        YoloSource(train=str(tmp_path / "images" / "train")).manifest("train")


def test_a_data_yaml_whose_path_is_elsewhere_is_read_from_its_own_folder_with_a_word(tmp_path, caplog):
    yaml = write(tmp_path / "data.yaml", "path: .\r\ntrain: images\r\nnames: [cat, dog]\r\n")
    assert read_data_yaml(yaml).splits == {"train": (str(tmp_path / "images"),)} and not caplog.messages
    yaml = write(tmp_path / "data.yaml", "path: ../datasets/pets\ntrain: images\nnames: [cat, dog]\n")
    assert read_data_yaml(yaml).splits == {"train": (str(tmp_path / "images"),)}
    assert "`path` ../datasets/pets is not there; its splits are taken from the file's own folder" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: cat, 2: dog}", r"`names` has the numbers \[0, 2\]; number the classes"),
        ("names: {0: cat, a: dog}", r"`names` has the numbers \[0, 'a'\]; number the classes"),
        ("names: [cat, cat]", "class name 'cat' occurs more than once"),
        ("nc: 3\nnames: [cat, dog]", "nc is 3, but there are 2 names"),
        ("train: a", "no list `names`"),
        ("names: [cat]\nkpt_shape: [17, 3]", r"labels of key points \(kpt_shape\) are not read"),
        ("- a", "has the keys names, train and val; this has none"),
        ("names: [cat", "the data.yaml is not YAML"),
    ],
)
def test_a_data_yaml_that_is_none_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_data_yaml(write(tmp_path / "data.yaml", text))
