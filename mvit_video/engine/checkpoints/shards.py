"""Checkpoints of sharded runs: a folder of which every rank writes its part, readable by any number of ranks.

`step_00001234.shards` holds what torch.distributed.checkpoint writes (a `.distcp` file per rank and the index
`.metadata`), `state.pt` with everything that is not divided, and `files.json` with the checksums. It is written under a
temporary name, renamed when it is complete, and counts from the moment its manifest is beside it.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mvit_video.distributed.sharding import Layout, Sharding, TensorPath, is_sharded, read_parts, whole, write_parts
from mvit_video.engine.checkpoints.files import (
    LISTING,
    SHARDS,
    manifest_of,
    next_sequence,
    not_written,
    prune,
    publish,
    remove_after_failure,
    remove_leftovers,
    sha256_of,
    size_of,
    sync_folder,
    temporary,
    write_json,
    write_torch,
)
from mvit_video.engine.checkpoints.single import save_best
from mvit_video.engine.checkpoints.state import FORMAT, check_state, checked_state
from mvit_video.models.weights.files import CheckpointError, load_plain

logger = logging.getLogger(__name__)

UNDIVIDED = "state.pt"
WHOLE = "whole"
"""Key under which a state carries its whole weights (model and ema) for best.pt."""


def save_shards(
    folder: Path, state: Mapping[str, Any], *, step: int, keep_last: int, best: bool, sharding: Sharding
) -> None:
    """Write a sharded state in host memory as the newest checkpoint of `folder`. Every rank must call.

    Args:
        folder: on a file system that all ranks share.
        state: as for save_checkpoint, with sharded tensors; for `best` with the whole weights under WHOLE.
        step: optimizer steps done.
        keep_last: checkpoints to keep, this one included.
        best: also write `best.pt`, an ordinary checkpoint of the whole weights without optimizer state.
        sharding: how the ranks divide the state.

    Raises:
        CheckpointError: on every rank, if any of them could not write; the older checkpoints are intact.
    """
    check_state(state, step=step)
    undivided, parts = divide({key: value for key, value in state.items() if key != WHOLE} | {"format": FORMAT})
    is_main = sharding.world.is_main
    target = folder / f"step_{step:08d}{SHARDS}"
    try:
        target, beside = sharding.agree(lambda: _prepare(folder, target) if is_main else None)[0]
        mine = write_parts(beside, parts, sharding)
        listings = sharding.agree(lambda: {name: [size_of(beside / name), sha256_of(beside / name)] for name in mine})
        listing = {name: about for of_rank in listings for name, about in of_rank.items()}

        def finish() -> None:
            if is_main:
                _finish(beside, target, undivided, listing, keep_last=keep_last)
                if best:
                    save_best(folder, {**undivided, **state[WHOLE], "optimizer": {"state": {}, "param_groups": []}})

        sharding.agree(finish)
    except OSError as error:
        if is_main:
            remove_after_failure(folder)
        raise not_written(target, error) from error


def _prepare(folder: Path, target: Path) -> tuple[Path, Path]:
    """A name that is free (a folder cannot be replaced at once), and the temporary folder, made."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    free, number = target, 1
    while free.exists():
        number += 1
        free = target.with_name(f"{target.stem}.{number}{SHARDS}")
    beside = temporary(free)
    beside.mkdir()
    return free, beside


def _finish(
    beside: Path, target: Path, undivided: Mapping[str, Any], listing: dict[str, Any], *, keep_last: int
) -> None:
    absent = [name for name in listing if not (beside / name).exists()]
    if absent:
        raise OSError(
            f"{', '.join(absent[:3])} of another rank is not in {beside}: sharded checkpoints need a folder that all "
            "ranks share"
        )
    digest, size = write_torch(beside / UNDIVIDED, undivided)
    write_json(beside / LISTING, {**listing, UNDIVIDED: [size, digest]})
    sync_folder(beside)
    sequence = next_sequence(target.parent)
    manifest = manifest_of(undivided, sha256_of(beside / LISTING), size_of(beside), sequence=sequence)
    publish(beside, target, manifest)
    prune(target.parent, keep_last=keep_last)


def read_shards(path: Path, layout: Layout | None = None) -> dict[str, Any]:
    """The state in a folder of shards: whole and on the CPU, or divided by `layout`. It is not verified here.

    Raises:
        CheckpointError: if it is damaged.
    """
    state = checked_state(load_plain(path / UNDIVIDED), path)
    try:
        parts = read_parts(path, layout or (lambda key_path, shape: None))
    except Exception as error:  # DCP raises whatever a damaged byte leads it to; nothing is swallowed here
        raise CheckpointError(f"checkpoint {path} is damaged ({type(error).__name__}: {error})") from error
    for key_path, tensor in parts.items():
        inner: Any = state
        for key in key_path[:-1]:
            inner = inner[key]
        inner[key_path[-1]] = tensor
    return state


def is_folder_of_shards(path: Path) -> bool:
    """Whether this is the checkpoint of a sharded run."""
    return path.suffix == SHARDS and path.is_dir()


def divide(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[TensorPath, torch.Tensor]]:
    """A state without its sharded tensors, and those by their keys in it. Dicts keep their order."""
    parts: dict[TensorPath, torch.Tensor] = {}

    def visit(value: Any, key_path: TensorPath) -> Any:
        if isinstance(value, Mapping):
            # A placeholder keeps the order of the keys.
            return {key: visit(item, (*key_path, key)) for key, item in value.items()}
        if is_sharded(value):
            parts[key_path] = value
            return None
        return value

    return visit(state, ()), parts


def whole_weights(state: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """Model and averaged model of a sharded state, gathered, in host memory of ranks that keep them.

    Every rank must call.
    """
    result: dict[str, Any] = {}
    for key in ("model", "ema"):
        if state[key] is None:
            result[key] = None
            continue
        result[key] = {}
        for name, tensor in state[key].items():
            gathered = whole(tensor)
            if keep:
                result[key][name] = gathered.detach().cpu()
    return result
