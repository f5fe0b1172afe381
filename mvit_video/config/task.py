"""The group `task`: what a run trains its model for."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mvit_video.config.rules import option

WEIGHTINGS = ("none", "balanced")


@dataclass
class VideoMultilabel:
    """Naming all classes of a video that may have several: binary cross-entropy, average precision."""

    _target_: str = "mvit_video.build.video_multilabel.VideoMultilabel"
    pos_weight: Any = option(
        "none",
        help="weight in the loss of a class being there against its not being there; none: 1; balanced: videos without "
        "the class / videos with it; or by name, {NAME: NUMBER, ...}, 1 for the others",
    )

    def problems(self) -> Iterator[str]:
        """The rule of the weights."""
        yield from weighting_problems("task.pos_weight", self.pos_weight)


@dataclass
class VideoClassification:
    """Naming the class of a video. Another task is another `_target_`: see docs/extending.md."""

    _target_: str = "mvit_video.build.video_classification.VideoClassification"
    class_weights: Any = option(
        "none",
        help="weights of the classes in the loss; none: 1; balanced: videos / (classes * videos of the class); or by "
        "name, {NAME: NUMBER, ...}, 1 for the others",
    )

    def problems(self) -> Iterator[str]:
        """The rule of the weights."""
        yield from weighting_problems("task.class_weights", self.class_weights)


@dataclass
class ImageClassification:
    """Naming the class of an image: soft-target cross entropy, top-1 and top-5."""

    _target_: str = "mvit_video.build.image_classification.ImageClassification"
    class_weights: Any = option(
        "none",
        help="weights of the classes in the loss; none: 1; balanced: images / (classes * images of the class); or by "
        "name, {NAME: NUMBER, ...}, 1 for the others",
    )
    classes: str = option(
        "all",
        neutral=True,
        help="evaluation: all: any class of the model may be named; present: those that the split has (ImageNet-A, "
        "-R); else a file with one class name a line",
    )

    def problems(self) -> Iterator[str]:
        """The rule of the weights."""
        yield from weighting_problems("task.class_weights", self.class_weights)


def weighting_problems(option_name: str, value: object) -> Iterator[str]:
    """One line for each thing that is wrong with a weighting of classes."""
    if not isinstance(value, dict):
        if value not in WEIGHTINGS:
            yield f"{option_name}={value}: must be {', '.join(WEIGHTINGS)}, or weights by class: {{NAME: NUMBER, ...}}"
        return
    if not value:
        yield f"{option_name}={{}}: names no class; give {{NAME: NUMBER, ...}}, or none"
    for name, weight in value.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 < weight < math.inf:
            yield f"{option_name}: the weight of {name!r} is {weight}; it must be a number above 0"
