"""Reading files of weights: tensors and the configuration stored beside them, never an object that could run code."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mvit_video.models.weights.unpickle import ARRAYS, RefusedPickleError, all_tensors, unpickle

# Where training codes keep the weights: PySlowFast and mvit; MMAction2, Lightning; timm, MAE, detectron2, this project.
_CONTAINERS = ("model_state", "state_dict", "model")
# How torch names an object that weights_only=True does not load.
_REFUSED_OBJECT = re.compile(r"(?:GLOBAL|class) ([\w.]+)")
# A zip archive, or the magic number of torch's older format.
_TORCH_MAGIC = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, is damaged, or is not what was asked for."""


@dataclass(frozen=True, kw_only=True)
class StoredConfig:
    """The configuration in a file of weights, as text.

    Attributes:
        kind: who wrote it; "pyslowfast" also for facebookresearch/mvit.
        text: YAML.
    """

    kind: Literal["pyslowfast", "mvit_video"]
    text: str


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """What a file of weights holds.

    Attributes:
        tensors: by name, on the CPU, without the prefixes of DDP and torch.compile; names are not converted otherwise.
        config: the configuration stored beside them, if any.
    """

    tensors: dict[str, Tensor]
    config: StoredConfig | None


def read_weights_file(path: Path, *, use_ema: bool = True) -> WeightsFile:
    """Read a file of weights.

    Takes a checkpoint of this project, a bare state dict (.pt, .pth), {"model_state": ...} (PySlowFast .pyth),
    {"state_dict": ...} (MMAction2), {"model": ...} (timm), a plain pickle of arrays or tensors (detectron2 .pkl) and
    .safetensors.

    Args:
        path: the file.
        use_ema: prefer the averaged weights if the file has them.

    Raises:
        CheckpointError: if the file is missing, truncated, none of these, or holds objects besides tensors.
    """
    check_is_file(path)
    if path.suffix == ".safetensors":
        return WeightsFile(tensors=_clean(_load_safetensors(path), path), config=None)
    content = load_plain(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}: expected a state dict or a checkpoint with one"
        )
    held = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), content)
    weights = all_tensors(held)
    if weights is None:
        raise CheckpointError(
            f"{path} holds no weights that are known here (top-level keys: {_listed(content)}): "
            f"expected names with tensors, bare or under one of {', '.join(_CONTAINERS)}"
        )
    tensors = _clean(weights, path)
    averaged = content.get("ema") if use_ema and "format" in content else None
    if isinstance(averaged, Mapping):
        # An average may hold the parameters alone; AveragedModel adds a counter.
        known = _clean(all_tensors(averaged) or {}, path)
        tensors |= {name: value for name, value in known.items() if name in tensors}
    return WeightsFile(tensors=tensors, config=_stored_config(content))


def clean_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without "_orig_mod." (torch.compile, anywhere) and a leading "module." (DataParallel, DDP).

    Raises:
        ValueError: two names become one.
    """
    cleaned: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        short = name.replace("_orig_mod.", "")
        while short.startswith("module."):
            short = short.removeprefix("module.")
        if short in cleaned:
            raise ValueError(f"two tensors are called {short!r}, with and without a wrapper's prefix; remove one")
        cleaned[short] = tensor
    return cleaned


def load_plain(path: Path) -> object:
    """The content of a PyTorch file or a plain pickle, on the CPU: containers, numbers, text, tensors and arrays.

    Raises:
        CheckpointError: if it is truncated, is neither, or holds objects besides tensors.
    """
    try:
        with open(path, "rb") as file:
            is_torch = file.read(16).startswith(_TORCH_MAGIC)
            file.seek(0)
            if path.suffix in (".pkl", ".pickle") and not is_torch:
                return unpickle(file)
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in ARRAYS.items()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a damaged byte leads it to; nothing is swallowed here
        refused = _refused(error)
        if refused:
            raise CheckpointError(
                f"{path} holds Python objects besides tensors ({refused}), which are not loaded because they could "
                "run code: write its state dict alone to a file with torch.save(model.state_dict(), ...)"
            ) from error
        # An UnpicklingError's own text is advice to load without weights_only, which would be wrong here.
        known = isinstance(error, OSError | RuntimeError) and str(error).strip()
        reason = str(error).strip().splitlines()[0] if known else type(error).__name__
        raise CheckpointError(f"{path} is truncated or no PyTorch file ({reason}): fetch or write it again") from error


def check_is_file(path: Path) -> None:
    """Raise CheckpointError where there is no file."""
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a folder: name a file in it, for example best.pt")
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{path} needs the safetensors package: pip install safetensors") from error
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no complete safetensors file ({error}): fetch it again") from error
    return tensors


def _refused(error: Exception) -> str | None:
    """The object for whose sake a file was refused, if that is what happened."""
    if isinstance(error, RefusedPickleError):
        return error.name
    found = _REFUSED_OBJECT.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    return found[1] if found else None


def _clean(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    try:
        return clean_names(weights)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _stored_config(content: Mapping[str, object]) -> StoredConfig | None:
    written, trained = content.get("cfg"), content.get("config")
    if isinstance(written, str) and "model_state" in content:
        return StoredConfig(kind="pyslowfast", text=written)
    if isinstance(trained, str) and "model" in content:
        return StoredConfig(kind="mvit_video", text=trained)
    return None


def _listed(content: Mapping[str, object]) -> str:
    keys = [str(key) for key in content]
    return ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "") if keys else "none"
