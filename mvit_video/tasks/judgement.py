"""What counts as right in an evaluation of images: several labels an image, or some of the classes alone.

ImageNet ReaL (arXiv 2006.07159) gives each validation image all labels that are right, or none where it is not clear.
ImageNet-A and -R have images of 200 of the 1000 classes: only these may be named.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvit_video.data.datasets.class_names import read_class_names
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.metrics import BoolArray

_IMAGENET_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What counts as right.

    Attributes:
        right: classes that are right for each image, none for an image that is left out; None: its label.
        allowed: bool (classes,), those that may be named; None: all.
        about: where that comes from, for the record.
    """

    right: Sequence[frozenset[int]] | None = None
    allowed: BoolArray | None = None
    about: Mapping[str, Any]

    @classmethod
    def of(cls, manifest: Manifest, *, right_labels: str | None = None, classes: str = "all") -> "Judgement":
        """The judgement of a split.

        Args:
            manifest: the split, its classes those of the model.
            right_labels: JSON file: a list with the labels of each image, in the order of their file names; or an
                object from file name to labels. Labels are numbers or names of classes.
            classes: "all", "present" (those that images of the split have), or a file with a class name a line.

        Raises:
            ValueError: a file does not fit the split.
        """
        right = None if right_labels is None else _right_labels(Path(right_labels), manifest)
        allowed = _allowed(classes, manifest)
        counts = manifest.num_classes if allowed is None else int(allowed.sum())
        about = {"right_labels": right_labels, "classes": classes, "num_classes": counts}
        return cls(right=right, allowed=allowed, about=about)

    def counted(self, images: int) -> BoolArray:
        """bool (images,): those that are not left out."""
        if self.right is None:
            return np.ones(images, np.bool_)
        return np.array([bool(labels) for labels in self.right], np.bool_)


def _allowed(classes: str, manifest: Manifest) -> BoolArray | None:
    if classes == "all":
        return None
    if classes == "present":
        return np.array([count > 0 for count in manifest.counts()], np.bool_)
    wanted = read_class_names(classes)
    unknown = [name for name in wanted if name not in manifest.class_names]
    if unknown:
        raise ValueError(
            f"task.classes={classes}: {len(unknown)} of its {len(wanted)} classes are unknown to the model, the first "
            f"{unknown[0]!r}; give names as the model has them, such as {manifest.class_names[0]!r}"
        )
    allowed = np.isin(np.array(manifest.class_names), np.array(wanted))
    outside = [name for name, count, may in zip(manifest.class_names, manifest.counts(), allowed) if count and not may]
    if outside:
        raise ValueError(
            f"task.classes={classes}: the split has images of {len(outside)} other classes, which could never be "
            f"right, the first {outside[0]!r}; add them, or evaluate a split without them"
        )
    return allowed


def _right_labels(path: Path, manifest: Manifest) -> list[frozenset[int]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"task.right_labels={path}: cannot be read as JSON ({error}); give a list or an object"
        ) from error
    names = [os.path.basename(name) for name in manifest.paths]
    if isinstance(content, dict):
        listed = _by_name(path, content, manifest.paths, names)
    elif isinstance(content, list):
        listed = _by_order(path, content, names)
    else:
        raise ValueError(f"task.right_labels={path}: holds {type(content).__name__}; give a list or an object")
    numbers = {name: number for number, name in enumerate(manifest.class_names)}
    return [_numbers(path, name, labels, numbers) for name, labels in zip(names, listed)]


def _by_name(path: Path, content: Mapping[str, Any], paths: Sequence[str], names: Sequence[str]) -> list[Any]:
    """The labels of each image by its path or file name."""
    missing = [name for name, whole in zip(names, paths) if name not in content and whole not in content]
    if missing:
        raise ValueError(
            f"task.right_labels={path}: {len(missing)} of {len(names)} images are not in it, the first {missing[0]}; "
            "an image without a right label needs an empty list"
        )
    return [content[whole] if whole in content else content[name] for name, whole in zip(names, paths)]


def _by_order(path: Path, content: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """The labels of each image by the place of its file name: ImageNet's carry their number, others are sorted."""
    found = [_IMAGENET_NAME.fullmatch(name) for name in names]
    if all(found):
        places = [int(match[1]) - 1 for match in found if match is not None]
        if max(places) < len(content):
            return [content[place] for place in places]
    if len(content) != len(names) or len(set(names)) != len(names):
        raise ValueError(
            f"task.right_labels={path}: has {len(content)} entries for {len(names)} images ({len(set(names))} "
            "different file names); a list needs one for each, in the order of the names: or "
            "give an object from name to labels"
        )
    place = {name: number for number, name in enumerate(sorted(names))}
    return [content[place[name]] for name in names]


def _numbers(path: Path, name: str, labels: Any, known: Mapping[str, int]) -> frozenset[int]:
    several = labels if isinstance(labels, list) else [labels]
    result = set()
    for label in several:
        number = known.get(label) if isinstance(label, str) else label
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(known):
            raise ValueError(
                f"task.right_labels={path}: {name} has the label {label!r}; give names of the model's {len(known)} "
                "classes, or their numbers from 0"
            )
        result.add(number)
    return frozenset(result)
