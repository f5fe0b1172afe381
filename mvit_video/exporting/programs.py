"""Exported programs as modules: what runs a model does not see that its weights are in a graph of another maker."""

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvit_video.exporting.about import NEEDS_EXTRA, SUFFIXES, read_about
from mvit_video.models.weights.files import CheckpointError

logger = logging.getLogger(__name__)


class Program(nn.Module, ABC):
    """A graph that takes inputs of one size, in any number, and computes in its own precision.

    Args:
        path: file it was read from.
        shape: of one input, such as (3, 16, 224, 224).
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.path, self.shape = path, shape

    def forward(self, x: Tensor) -> Tensor:
        """Logits float32 (B, classes) of inputs (B, *shape), on their device.

        Raises:
            ValueError: inputs of another size.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"{self.path}: was exported for inputs of {' x '.join(map(str, self.shape))} and is given "
                f"{' x '.join(map(str, x.shape[1:]))}; leave data.num_frames and data.crop_size as the file has them, "
                "or export the model with others"
            )
        with torch.autocast(x.device.type, enabled=False):
            return self.run(x.float()).float()

    @abstractmethod
    def run(self, x: Tensor) -> Tensor:
        """The outputs of inputs of the right size."""

    def train(self, mode: bool = True) -> "Program":
        """It was exported for evaluation and stays so.

        Raises:
            ValueError: it is to be trained.
        """
        if mode:
            raise ValueError(f"{self.path}: is an exported program, which cannot be trained; train from the weights")
        return self


class TorchProgram(Program):
    """A file of torch.export."""

    def __init__(self, path: Path, shape: tuple[int, ...], device: torch.device) -> None:
        super().__init__(path, shape)
        try:
            program = torch.export.load(path)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path} is no file of torch.export that this PyTorch ({torch.__version__}) reads ({error}): export "
                "the model again"
            ) from error
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        self.graph = program.module()

    def run(self, x: Tensor) -> Tensor:
        """See Program."""
        found: Tensor = self.graph(x)
        return found


class OnnxProgram(Program):
    """An ONNX file, run by ONNX Runtime: on the GPU where its CUDA build is installed, else on the CPU."""

    def __init__(self, path: Path, shape: tuple[int, ...], device: torch.device) -> None:
        super().__init__(path, shape)
        self.session = onnx_session(path, cuda=device.type == "cuda")
        self.name = self.session.get_inputs()[0].name

    def run(self, x: Tensor) -> Tensor:
        """See Program."""
        values = np.ascontiguousarray(x.detach().cpu().numpy())
        try:
            outputs = self.session.run(None, {self.name: values})
        except Exception as error:  # as in onnx_session
            raise CheckpointError(
                f"{self.path}: ONNX Runtime does not run it on {tuple(values.shape)}: {first_line(error)}"
            ) from error
        return torch.from_numpy(outputs[0]).to(x.device)


def onnx_session(path: Path, *, cuda: bool = False) -> Any:
    """A session of ONNX Runtime with as many threads as PyTorch has.

    Raises:
        CheckpointError: ONNX Runtime is not installed, or does not run the file.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{path} needs ONNX Runtime: {NEEDS_EXTRA}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised, too
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"] if cuda else ["CPUExecutionProvider"]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    if len(providers) < len(wanted):
        logger.warning("%s runs on the CPU: this ONNX Runtime has no CUDA (pip install onnxruntime-gpu)", path)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its errors have no common class; nothing is swallowed here
        raise CheckpointError(f"{path}: ONNX Runtime does not run it: {first_line(error)}") from error


def open_program(path: Path, *, shape: tuple[int, ...], device: torch.device) -> Program:
    """A torch.export or ONNX file as a module for inputs of a shape, such as (3, 16, 224, 224), on a device.

    Raises:
        CheckpointError: it is missing or damaged, or what runs it is not installed.
    """
    program = OnnxProgram if path.suffix == SUFFIXES["onnx"] else TorchProgram
    return program(path, shape, device).eval()


def load_program(path: Path, *, device: torch.device) -> Program:
    """As `open_program`, of a file that `export` wrote.

    Raises:
        CheckpointError: as there, or it was written by others.
    """
    shape = tuple(read_about(path)["preprocessing"]["input"]["shape"][1:])
    return open_program(path, shape=shape, device=device)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
