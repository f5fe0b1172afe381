"""What is wrong in a file of annotations, by kind: counted, with a few examples, and an error that has all of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from mvit_video.data.datasets.left_out import LeftOut, LeftOutFiles, examples

Mistakes = Literal["error", "leave_out"]

NO_NUMBER = "with an id, image_id or category_id that is no whole number from 0 on"
TWICE = "with the id of an earlier one"
UNKNOWN_IMAGE = "of an image that the file does not list"
UNKNOWN_CLASS = "of a class that the file does not list"
BAD_BOX = "with a box that is not four finite numbers"
OUTSIDE = "with a box outside of its image"
NOT_SHARES = "with values outside of 0 to 1"
BAD_CROWD = "with an iscrowd that is neither 0 nor 1"
BAD_MASK = "with a mask that is neither polygons nor run lengths"
BAD_LINE = "that are neither a box (class, x, y, width, height) nor a polygon (class, x, y, x, y, x, y, ...)"
_WAYS_OUT: Mapping[str, str] = {
    NO_NUMBER: "COCO numbers its images, classes and annotations; number them",
    TWICE: "give each an id of its own, or remove what stands there twice",
    UNKNOWN_IMAGE: "add the image to `images`, or remove the annotation",
    UNKNOWN_CLASS: "add the class to the file's list, or remove the annotation",
    BAD_BOX: "a box is x, y, width, height in pixels; correct it",
    OUTSIDE: "a box is x, y, width, height in pixels of the image; correct it, or the stated size of the image",
    NOT_SHARES: "YOLO's are shares of the image's width and height; divide pixels by these",
    BAD_CROWD: "0 is one object, 1 an area of many; write it without quotes, or remove the key, which is 0",
    BAD_MASK: "polygons are lists of x, y, x, y, ..., run lengths have `size` and `counts`; correct or remove it",
    BAD_LINE: "correct or remove the line",
}


@dataclass
class Findings:
    """Collects what is wrong.

    Attributes:
        source: the file.
        noun: what one thing in it is called: annotation, or line.
        mistakes: what the user wants done about contradictions: stop, or train without what has them.
    """

    source: str
    mistakes: Mistakes
    noun: str = "annotation"
    _wrong: dict[str, list[str]] = field(default_factory=dict)
    _repaired: LeftOutFiles = field(default_factory=LeftOutFiles)
    _left_out: LeftOutFiles = field(default_factory=LeftOutFiles)

    def __post_init__(self) -> None:
        if self.mistakes not in get_args(Mistakes):
            raise ValueError(f"mistakes={self.mistakes!r}: must be one of {', '.join(get_args(Mistakes))}")

    def wrong(self, rule: str, names: Iterable[str]) -> None:
        """Note contradictions of a kind."""
        self._wrong.setdefault(rule, []).extend(names)

    def repair(self, reason: str, names: Iterable[str]) -> None:
        """Note what is changed, and used."""
        for name in names:
            self._repaired.add(reason, name)

    def leave_out(self, reason: str, names: Iterable[str]) -> None:
        """Note what is not used."""
        for name in names:
            self._left_out.add(reason, name)

    def check(self) -> None:
        """Raise ValueError with every kind of contradiction, unless what has them may be left out."""
        found = {rule: names for rule, names in self._wrong.items() if names}
        if found and self.mistakes == "error":
            texts = [f"{self._text(rule, names)}. {_WAYS_OUT[rule]}" for rule, names in found.items()]
            raise ValueError(
                f"{self.source}: {'; '.join(texts)}. Or leave all such {self.noun}s out: data.source.mistakes=leave_out"
            )
        for rule, names in found.items():
            self.leave_out(f"{self.noun}s {rule}", names)
        self._wrong.clear()

    def _text(self, rule: str, names: list[str]) -> str:
        plural = "" if len(names) == 1 else "s"
        return f"{len(names)} {self.noun}{plural} {rule}: {examples(names)}"

    @property
    def left_out(self) -> LeftOut:
        """What is not used, by reason."""
        return self._left_out.frozen()

    @property
    def repaired(self) -> LeftOut:
        """What is used after a change, by reason."""
        return self._repaired.frozen()
