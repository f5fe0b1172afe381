"""Files of a checkpoint folder: manifests, checksums, publishing by renaming, which one is the newest.

A checkpoint is a file `step_00001234.pt`, or a folder `step_00001234.shards` of files written by several ranks (see
shards.py). Its manifest, `step_00001234.json` or `step_00001234.shards.json`, is renamed into place after it. A
checkpoint is complete when its manifest names the size it has, so that a process killed at any instant leaves complete
checkpoints and at most rubbish beside them, which the next save removes. There must be one writer per folder.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from mvit_video.models.weights.files import CheckpointError

logger = logging.getLogger(__name__)

SHARDS = ".shards"
LISTING = "files.json"  # in a folder of shards: name -> [size, sha256] of the other files
_STEP_NAME = re.compile(r"step_\d{8,}(\.\d+)?\.(pt|shards)")
_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Manifest:
    """What is recorded beside a checkpoint.

    Attributes:
        sha256: of the file, or of the listing in a folder of shards, in hexadecimal.
        size: of the file, or of all files of the folder, in bytes.
        step, epoch, metrics: as in the checkpoint.
        time: seconds since 1970 when it was written.
        sequence: counts the saves of a folder. It, and not the step, says which checkpoint is the newest: after a
            fall-back to an older step, the damaged one with the higher step must not win again.
        replaces: (sha256, size) of the file which this one is just replacing under the same name. Between the writing
            of this manifest and the renaming of the file, the old file is still the valid one.
    """

    sha256: str
    size: int
    step: int
    epoch: float
    metrics: dict[str, float]
    time: float
    sequence: int
    replaces: tuple[str, int] | None = None

    @property
    def sizes(self) -> list[int]:
        return [self.size] + ([self.replaces[1]] if self.replaces else [])

    @property
    def checksums(self) -> list[str]:
        return [self.sha256] + ([self.replaces[0]] if self.replaces else [])


def manifest_of(state: Mapping[str, Any], digest: str, size: int, *, sequence: int) -> Manifest:
    """The manifest of a state that was just written."""
    return Manifest(digest, size, state["step"], state["epoch"], dict(state["metrics"]), time.time(), sequence)


def manifest_path(checkpoint: Path) -> Path:
    """Where the manifest of a checkpoint lies."""
    if checkpoint.suffix == SHARDS:
        return checkpoint.with_name(f"{checkpoint.name}.json")
    return checkpoint.with_suffix(".json")


def newest_first(folder: Path) -> list[tuple[Path, Manifest | None]]:
    """The checkpoints of `folder` that have a manifest; last, with None, those whose manifest is damaged."""
    known: list[tuple[Path, Manifest]] = []
    unknown: list[tuple[Path, None]] = []
    for path in folder.glob("step_*"):
        if not _STEP_NAME.fullmatch(path.name):
            continue
        try:
            manifest = read_manifest(path)
        except CheckpointError:  # its reason is told by `verify` when its turn comes
            unknown.append((path, None))
            continue
        if manifest is not None:
            known.append((path, manifest))
    known.sort(key=lambda item: (item[1].sequence, item[1].step), reverse=True)
    return [*known, *unknown]


def next_sequence(folder: Path) -> int:
    """The number of the next save of `folder`."""
    return max((known.sequence for _, known in newest_first(folder) if known is not None), default=0) + 1


def has_its_size(path: Path, manifest: Manifest | None) -> bool:
    """Whether a checkpoint is complete as far as sizes tell."""
    try:
        return manifest is not None and size_of(path) in manifest.sizes
    except FileNotFoundError:  # removed by the writer just now
        return False


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files of a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir())
    return path.stat().st_size


def sha256_of(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, *, rank: int = 0, ranks: int = 1) -> None:
    """Check a checkpoint against its manifest; without a manifest nothing is known.

    Args:
        path: file or folder of shards.
        rank, ranks: of the processes that share the work; every one must call. Rank 0 reads a file; the files of a
            folder are divided among them.

    Raises:
        CheckpointError: if it is not what was written.
    """
    manifest = read_manifest(path)
    if manifest is None or (rank > 0 and not path.is_dir()):
        return
    try:
        if not has_its_size(path, manifest):
            raise CheckpointError(
                f"checkpoint {path} is damaged: it has {size_of(path)} bytes, {manifest.size} were written"
            )
        digest = sha256_of(path / LISTING if path.is_dir() else path)
        if digest not in manifest.checksums:
            raise CheckpointError(
                f"checkpoint {path} is damaged: its sha256 is {digest[:12]}..., {manifest.sha256[:12]}... was written"
            )
        if path.is_dir():
            _verify_folder(path, rank=rank, ranks=ranks)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error


def _verify_folder(path: Path, *, rank: int, ranks: int) -> None:
    listing: dict[str, tuple[int, str]] = json.loads((path / LISTING).read_text(encoding="utf-8"))
    for name in sorted(listing)[rank::ranks]:
        digest = sha256_of(path / name)
        if digest != listing[name][1]:
            raise CheckpointError(
                f"checkpoint {path} is damaged: the sha256 of {name} is {digest[:12]}..., "
                f"{listing[name][1][:12]}... was written"
            )


def publish(temporary: Path, target: Path, manifest: Manifest) -> None:
    """Rename a finished file into place and write its manifest; `target` is complete (or absent) at every instant.

    A folder must go to a name that is free: folders cannot be replaced at once.
    """
    if target.is_file() and manifest_path(target).is_file():
        old = (sha256_of(target), target.stat().st_size)
        write_manifest(target, replace(manifest, replaces=old))
    os.replace(temporary, target)
    sync_folder(target.parent)
    write_manifest(target, manifest)
    sync_folder(target.parent)


def write_manifest(checkpoint: Path, manifest: Manifest) -> None:
    """Write the manifest of `checkpoint` beside its place and rename it there."""
    write_json(manifest_path(checkpoint), asdict(manifest))


def write_json(target: Path, content: Mapping[str, object]) -> None:
    """A JSON file, whole or absent, on disk when this returns."""
    beside = temporary(target)
    with open(beside, "w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, target)


def read_manifest(checkpoint: Path) -> Manifest | None:
    """The manifest beside `checkpoint`, None if there is none.

    Raises:
        CheckpointError: if it is there but cannot be understood.
    """
    path = manifest_path(checkpoint)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.get("replaces") is not None:
            fields["replaces"] = tuple(fields["replaces"])
        return Manifest(**fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"manifest {path} of checkpoint {checkpoint.name} is damaged ({error})") from error


def prune(folder: Path, *, keep_last: int) -> None:
    """Remove the oldest checkpoints beyond `keep_last` complete ones."""
    kept = 0
    for path, manifest in newest_first(folder):
        if kept < keep_last:
            kept += has_its_size(path, manifest)
            continue
        manifest_path(path).unlink(missing_ok=True)  # first, so that it stops being complete before it is gone
        _remove(path)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed writer left: temporary files, and checkpoints or manifests without their other half."""
    remove_temporaries(folder)
    for path in folder.glob("step_*"):
        if _STEP_NAME.fullmatch(path.name):
            other = manifest_path(path)
        elif path.name.endswith(f"{SHARDS}.json"):
            other = path.with_suffix("")
        elif path.suffix == ".json" and _STEP_NAME.fullmatch(path.with_suffix(".pt").name):
            other = path.with_suffix(".pt")
        else:
            continue
        if not other.exists():
            logger.info("removing %s, left by a save that was interrupted", path)
            _remove(path)


