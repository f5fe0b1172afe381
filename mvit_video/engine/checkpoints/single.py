"""A checkpoint in one file, written by one process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvit_video.engine.checkpoints.files import (
    link_beside,
    manifest_of,
    next_sequence,
    not_written,
    prune,
    publish,
    remove_after_failure,
    remove_leftovers,
    temporary,
    write_torch,
)
from mvit_video.engine.checkpoints.state import FORMAT, check_state, checked_state
from mvit_video.models.weights.files import load_plain


def save_checkpoint(
    folder: Path, state: Mapping[str, Any], *, step: int, keep_last: int = 3, best: bool = False
) -> Path:
    """Write `state` as the newest checkpoint of `folder` and remove the oldest beyond `keep_last`.

    Args:
        folder: made if it does not exist.
        state: see state.py; its step must be `step`, its format is set here.
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
        remove_after_failure(folder)
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


def read_file(path: Path) -> dict[str, Any]:
    """The state in a file, whole and on the CPU. It is not verified here.

    Raises:
        CheckpointError: if it is damaged, or no training checkpoint of this version.
    """
    return checked_state(load_plain(path), path)
