"""The classes of published weights: labels of a data set that calls them by name are brought into their order."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mvit_video.data.datasets.class_names import identity, listed, numbered_names
from mvit_video.data.datasets.imagenet_names import IMAGENET_1K
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.published_names import KINETICS_400, published_class_names
from mvit_video.data.datasets.sources import Source, Split
from mvit_video.models.weights.zoo import zoo
from mvit_video.runtime.formatting import count_text

logger = logging.getLogger(__name__)


def in_published_order(source: Source, checkpoint: Path) -> Source:
    """The source with its labels in the order of the head of a published file; other files leave it as it is."""
    place = checkpoint.resolve()
    entry = next((one for one in zoo().values() if one.path.resolve() == place), None)
    if entry is None or entry.classes not in (IMAGENET_1K, KINETICS_400):
        return source
    names = published_class_names(entry.classes)
    assert names is not None
    return _InPublishedOrder(source, names, entry.name)


@dataclass(frozen=True)
class _InPublishedOrder:
    """A source whose labels are mapped by name to the classes of published weights; see Source.

    Attributes:
        source: as it is.
        names: of the weights, in the order of their head.
        weights: what they are called.
    """

    source: Source
    names: tuple[str, ...]
    weights: str

    def prepare(self) -> None:
        """See Source."""
        self.source.prepare()

    def has(self, split: Split) -> bool:
        """See Source."""
        return self.source.has(split)

    def manifest(self, split: Split) -> Manifest:
        """See Source."""
        return mapped(self.source.manifest(split), self.names, weights=self.weights)


def mapped(manifest: Manifest, names: Sequence[str], *, weights: str) -> Manifest:
    """A split with its labels mapped by name to the classes of weights, of which it may have some alone.

    Labels without names are places in the head. So are those of as many classes with other names, which is said.

    Args:
        manifest: the split.
        names: of the weights, in the order of their head.
        weights: what they are called.
    """
    here = manifest.class_names
    if here in (tuple(names), numbered_names(len(here))):
        return manifest
    known = {_plain(name): name for name in names}
    renamed = tuple(known.get(_plain(name), name) for name in here)
    used = [place for place, count in enumerate(manifest.counts()) if count]
    other = [here[place] for place in used if _plain(here[place]) not in known]
    if not other and len({*renamed}) == len(renamed):
        if renamed != tuple(names):
            logger.info(
                "%s: %s matched by name to the %d of %s",
                manifest.source,
                count_text(len(used), "class"),
                len(names),
                weights,
            )
        return replace(manifest, class_names=renamed).with_classes(names)
    if len(here) == len(names):
        logger.warning(
            "%s: classes that are not called as those of %s (%d of %d): %s. The labels are taken for places in the "
            "head of the weights, in the order in which the names stand",
            manifest.source,
            weights,
            len(other),
            len(here),
            listed(other),
        )
    return manifest


def _plain(name: str) -> str:
    """A name as folders write it, too: Kinetics' are often called with underscores."""
    return identity(name).replace("_", " ").strip().casefold()
