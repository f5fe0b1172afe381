"""Where YOLO data sets have their files: data.yaml, folders and lists of pictures, labels, names of classes."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mvit_video.data.datasets.class_names import checked_names
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.listing import read_text, scan
from mvit_video.data.datasets.manifest import PathLike

logger = logging.getLogger(__name__)

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class YoloData:
    """A data.yaml.

    Attributes:
        names: of the classes, in the order of their numbers.
        splits: folders or lists of pictures of each split that it has.
    """

    names: tuple[str, ...]
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_data_yaml(path: PathLike) -> YoloData:
    """Read a data.yaml: `names` (a list, or number: name), `train`, `val`, `test`, and `path` that these start from.

    Relative places start from `path`, and that from the folder of the file; from this folder, with a warning, where
    there is no `path` of that name. A split that begins with ../ and is not
    there is looked for without that, for exports are written so.

    Raises:
        ValueError: no YAML, no names, or numbers of classes with gaps.
    """
    import yaml  # type: ignore[import-untyped]

    source = os.fspath(path)
    try:
        content = yaml.safe_load(read_text(source, "data.yaml"))
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: the data.yaml is not YAML ({error}); repair the file") from error
    if not isinstance(content, dict):
        raise ValueError(f"{source}: a data.yaml has the keys names, train and val; this has none")
    if "kpt_shape" in content:
        raise ValueError(f"{source}: labels of key points (kpt_shape) are not read; give labels of boxes or polygons")
    names = _names(source, content.get("names"))
    number = content.get("nc", len(names))
    if str(number) != str(len(names)):
        raise ValueError(f"{source}: nc is {number}, but there are {len(names)} names; correct one of them")
    beside, stated = os.path.dirname(source), re.sub(r"^\.(/|$)", "", str(content.get("path") or ""))
    base = os.path.join(beside, stated)
    if stated and not os.path.isdir(base):
        logger.warning("%s: `path` %s is not there; its splits are taken from the file's own folder", source, stated)
        base = beside
    splits = {}
    for split in _SPLITS:
        value = content.get(split) or (content.get("valid") if split == "val" else None)
        if value:
            splits[split] = tuple(_place(base, str(one)) for one in (value if isinstance(value, list) else [value]))
    return YoloData(names, splits)


def _names(source: str, names: Any) -> tuple[str, ...]:
    if isinstance(names, dict):
        names = {int(key) if isinstance(key, str) and key.isdecimal() else key: name for key, name in names.items()}
        if set(names) != set(range(len(names))):
            raise ValueError(f"{source}: `names` has the numbers {list(names)}; number the classes from 0 without gaps")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{source}: no list `names`; give the names of the classes in the order of their numbers")
    return checked_names([str(name) for name in names], source)


def _place(base: str, value: str) -> str:
    place = os.path.join(base, value)
    if not os.path.exists(place) and value.startswith("../"):
        within = os.path.join(base, value.removeprefix("../"))
        return within if os.path.exists(within) else place
    return place


def listed_pictures(places: Sequence[PathLike]) -> list[str]:
    """All pictures of folders (and the folders in them), sorted, and of lists; each once.

    Raises:
        ValueError: a place does not exist, or has no picture.
    """
    pictures: list[str] = []
    for place in [os.fspath(place) for place in places]:
        some = _of_list(place) if place.lower().endswith(".txt") else sorted(_within(place))
        if not some:
            kinds = ", ".join(IMAGES.extensions[:4])
            raise ValueError(f"{place}: no images there; images have extensions such as {kinds}")
        pictures += some
    return list(dict.fromkeys(pictures))


def _of_list(source: str) -> list[str]:
    """Pictures that a text file names, one a line; those that begin with ./ start from its folder, as in YOLO."""
    folder = os.path.dirname(source)
    lines = [line.strip() for line in read_text(source, "list of images").splitlines()]
    paths = [line for line in lines if line]
    return [os.path.join(folder, line) if line.startswith("./") or not os.path.exists(line) else line for line in paths]


def _within(folder: str) -> list[str]:
    found = []
    for entry in scan(folder, "images"):
        if entry.is_dir():
            found += _within(entry.path)
        elif IMAGES.has(entry.name) and not entry.name.startswith("."):
            found.append(entry.path)
    return found


def label_paths(pictures: Sequence[str]) -> list[str]:
    """Where the labels of each picture are: the last folder `images` of its path is `labels`, if there is one."""
    known: dict[str, str] = {}
    paths = []
    for picture in pictures:
        folder, name = os.path.split(picture)
        if folder not in known:
            swapped = re.sub(r"^(.*[/\\]|)images(?=[/\\]|$)", r"\1labels", folder)
            known[folder] = swapped if swapped != folder and os.path.isdir(swapped) else folder
        paths.append(os.path.join(known[folder], os.path.splitext(name)[0] + ".txt"))
    return paths


def stray_labels(places: Sequence[PathLike], pictures: Sequence[str]) -> list[str]:
    """Files of labels beside those of the pictures that have no picture. Lists may leave pictures out: none then."""
    if any(os.fspath(place).lower().endswith(".txt") for place in places):
        return []
    expected = set(label_paths(pictures))
    stray = []
    for folder in sorted({os.path.dirname(path) for path in expected}):
        if os.path.isdir(folder):
            stray += [
                entry.path
                for entry in scan(folder, "labels")
                if entry.name.endswith(".txt") and entry.name != "classes.txt" and entry.path not in expected
            ]
    return sorted(stray)
