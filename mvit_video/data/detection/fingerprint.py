"""What a detection set is, in a few characters: the images, as any manifest, and what is annotated in them."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from mvit_video.data.datasets.fingerprint import fingerprint
from mvit_video.data.detection.annotations import DetectionManifest


def detection_fingerprint(manifest: DetectionManifest) -> str:
    """Digest of names and classes (see datasets.fingerprint), and of boxes, classes, crowds and masks; 16 digits.

    A resumed run or a validation split whose boxes were corrected in between is another one.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(fingerprint(manifest).encode())
    _add(digest, manifest.annotations)
    return digest.hexdigest()


def _add(digest: "hashlib.blake2b", columns: Any) -> None:
    """Every array of a set of columns, with its name and type."""
    for declared in dataclasses.fields(columns):
        value = getattr(columns, declared.name)
        digest.update(declared.name.encode())
        if dataclasses.is_dataclass(value):
            _add(digest, value)
        elif isinstance(value, np.ndarray):
            digest.update(f"{value.dtype.str}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        elif isinstance(value, bytes):
            digest.update(value)
        elif value is not None:
            raise TypeError(f"{type(columns).__name__}.{declared.name} is a {type(value).__name__}, not an array")
