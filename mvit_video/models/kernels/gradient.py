"""Which way the functions with a backward pass of their own are called."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

Function = TypeVar("Function", bound=Callable[..., Any])


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for the gradient of some of these tensors.

    If not, the plain operations are called: an autograd.Function runs Python where nothing else does, which
    `torch.jit.trace` can neither record nor save. While tracing it is False, too: plain operations have a gradient.
    So it is within the transforms of `torch.func`, which differentiate and batch plain operations alone.
    """
    if not torch.is_grad_enabled() or torch.jit.is_tracing() or is_transformed():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def is_transformed() -> bool:
    """Whether a transform of `torch.func` (grad, vmap, jvp, ...) or `torch.autograd.forward_ad` is at work.

    Compilers do without the question.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def differentiated_again() -> bool:
    """In a backward pass: whether its gradients will be differentiated (`create_graph=True`).

    Then they have to be made of the inputs, by differentiable operations: what the forward pass kept of its own
    results is a constant to autograd. Compilers refuse second derivatives themselves.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def runs_now(*tensors: Tensor) -> bool:
    """Whether operations on these tensors run when they are called, so that Triton kernels may be started as they are.

    If not, a compiler, tracer or exporter records them, something counts them, or the tensors hold no values: then the
    kernels have to be called as operators, which all of these know. An operator of Python costs the host some 0.1 ms
    more than a direct call, which counts where a step has a hundred of them.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack():
        return False
    if is_transformed():
        return False
    return all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)


def run(
    inputs: tuple[Any, ...], *, operator: Callable[..., Any], function: type[torch.autograd.Function],
    launch: Callable[..., Any],
) -> Any:  # fmt: skip
    """Kernels with a gradient on inputs, by the cheapest of three ways that give the same.

    Args:
        inputs: tensors and whatever else the kernels take.
        operator: where something records or counts operations.
        function: its gradient and itself, called directly.
        launch: itself alone, where no gradient is wanted.
    """
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    if not runs_now(*tensors):
        return operator(*inputs)
    return function.apply(*inputs) if wants_gradient(*tensors) else launch(*inputs)


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass by kernels, which refuses to be differentiated itself, rather than to be taken for a constant."""
    return once_differentiable(backward)


def constant_in_graphs(function: Function) -> Function:
    """A function whose results a compiler takes for constants, as torch.compiler.assume_constant_result makes it.

    That one imports the compiler, which takes as long as importing torch, in every process of every command.
    """
    vars(function)["_dynamo_marked_constant"] = True
    return function


def is_fake() -> bool:
    """Whether operations make fake tensors now; asked so, because importing their module takes a second."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
