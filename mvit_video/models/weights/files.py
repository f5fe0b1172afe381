"""Reading files of weights: tensors and the configuration stored beside them, never an object that could run code."""

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mvit_video.models.weights.unpickle import (
    ARRAYS,
    RefusedPickleError,
    Unread,
    all_tensors,
    read_torch_file,
    unpickle,
)

# Where training codes keep the weights: PySlowFast and mvit; MMAction2, Lightning; timm, MAE, detectron2, this project;
# PyTorch's tutorials; DeepSpeed.
_PLAIN = ("model_state", "state_dict", "model", "model_state_dict", "module")
# Averaged weights beside them: timm; MAE-style scripts and torchvision; others, and MMEngine.
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict")
# MMEngine exchanges the two when it saves: "state_dict" holds the averaged weights, this the plain ones and a counter,
# which tells it from programs that mean what the name says.
_EXCHANGED, _EXCHANGED_COUNTER = "ema_state_dict", "steps"
# What torch's and MMEngine's averaged models count in a tensor.
_COUNTERS = ("n_averaged", "steps")
# What wraps a model under these names: DataParallel and DDP; Lightning and training classes; classifiers of a backbone;
# transformers' models of timm.
_WRAPPERS = ("module.", "model.", "net.", "backbone.", "timm_model.")
# How torch names an object that weights_only=True does not load.
_REFUSED_OBJECT = re.compile(r"(?:GLOBAL|class) ([\w.]+)")
# A zip archive, or the magic number of torch's older format.
_TORCH_MAGIC = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")


