"""The state in a checkpoint: what it must hold, so that a run goes on from it.

The state in a checkpoint is a dict of tensors, numbers, strings, lists and dicts:

    format     1
    step       optimizer steps done
    epoch      the same in epochs
    model      state dict
    optimizer  state dict
    ema        state dict of the averaged model (that of torch's AveragedModel, or of the model inside it), or None
    config     the resolved configuration as YAML text
    metrics    name -> number, the latest
    adapters   of LoRA, and the weights below them, which `model` holds merged; None for a model without (also
               ema_adapters)
    ...        whatever else the trainer needs to go on
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mvit_video.distributed.sharding import Layout, TensorPath, divided_like
from mvit_video.models.weights.files import CheckpointError

FORMAT = 1
# Types torch.load(weights_only=True) accepts. Exact types: a NumPy float64 is a float, but needs NumPy's unpickler.
_PLAIN_TYPES = frozenset({bool, int, float, str, type(None)})
# What a run needs to go on. The trainer may add to it.
_REQUIRED = frozenset({"step", "epoch", "model", "optimizer", "ema", "config", "metrics"})


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


def divided(value: Any, path: TensorPath, layout: Layout) -> Any:
    """The tensors of a state, each divided as the layout says."""
    if isinstance(value, dict):
        return {key: divided(item, (*path, key), layout) for key, item in value.items()}
    like = layout(path, value.shape) if isinstance(value, torch.Tensor) else None
    return value if like is None else divided_like(value, like)
