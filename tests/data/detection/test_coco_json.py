"""COCO files: a hand-made set with each oddity, and every mistake with its message."""

import json
import math
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from mvit_video.data.datasets.fingerprint import fingerprint
from mvit_video.data.detection.assembly import CUT, EMPTY_IMAGE, NO_AREA, NO_MASK
from mvit_video.data.detection.coco_json import POINTS, coco_class_names, from_coco
from mvit_video.data.detection.ground_truth import category_numbers, ground_truth
from mvit_video.data.detection.masks import RunLengths
from tests.data.detection.coco_files import HEIGHT, SQUARE, WIDTH, content, disc, write_set


def changed(change) -> dict:
    """The set after a change."""
    made = content()
    change(made)
    return made


def test_everything_that_a_file_states_is_read(tmp_path):
    manifest = from_coco(write_set(tmp_path), empty_images="keep")
    assert [Path(path).name for path in manifest.paths] == ["7.png", "3.png", "100.png", "4.png"]
    assert manifest.image_ids == (7, 3, 100, 4) and manifest.size(0) == (HEIGHT, WIDTH)
    # Classes stand in the order of their ids, and are numbered without gaps.
    assert manifest.class_names == ("dog", "bird", "cat") and manifest.category_ids == (2, 13, 90)
    assert manifest.instance_counts() == (2, 0, 2) and manifest.empty_classes() == ("bird",)
    assert manifest.labels == (0, 0, 0, 0) and manifest.label_sets == ((0, 2), (0, 2), (), (0,))

    first = manifest.instances(1)
    assert first.ids.tolist() == [11, 13] and first.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(first.boxes, np.float32([[5, 6, 15, 16], [2, 2, 30.75, 28]]))
    assert first.areas.tolist() == [50.5, 50.5] and not first.crowds.any()
    assert first.masks.shapes[0][0].tolist() == np.reshape(SQUARE, (-1, 2)).tolist() and len(first.masks.shapes[1]) == 2
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[6:16, 5:15] = True
    np.testing.assert_array_equal(first.masks.bitmaps()[0], square)

    second = manifest.instances(0)
    assert second.crowds.tolist() == [False, False, True] and len(second.without_crowds()) == 2
    for bitmap in second.masks.bitmaps():  # compressed, as numbers, and the crowd
        np.testing.assert_array_equal(bitmap, disc())
    assert set(second.target()) == {"boxes", "labels", "masks"} and len(second.target()["masks"]) == 2
    assert len(manifest.instances(2)) == 0


def test_training_leaves_out_images_without_instances_as_published(tmp_path):
    manifest = from_coco(write_set(tmp_path))
    assert manifest.image_ids == (7, 3)
    assert manifest.left_out == {EMPTY_IMAGE: ("100.png", "4.png")}


def test_some_images_and_other_classes_take_their_instances_along(tmp_path):
    manifest = from_coco(write_set(tmp_path), empty_images="keep")
    some = manifest.subset(np.array([2, 1]))
    assert some.image_ids == (100, 3) and some.instances(1).ids.tolist() == [11, 13] and len(some.instances(0)) == 0
    assert some.instances(1).masks.shapes[1][1].tolist() == manifest.instances(1).masks.shapes[1][1].tolist()
    # Another order of classes, one of them unknown here: labels follow the names.
    mapped = manifest.with_classes(["cat", "cow", "dog"])
    assert mapped.instances(1).labels.tolist() == [0, 2] and mapped.label_sets == ((0, 2), (0, 2), (), (2,))
    assert mapped.category_ids == (90, -1, 2)
    with pytest.raises(ValueError, match="1 of its 2 classes is not among the 1 known ones: 'dog'"):
        manifest.with_classes(["cat"])


def test_classes_keep_their_numbers_however_accents_are_written_and_new_ones_take_no_number_of_the_file(tmp_path):
    """Numbers of predictions.json are those of the split's file, also of classes that the training did not know."""
    made = changed(lambda made: made["categories"][0].update(name=unicodedata.normalize("NFD", "café")))
    made["categories"].append({"id": 91, "name": "zebra"})
    mapped = from_coco(write_set(tmp_path, made), empty_images="keep").with_classes(["café", "cow", "dog"])
    assert category_numbers(mapped) == (90, 92, 2)
    assert category_numbers(mapped.with_classes(["owl", "café", "dog"])) == (92, 90, 2)


