"""The group `task`: what a run trains its model for."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml  # type: ignore[import-untyped]

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


def read_weighting(value: Any) -> Any:
    """A weighting as its mapping where it was given as text, `'{"pour water": 3, "null": 2}'`; all else as it is.

    Hydra's grammar has no quotes around names, and reads `null` and `1e5` as no text. In text of YAML every name can be
    written, and all of them are text. What is no number stays text, for `weighting_problems` to name.
    """
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        read = yaml.load(value, Loader=yaml.BaseLoader)
    except yaml.YAMLError:
        return value
    return {name: _number(weight) for name, weight in read.items()} if isinstance(read, dict) else value


def quoted_names(option_name: str) -> str:
    """How names are written that a command line would read as something else, in words."""
    return f"names such as null, true and 1e5 are text in two pairs of quotes: '{option_name}=\"{{true: 2}}\"'"


def _number(text: Any) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


def weighting_problems(option_name: str, value: object) -> Iterator[str]:
    """One line for each thing that is wrong with a weighting of classes."""
    value = read_weighting(value)
    if not isinstance(value, dict):
        if value not in WEIGHTINGS:
            yield f"{option_name}={value}: must be {', '.join(WEIGHTINGS)}, or weights by class: {{NAME: NUMBER, ...}}"
        return
    if not value:
        yield f"{option_name}={{}}: names no class; give {{NAME: NUMBER, ...}}, or none"
    for name, weight in value.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 < weight < math.inf:
            comma = "" if weight else "; names with commas stand in double quotes"
            yield f"{option_name}: the weight of {name!r} is {weight}; it must be a number above 0{comma}"
