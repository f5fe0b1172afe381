"""How far the outputs of an exported file may be from the model's, and how far they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mvit_video.exporting.about import Kind, Precision

BOUNDS: Mapping[Precision, float] = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.1, "int8": 0.5}
"""Largest difference of a logit, as a share of the model's largest absolute logit on the same inputs."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Outputs of a file and of the model on the same inputs.

    Attributes:
        inputs: how many were compared.
        clips: where they came from, in words.
        difference: largest absolute difference of a logit, as a share of the model's largest absolute logit.
        bound: what it may be.
        same_class: inputs for which both name the same class.
    """

    inputs: int
    clips: str
    difference: float
    bound: float
    same_class: int

    def text(self) -> str:
        """In words."""
        return (
            f"logits within {self.difference:.1e} of the largest ({self.bound:g} is the bound), the same class for "
            f"{self.same_class} of {self.inputs} ({self.clips})"
        )

    def plain(self) -> dict[str, Any]:
        """For the file's own record."""
        return {
            "inputs": self.inputs,
            "clips": self.clips,
            "largest_difference": float(f"{self.difference:.3g}"),
            "bound": self.bound,
            "same_class": self.same_class,
        }


def bound_of(kind: Kind, precision: Precision) -> float:
    """The bound of a file; weights that were only written and read again must give the same."""
    return 1e-5 if precision == "fp32" and kind != "onnx" else BOUNDS[precision]


def outputs_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits float32 (N, classes), on the CPU: the first input by itself, the others together."""
    with torch.inference_mode():
        parts = [model(part) for part in (inputs[:1], inputs[1:]) if len(part)]
    return torch.cat(parts).float().cpu()


def compare(expected: Tensor, found: Tensor, *, bound: float, clips: str) -> Parity:
    """The outputs of a file against the model's.

    Args:
        expected: logits (N, classes) of the model.
        found: of the file.
        bound: see Parity.
        clips: see Parity.

    Raises:
        ValueError: they are of another shape, not finite, or further away than the bound.
    """
    if expected.shape != found.shape:
        raise ValueError(f"the file gives outputs of {tuple(found.shape)}, and the model of {tuple(expected.shape)}")
    largest = float(expected.abs().max())
    difference = float((expected - found).abs().max()) / (largest or 1.0)
    same = int((expected.argmax(1) == found.argmax(1)).sum())
    result = Parity(inputs=len(expected), clips=clips, difference=difference, bound=bound, same_class=same)
    if not difference <= bound:  # also for NaN
        raise ValueError(
            f"the file does not compute what the model computes, and is not written: a logit differs by "
            f"{difference:.2g} of the largest ({largest:.3g}), and {bound:g} is the bound, on {clips}. A higher "
            "precision (--dtype) or another format (--to) may do"
        )
    return result
