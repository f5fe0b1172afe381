"""Writing a model as safetensors, torch.export or ONNX, with what it says of itself."""

import json
import logging
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvit_video.exporting.about import EXTRA_FILE, NEEDS_EXTRA, SUFFIXES, Kind, Precision, as_text
from mvit_video.models.weights.files import check_finite

DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ONNX_BYTES = 2**31 - 2**20  # a protobuf message has at most 2 GiB; some of it are the graph and its names
OPSET = 20
INPUT_NAMES = {"video": "clips", "image": "images"}
OUTPUT_NAME = "logits"
_NOISY = ("torch.onnx", "onnxscript", "onnx_ir")


class Lowered(nn.Module):
    """A model in another precision, which takes and gives float32.

    Args:
        model: is changed.
        dtype: of its weights and of what it computes with.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        """Logits float32 (B, classes) of inputs (B, ...)."""
        logits: Tensor = self.model(x.to(self.dtype))
        return logits.float()


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A path beside `target` with its ending; it becomes `target` at the end of the block, and vanishes after an error.

    What is written there gets the mode of every other new file, so that others may read it where umask lets them.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        with open(beside, "wb") as file:
            mode = os.fstat(file.fileno()).st_mode
        yield beside
        os.chmod(beside, mode)  # safetensors makes files that nobody else may read
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def write_safetensors(model: nn.Module, path: Path, *, about: Mapping[str, Any], precision: Precision) -> None:
    """The weights by name; those with fractions in the given precision.

    Raises:
        ValueError: a weight is too large for it.
    """
    from safetensors.torch import save_file

    dtype = DTYPES[precision]
    tensors = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    check_finite(tensors)
    save_file(tensors, path, metadata=as_text(about))


def trace(model: nn.Module, example: Tensor, *, precision: Precision) -> torch.export.ExportedProgram:
    """The graph of a model for any number of inputs of the example's size.

    Args:
        model: in eval mode, on the CPU; another precision than fp32 changes it.
        example: float32 (2, ...).
        precision: of the computation.

    Raises:
        ValueError: the model does something that has no graph.
    """
    module = model if precision in ("fp32", "int8") else Lowered(model, DTYPES[precision])
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(module, (example,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:  # the tracer's errors have no common class; nothing is swallowed here
        raise ValueError(
            f"{type(model).__name__} has no graph for inputs of {tuple(example.shape[1:])} ({_reason(error)}): "
            "--to safetensors writes its weights"
        ) from error


def write_torch_export(program: torch.export.ExportedProgram, path: Path) -> None:
    """The graph and the weights as torch.export saves them; `describe_torch_export` says what they are."""
    with _quiet():
        torch.export.save(program, path)


def describe_torch_export(path: Path, about: Mapping[str, Any]) -> None:
    """Add what a file says of itself as the extra file that torch.export.load(..., extra_files=...) reads."""
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/extra/{EXTRA_FILE}", json.dumps(as_text(about), ensure_ascii=False))


def check_fits_onnx(model: nn.Module, precision: Precision) -> None:
    """Refuse a model that is too large for one ONNX file, before minutes are spent on it, with a ValueError."""
    width = DTYPES["fp32" if precision == "int8" else precision].itemsize
    size = sum(value.numel() for value in model.state_dict().values()) * width
    if size > ONNX_BYTES:
        raise ValueError(
            f"the weights have {size / 2**30:.1f} GiB, and one ONNX file holds 2 GiB: give --dtype fp16, or --to "
            "torch_export or safetensors"
        )


def write_onnx(
    program: torch.export.ExportedProgram, example: Tensor, path: Path, *, input_name: str, precision: Precision
) -> None:
    """The graph and the weights as one ONNX file; `describe_onnx` says what it is.

    Args:
        program: of `trace`.
        example: as for `trace`.
        path: to write.
        input_name: of the input; the output is called "logits".
        precision: "int8" quantises the weights of matrix products, and what they are multiplied with while it runs.

    Raises:
        ValueError: an operation has no form in ONNX, or a package is missing or too old for this PyTorch.
    """
    try:
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ModuleNotFoundError as error:
        raise ValueError(f"--to onnx needs onnx, onnxscript and onnxruntime: {NEEDS_EXTRA}") from error
    try:
        with _quiet():
            made = torch.onnx.export(
                program, (example,), dynamo=True, input_names=[input_name], output_names=[OUTPUT_NAME],
                opset_version=OPSET, verbose=False,
            )  # fmt: skip
            assert made is not None
            made.save(str(path), external_data=False)
    except ImportError as error:  # each release of PyTorch asks for its own module of onnxscript
        raise ValueError(
            f"the onnxscript installed here does not go with PyTorch {torch.__version__} ({_reason(error)}): "
            "pip install --upgrade onnx onnxscript onnxruntime"
        ) from error
    except Exception as error:  # as in `trace`
        raise ValueError(f"the model has no form in ONNX ({_reason(error)}): --to torch_export has one") from error
    if precision == "int8":
        quantise(path)


def describe_onnx(path: Path, about: Mapping[str, Any]) -> None:
    """Set what a file says of itself, in place; the first axis of input and output is called "batch"."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if symbol and size.dim_param == symbol:
                size.dim_param = "batch"
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, as_text(about))
    onnx.save(model, path)