def test_the_fingerprint_knows_boxes_and_masks(tmp_path):
    first = fingerprint(from_coco(write_set(tmp_path)))
    assert fingerprint(from_coco(write_set(tmp_path))) == first
    changes = [{"bbox": [5, 6, 10, 11]}, {"segmentation": [[5, 6, 15, 6, 15, 16, 5, 17]]}, {"category_id": 13}]
    for change in changes:
        made = content()
        made["annotations"][0].update(change)
        assert fingerprint(from_coco(write_set(tmp_path, made))) != first


def test_a_set_goes_back_to_the_form_that_it_came_in(tmp_path):
    manifest = from_coco(write_set(tmp_path), empty_images="keep")
    made = ground_truth(manifest)
    again = {entry["id"]: entry for entry in made["annotations"]}
    for entry in content()["annotations"]:
        kept = again[entry["id"]]
        assert {key: kept[key] for key in ("image_id", "category_id", "bbox", "area", "iscrowd")} == {
            key: entry[key] for key in ("image_id", "category_id", "bbox", "area", "iscrowd")
        }
        if isinstance(entry["segmentation"], list):
            assert kept["segmentation"] == entry["segmentation"]
    reread = from_coco(write_set(tmp_path, made), empty_images="keep")
    assert reread.class_names == manifest.class_names and reread.image_ids == manifest.image_ids
    # A class that the file does not know is numbered behind the others.
    assert [entry["id"] for entry in ground_truth(manifest.with_classes(["cow", "dog", "cat"]))["categories"]] == [
        91,
        2,
        90,
    ]