# Exported graphs, see exporting/.
_PROGRAMS = (".onnx", ".pt2")


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
        averaged: whether the tensors are averaged over the steps of the training.
        notes: what a reader should know: which of two sets of weights this is, and what was left unread.
        training: of a checkpoint of this project, the step, the class names and the record of the run; of weights that
            were converted from one, the first two.
    """

    tensors: dict[str, Tensor]
    config: StoredConfig | None = None
    averaged: bool = False
    notes: list[str] = field(default_factory=list)
    training: dict[str, object] = field(default_factory=dict)


def read_weights_file(path: Path, *, use_ema: bool = True) -> WeightsFile:
    """Read a file of weights.

    Takes a checkpoint of this project, a bare state dict (.pt, .pth), one under "model_state" (PySlowFast .pyth),
    "state_dict" (MMAction2, Lightning), "model" (timm, MAE), "model_state_dict" (PyTorch's tutorials), "module"
    (DeepSpeed), "state_dict_ema", "model_ema" or "ema_state_dict", a plain pickle of arrays or tensors (detectron2
    .pkl) and .safetensors. Other objects in a file, such as its options, are left unread.

    Args:
        path: the file.
        use_ema: take the averaged weights if the file has both.

    Raises:
        CheckpointError: if the file is missing, truncated, none of these, or names a function that runs code.
    """
    check_is_file(path)
    if path.suffix in _PROGRAMS:
        raise CheckpointError(
            f"{path} is an exported program, whose weights are in its graph: predict and evaluate run it as it is; "
            "elsewhere take the checkpoint or the .safetensors file of the model"
        )
    unread: set[str] = set()
    if path.suffix == ".safetensors":
        content: object = _load_safetensors(path)
    else:
        content, unread = _load_content(path)
    if isinstance(content, Unread):
        raise CheckpointError(_refusal(path, content.pickled_as))
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}: expected a state dict or a checkpoint with one"
        )
    module = next((content[key] for key in (*_PLAIN, *_AVERAGED) if isinstance(content.get(key), Unread)), None)
    try:
        file = weights_in(content, use_ema=use_ema)
    except ValueError as error:
        raise CheckpointError(
            _refusal(path, module.pickled_as) if module is not None else f"{path}: {error}"
        ) from error
    if unread:
        file.notes.append(f"left unread: {', '.join(sorted(unread))}")
    return file


def weights_in(content: Mapping[str, object], *, use_ema: bool = True) -> WeightsFile:
    """The weights in a state dict, or in a dictionary that holds one or two of them beside other things.

    Args:
        content: as a file of :func:`read_weights_file` holds it.
        use_ema: take the averaged weights if there are both.

    Raises:
        ValueError: there are none, or two tensors have one name.
    """
    plain, averaged = _keys_of_weights(content)
    if plain is None and averaged is None:
        return WeightsFile(tensors=_tensors_under(content, None), config=_stored_config(content))
    config = _stored_config(content)
    tensors = {key: _tensors_under(content, key) for key in (plain, averaged) if key is not None}
    ours = "format" in content or (config is not None and config.kind == "mvit_video")
    training = {key: content[key] for key in ("step", "class_names", "run") if ours and content.get(key)}
    chosen, notes = tensors[plain if plain is not None else averaged], []  # type: ignore[index]
    if plain is None:
        notes.append(f"averaged weights ({averaged}), there are no others")
    elif averaged is not None and use_ema:
        notes.append(f"averaged weights ({averaged}), not the plain ones ({plain}) beside them")
        # An average may hold the parameters alone.
        known = {name: value for name, value in tensors[averaged].items() if name in chosen}
        if not known:
            raise ValueError(
                f"none of the averaged weights ({averaged}) has the name of a plain one ({plain}): use_ema=False takes "
                "the plain ones"
            )
        if len(known) < len(chosen):
            notes.append(f"{len(chosen) - len(known)} tensors that have no average are the plain ones")
        chosen = chosen | known
    elif averaged is not None:
        notes.append(f"plain weights ({plain}), not the averaged ones ({averaged}) beside them")
    # Adapters lie in files of this project beside weights that hold them already.
    others = [] if ours else _other_weights(content, known=tensors)
    if others:
        notes.append(f"not taken: the weights beside them ({', '.join(others)})")
    return WeightsFile(
        tensors=chosen,
        config=config,
        averaged=averaged is not None and (use_ema or plain is None),
        notes=notes,
        training=training,
    )


def _keys_of_weights(content: Mapping[str, object]) -> tuple[str | None, str | None]:
    """Under which keys the plain and the averaged weights are; None twice for a bare state dict."""

    def first(keys: tuple[str, ...]) -> str | None:
        return next((key for key in keys if isinstance(content.get(key), Mapping)), None)

    plain = first(_PLAIN)
    exchanged = content.get(_EXCHANGED)
    if plain == "state_dict" and isinstance(exchanged, Mapping) and _EXCHANGED_COUNTER in exchanged:
        return _EXCHANGED, plain
    return plain, first((*_AVERAGED, *(("ema",) if "format" in content else ())))


def _other_weights(content: Mapping[str, object], *, known: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """Keys of further state dicts of the same names, of a teacher or of an average under a name that is not known."""
    names = {name for tensors in known.values() for name in tensors}
    found = []
    for key, held in content.items():
        if key in known or not isinstance(held, Mapping) or all_tensors(held) is None:
            continue
        if names & {str(name).replace("_orig_mod.", "").removeprefix("module.") for name in held}:
            found.append(key)
    return found


def _tensors_under(content: Mapping[str, object], key: str | None) -> dict[str, Tensor]:
    """The state dict under a key, or that is the whole content, with clean names.

    Raises:
        ValueError: it is none.
    """
    held = content if key is None else content[key]
    assert isinstance(held, Mapping)
    weights = all_tensors(held)
    if weights is None:
        raise ValueError(
            f"no weights that are known here (top-level keys: {_listed(content)}): expected names with tensors, bare "
            f"or under one of {', '.join((*_PLAIN, *_AVERAGED))}"
        )
    counted = any(name.startswith("module.") for name in weights)
    return clean_names({name: value for name, value in weights.items() if not (counted and name in _COUNTERS)})


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


def without_wrapper(
    weights: Mapping[str, Tensor], fits: Callable[[Mapping[str, Tensor]], bool]
) -> tuple[dict[str, Tensor], list[str]]:
    """Names without the attributes that a model was wrapped in ("model.", "backbone."), if only so they fit.

    Args:
        weights: by clean names.
        fits: whether the names are those that are looked for.

    Returns:
        The weights, and the prefixes that were taken off, outermost first; as they were if nothing makes them fit.

    Raises:
        ValueError: two names become one.
    """
    current, removed = dict(weights), []
    while not fits(current):
        counts = {prefix: sum(name.startswith(prefix) for name in current) for prefix in _WRAPPERS}
        prefix = max(counts, key=lambda prefix: counts[prefix])
        if not counts[prefix]:
            return dict(weights), []
        shorter: dict[str, Tensor] = {}
        for name, tensor in current.items():
            short = name.removeprefix(prefix)
            if short in shorter:
                raise ValueError(f"two tensors are called {short!r}, with and without {prefix!r}; remove one")
            shorter[short] = tensor
        current = shorter
        removed.append(prefix)
    return current, removed


def check_plain(weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError for weights that are no plain arrays: sparse, or quantised with scales of their own."""
    found = [name for name, tensor in weights.items() if tensor.layout != torch.strided or tensor.is_quantized]
    if found:
        first = weights[found[0]]
        raise ValueError(
            f"{len(found)} of {len(weights)} tensors are sparse or quantised ({found[0]}: {first.dtype}, "
            f"{first.layout}): write them as plain numbers, with .to_dense() or .dequantize()"
        )


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError for weights that hold NaN or infinity; the message names the tensors and counts."""
    found = {}
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.is_meta:
            wide = tensor if tensor.element_size() > 1 else tensor.float()
            count = tensor.numel() - int(torch.isfinite(wide).sum())
            if count:
                found[name] = f"{name} ({count:,} of {tensor.numel():,})"
    if found:
        shown = ", ".join([*found.values()][:4]) + (", ..." if len(found) > 4 else "")
        raise ValueError(
            f"{len(found)} of {len(weights)} tensors hold NaN or infinity: {shown}. The training that wrote them "
            "diverged, or the file is damaged: take an earlier checkpoint, or allow them with allow_nonfinite=True "
            "(--allow-nonfinite in convert)"
        )


def load_plain(path: Path) -> object:
    """The content of a PyTorch file, on the CPU: containers, numbers, text, tensors and arrays.

    Raises:
        CheckpointError: if it is truncated, none, or holds any other object.
    """
    try:
        return _load_weights_only(path)
    except Exception as error:  # the unpickler raises whatever a damaged byte leads it to; nothing is swallowed here
        raise _unreadable(path, error) from error


def _load_content(path: Path) -> tuple[object, set[str]]:
    """The content of a PyTorch file or a plain pickle, on the CPU, and the names of objects that were left unread.

    Raises:
        CheckpointError: if it is truncated, neither, or names a function that runs code.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(16)
            is_torch = start.startswith(_TORCH_MAGIC)
            file.seek(0)
            if path.suffix in (".pkl", ".pickle") and not is_torch:
                return unpickle(file)
        if is_torch:
            _check_sums(path)
        try:
            return _load_weights_only(path), set()
        except pickle.UnpicklingError:
            if not is_torch and not start.startswith(b"\x80"):  # neither an archive nor a pickle
                raise
            return read_torch_file(path)
    except Exception as error:  # as in load_plain
        raise _unreadable(path, error) from error


def _check_sums(path: Path) -> None:
    """Raise zipfile.BadZipFile where a record of an archive is not what its checksum says: PyTorch does not look.

    Records without one (`torch.serialization.set_crc32_options(False)`) and files of the older format are not checked.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.CRC == 0:
                continue
            try:
                with archive.open(record) as content:
                    while content.read(2**22):
                        pass
            except zipfile.BadZipFile as error:
                if str(error).startswith("Bad CRC-32"):  # of all else, PyTorch is to judge
                    raise


def _load_weights_only(path: Path) -> object:
    with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in ARRAYS.items()]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    refused = _refused(error)
    if refused:
        return CheckpointError(_refusal(path, refused))
    # An UnpicklingError's own text is advice to load without weights_only, which would be wrong here.
    known = isinstance(error, OSError | RuntimeError | zipfile.BadZipFile) and str(error).strip()
    reason = str(error).strip().splitlines()[0] if known else type(error).__name__
    if isinstance(error, zipfile.BadZipFile):
        return CheckpointError(f"{path} is damaged ({reason}): fetch or write it again")
    return CheckpointError(f"{path} is truncated or no PyTorch file ({reason}): fetch or write it again")


def _refusal(path: Path, name: str) -> str:
    return (
        f"{path} holds Python objects besides tensors ({name}), which are not loaded because they could run code: "
        "write its state dict alone to a file with torch.save(model.state_dict(), ...)"
    )


def check_is_file(path: Path) -> None:
    """Raise CheckpointError where there is no file."""
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a folder: name a file in it, for example best.pt")
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")


def _load_safetensors(path: Path) -> dict[str, object]:
    """The tensors, and of a file that convert or export wrote the configuration, the step, the classes and the run."""
    try:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{path} needs the safetensors package: pip install safetensors") from error
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no complete safetensors file ({error}): fetch it again") from error
    if "config" not in about:
        return dict(tensors)
    training = {key: json.loads(about[key]) for key in ("step", "class_names", "run") if key in about}
    return {"model": tensors, "config": about["config"], **training}


def _refused(error: Exception) -> str | None:
    """The object for whose sake a file was refused, if that is what happened."""
    if isinstance(error, RefusedPickleError):
        return error.name
    found = _REFUSED_OBJECT.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    return found[1] if found else None


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
