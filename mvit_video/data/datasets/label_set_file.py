"""A file with all right labels of each image of an evaluation set, such as ReaL's real.json (arXiv 2006.07159)."""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mvit_video.data.datasets.array_views import IntArrayView
from mvit_video.data.datasets.class_names import class_index
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.listing import read_json
from mvit_video.data.datasets.manifest import Manifest

WITHOUT_LABEL = "without a right label"


def with_label_sets(manifest: Manifest, path: str) -> Manifest:
    """The images of a manifest with the labels that a file gives them.

    Args:
        manifest: images; its classes are those that the file's numbers and names mean.
        path: JSON, either a list of lists of labels, one for each image in the sorted order of file names (ReaL), or an
            object from file name (with or without folder and extension) to a list of labels. A label is a number of a
            class or its name.

    Returns:
        A manifest whose `label_sets` hold the right labels and whose `labels` hold the first of each. Images with an
        empty list are left out, which `left_out` says.

    Raises:
        ValueError: the file has not one list for each image, or a label that is no class.
    """
    names = [os.path.basename(image) for image in manifest.paths]
    content = read_json(path, "file of right labels")
    if isinstance(content, list):
        if len(content) != len(names):
            raise ValueError(
                f"{path}: {len(content)} lists of labels for {len(names)} images ({manifest.source}); a list must be "
                "for each image, in the sorted order of file names: give the whole split, or an object from file name "
                "to labels"
            )
        places = np.argsort(np.argsort(np.array(names), kind="stable"), kind="stable")
        found: Sequence[object] = [content[place] for place in places.tolist()]
    elif isinstance(content, dict):
        by_name = {os.path.splitext(os.path.basename(name))[0]: labels for name, labels in content.items()}
        stems = [os.path.splitext(name)[0] for name in names]
        absent = [name for name, stem in zip(names, stems) if stem not in by_name]
        if absent:
            raise ValueError(
                f"{path}: no labels for {len(absent)} of {len(names)} images, the first {absent[0]}; give each a list, "
                "an empty one to leave the image out"
            )
        found = [by_name[stem] for stem in stems]
    else:
        raise ValueError(f"{path}: a JSON list of lists of labels, or an object from file name to labels, is expected")
    return _labelled(manifest, found, path)


def _labelled(manifest: Manifest, found: Sequence[object], path: str) -> Manifest:
    indices = {name: index for index, name in enumerate(manifest.class_names)}
    sets = [_checked(labels, indices, f"{path}: {image}") for labels, image in zip(found, manifest.paths)]
    kept = np.array([row for row, labels in enumerate(sets) if labels], np.int64)
    if not len(kept):
        raise ValueError(f"{path}: no image has a label; is it the file of this data set?")
    left_out = dict(manifest.left_out)
    if len(kept) < len(sets):
        left_out[WITHOUT_LABEL] = tuple(image for image, labels in zip(manifest.paths, sets) if not labels)
    rest = [sets[row] for row in kept.tolist()]
    return replace(
        manifest.subset(kept),
        labels=IntArrayView([labels[0] for labels in rest]),
        label_sets=LabelSetArrayView(rest),
        left_out=left_out,
    )


def _checked(labels: object, indices: dict[str, int], place: str) -> list[int]:
    """The class indices of one image, sorted."""
    if not isinstance(labels, list):
        raise ValueError(f"{place}: the labels are {labels!r}; a list is expected")
    result = set()
    for label in labels:
        if isinstance(label, str):
            label = class_index(indices, label, place=place)
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(indices):
            raise ValueError(
                f"{place}: label {label!r} is no class; with {len(indices)} classes, labels run from 0 to "
                f"{len(indices) - 1}"
            )
        result.add(label)
    return sorted(result)
