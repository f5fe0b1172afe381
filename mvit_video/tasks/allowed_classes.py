"""Which classes may be named in an evaluation: ImageNet-A and -R have images of 200 of the model's 1000 classes."""

import numpy as np

from mvit_video.data.datasets.class_names import read_class_names
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.metrics import BoolArray
from mvit_video.runtime.formatting import are, count_text


def allowed_classes(classes: str, manifest: Manifest) -> BoolArray | None:
    """The classes among which the model chooses, bool (classes,); None for all.

    Args:
        classes: "all", "present" (those that files of the split have), or a file with one class name a line.
        manifest: the split, its classes those of the model.

    Raises:
        ValueError: the file names a class that the model has not, or leaves out one that the split has.
    """
    if classes == "all":
        return None
    if classes == "present":
        return np.array([count > 0 for count in manifest.counts()], np.bool_)
    try:
        wanted = set(read_class_names(classes))
    except ValueError as error:
        raise ValueError(f"task.classes={classes}: neither all nor present, and as a file: {error}") from error
    unknown = sorted(wanted - set(manifest.class_names))
    if unknown:
        raise ValueError(
            f"task.classes={classes}: {len(unknown)} of its {count_text(len(wanted), 'class')} "
            f"{are(len(unknown))} unknown to the model, the first "
            f"{unknown[0]!r}; give names as the model has them, such as {manifest.class_names[0]!r}"
        )
    outside = [name for name, count in zip(manifest.class_names, manifest.counts()) if count and name not in wanted]
    if outside:
        raise ValueError(
            f"task.classes={classes}: the split has {manifest.kind.plural} of "
            f"{count_text(len(outside), 'other class')}, which "
            f"could never be right, the first {outside[0]!r}; add them, or evaluate a split without them"
        )
    return np.array([name in wanted for name in manifest.class_names], np.bool_)
