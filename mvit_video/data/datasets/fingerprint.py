"""What a data set is, in a few characters: two manifests with one fingerprint hold the same videos and labels."""

import hashlib
import os

from mvit_video.data.datasets.manifest import Manifest


def fingerprint(manifest: Manifest) -> str:
    """Digest of class names, and of the names and labels of all videos, in order; 16 hexadecimal digits.

    Names count from the folder that all videos share, so that a data set may be moved. The files are not read: a video
    that was replaced by another of the same name has the same fingerprint.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in manifest.class_names:
        digest.update(_bytes(name))
    folder = _shared_folder(manifest)
    for path, label in zip(manifest.paths, manifest.labels, strict=True):
        digest.update(_bytes(path[len(folder) :]))
        digest.update(_bytes(manifest.class_names[label]))
    return digest.hexdigest()


def _shared_folder(manifest: Manifest) -> str:
    """The beginning, up to a slash, that the paths of all videos have in common."""
    start = os.path.commonprefix([min(manifest.paths), max(manifest.paths)])  # noqa: RUF071 - cut at a slash below
    return start.rpartition("/")[0]


def _bytes(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(4, "little") + data  # with its length, so that no two lists run into one
