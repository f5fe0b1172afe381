"""Which names of classes tell left from right, and which are the same, written otherwise."""

import unicodedata

import pytest

from mvit_video.data.datasets import class_names
from mvit_video.data.datasets.class_names import class_index, mirrored


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pushing [something] from left to right", "Pushing [something] from right to left"),
        ("move_left", "move_right"),
        ("TurnLeft", "TurnRight"),
        ("swipe-left", "Swipe-Right"),
        ("rotating clockwise", "rotating counter-clockwise"),
        ("anticlockwise", "clockwise"),
        ("LEFT", "RIGHT"),
    ],
)
def test_pairs_that_a_flip_exchanges(one: str, other: str) -> None:
    assert mirrored(["waving", one, other, "cleft lip"]) == [(one, other)]


@pytest.mark.parametrize(
    "names",
    [
        ("upright", "upleft"),
        ("taking what is left", "giving"),
        ("bright light", "right lane"),
        ("left to right", "right to right"),
        ("turn left", "Turn Left"),
        ("wave", "Wave"),
    ],
)
def test_names_that_are_no_mirror_images(names: tuple[str, ...]) -> None:
    assert mirrored(names) == []


def test_labels_written_otherwise_do_not_compose_all_names_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """600,000 rows of 700 classes took six minutes."""
    composed: list[str] = []
    original = class_names._composed
    monkeypatch.setattr(class_names, "_composed", lambda name: composed.append(name) or original(name))
    indices = {f"café {number}": 2 * number for number in range(100)}
    apart = [unicodedata.normalize("NFD", name) for name in indices]
    assert [class_index(indices, name, place="list:1") for name in apart * 3] == [*range(0, 200, 2)] * 3
    assert len(composed) <= 100 + len(apart) * 3
