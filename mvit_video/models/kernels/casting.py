"""Weights in the dtype of the matrix products, a block at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mvit_video.models.kernels.gradient import runs_now, wants_gradient
from mvit_video.models.kernels.recompute import LinearWeights


def _cast(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    cast = [
        torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
        for tensor, dtype in zip(tensors, dtypes)
    ]
    torch._foreach_copy_(cast, list(tensors))
    return cast


class CastTogether(torch.autograd.Function):
    """Tensors in another dtype, and their gradients back, each by one kernel for all of them."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors in a dtype, each of its own shape."""
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        ctx.set_materialize_grads(False)
        return tuple(_cast(tensors, [dtype] * len(tensors)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients in the dtypes that the tensors had; None for what nothing has read."""
        given = [(number, grad) for number, grad in enumerate(grads) if grad is not None]
        cast = _cast([grad for _, grad in given], [ctx.dtypes[number] for number, _ in given])
        found: list[Tensor | None] = [None] * len(grads)
        for (number, _), grad in zip(given, cast):
            found[number] = grad
        return None, *found


def cast_together(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Tensors of one device in a dtype, differentiable; one that needs no gradient gets none."""
    wanted = [number for number, tensor in enumerate(tensors) if wants_gradient(tensor)]
    rest = [number for number in range(len(tensors)) if number not in wanted]
    cast = list(tensors)
    if wanted:
        for number, tensor in zip(wanted, CastTogether.apply(dtype, *(tensors[number] for number in wanted))):
            cast[number] = tensor
    if rest:
        with torch.no_grad():
            for number, tensor in zip(rest, _cast([tensors[number] for number in rest], [dtype] * len(rest))):
                cast[number] = tensor
    return cast


def cast_layers(layers: Sequence[nn.Linear | None], dtype: torch.dtype) -> list[nn.Linear | LinearWeights | None]:
    """Linear layers as what they compute with in a dtype, where it pays to cast all of them at once: else unchanged.

    On a GPU a cast of its own for each weight of a model, and for each of their gradients, are several hundred kernels
    of a few microseconds; for the weights of a block it is one or two. A compiler casts them as it likes.
    """
    if torch.compiler.is_compiling():
        return list(layers)
    weights = [p for layer in layers if layer is not None for p in (layer.weight, layer.bias) if p is not None]
    here = [weight.device.type == "cuda" and weight.dtype != dtype for weight in weights]
    if not here or not all(here) or not runs_now(*weights):
        return list(layers)
    cast = iter(cast_together(weights, dtype))
    return [
        None if layer is None else LinearWeights(next(cast), None if layer.bias is None else next(cast))
        for layer in layers
    ]