def quantise(path: Path) -> None:
    """Weights of linear layers as int8, each column with its own scale; what they multiply is quantised as it runs."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folded = path.with_name(f"{path.stem}.folded{path.suffix}")
    try:
        with _quiet():
            # The weights reach their products through slices and transpositions, which are folded first.
            quant_pre_process(path, folded, skip_symbolic_shape=True)
            model = onnx.load(folded)
            graph = model.graph
            # What transpositions were folded into keeps its old shape there; ONNX Runtime before 1.31 then refuses it.
            del graph.value_info[:]
            onnx.save(model, folded)
            # Products of two activations, and those with tables of positions, stay as they are.
            weights = {entry.name for entry in graph.initializer if len(entry.dims) == 2}
            layers = [n.name for n in graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in weights]
            quantize_dynamic(folded, path, nodes_to_quantize=layers, per_channel=True, weight_type=QuantType.QInt8)
    finally:
        folded.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of exporters on their own code, which say nothing of the model."""
    loggers = [logging.getLogger(name) for name in (*_NOISY, "root", "")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first line of an error, or of what caused it, that says something."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__


def file_and_kind(path: Path, asked: Kind | None, precision: Precision) -> tuple[Path, Kind]:
    """The file to write and its kind, from its ending, from what was asked, or from both.

    Raises:
        ValueError: neither tells the kind, they contradict each other, or the kind has no such precision.
    """
    by_ending = {suffix: kind for kind, suffix in SUFFIXES.items()}
    of_ending = by_ending.get(path.suffix)
    kind = of_ending or asked
    if kind is None:
        raise ValueError(
            f"{path}: its ending says no format; give --to {{{','.join(SUFFIXES)}}}, or one of the endings "
            f"{', '.join(by_ending)}"
        )
    if asked not in (None, kind):
        raise ValueError(f"{path}: the ending is that of {kind}, and --to is {asked}; give {SUFFIXES[asked]}")
    if precision == "int8" and kind != "onnx":
        raise ValueError(
            f"--dtype int8 with --to {kind}: weights of 8 bits are multiplied by ONNX Runtime; give --to onnx (for "
            "classifiers), or --dtype bf16 or fp16"
        )
    if precision == "bf16" and kind == "onnx":
        raise ValueError(
            "--dtype bf16 with --to onnx: ONNX Runtime has no convolutions in bf16 on the CPU, where the file is "
            "compared; give --dtype fp16, or --to torch_export or safetensors"
        )
    return (path if of_ending else path.with_name(path.name + SUFFIXES[kind])), kind
