"""Checkpoints: written beside and renamed, verified when loaded, newest complete one first.

A folder of checkpoints holds, for each kept step, `step_00001234.pt` and its manifest `step_00001234.json` (checksum,
size, step, metrics), and `best.pt` with `best.json`. A checkpoint is complete when its manifest names the size the file
has. The manifest is renamed into place after the file, so that a process killed at any instant leaves complete
checkpoints and at most rubbish beside them, which the next save removes. There must be one writer per folder.

The state in a checkpoint is a dict of tensors, numbers, strings, lists and dicts:

    format     1
    step       optimizer steps done
    epoch      the same in epochs
    model      state dict
    optimizer  state dict
    ema        state dict of the averaged model (that of torch's AveragedModel, or of the model inside it), or None
    config     the resolved configuration as YAML text
    metrics    name -> number, the latest
    ...        whatever else the trainer needs to go on
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

from mvit_video.models.files import CheckpointError, check_is_file, load_plain

logger = logging.getLogger(__name__)

FORMAT = 1
_STEP_FILE = re.compile(r"step_(\d{8,})\.pt")
_TEMPORARY = ".tmp"
# Types torch.load(weights_only=True) accepts. Exact types: a NumPy float64 is a float, but needs NumPy's unpickler.
_PLAIN_TYPES = frozenset({bool, int, float, str, type(None)})
# What a run needs to go on. The trainer may add to it.
_REQUIRED = frozenset({"step", "epoch", "model", "optimizer", "ema", "config", "metrics"})


@dataclass(frozen=True)
class Manifest:
    """What is recorded beside a checkpoint file.

    Attributes:
        sha256: of the file, in hexadecimal.
        size: of the file, in bytes.
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
    epoch: int
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


def save_checkpoint(
    folder: Path, state: Mapping[str, Any], *, step: int, keep_last: int = 3, best: bool = False
) -> Path:
    """Write `state` as the newest checkpoint of `folder` and remove the oldest beyond `keep_last`.

    Args:
        folder: made if it does not exist.
        state: see the head of this file; its step must be `step`, its format is set here.
        step: optimizer steps done.
        keep_last: checkpoints to keep, this one included.
        best: also make it `best.pt`, which is never removed.

    Returns:
        The file, `<folder>/step_<8 digits>.pt`.

    Raises:
        ValueError: for a state that does not fit, or holds what weights_only=True could not load.
        CheckpointError: if it cannot be written (disk full, no permission); the older checkpoints are intact.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last is {keep_last}: at least 1 checkpoint must be kept")
    _check_state(state, step=step)
    target = folder / f"step_{step:08d}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        temporary, digest, size = _write_beside(target, {**state, "format": FORMAT})
        sequence = max((known.sequence for _, known in _newest_first(folder) if known is not None), default=0) + 1
        manifest = Manifest(digest, size, step, state["epoch"], dict(state["metrics"]), time.time(), sequence)
        _publish(temporary, target, manifest)
        if best:
            _publish(_link_beside(target, folder / "best.pt"), folder / "best.pt", manifest)
        _prune(folder, keep_last=keep_last)
    except OSError as error:
        logger.error("checkpoint %s could not be written: %s; the older checkpoints are intact", target, error)
        _remove_temporaries(folder)
        raise CheckpointError(
            f"checkpoint {target} could not be written ({error}): free space or fix the permissions of its folder; "
            "the older checkpoints are intact"
        ) from error
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of `folder` (files are not read, their sizes checked), None if there is none."""
    return next((path for path, manifest in _newest_first(folder) if _has_its_size(path, manifest)), None)


