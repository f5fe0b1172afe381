"""What a data set is, in a few characters: two manifests with one fingerprint hold the same videos and labels."""

import hashlib
import os
from collections.abc import Iterator

import numpy as np

from mvit_video.data.datasets.manifest import Manifest

# Before each part that a plain manifest does not have. It is no length of a text, so that no part passes for another.
_PART = b"\xff\xff\xff\xff"


def fingerprint(manifest: Manifest) -> str:
    """Digest of class names, and of the names and labels of all videos, in order; 16 hexadecimal digits.

    Names count from the folder that all videos share, so that a data set may be moved. The files are not read: a video
    that was replaced by another of the same name has the same fingerprint. Segments, groups, weights, several labels a
    video, boxes, masks and the frame rate of folders of pictures count where there are any.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in manifest.class_names:
        digest.update(_bytes(name))
    folder = _shared_folder(manifest)
    for path, label in zip(manifest.paths, manifest.labels, strict=True):
        digest.update(_bytes(path[len(folder) :]))
        digest.update(_bytes(manifest.class_names[label]))
    for part in _further_parts(manifest):
        digest.update(part)
    return digest.hexdigest()


def _further_parts(manifest: Manifest) -> Iterator[bytes]:
    """What a manifest holds beside whole files with one label each; nothing for a plain one."""
    if manifest.segments is not None and not all(segment.whole for segment in manifest.segments):
        yield _PART + _bytes("segments") + manifest.segments.pairs.astype("<f8").tobytes()
    if manifest.groups is not None:
        yield _PART + _bytes("groups")
        yield from map(_bytes, manifest.groups)
    if manifest.weights is not None:
        yield _PART + _bytes("weights") + np.asarray(list(manifest.weights), "<f8").tobytes()
    if manifest.label_sets is not None:
        yield _PART + _bytes("label sets")
        for labels in manifest.label_sets:
            yield len(labels).to_bytes(4, "little")
            yield from (_bytes(manifest.class_names[label]) for label in labels)
    for name, data in manifest.further_content():
        yield _PART + _bytes(name) + data
    if manifest.frame_rate is not None:
        yield _PART + _bytes("frame rate") + _bytes(repr(float(manifest.frame_rate)))


def _shared_folder(manifest: Manifest) -> str:
    """The beginning, up to a slash, that the paths of all videos have in common."""
    start = os.path.commonprefix([min(manifest.paths), max(manifest.paths)])  # noqa: RUF071 - cut at a slash below
    return start.rpartition("/")[0]


def _bytes(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(4, "little") + data  # with its length, so that no two lists run into one
