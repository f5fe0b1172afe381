"""Images in tar shards in the WebDataset convention: key.jpg beside key.cls, and perhaps key.json.

A shard is listed once (shard_listing.py); from then on an image is one read of a stretch of bytes.
"""

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.array_views import IntArrayView
from mvit_video.data.datasets.class_names import read_class_names
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.left_out import LeftOutFiles
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.rows import Label, Row, label_index, names_of_labels
from mvit_video.data.datasets.shard_listing import ShardListing, kept_listing
from mvit_video.data.datasets.shards import file_system
from mvit_video.data.datasets.sources import Split, Splits
from mvit_video.video.location import VideoLocation, is_remote

_THREADS = 16
OTHER_MEMBERS = "member of another kind"


@dataclass(frozen=True)
class ShardedManifest(Manifest):
    """Images that are stretches of tar shards.

    Attributes:
        shards: path or URL of each shard.
        shard: number of each image's shard, (images,).
        start: its first byte there.
        size: its bytes.
    """

    shards: tuple[str, ...] = field(kw_only=True, repr=False)
    shard: IntArrayView = field(kw_only=True, repr=False)
    start: IntArrayView = field(kw_only=True, repr=False)
    size: IntArrayView = field(kw_only=True, repr=False)

    @property
    def shard_of(self) -> npt.NDArray[np.int32] | None:
        """See Manifest."""
        return np.asarray(self.shard, np.int32)

    def location(self, index: int) -> VideoLocation:
        """See Manifest."""
        return VideoLocation(
            name=self.paths[index],
            url=self.shards[self.shard[index]],
            start=self.start[index],
            size=self.size[index],
        )

    def _chosen(self, rows: npt.NDArray[np.integer]) -> dict[str, Any]:
        columns = {name: IntArrayView(np.asarray(getattr(self, name))[rows]) for name in ("shard", "start", "size")}
        return {**super()._chosen(rows), **columns}


@dataclass(kw_only=True)
class ImageShardsSource(Splits):
    """Tar shards, local or behind any fsspec URL.

    Attributes:
        train, val, test: the shards of each split: a folder of them, a pattern with *, ? or {000..146}, one shard, or
            several of these with a space between them.
        label_key: the field of key.json that is the label, where there is no key.cls.
        class_names_file: see manifest.from_list; numbers are then places in it. "imagenet_1k" stands for the classes of
            ImageNet-1k.
        num_classes: number of classes of numbered labels; by default the largest + 1.
        listings: folder that keeps what the shards hold, so that they are listed once and not at each start; a shard
            that has changed is listed anew.
    """

    label_key: str = "label"
    class_names_file: str | None = None
    num_classes: int | None = None
    listings: str | None = None

    def prepare(self) -> None:
        """List the shards, if that is to be kept: by one process, before the others read it."""
        if self.listings is not None:
            for place in {self.train, self.val, self.test} - {None}:
                assert place is not None
                list_shards(shard_names(place), label_key=self.label_key, listings=self.listings)

    def _read(self, place: str, split: Split) -> Manifest:
        given = None if self.class_names_file is None else read_class_names(self.class_names_file)
        return from_shards(
            place,
            label_key=self.label_key,
            class_names=given,
            num_classes=self.num_classes,
            listings=self.listings,
        )

    def _train_classes(self, place: str) -> tuple[str, ...]:
        if self.class_names_file is not None:
            return read_class_names(self.class_names_file)
        return super()._train_classes(place)


def from_shards(
    place: str,
    *,
    label_key: str = "label",
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    listings: str | None = None,
) -> ShardedManifest:
    """The images of shards, in the order of the shards' names and of the members of each.

    The arguments are those of ImageShardsSource.

    Raises:
        ValueError: no shards, a shard that is no whole tar archive, an image without label, a label out of range.
        RuntimeError: a package that fsspec needs for a URL is not installed.
    """
    shards = shard_names(place)
    held = list_shards(shards, label_key=label_key, listings=listings)
    left_out = LeftOutFiles()
    for url, listing in zip(shards, held):
        for name in listing.others:
            left_out.add(OTHER_MEMBERS, f"{url}/{name}")
    images = [image for listing in held for image in listing.images]
    if not images:
        raise ValueError(
            f"{place}: no image in {len(shards)} shards; images are members such as KEY.jpg beside KEY.cls"
        )
    names, labels = _classes([image.label for image in images], class_names, num_classes, place)
    return ShardedManifest(
        [f"{url}/{image.name}" for url, listing in zip(shards, held) for image in listing.images],
        labels,
        names,
        place,
        left_out=left_out.frozen(),
        kind=IMAGES,
        shards=tuple(shards),
        shard=IntArrayView(np.repeat(np.arange(len(shards)), [len(listing.images) for listing in held])),
        start=IntArrayView([image.start for image in images]),
        size=IntArrayView([image.size for image in images]),
    )


def list_shards(shards: Sequence[str], *, label_key: str, listings: str | None) -> list[ShardListing]:
    """What each shard holds; several are listed at a time. ValueError as of shard_listing.list_shard."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda url: kept_listing(url, label_key=label_key, folder=listings), shards))


def _classes(
    labels: Sequence[Label], class_names: Sequence[str] | None, num_classes: int | None, source: str
) -> tuple[tuple[str, ...], IntArrayView]:
    """The names of the classes, and the class index of each label."""
    used = sorted(set(labels), key=lambda label: (isinstance(label, str), label))
    rows = [Row(place=source, path="", labels=(label,)) for label in used]
    names = names_of_labels(rows, class_names=class_names, num_classes=num_classes, source=source)
    indices = {name: index for index, name in enumerate(names)}
    table = {label: label_index(label, indices, source, numbered=True) for label in used}
    return names, IntArrayView([table[label] for label in labels])


def shard_names(place: str) -> list[str]:
    """The shards that a place means, in the order of their names. ValueError if there are none."""
    found: list[str] = []
    for pattern in place.split(" ") if " " in place and not os.path.exists(place) else [place]:
        for one in _unbraced(pattern):
            found += _globbed(one)
    if not found:
        raise ValueError(
            f"{place}: no shards there; give a folder of .tar files, one of them, or a pattern like "
            "train-{000..146}.tar"
        )
    twice = [name for name, again in itertools.groupby(sorted(found)) if len(list(again)) > 1]
    if twice:
        raise ValueError(f"{place}: means {twice[0]} more than once; give each shard once")
    return found


def _unbraced(pattern: str) -> Iterator[str]:
    """The names that {a,b} and {000..146} stand for."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    if match[3] is not None:
        choices = match[3].split(",")
    else:
        choices = [str(number).zfill(len(match[1])) for number in range(int(match[1]), int(match[2]) + 1)]
    for choice in choices:
        yield from _unbraced(pattern[: match.start()] + choice + pattern[match.end() :])


def _globbed(place: str) -> list[str]:
    """The .tar files of a folder or a pattern, sorted; a plain name as it is."""
    patterned = any(sign in place for sign in "*?[")
    if not is_remote(place):
        if os.path.isdir(place):
            return sorted(glob.glob(os.path.join(glob.escape(place), "*.tar")))
        return sorted(glob.glob(place)) if patterned else [place]
    if place.endswith(".tar") and not patterned:
        return [place]
    system, path = file_system(place)
    return sorted(
        system.unstrip_protocol(name) for name in system.glob(path if patterned else path.rstrip("/") + "/*.tar")
    )
