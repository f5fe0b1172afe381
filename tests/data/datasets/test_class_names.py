"""Which names of classes tell left from right."""

import pytest

from mvit_video.data.datasets.class_names import mirrored


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
    ],
)
def test_names_that_are_no_mirror_images(names: tuple[str, ...]) -> None:
    assert mirrored(names) == []
