"""Preparing images with boxes and masks: the report, what is broken, and the file that a training reads."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvit_video.data.detection.coco_json import from_coco
from mvit_video.data.detection.sources import CocoSource, YoloSource
from mvit_video.preparation.detection_content import DetectionContent, nearest_overlaps
from mvit_video.preparation.pipeline import PreparePlan, prepare_data_set
from mvit_video.preparation.report import attention
from tests.data.detection.coco_files import HEIGHT, WIDTH, content, write_set
from tests.data.detection.test_yolo import write_yolo


def options(use: str) -> dict[str, str]:
    """The fields of the source that a report recommends."""
    pairs = dict(part.split("=") for part in use.split())
    assert pairs.pop("data/source") == "coco"
    return {key.removeprefix("data.source."): value for key, value in pairs.items()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A training of three images, one of another size than stated and one broken, and a validation with a copy."""
    root = tmp_path_factory.mktemp("detection")
    made = content()
    made["annotations"][0]["bbox"] = [5, 6, 0, 10]
    made["annotations"][2]["bbox"] = [-5, 2, 30, 26]
    made["annotations"] += [
        {"id": 30, "image_id": 100, "category_id": 2, "bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 9, 0, 9, 9]]},
        {"id": 31, "image_id": 4, "category_id": 2, "bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 9, 0, 9, 9]]},
        {"id": 32, "image_id": 4, "category_id": 1, "bbox": [0, 0, 9, 9], "segmentation": []},
    ]
    train, val = write_set(root, made), write_set(root, content(), "instances_val.json")
    (root / "val").mkdir()
    for image in (root / "train").iterdir():
        Image.new("RGB", (WIDTH, HEIGHT), (200, 0, int(image.stem))).save(root / "val" / image.name)
    (root / "val" / "3.png").write_bytes((root / "train" / "3.png").read_bytes())
    Image.new("RGB", (WIDTH - 1, HEIGHT)).save(root / "train" / "100.png")
    (root / "train" / "4.png").write_bytes(b"broken")
    source = CocoSource(train=str(train), val=str(val), missing="skip", mistakes="leave_out")
    manifests = {split: source.manifest(split) for split in ("train", "val")}
    plan = PreparePlan(out=root / "out", workers=1)
    report = prepare_data_set(manifests, plan, content=DetectionContent())
    assert report is not None
    return root, report


def test_the_report_counts_instances_areas_and_crowding(prepared):
    root, report = prepared
    train = report["splits"]["train"]
    assert (train["listed"], train["usable"], train["instances"], train["crowds"]) == (4, 2, 3, 1)
    assert train["instances_of_classes"] == {"dog": 2, "bird": 0, "cat": 1}
    assert sum(train["area_groups"].values()) == 3
    assert train["instances_in_an_image"]["max"] == 2 and train["overlaps"]["max"] == 1.0
    text = (root / "out" / "report.md").read_text()
    assert "3 instances and 1 crowd in the usable images; masks: 1 of polygons, 3 of run lengths, 0 without." in text
    assert "Crowding: 2 instances (50.0 %) overlap another by IoU over 0.5." in text
    assert re.search(r"Changed in reading: boxes cut at the border of their image: 1 \(13 \(3\.png\)\)", text)
    for row in ("instances in an image", "side of instances (root of the area), pixels", "width / height of boxes"):
        assert f"| {row} |" in text
    assert "small (below 32x32 pixels)" in text and "Instances of the most common classes" in text


def test_the_report_names_what_is_broken(prepared):
    _, report = prepared
    found = {Path(problem["path"]).name: problem["reason"] for problem in report["problems"]}
    assert set(found) == {"100.png", "4.png"}
    assert found["100.png"].startswith("is 39x30, and its annotations are for 40x30")
    assert report["splits"]["train"]["left_out"] == {
        "annotations of a class that the file does not list": ["32 (4.png): category_id 1"],
        "boxes without area": ["11 (3.png)"],
    }
    assert report["duplicates"]["across_splits"] == 1
    lines = attention(report)
    assert any(line.startswith("not used in train: 2 items (annotations of a class") for line in lines)


def test_a_training_reads_what_was_prepared(prepared):
    root, report = prepared
    given = options(report["use"])
    source = CocoSource(**given)
    manifest = source.manifest("train")
    assert sorted(Path(path).name for path in manifest.paths) == ["3.png", "7.png"]
    assert manifest.class_names == ("dog", "bird", "cat") and manifest.category_ids == (2, 13, 90)
    before = from_coco(root / "annotations" / "instances_val.json").instances(0)
    after = manifest.instances(0)
    assert after.ids.tolist() == before.ids.tolist() == [12, 14, 15]
    np.testing.assert_array_equal(after.masks.bitmaps(), before.masks.bitmaps())
    assert not (root / "out" / "train.index").exists() and "empty_images" not in given
    assert len(source.manifest("val")) == 4


def test_labels_in_yolos_form_become_a_coco_file(tmp_path):
    pictures = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5", "deep/b": ""})
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    source = YoloSource(train=str(pictures), class_names_file=str(tmp_path / "classes.txt"))
    plan = PreparePlan(out=tmp_path / "out", workers=1)
    report = prepare_data_set({"train": source.manifest("train")}, plan, content=DetectionContent())
    made = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [image["file_name"] for image in made["images"]] == ["a.png", "deep/b.png"]
    given = options(report["use"])
    assert given["empty_images"] == "keep"
    manifest = CocoSource(**given).manifest("train")
    assert len(manifest) == 2 and manifest.instances(0).boxes.tolist() == [[15, 5, 25, 15]]
    assert manifest.class_names == ("cat", "dog") and manifest.instances(0).labels.tolist() == [1]
    assert "boxes alone, no masks" in (tmp_path / "out" / "report.md").read_text()


def test_images_annotated_as_they_are_stored_are_sound_where_exif_is_ignored(tmp_path):
    path = write_set(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "train" / "7.png", exif=exif)
    manifests = {"train": from_coco(path)}
    for orientation, usable in (("apply", 1), ("ignore", 2)):
        plan = PreparePlan(out=tmp_path / orientation, workers=1)
        report = prepare_data_set(manifests, plan, content=DetectionContent(orientation=orientation))
        assert report["splits"]["train"]["usable"] == usable
    assert "EXIF" not in report["problems"]


def test_overlaps_are_those_of_the_nearest_box(tmp_path):
    made = content()
    boxes = [(7, [0, 0, 10, 10]), (7, [0, 5, 10, 10]), (7, [30, 0, 5, 5]), (7, [30, 0, 5, 5]), (3, [0, 0, 9, 9])]
    made["annotations"] = [
        {"id": number, "image_id": image, "category_id": 2, "bbox": box, "iscrowd": number == 3}
        for number, (image, box) in enumerate(boxes)
    ]
    columns = from_coco(write_set(tmp_path, made)).annotations
    np.testing.assert_allclose(nearest_overlaps(columns), [1 / 3, 1 / 3, 0, 0, 0])
