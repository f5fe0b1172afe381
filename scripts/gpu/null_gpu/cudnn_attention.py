"""Attention by cuDNN on the null GPU: PyTorch chooses it as on a card, and its operators give tensors of its shapes.

The choice decides which graph a compiler sees, so what is compiled ahead serves a card only if it is the same here.
Processes that want it are started with NULL_GPU_CUDNN_ATTENTION=1 in their environment and call `install`.
"""

import functools
import os
import warnings
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from gpu.null_gpu import present
from gpu.null_gpu.builder import CUDNN_ATTENTION

_OPERATORS = ("_scaled_dot_product_cudnn_attention", "_scaled_dot_product_cudnn_attention_backward")
_INSTALLED: list[torch.library.Library] = []


def install() -> bool:
    """Put operators that compute nothing in the place of cuDNN's, on the null GPU and if the environment asks for it.

    Returns:
        Whether they are there.
    """
    if not os.environ.get(CUDNN_ATTENTION) or not present():
        return False
    if not _INSTALLED:
        library = torch.library.Library("aten", "IMPL")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Warning only once for all operators")  # that is the purpose
            for name in _OPERATORS:
                operator = getattr(torch.ops.aten, name).default
                library.impl(name, functools.partial(_shaped, operator), "CUDA", allow_override=True)
        _INSTALLED.append(library)
    return True


def _shaped(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """What an operator gives, with no values: its shapes come from PyTorch's form of it for tensors without any."""
    args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    return tree_map_only(torch.Tensor, _on_the_card, operator(*args, **kwargs))


def _on_the_card(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cuda")