def remove_temporaries(folder: Path) -> None:
    """Remove unfinished files and folders."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        _remove(path)


def remove_after_failure(folder: Path) -> None:
    """As `remove_temporaries`, where the file system has refused to write: it may refuse this, too.

    One that has become read-only does. The next save removes what stays.
    """
    try:
        remove_temporaries(folder)
    except OSError as error:
        logger.debug("unfinished files stay in %s: %s", folder, error)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def temporary(target: Path) -> Path:
    """Where `target` is written before it is renamed."""
    return target.with_name(f".{target.name}.{os.getpid()}{_TEMPORARY}")


def link_beside(source: Path, target: Path) -> Path:
    """A temporary hard link to `source` next to `target`, or a copy on file systems without links."""
    beside = temporary(target)
    try:
        os.link(source, beside)
    except OSError:
        shutil.copyfile(source, beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
    return beside


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_space(folder: Path) -> str:
    """What is left on the file system of `folder`, for messages."""
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:,.1f} MiB are free there"
    except OSError as error:
        return f"its free space is unknown: {error}"


def not_written(target: Path, error: object) -> CheckpointError:
    """The error for a checkpoint that the file system refused."""
    return CheckpointError(
        f"checkpoint {target} could not be written ({error}; {free_space(target.parent)}): free space or fix the "
        "permissions of its folder; the older checkpoints are intact"
    )


class HashingWriter:
    """A file to write to that computes the sha256 of what passes, and remembers the error that stopped it.

    torch's archive writer calls `write` in order and never seeks. It turns an exception in `write` into an unrelated
    RuntimeError; the original is kept here.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None
        self._file = file

    def write(self, data: bytes | memoryview) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes

    def flush(self) -> None:
        self._file.flush()


def write_torch(path: Path, content: Mapping[str, object]) -> tuple[str, int]:
    """torch.save of `content` to `path`, on disk when this returns: (sha256, size).

    Raises:
        OSError: what the file system said.
    """
    with open(path, "wb") as file:
        writer = HashingWriter(file)
        try:
            torch.save(dict(content), cast(BinaryIO, writer))  # of a file, torch.save uses write and flush
        except (OSError, RuntimeError) as error:
            if writer.error is not None:
                raise writer.error from error
            raise
        file.flush()
        os.fsync(file.fileno())
    return writer.digest.hexdigest(), writer.size
