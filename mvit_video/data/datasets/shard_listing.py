"""What a tar shard in the WebDataset convention holds: where its images are, and their labels; read once and kept.

A key is a member's path up to the first dot of its file name; all members of one key belong together.
"""

import hashlib
import json
import logging
import os
import re
import tarfile
from dataclasses import asdict, dataclass
from typing import Any

from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.rows import Label
from mvit_video.data.datasets.shards import file_system, open_shard
from mvit_video.runtime.files import replacing
from mvit_video.video.location import is_remote

logger = logging.getLogger(__name__)

_LABEL_BYTES = 1 << 20  # what is larger is no label
_VERSION = 1  # of the kept listings


@dataclass(frozen=True)
class ShardImage:
    """An image in a shard: its member's name, first byte of its contents, bytes, label."""

    name: str
    start: int
    size: int
    label: Label


@dataclass(frozen=True)
class ShardListing:
    """The images of a shard, in its order, and the names of the members that are neither images nor their labels."""

    images: tuple[ShardImage, ...]
    others: tuple[str, ...]


def list_shard(url: str, *, label_key: str = "label") -> ShardListing:
    """Read the heads of a shard's members, and the labels.

    Raises:
        ValueError: it is no whole tar archive, an image has no label or a key two images.
    """
    images: dict[str, tuple[str, int, int]] = {}
    classes: dict[str, bytes] = {}
    details: dict[str, bytes] = {}
    others = []
    try:
        with open_shard(url) as file, tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
            for info in archive:
                key, extension = split_key(info.name)
                if not info.isreg() or info.issparse():
                    continue
                if extension in ("cls", "json") and info.size <= _LABEL_BYTES:
                    content = archive.extractfile(info)
                    assert content is not None
                    (classes if extension == "cls" else details)[key] = content.read()
                elif IMAGES.has(f".{extension}"):
                    if key in images:
                        raise ValueError(
                            f"{url}: {info.name} and {images[key][0]} have one key; an image must have its own"
                        )
                    images[key] = (info.name, info.offset_data, info.size)
                else:
                    others.append(info.name)
            file.seek(archive.offset)
            if not file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"there is no end mark behind byte {archive.offset}")
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{url}: is no whole, uncompressed tar archive ({error}); copy or pack it again") from error
    return ShardListing(
        tuple(
            ShardImage(name, start, size, _label(f"{url}/{name}", classes.get(key), details.get(key), label_key))
            for key, (name, start, size) in images.items()
        ),
        tuple(others),
    )


def split_key(name: str) -> tuple[str, str]:
    """Key and extension of a member: "a/b.c/x.seg.png" is ("a/b.c/x", "seg.png"), in lower case."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}/{stem}", extension.lower()


def _label(place: str, content: bytes | None, details: bytes | None, key: str) -> Label:
    """The label of an image, from its .cls or the field `key` of its .json."""
    value: object = None
    try:
        if content is not None:
            value = content.decode("utf-8").strip()
        elif details is not None:
            fields = json.loads(details)
            value = fields.get(key) if isinstance(fields, dict) else None
    except ValueError as error:  # also what is no UTF-8
        raise ValueError(f"{place}: its label is not readable ({error}); pack it again") from error
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError(
            f"{place}: has no label; beside an image KEY.jpg lies KEY.cls with a number or a name, or KEY.json with it "
            f"in the field {key!r} (data.source.label_key)"
        )
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value):
        return int(value)
    if (isinstance(value, int) and value < 0) or (isinstance(value, str) and re.fullmatch(r"-\d+", value)):
        raise ValueError(f"{place}: label {value}; a label is a number of 0 or more, or a name. Is it a test split?")
    return value


def kept_listing(url: str, *, label_key: str = "label", folder: str | None = None) -> ShardListing:
    """The listing of a shard: the one kept in a folder, if the shard has not changed since, else a new one.

    Args:
        url, label_key: see `list_shard`.
        folder: where listings are kept, a small file for each shard; None keeps none.

    Raises:
        ValueError: see `list_shard`.
    """
    if folder is None:
        return list_shard(url, label_key=label_key)
    state = [_VERSION, url, label_key, *_state(url)]
    place = os.path.join(folder, f"{hashlib.sha256(f'{url} {label_key}'.encode()).hexdigest()[:32]}.json")
    kept = _read_kept(place)
    if kept is not None and kept["state"] == state:
        images = tuple(ShardImage(*image) for image in kept["images"])
        return ShardListing(images, tuple(kept["others"]))
    listing = list_shard(url, label_key=label_key)
    os.makedirs(folder, exist_ok=True)
    images_kept = [list(asdict(image).values()) for image in listing.images]
    with replacing(place, per_process=True) as beside:
        text = json.dumps({"state": state, "images": images_kept, "others": listing.others}, separators=(",", ":"))
        beside.write_text(text, encoding="utf-8")
    return listing


def _read_kept(place: str) -> dict[str, Any] | None:
    """A kept listing; None if there is none, or none that can be read: it is made anew."""
    if not os.path.isfile(place):
        return None
    try:
        with open(place, encoding="utf-8") as file:
            kept = json.load(file)
    except (OSError, ValueError) as error:
        logger.warning("%s: the kept listing of a shard cannot be read (%s); the shard is listed anew", place, error)
        return None
    return kept if isinstance(kept, dict) and {"state", "images", "others"} <= set(kept) else None


def _state(url: str) -> list[int | None]:
    """What changes when a shard does: its size, and the modification time of a local one."""
    try:
        if not is_remote(url):
            file_stat = os.stat(url)
            return [file_stat.st_size, file_stat.st_mtime_ns]
        system, path = file_system(url)
        return [system.info(path).get("size"), None]
    except OSError as error:
        raise ValueError(f"{url}: cannot be read ({error.strerror or error}); is it all there?") from error
