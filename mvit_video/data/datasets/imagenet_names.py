"""The classes of ImageNet: WordNet ids (wnids), their order, and readable names.

A class is called "n01440764 tench": the wnid decides which class it is, whatever readable name stands behind it, for
readable names come in several versions and are not unique ("crane").
"""

import functools
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files

from mvit_video.data.datasets.listing import read_text

IMAGENET_1K = "imagenet_1k"  # in the place of a file of class names: the classes of ImageNet-1k
_WNID = re.compile(r"(n\d{8})(?:\s+(.+))?")


def wnid_of(name: str) -> str | None:
    """The wnid that a class's name begins with; None if it begins with none."""
    match = _WNID.fullmatch(name.strip())
    return match[1] if match else None


@functools.cache
def imagenet_wnids() -> tuple[str, ...]:
    """The 1000 classes of ILSVRC 2012 in the order of their labels everywhere but in its devkit: sorted by wnid."""
    text = files("mvit_video.data.datasets").joinpath(f"{IMAGENET_1K}.txt").read_text(encoding="utf-8")
    return tuple(text.split())


@functools.cache
def imagenet_class_names() -> tuple[str, ...]:
    """The 1000 classes by wnid and readable name, in the order of their labels."""
    return named_wnids(imagenet_wnids(), readable_names(None))


def named_wnids(names: Sequence[str], readable: Mapping[str, str]) -> tuple[str, ...]:
    """Each wnid with its readable name behind it, where there is one; other names as they are."""
    return tuple(f"{name} {readable[name]}" if name in readable else name for name in names)


@functools.cache
def readable_names(path: str | None) -> Mapping[str, str]:
    """Readable names by wnid.

    Args:
        path: a file with `n01440764 tench, Tinca tinca` on each line (LOC_synset_mapping.txt, synset_words.txt), of
            which the first term is taken; None for the names that torchvision gives the classes of ImageNet-1k.

    Raises:
        ValueError: a line that is no wnid with a name, or a wnid that comes twice.
    """
    if path is None:
        from torchvision.models import ResNet18_Weights  # slow to import

        return dict(zip(imagenet_wnids(), ResNet18_Weights.IMAGENET1K_V1.meta["categories"], strict=True))
    names: dict[str, str] = {}
    for number, line in enumerate(read_text(path, "file of readable names").splitlines(), start=1):
        if not line.strip():
            continue
        match = _WNID.fullmatch(line.strip())
        if match is None or match[2] is None:
            raise ValueError(f"{path}:{number}: {line!r}; a line is a wnid with its name, `n01440764 tench`")
        if match[1] in names:
            raise ValueError(f"{path}:{number}: {match[1]} comes a second time; leave one of the lines out")
        names[match[1]] = match[2].split(",")[0].strip()
    return names
