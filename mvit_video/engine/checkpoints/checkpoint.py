"""Checkpoints: written beside and renamed, verified when loaded, newest complete one first.

A folder of checkpoints holds, for each kept step, `step_00001234.pt` (or the folder `step_00001234.shards` of a sharded
run) and its manifest, and `best.pt` with `best.json`; see files.py for how they stay complete.

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

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mvit_video.distributed.process_group import World, from_main, gather_to_all
from mvit_video.distributed.sharding import Layout, TensorPath, divided_like
from mvit_video.engine.checkpoints.files import (
    SHARDS,
    Manifest,
    free_space,
    has_its_size,
    link_beside,
    newest_first,
    next_sequence,
    prune,
    publish,
    remove_leftovers,
    remove_temporaries,
    temporary,
    verify,
    write_torch,
)
from mvit_video.models.weights.files import CheckpointError, check_is_file, load_plain

__all__ = ["CheckpointError", "latest_checkpoint", "load_checkpoint", "load_latest", "save_checkpoint"]

logger = logging.getLogger(__name__)

FORMAT = 1
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
# Types torch.load(weights_only=True) accepts. Exact types: a NumPy float64 is a float, but needs NumPy's unpickler.
_PLAIN_TYPES = frozenset({bool, int, float, str, type(None)})
# What a run needs to go on. The trainer may add to it.
_REQUIRED = frozenset({"step", "epoch", "model", "optimizer", "ema", "config", "metrics"})


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
    check_state(state, step=step)
    target = folder / f"step_{step:08d}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        beside = temporary(target)
        digest, size = write_torch(beside, {**state, "format": FORMAT})
        manifest = manifest_of(state, digest, size, sequence=next_sequence(folder))
        publish(beside, target, manifest)
        if best:
            publish(link_beside(target, folder / "best.pt"), folder / "best.pt", manifest)
        prune(folder, keep_last=keep_last)
    except OSError as error:
        remove_temporaries(folder)
        raise not_written(target, error) from error
    return target


def save_best(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `state` as `best.pt` of `folder`, for a run whose checkpoints are no files that it could be a link to.

    Raises:
        OSError: if it cannot be written; the old one is intact.
    """
    target = folder / "best.pt"
    beside = temporary(target)
    digest, size = write_torch(beside, {**state, "format": FORMAT})
    publish(beside, target, manifest_of(state, digest, size, sequence=next_sequence(folder)))


def manifest_of(state: Mapping[str, Any], digest: str, size: int, *, sequence: int) -> Manifest:
    """The manifest of a state that was just written."""
    return Manifest(digest, size, state["step"], state["epoch"], dict(state["metrics"]), time.time(), sequence)


def not_written(target: Path, error: object) -> CheckpointError:
    """The error for a checkpoint that the file system refused."""
    return CheckpointError(
        f"checkpoint {target} could not be written ({error}; {free_space(target.parent)}): free space or fix the "
        "permissions of its folder; the older checkpoints are intact"
    )


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of `folder` (files are not read, their sizes checked), None if there is none."""
    return next((path for path, manifest in newest_first(folder) if has_its_size(path, manifest)), None)


def load_latest(folder: Path, *, world: World = ALONE, layout: Layout | None = None) -> dict[str, Any] | None:
    """The state of the newest checkpoint of `folder` that is undamaged; None if there is no checkpoint.

    A damaged checkpoint is passed over with a warning that names the file and the reason.

    Args:
        folder: of checkpoints.
        world: the ranks that call this together; they load the same checkpoint, and share the work of verifying it.
        layout: how the ranks divide tensors; by default every rank gets whole ones, on the CPU.

    Raises:
        CheckpointError: if there are checkpoints but all are damaged, rather than silently starting afresh.
    """
    paths = [Path(path) for path in from_main([str(path) for path, _ in newest_first(folder)], world)]
    for path in paths:
        reason = _on_all(lambda path=path: verify(path, rank=world.rank, ranks=world.size), world)  # type: ignore[misc]
        state: dict[str, Any] = {}
        if reason is None:
            reason = _on_all(lambda path=path, state=state: state.update(_read(path, layout)), world)  # type: ignore[misc]
        if reason is None:
            return state
        if world.is_main:
            logger.warning("%s; falling back to the checkpoint before it", reason)
    if paths:
        raise CheckpointError(
            f"no checkpoint in {folder} can be loaded ({', '.join(path.name for path in paths)} damaged): restore one "
            "from a copy, or move them away to start from the beginning"
        )
    return None


def _on_all(work: Callable[[], None], world: World) -> str | None:
    """Do `work` on every rank; the first CheckpointError of any of them, as text."""
    reason = None
    try:
        work()
    except CheckpointError as error:
        reason = str(error)
    return next((reason for reason in gather_to_all(reason, world) if reason is not None), None)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in one of our checkpoints, on the CPU, verified against its manifest if that lies beside it.

    Args:
        path: a file, or a folder of shards.

    Raises:
        CheckpointError: if the file is missing, damaged, or none of ours.
    """
    if path.suffix != SHARDS:
        check_is_file(path)
    elif not path.is_dir():
        raise CheckpointError(f"checkpoint {path} does not exist")
    verify(path)
    return _read(path, None)


def _read(path: Path, layout: Layout | None) -> dict[str, Any]:
    """The state in a checkpoint that was verified."""
    if path.suffix == SHARDS:
        from mvit_video.engine.checkpoints.shards import read_shards  # which writes by means of this module

        return read_shards(path, layout)
    state = checked_state(load_plain(path), path)
    return state if layout is None else {key: _divide(value, (key,), layout) for key, value in state.items()}


def _divide(value: Any, place: TensorPath, layout: Layout) -> Any:
    """The tensors of a state, each divided as the layout says."""
    if isinstance(value, dict):
        return {key: _divide(item, (*place, key), layout) for key, item in value.items()}
    like = layout(place, value.shape) if isinstance(value, torch.Tensor) else None
    return value if like is None else divided_like(value, like)


def checked_state(state: object, path: Path) -> dict[str, Any]:
    """The content of a file, if it is a training checkpoint of this version.

    Raises:
        CheckpointError: if it is not.
    """
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path} is no training checkpoint of this version (format {found!r}, expected {FORMAT})")
    missing = sorted(_REQUIRED - state.keys())
    if missing:
        raise CheckpointError(f"checkpoint {path} lacks {', '.join(missing)}: it was not written by this trainer")
    return state


def check_state(state: Mapping[str, Any], *, step: int) -> None:
    """Raise ValueError for a state that could not be resumed from."""
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