def load_latest(folder: Path) -> dict[str, Any] | None:
    """The state of the newest checkpoint of `folder` that is undamaged, on the CPU; None if there is no checkpoint.

    A damaged checkpoint is passed over with a warning that names the file and the reason.

    Raises:
        CheckpointError: if there are checkpoints but all are damaged, rather than silently starting afresh.
    """
    failures = []
    for path, _ in _newest_first(folder):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            failures.append(path.name)
            logger.warning("%s; falling back to the checkpoint before it", error)
    if failures:
        raise CheckpointError(
            f"no checkpoint in {folder} can be loaded ({', '.join(failures)} damaged): restore one from a copy, "
            "or move them away to start from the beginning"
        )
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in one of our checkpoint files, on the CPU, verified against its manifest if that lies beside it.

    Raises:
        CheckpointError: if the file is missing, damaged, or none of ours.
    """
    check_is_file(path)
    _verify(path)
    state = load_plain(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path} is no training checkpoint of this version (format {found!r}, expected {FORMAT})")
    missing = sorted(_REQUIRED - state.keys())
    if missing:
        raise CheckpointError(f"checkpoint {path} lacks {', '.join(missing)}: it was not written by this trainer")
    return state


class _HashingWriter:
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


def _write_beside(target: Path, content: Mapping[str, object]) -> tuple[Path, str, int]:
    """Write `content` to a temporary file next to `target`, on disk when this returns: (path, sha256, size)."""
    temporary = _temporary(target)
    with open(temporary, "wb") as file:
        writer = _HashingWriter(file)
        try:
            torch.save(dict(content), cast(BinaryIO, writer))  # of a file, torch.save uses write and flush
        except (OSError, RuntimeError) as error:
            if writer.error is not None:
                raise writer.error from error
            raise
        file.flush()
        os.fsync(file.fileno())
    return temporary, writer.digest.hexdigest(), writer.size


def _link_beside(source: Path, target: Path) -> Path:
    """A temporary hard link to `source` next to `target`, or a copy on file systems without links."""
    temporary = _temporary(target)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
    return temporary


def _publish(temporary: Path, target: Path, manifest: Manifest) -> None:
    """Rename a finished file into place and write its manifest; `target` is complete (or absent) at every instant."""
    if target.is_file() and target.with_suffix(".json").is_file():
        old = (_sha256(target), target.stat().st_size)
        _write_manifest(target, replace(manifest, replaces=old))
    os.replace(temporary, target)
    _sync_folder(target.parent)
    _write_manifest(target, manifest)
    _sync_folder(target.parent)


def _write_manifest(checkpoint: Path, manifest: Manifest) -> None:
    target = checkpoint.with_suffix(".json")
    temporary = _temporary(target)
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, target)


def _read_manifest(checkpoint: Path) -> Manifest | None:
    """The manifest beside `checkpoint`, None if there is none.

    Raises:
        CheckpointError: if it is there but cannot be understood.
    """
    path = checkpoint.with_suffix(".json")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.get("replaces") is not None:
            fields["replaces"] = tuple(fields["replaces"])
        return Manifest(**fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"manifest {path} of checkpoint {checkpoint.name} is damaged ({error})") from error


def _verify(path: Path) -> None:
    """Raise CheckpointError if `path` is not the file its manifest describes; without a manifest nothing is known."""
    manifest = _read_manifest(path)
    if manifest is None:
        return
    if not _has_its_size(path, manifest):
        raise CheckpointError(
            f"checkpoint {path} is damaged: it has {path.stat().st_size} bytes, {manifest.size} were written"
        )
    try:
        digest = _sha256(path)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    if digest not in manifest.checksums:
        raise CheckpointError(
            f"checkpoint {path} is damaged: its sha256 is {digest[:12]}..., {manifest.sha256[:12]}... was written"
        )


def _newest_first(folder: Path) -> list[tuple[Path, Manifest | None]]:
    """The checkpoints of `folder` that have a manifest; last, with None, those whose manifest is damaged."""
    known: list[tuple[Path, Manifest]] = []
    unknown: list[tuple[Path, None]] = []
    for path in folder.glob("step_*.pt"):
        if not _STEP_FILE.fullmatch(path.name):
            continue
        try:
            manifest = _read_manifest(path)
        except CheckpointError:  # its reason is told by load_checkpoint when its turn comes
            unknown.append((path, None))
            continue
        if manifest is not None:
            known.append((path, manifest))
    known.sort(key=lambda item: (item[1].sequence, item[1].step), reverse=True)
    return [*known, *unknown]


def _has_its_size(path: Path, manifest: Manifest | None) -> bool:
    try:
        return manifest is not None and path.stat().st_size in manifest.sizes
    except FileNotFoundError:  # removed by the writer just now
        return False


def _prune(folder: Path, *, keep_last: int) -> None:
    kept = 0
    for path, manifest in _newest_first(folder):
        if kept < keep_last:
            kept += _has_its_size(path, manifest)
            continue
        path.with_suffix(".json").unlink(missing_ok=True)  # first, so that it stops being complete before it is gone
        path.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed writer left: temporary files, and checkpoints or manifests without their other half."""
    _remove_temporaries(folder)
    for path in folder.glob("step_*.*"):
        other = {".pt": ".json", ".json": ".pt"}.get(path.suffix)
        if other and _STEP_FILE.fullmatch(path.with_suffix(".pt").name) and not path.with_suffix(other).exists():
            logger.info("removing %s, left by a save that was interrupted", path)
            path.unlink(missing_ok=True)


def _remove_temporaries(folder: Path) -> None:
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}{_TEMPORARY}")


def _sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_state(state: Mapping[str, Any], *, step: int) -> None:
    missing = sorted(_REQUIRED - state.keys())
    if missing:
        raise ValueError(
            f"the state to save lacks {', '.join(missing)}: {sorted(_REQUIRED)} are needed to resume from it"
        )
    if state["step"] != step:
        raise ValueError(f"the state to save is of step {state['step']}, but step is {step}: they must be equal")
    _check_plain(state, "state")


def _check_plain(value: object, where: str) -> None:
    """Raise ValueError for what torch.load(weights_only=True) would refuse when the checkpoint is needed."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) not in (str, int):
                raise ValueError(f"{where} has the key {key!r}: checkpoints hold dicts with str or int keys only")
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        assert isinstance(value, list | tuple)
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif not isinstance(value, torch.Tensor) and type(value) not in _PLAIN_TYPES:
        raise ValueError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}: checkpoints hold tensors, numbers, "
            "strings, lists and dicts only, so that they load without running code; convert it"
        )
