"""Whether the functions with a backward pass of their own are needed at all."""

import torch
from torch import Tensor


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for the gradient of some of these tensors.

    If not, the plain operations are called: an autograd.Function runs Python where nothing else does, which
    `torch.jit.trace` can neither record nor save. While tracing it is False, too: plain operations have a gradient.
    """
    if not torch.is_grad_enabled() or torch.jit.is_tracing():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)
