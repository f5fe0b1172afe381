"""The images of a COCO file: their entries, and where their files are."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.left_out import examples
from mvit_video.data.datasets.listing import existing
from mvit_video.data.datasets.manifest import Missing, PathLike
from mvit_video.video.location import join_location

logger = logging.getLogger(__name__)

_SAMPLE = 50  # files that are looked for in each place that the images may be in


class CocoImages(NamedTuple):
    """Names as the file has them, ids int64 (images,), and heights and widths int32 (images, 2)."""

    names: tuple[str, ...]
    ids: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]


def listed_images(source: str, images: Sequence[Mapping[str, Any]]) -> CocoImages:
    """The entries of `images`.

    Raises:
        ValueError: none, or one without name, id or size; an id twice.
    """
    if not images:
        raise ValueError(f"{source}: the list `images` is empty; give a file with at least one image")
    for place, entry in enumerate(images):
        if not _name(entry) or any(_no_count(entry.get(key), least) for key, least in _LEAST.items()):
            shown = {key: entry.get(key) for key in ("file_name", *_LEAST)}
            raise ValueError(
                f"{source}: entry {place} of `images` is {shown}; it needs a file_name, and as whole numbers an "
                "id, and its height and width in pixels"
            )
    ids = np.array([entry["id"] for entry in images], np.int64)
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        twice = int(values[counts > 1][0])
        names = " and ".join(_name(images[place]) for place in np.flatnonzero(ids == twice).tolist())
        raise ValueError(
            f"{source}: images {names} share the id {twice}, so that it is not known whose annotations are whose; "
            "give each an id of its own"
        )
    sizes = np.array([(entry["height"], entry["width"]) for entry in images], np.int32)
    return CocoImages(tuple(_name(entry) for entry in images), ids, sizes)


_LEAST = {"id": 0, "height": 1, "width": 1}


def _no_count(value: Any, least: int) -> bool:
    return isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31 * (1 if least else 2**31)


def _name(entry: Mapping[str, Any]) -> str:
    """`file_name`; of LVIS, which has none, the folder and name in `coco_url`."""
    name, url = entry.get("file_name"), entry.get("coco_url")
    if isinstance(name, str) and name:
        return name
    return "/".join(url.split("/")[-2:]) if isinstance(url, str) else ""


def found_images(
    source: str, names: Sequence[str], *, root: PathLike | None, missing: Missing
) -> tuple[list[str | None], tuple[str, ...]]:
    """The file of each image, None where there is none, and where those should be that are not there.

    Without a root, the images are looked for beside the file and in its folder `images`, then one folder further up:
    there, in `images`, and in folders called as the end of the file's name (instances_train2017.json: train2017).

    Raises:
        ValueError: files do not exist and may not be left out, or none exists.
    """
    if missing not in ("error", "skip"):
        raise ValueError(f"missing={missing!r} must be 'error' or 'skip'")
    places = [os.fspath(root)] if root is not None else _usual_places(source)
    sample = [names[place * len(names) // _SAMPLE] for place in range(_SAMPLE)] if len(names) > _SAMPLE else names
    hits = [sum(path is not None for path in existing(_within(place, sample))) for place in places]
    best = places[hits.index(max(hits))]
    if root is None and max(hits):
        logger.info("%s: its images are taken from %s", source, best or os.curdir)
    wanted = _within(best, names)
    found = existing(wanted)
    absent = tuple(path for path, there in zip(wanted, found) if there is None)
    if absent and (missing == "error" or len(absent) == len(names)):
        where = f"under {best}" if root is not None or max(hits) else f"in any of {', '.join(p or '.' for p in places)}"
        way_out = (
            "give the folder of the images, data.source.train_root=... (val_root, test_root)"
            if len(absent) == len(names)
            else "check the root, or leave them out with data.source.missing=skip"
        )
        raise ValueError(
            f"{source}: {len(absent)} of {len(names)} images do not exist {where}: {examples(absent, 5)}; {way_out}"
        )
    if absent:
        logger.warning("%s: left out %d of %d images whose files do not exist", source, len(absent), len(names))
    return found, absent


def _within(root: str, names: Sequence[str]) -> list[str]:
    return [join_location(root, name) for name in names]


def _usual_places(source: str) -> list[str]:
    """Folders in which the images of a COCO file usually are, the likeliest first."""
    beside = os.path.dirname(source)
    above = os.path.normpath(os.path.join(beside, os.pardir))
    split = os.path.splitext(os.path.basename(source))[0].rpartition("_")[2]
    folders = [beside, os.path.join(beside, "images"), os.path.join(above, split), os.path.join(above, "images", split)]
    return list(dict.fromkeys([*folders, os.path.join(beside, split), os.path.join(above, "images"), above, ""]))
