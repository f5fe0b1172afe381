"""Loading: the newest complete checkpoint of a folder, verified, whole or divided among the ranks."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mvit_video.distributed.process_group import World, from_main, gather_to_all
from mvit_video.distributed.sharding import Layout
from mvit_video.engine.checkpoints.files import has_its_size, newest_first, verify
from mvit_video.engine.checkpoints.shards import is_folder_of_shards, read_shards
from mvit_video.engine.checkpoints.single import read_file
from mvit_video.engine.checkpoints.state import divided
from mvit_video.models.weights.files import CheckpointError, check_is_file

logger = logging.getLogger(__name__)

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of `folder` (files are not read, their sizes checked), None if there is none."""
    return next((path for path, manifest in newest_first(folder) if has_its_size(path, manifest)), None)


def find_checkpoint(path: Path) -> Path:
    """The file that `path` names; of a run, or its folder of checkpoints, the best checkpoint, else the newest.

    Raises:
        CheckpointError: a folder without checkpoints.
    """
    if not path.is_dir() or is_folder_of_shards(path):
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    best = folder / "best.pt"
    found = best if best.is_file() else latest_checkpoint(folder)
    if found is None:
        raise CheckpointError(f"{path} has no complete checkpoint: name a file, or the folder of a run that has one")
    return found


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
            f"from a copy, or move {folder.parent} away to start from the beginning"
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
    if not is_folder_of_shards(path):
        check_is_file(path)
    verify(path)
    return _read(path, None)


def _read(path: Path, layout: Layout | None) -> dict[str, Any]:
    """The state in a checkpoint that was verified."""
    if is_folder_of_shards(path):
        return read_shards(path, layout)
    state = read_file(path)
    return state if layout is None else {key: divided(value, (key,), layout) for key, value in state.items()}


def whole_weights_in(path: Path, *, use_ema: bool) -> dict[str, torch.Tensor]:
    """The weights in a folder of shards, verified, on the CPU.

    Raises:
        CheckpointError: if it is damaged.
    """
    state = load_checkpoint(path)
    weights: dict[str, torch.Tensor] = state["ema"] if use_ema and state["ema"] is not None else state["model"]
    return weights
