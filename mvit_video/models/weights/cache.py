"""The folder of fetched weights: torch.hub's, with a record of each file's hash beside it."""

import datetime
import functools
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mvit_video.models.weights.files import CheckpointError
from mvit_video.runtime.files import replacing

logger = logging.getLogger(__name__)

RECORD_ENDING = ".first_use.json"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a publisher says about the bytes of a file.

    Attributes:
        size: bytes; None if it is not known.
        size_rounding: by how many bytes the size may differ, being rounded.
        sha256: all or the first of its hexadecimal digits; None if it is not known.
    """

    size: int | None = None
    size_rounding: int = 0
    sha256: str | None = None

    def wrong_size(self, size: int) -> str | None:
        """What is wrong with a size, in words; None if nothing is."""
        if self.size is None or abs(size - self.size) <= self.size_rounding:
            return None
        return f"{size:,} bytes, where {self.size:,} are published"

    def wrong_hash(self, sha256: str) -> str | None:
        """What is wrong with a hash, in words; None if nothing is."""
        if self.sha256 is None or sha256.startswith(self.sha256.lower()):
            return None
        return f"its SHA-256 is {sha256}, and the published one begins with {self.sha256}"


def cache_folder() -> Path:
    """Where fetched weights lie: torch.hub's folder of checkpoints, which TORCH_HOME and torch.hub.set_dir move."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def record_of(path: Path) -> Path:
    """The file that holds what `path` was when it was first used."""
    return path.with_name(f"{path.name}{RECORD_ENDING}")


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal; computed again when its size, time or place has changed."""
    state = path.stat()
    return _sha256(str(path), state.st_size, state.st_mtime_ns, state.st_ino)


@functools.lru_cache(maxsize=64)
def _sha256(path: str, size: int, changed_ns: int, inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, *, expected: Expected, name: str, url: str | None) -> None:
    """Compare a file of the cache with what is published, and with what it was when it was first used.

    Args:
        path: the file, which exists.
        expected: what is published.
        name: of the weights, for messages.
        url: where it comes from, for the record.

    Raises:
        CheckpointError: it is another file.
    """
    if path.is_dir():
        raise CheckpointError(f"{name}: {path} is a folder, and should be the file of the weights: move it away")
    wrong = expected.wrong_size(path.stat().st_size) or expected.wrong_hash(sha256_of(path))
    if wrong is not None:
        raise CheckpointError(
            f"{name}: {path} is not the published file: {wrong}. Remove it to have it fetched again; weights of your "
            "own are given by a path outside of this folder"
        )
    digest, record = sha256_of(path), record_of(path)
    known = _read_record(record)
    if known is None:
        _write_record(record, name=name, url=url, sha256=digest, size=path.stat().st_size)
        if expected.sha256 is None:
            logger.info(
                "%s: nobody has published its hash; SHA-256 %s is recorded in %s and compared from now on",
                name,
                digest,
                record,
            )
    elif known["sha256"] != digest:
        raise CheckpointError(
            f"{name}: {path} has changed since its first use on {known['date']}: its SHA-256 is {digest}, and was "
            f"{known['sha256']}. Remove the file to have it fetched again. If the new one is right, remove {record}"
        )


def state_of(path: Path, *, expected: Expected) -> Literal["absent", "partial", "present", "damaged", "changed"]:
    """What the cache has of a file; nothing is written, and present means compared with all that is known."""
    if not path.is_file():
        return "partial" if part_of(path).is_file() else "absent"
    if expected.wrong_size(path.stat().st_size) or expected.wrong_hash(sha256_of(path)):
        return "damaged"
    known = _read_record(record_of(path))
    return "present" if known is None or known["sha256"] == sha256_of(path) else "changed"


def part_of(path: Path) -> Path:
    """Where a download is kept until it is whole."""
    return path.with_name(f"{path.name}.part")


def _read_record(record: Path) -> dict[str, str] | None:
    try:
        held = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{record} cannot be read ({error}): remove it to have it written anew") from error
    if not isinstance(held, dict) or not {"sha256", "date"} <= held.keys():
        raise CheckpointError(f"{record} is no record of a first use: remove it to have it written anew")
    return held


def _write_record(record: Path, *, name: str, url: str | None, sha256: str, size: int) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    held = {"name": name, "url": url, "sha256": sha256, "size": size, "date": today}
    try:
        with replacing(record, per_process=True) as beside:
            beside.write_text(json.dumps(held, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        logger.warning(
            "%s: its hash cannot be recorded in %s (%s), so that a later change is not noticed",
            name,
            record,
            os.strerror(error.errno or 0),
        )
