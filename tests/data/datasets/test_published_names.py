"""Class names of published weights: how many, in which order, and that the table asks for no others."""

import pytest

from mvit_video.data.datasets.class_names import read_class_names
from mvit_video.data.datasets.published_names import published_class_names
from mvit_video.models.weights.zoo import zoo


def test_names_in_the_order_of_the_heads() -> None:
    kinetics, imagenet, coco = map(published_class_names, ("kinetics_400", "imagenet_1k", "coco_2017"))
    assert kinetics and len(kinetics) == 400 and (kinetics[0], kinetics[-1]) == ("abseiling", "zumba")
    assert imagenet and len(imagenet) == 1000 and imagenet[0] == "n01440764 tench"
    assert coco and len(coco) == 80 and (coco[0], coco[-1]) == ("person", "toothbrush")


@pytest.mark.parametrize("classes", ["something_something_v2", "kinetics_600"])
def test_names_that_come_with_the_data_set_alone(classes: str) -> None:
    assert published_class_names(classes) is None


def test_every_list_of_the_table_is_known_or_comes_with_its_data_set() -> None:
    without = {entry.classes for entry in zoo().values() if entry.classes and not published_class_names(entry.classes)}
    assert without == {"something_something_v2", "kinetics_600"}


def test_a_word_in_the_place_of_a_file() -> None:
    assert read_class_names("kinetics_400") == published_class_names("kinetics_400")