NAN = math.nan
MISTAKES = {
    "box outside": (
        lambda made: made["annotations"][0].update(bbox=[50, 6, 10, 10]),
        r"1 annotation with a box outside of its image: 11 \(3\.png\), 50, 6 to 60, 16 in 40x30\. a box is x, y",
    ),
    "unknown class": (
        lambda made: made["annotations"][0].update(category_id=1),
        r"1 annotation of a class that the file does not list: 11 \(3\.png\): category_id 1\. add the class",
    ),
    "id twice": (
        lambda made: made["annotations"][0].update(id=12),
        r"1 annotation with the id of an earlier one: 12 \(7\.png\)\. give each an id of its own",
    ),
    "unknown image": (
        lambda made: made["annotations"][0].update(image_id=999),
        r"1 annotation of an image that the file does not list: 11 \(image_id 999\)\. add the image",
    ),
    "not a number": (
        lambda made: made["annotations"][0].update(bbox=[5, NAN, 10, 10]),
        r"1 annotation with a box that is not four finite numbers: 11 \(3\.png\): \[5, nan, 10, 10\]\. a box is x",
    ),
    "three numbers": (
        lambda made: made["annotations"][0].update(bbox=[5, 6, 10]),
        r"with a box that is not four finite numbers: 11 \(3\.png\): \[5, 6, 10\]",
    ),
    "no box": (lambda made: made["annotations"][0].pop("bbox"), r"not four finite numbers: 11 \(3\.png\): None"),
    "odd polygon": (
        lambda made: made["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
        r"1 annotation with a mask that is neither.*: 11 \(3\.png\): a polygon of 7 numbers, not of pairs x, y\. pol",
    ),
    "flat polygon": (
        lambda made: made["annotations"][0].update(segmentation=SQUARE),
        "a list of numbers where a list of polygons is expected",
    ),
    "words in a polygon": (
        lambda made: made["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, "x"]]),
        "a polygon with a corner that is no number",
    ),
    "infinite polygon": (
        lambda made: made["annotations"][0].update(segmentation=[SQUARE, [1, 2, 3, 4, 5, NAN]]),
        "a polygon with a corner that is not finite",
    ),
    "a polygon that would end the process": (
        lambda made: made["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 1e300]]),
        "a polygon with a corner that is not finite, or over 1,000,000 pixels away",
    ),
    "run lengths in a list": (
        lambda made: made["annotations"][0].update(segmentation=[{"size": [30, 40], "counts": [0, 1200]}]),
        "a list of run lengths where a list of polygons is expected",
    ),
    "text as a mask": (
        lambda made: made["annotations"][0].update(segmentation="abc"),
        "str where polygons or run lengths are expected",
    ),
    "cut run lengths": (
        lambda made: made["annotations"][1]["segmentation"].update(
            counts=made["annotations"][1]["segmentation"]["counts"][:-8]
        ),
        r": 12 \(7\.png\): runs of \d+ pixels in all for 1200 of 40x30",
    ),
    "odd characters": (
        lambda made: made["annotations"][1]["segmentation"].update(counts="a b"),
        "run lengths with a character that they do not have",
    ),
    "too long runs": (
        lambda made: made["annotations"][3]["segmentation"].update(counts=[1, 2]),
        "runs of 3 pixels in all for 1200 of 40x30",
    ),
    "negative run": (
        lambda made: made["annotations"][3]["segmentation"].update(counts=[1201, -1]),
        "a run of -1 pixels",
    ),
    "other size": (
        lambda made: made["annotations"][3]["segmentation"].update(size=[40, 30]),
        "run lengths of 30x40 in an image of 40x30",
    ),
    "no size": (
        lambda made: made["annotations"][3]["segmentation"].pop("size"),
        r"run lengths of the size None, not of \[height, width\]",
    ),
    "crowd that is text": (
        lambda made: made["annotations"][0].update(iscrowd="0"),
        r"1 annotation with an iscrowd that is neither 0 nor 1: 11 \(3\.png\): '0'\. 0 is one object",
    ),
    "id that is text": (
        lambda made: made["annotations"][0].update(id="a"),
        r"1 annotation with an id, image_id or category_id that is no whole number from 0 on: entry 0 of",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_each_mistake_is_named_and_can_be_left_out(tmp_path, kind):
    change, message = MISTAKES[kind]
    path = write_set(tmp_path, changed(change))
    with pytest.raises(ValueError, match=message) as caught:
        from_coco(path)
    assert str(caught.value).startswith(str(path)) and "data.source.mistakes=leave_out" in str(caught.value)
    manifest = from_coco(path, empty_images="keep", mistakes="leave_out")
    assert len(manifest.annotations) == 5
    assert [len(names) for names in manifest.left_out.values()] == [1]
    assert set(manifest.annotations.ids) < {11, 12, 13, 14, 15, 16}


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path):
    made = changed(lambda made: made["annotations"][0].update(category_id=1))
    made["annotations"] += [dict(made["annotations"][2], id=20 + extra, bbox=[90, 0, 1, 1]) for extra in range(5)]
    with pytest.raises(ValueError, match=r"1 annotation of a class .*; 5 annotations with a box outside") as caught:
        from_coco(write_set(tmp_path, made))
    assert "20 (3.png)" in str(caught.value) and "24 (3.png)" not in str(caught.value)  # the first few as examples


def test_boxes_without_area_are_left_out_and_those_over_the_border_are_cut(tmp_path):
    def change(made):
        made["annotations"][0].update(bbox=[5, 6, 0, 10])
        made["annotations"][2].update(bbox=[-3, 2, 60, 28.5])  # 0.5 pixels below is rounding

    manifest = from_coco(write_set(tmp_path, changed(change)))
    assert manifest.left_out[NO_AREA] == ("11 (3.png)",)
    assert manifest.repaired == {CUT: ("13 (3.png)",)}
    assert manifest.instances(1).boxes.tolist() == [[0, 2, 40, 30]]


def test_masks_that_are_not_there_and_polygons_of_two_corners_are_counted(tmp_path, caplog):
    def change(made):
        made["annotations"][0].update(segmentation=[])
        made["annotations"][2]["segmentation"].append([1, 2, 3, 4])

    path = write_set(tmp_path, changed(change))
    manifest = from_coco(path)
    assert manifest.repaired == {NO_MASK: ("11 (3.png)",), POINTS: ("13 (3.png)",)}
    assert "for background. To train on these instances, too: data.source.boxes_as_masks=true" in caplog.text
    assert [len(shape) for shape in manifest.instances(1).masks.shapes] == [0, 2]
    whole = from_coco(path, boxes_as_masks=True)
    assert NO_MASK not in whole.repaired
    np.testing.assert_array_equal(whole.instances(1).masks.shapes[0][0], np.reshape(SQUARE, (-1, 2)))
    assert isinstance(whole.instances(0).masks.shapes[0], RunLengths)


def test_a_set_of_boxes_alone_has_no_masks_unless_boxes_are_to_be_masks(tmp_path):
    def change(made):
        for entry in made["annotations"]:
            del entry["segmentation"], entry["area"]

    path = write_set(tmp_path, changed(change))
    manifest = from_coco(path)
    assert not manifest.has_masks and manifest.instances(1).masks is None
    assert manifest.instances(1).areas.tolist() == [100, 28.75 * 26] and set(manifest.instances(1).target()) == {
        "boxes",
        "labels",
    }
    masks = from_coco(path, boxes_as_masks=True).instances(1).masks
    assert masks.bitmaps()[0].sum() == 100
    assert not from_coco(write_set(tmp_path), masks=False).has_masks


def test_areas_that_a_file_does_not_state_are_those_of_the_masks(tmp_path):
    def change(made):
        for entry in made["annotations"]:
            del entry["area"]

    manifest = from_coco(write_set(tmp_path, changed(change)))
    assert manifest.instances(1).areas.tolist() == [100, 4 * 3 + 10.5 * 7.5 / 2]
    assert manifest.instances(0).areas.tolist() == [disc().sum()] * 3


def test_images_that_do_not_exist_are_named(tmp_path):
    path = write_set(tmp_path)
    (tmp_path / "train" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 images do not exist under .*train: .*3\.png; .*missing=skip"):
        from_coco(path)
    manifest = from_coco(path, missing="skip")
    assert manifest.image_ids == (7,) and [Path(name).name for name in manifest.missing] == ["3.png"]
    with pytest.raises(ValueError, match=r"4 of 4 images do not exist under .*nowhere: .*data\.source\.train_root="):
        from_coco(path, root=tmp_path / "nowhere", missing="skip")
    path = path.rename(tmp_path / "annotations" / "labels.json")
    with pytest.raises(ValueError, match="4 of 4 images do not exist in any of "):
        from_coco(path)


@pytest.mark.parametrize("place", ["", "images", "../train", "../images/train", "../images", ".."])
def test_images_are_found_in_the_usual_places(tmp_path, place, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_set(tmp_path)
    folder = (path.parent / place).resolve()
    if folder != tmp_path / "train":
        folder.parent.mkdir(exist_ok=True)
        for image in (tmp_path / "train").iterdir():
            folder.mkdir(exist_ok=True)
            image.rename(folder / image.name)
    assert {Path(name).resolve().parent for name in from_coco(path).paths} == {folder}


def test_lvis_names_its_images_by_address(tmp_path, caplog):
    def change(made):
        for image in made["images"]:
            image.update(coco_url=f"http://images.example.org/train/{image.pop('file_name')}")
            image.update(neg_category_ids=[2], not_exhaustive_category_ids=[])
        for entry in made["annotations"]:
            del entry["iscrowd"]

    with caplog.at_level("INFO"):
        manifest = from_coco(write_set(tmp_path, changed(change)))
    assert len(manifest) == 3 and not manifest.annotations.crowds.any()
    assert "`neg_category_ids` of 4 images is not used" in caplog.text and "exhaustive" not in caplog.text


FILES = {
    "cut off": (lambda text: text[: len(text) // 2], r"json:1: the COCO file is not JSON \(.*is it cut off\?"),
    "not JSON": (
        lambda text: text.replace("{", "<", 1),
        r"json:1: the COCO file is not JSON \(Expecting value\); copy",
    ),
    "results": (lambda text: "[]", "no list `images`; .* This looks like results"),
    "no annotations": (lambda text: text.replace('"annotations"', '"notes"'), "no list `annotations`; a COCO file of"),
    "no objects": (
        lambda text: '{"images": [1], "annotations": [], "categories": []}',
        "entry 0 of `images` is no obj",
    ),
    "no images": (
        lambda text: '{"images": [], "annotations": [], "categories": [{"id":1,"name":"a"}]}',
        "is empty; give",
    ),
    "no size": (
        lambda text: text.replace('"width": 40', '"width": 0', 1),
        "entry 0 of `images` is .*'width': 0}; it need",
    ),
    "image id twice": (lambda text: text.replace('"id": 100', '"id": 7'), r"images 7\.png and 100\.png share the id 7"),
    "class id twice": (lambda text: text.replace('"id": 13', '"id": 2'), "categories 'dog' and 'bird' share the id 2"),
    "class name twice": (lambda text: text.replace('"bird"', '"cat"'), "class name 'cat' occurs more than once"),
    "class far out": (
        lambda text: text.replace('"id": 13,', f'"id": {2**70},'),
        "an id that is a whole number from 0 on",
    ),
    "class without name": (lambda text: text.replace('"name": "bird"', '"nom": "bird"'), "'nom': 'bird'} lacks a name"),
    "nothing annotated": (
        lambda text: re.sub(r'"annotations": \[.*\], "categories"', '"annotations": [], "categories"', text),
        r"no image is left to use \(images without instances, or with crowds alone: 4 .*empty_images=keep",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_coco_files_are_refused(tmp_path, kind):
    change, message = FILES[kind]
    path = write_set(tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        from_coco(path)


def test_class_names_are_read_without_the_annotations(tmp_path):
    path = write_set(tmp_path)
    assert coco_class_names(path) == ("dog", "bird", "cat")
    # A file with two such lists is read as a whole, and so is one whose end is missing.
    made = content()
    made["info"] = {"categories": []}
    path.write_text(json.dumps(made))
    assert coco_class_names(path) == ("dog", "bird", "cat")
    path.write_text(json.dumps(content())[:-9])
    with pytest.raises(ValueError, match="is it cut off"):
        coco_class_names(path)
