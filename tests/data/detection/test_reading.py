"""Images and their instances, read together."""

from pathlib import Path

import pytest
from PIL import Image

from mvit_video.data.detection.coco_json import from_coco
from mvit_video.data.detection.reading import DetectionReading
from mvit_video.data.detection.sources import CocoSource
from mvit_video.images.formats import ImageDecodeError
from tests.data.detection.coco_files import HEIGHT, WIDTH, content, write_set


def test_an_image_comes_with_its_instances(tmp_path):
    manifest = from_coco(write_set(tmp_path))
    image, instances = DetectionReading()(manifest, 1)
    assert image.shape == (HEIGHT, WIDTH, 3) and image[0, 0].tolist() == [3, 0, 0] and len(instances) == 2


def test_an_image_of_another_size_than_it_was_annotated_in_is_named(tmp_path):
    manifest = from_coco(write_set(tmp_path))
    path = Path(manifest.paths[0])
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(path)
    with pytest.raises(ImageDecodeError, match=r"7\.png: is 41x30, and its annotations are for 40x30: boxes and masks"):
        DetectionReading()(manifest, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif)
    with pytest.raises(ImageDecodeError, match=r"is 30x40, .* are for 40x30: its annotations seem drawn .*=ignore"):
        DetectionReading()(manifest, 0)
    assert DetectionReading(orientation="ignore")(manifest, 0)[0].shape == (HEIGHT, WIDTH, 3)
    path.write_bytes(b"broken")
    with pytest.raises(ImageDecodeError, match=r"7\.png"):
        DetectionReading()(manifest, 0)


def test_splits_share_the_names_of_the_training(tmp_path):
    train = write_set(tmp_path)
    made = content()
    for entry in made["categories"]:
        entry["id"] += 1000
    for entry in made["annotations"]:
        entry["category_id"] += 1000
    del made["categories"][2]  # no bird here
    made["categories"][0]["id"] = 5  # cat now comes first
    for entry in made["annotations"]:
        entry["category_id"] = 5 if entry["category_id"] == 1090 else entry["category_id"]
    val = write_set(tmp_path, made, "instances_val.json")
    source = CocoSource(train=str(train), val=str(val), val_root=str(tmp_path / "train"))
    manifest = source.manifest("val")
    assert manifest.class_names == ("dog", "bird", "cat") and manifest.category_ids == (1002, -1, 5)
    assert manifest.instances(1).labels.tolist() == source.manifest("train").instances(1).labels.tolist() == [2, 0]
    assert len(manifest) == 4 and len(source.manifest("train")) == 2  # an evaluation keeps images without instances
    assert source.has("test") and source.manifest("test").image_ids == manifest.image_ids
