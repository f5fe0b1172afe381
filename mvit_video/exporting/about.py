"""What an exported file says of itself: the same keys in safetensors, torch.export and ONNX files, as text.

    format_version  1
    config          JSON: the options of the training (recipe, data, model, task), without where it ran
    preprocessing   JSON: what a clip or image must become, and what the outputs are; of a detector all of its fields;
                    see build/class_export.py and object_export.py
    class_names     JSON: names in the order of the outputs
    category_ids    JSON: of a detector, the number of each of them in COCO's files
    run             JSON: of a run, its splits with their fingerprints, its version and commit
    results         JSON: accuracies that were measured, and on what
    precision       "fp32", "bf16", "fp16" or "int8"
    parity          JSON: how far outputs are from the model's on clips that were tried, and the bound
    origin          JSON: the weights it was made of: file, sha256, step; of published ones source and licence
    mvit_video      version that wrote it
    format, names   "pt" and "mvit_video": what safetensors and `convert` say of tensors and their names
    step, averaged  of a checkpoint: its step, and whether the weights are averaged ones

Safetensors has them in its header, ONNX in metadata_props, torch.export in the extra file `mvit_video.json`.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from mvit_video.models.weights.files import CheckpointError, check_is_file

Kind = Literal["safetensors", "torch_export", "onnx"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]

KINDS: tuple[Kind, ...] = get_args(Kind)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SUFFIXES: Mapping[Kind, str] = {"safetensors": ".safetensors", "torch_export": ".pt2", "onnx": ".onnx"}
EXTRA_FILE = "mvit_video.json"  # in the archive of torch.export
FORMAT_VERSION = "1"
_JSON_KEYS = (
    "config",
    "preprocessing",
    "class_names",
    "category_ids",
    "run",
    "results",
    "parity",
    "origin",
    "step",
    "averaged",
)


def is_program(path: Path) -> bool:
    """Whether a file holds a graph that runs without this project's model: torch.export or ONNX, by its ending."""
    return path.suffix in (SUFFIXES["torch_export"], SUFFIXES["onnx"])


def as_text(about: Mapping[str, Any]) -> dict[str, str]:
    """The values as every container holds them: text as it is, everything else as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in about.items()
        if value is not None
    }


def read_about(path: Path) -> dict[str, Any]:
    """What an exported file says of itself, with JSON read.

    Raises:
        CheckpointError: there is no such file, it is damaged, or was not written by `export`.
    """
    check_is_file(path)
    readers = {".safetensors": _of_safetensors, ".pt2": _of_torch_export, ".onnx": _of_onnx}
    if path.suffix not in readers:
        raise CheckpointError(f"{path}: is no exported file; those end with {', '.join(readers)}")
    found = readers[path.suffix](path)
    version = found.get("format_version")
    if version != FORMAT_VERSION:
        known = f"its format_version is {version}, {FORMAT_VERSION} is known" if version else "it names no classes"
        raise CheckpointError(
            f"{path}: was not written by this version of `python -m mvit_video.export` ({known} and no preprocessing); "
            "export the model again"
        )
    return {key: json.loads(value) if key in _JSON_KEYS else value for key, value in found.items()}


def _of_safetensors(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no complete safetensors file ({error}): fetch or write it again") from error


def _of_torch_export(path: Path) -> dict[str, str]:
    """Out of the archive, without loading the program."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{EXTRA_FILE}")]
            content = archive.read(names[0]).decode("utf-8") if names else "{}"
    except (zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(f"{path} is no complete file of torch.export ({error}): write it again") from error
    found: dict[str, str] = json.loads(content)
    return found


def _of_onnx(path: Path) -> dict[str, str]:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{path} needs the onnx package: {NEEDS_EXTRA}") from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise CheckpointError(f"{path} is no complete ONNX file ({error}): write it again") from error
    return {entry.key: entry.value for entry in model.metadata_props}


NEEDS_EXTRA = "pip install 'mvit_video[export]'"
