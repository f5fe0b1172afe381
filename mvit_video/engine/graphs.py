"""Forward and backward pass of a model as CUDA graphs: two launches instead of a thousand kernels started from Python.

`torch.cuda.make_graphed_callables` does the same and is not used: it keeps its gradients to itself, so that nobody can
see whether `.grad` lies in them; it keeps the autograd graph of the capture, whose AccumulateGrad nodes then run every
step on the stream of the capture; and it copies an input of another shape into its own by broadcasting (torch 2.11 and
2.15, torch/cuda/graphs.py).
"""

import functools
import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

logger = logging.getLogger(__name__)

WARM_UP = 3
"""Passes before the capture: they compile, choose algorithms and allocate what must not be allocated within it."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class CaptureError(RuntimeError):
    """The passes of a model cannot be captured as CUDA graphs."""


class GraphedModel(nn.Module):
    """A model whose training passes replay CUDA graphs, once :meth:`capture` was called.

    Every other pass is the model's own: in evaluation, without gradients, for another input than the captured one, in
    other modes or another autocast, with hooks, or after parameters have moved. Of those that train, the first is
    warned of.

    The kernels are those of the model's own pass, and dropout and drop path draw the same numbers: a replay reads seed
    and offset of the default generator when it starts and moves the offset on by what the captured kernels drew
    (ATen/cuda/CUDAGeneratorImpl.h). A seed set before the pass, as the trainer does, therefore decides it. Recomputed
    blocks draw what they drew in the forward pass.

    The model itself stays as it is: names in its state dict, deep copies and other users see no graph. Its parameters
    may change in place (optimizer, `load_state_dict`) but not their place in memory. Its modules must not be exchanged.

    The logits lie in memory that the next pass overwrites: the loss must be done with them by then. So do gradients,
    which a following pass therefore copies to memory of their own where `.grad` still holds them (accumulation). The
    backward pass of any but the latest forward pass is refused.

    Args:
        model: takes one tensor and gives one; in training mode, on a GPU. Wrap in `AveragedAtOnce`
            (distributed/gradients.py) or DistributedDataParallel afterwards.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._captured: _Captured | None = None
        self._warned = False

    def capture(self, shape: Sequence[int], *, bf16: bool) -> None:
        """Capture both passes for float32 inputs of a shape. Weights, gradients, buffers and random state stay.

        Args:
            shape: of the input.
            bf16: under bf16 autocast.

        Raises:
            CaptureError: something in the model cannot be captured; torch.OutOfMemoryError: it does not fit.
        """
        self._captured = None
        _refuse(self.model)
        gc.collect()  # a graph that is freed during a capture would end it
        device = next(self.model.parameters()).device
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            with torch.random.fork_rng(devices=[device]), torch.enable_grad(), _autocast(bf16):
                self._captured = _Captured(self.model, torch.zeros(tuple(shape), device=device))
        except RuntimeError as error:
            cause = _first_of(error)
            try:
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause
                first = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
                raise CaptureError(
                    f"forward and backward pass cannot be captured as CUDA graphs: {first}: trainer.cuda_graphs=false "
                    "trains without them"
                ) from error
            finally:
                del cause  # its traceback holds this frame, and that what was on its way
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)

    def release(self) -> None:
        """Free the graphs and their memory; every pass is the model's own from here on."""
        self._captured = None
        gc.collect()

    def forward(self, x: Tensor) -> Tensor:
        """What the model gives, (B, classes)."""
        captured = self._captured
        if captured is None or not (self.model.training and torch.is_grad_enabled()):
            return self.model(x)
        difference = captured.difference(x)
        if difference is None:
            return captured(x)
        if not self._warned:
            logger.warning("a pass that trains runs without the CUDA graphs: %s", difference)
            self._warned = True
        return self.model(x)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has other parameters than those of the graphs: it begins without."""
        return {**self.__dict__, "_captured": None}


def _refuse(model: nn.Module) -> None:
    """Raise CaptureError for what a replay would leave out."""
    if not all(parameter.is_cuda for parameter in model.parameters()):
        raise CaptureError("the model is not on a GPU, and only GPUs have CUDA graphs: trainer.cuda_graphs=false")
    if not model.training or not any(parameter.requires_grad for parameter in model.parameters()):
        raise CaptureError("the model is in evaluation mode or trains nothing: there is no training pass to capture")
    hooked = [name or "the model" for name, module in model.named_modules() if _has_hooks(module)]
    hooked += [name for name, parameter in model.named_parameters() if parameter._backward_hooks]
    if hooked:
        raise CaptureError(
            f"hooks run from Python, which a CUDA graph does not: remove those of {', '.join(hooked[:3])}, or train "
            "with trainer.cuda_graphs=false"
        )


def _first_of(error: BaseException) -> BaseException:
    """What went wrong first: the end of a capture fails, too, and hides it."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _has_hooks(module: nn.Module) -> bool:
    return any(getattr(module, name) for name in _HOOKS)


def _autocast(bf16: bool) -> torch.autocast:
    """Without its cache: weights that were cast in another pass would not be cast in the graph."""
    return torch.autocast("cuda", torch.bfloat16, enabled=bf16, cache_enabled=False)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: cuBLAS keeps a workspace of tens of megabytes for every stream that it was called on."""
    return torch.cuda.Stream(device)


@contextmanager
def _capturing(graph: torch.cuda.CUDAGraph, pool: Any, stream: torch.cuda.Stream) -> Iterator[None]:
    """torch.cuda.graph; a capture that fails is undone.

    PyTorch leaves then the stream of the capture behind, a generator that refuses to draw, and an allocator that keeps
    the memory of the capture and postpones what other streams free to its end (torch 2.11, `CUDAGraph::capture_end`).
    """
    before = torch.cuda.current_stream(stream.device)
    try:
        # Other threads may allocate page-locked memory meanwhile, hence "thread_local".
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            yield
    except BaseException:
        torch.cuda.set_stream(before)
        device = before.device.index
        generator = torch.cuda.default_generators[device]
        generator.graphsafe_set_state(generator.clone_state())
        try:
            torch._C._cuda_endAllocateToPool(device, pool)
        except RuntimeError:
            pass  # the capture itself was ended, as after an error of Python's alone
        else:
            torch._C._cuda_releasePool(device, pool)
        raise


class _Captured:
    """The graphs of a model's passes, and the memory they read and write."""

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        self.inputs = inputs
        self.modules = list(model.modules())
        self.parameters = list(model.parameters())
        self.trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        self.generator = torch.cuda.default_generators[inputs.device.index]
        stream = _stream(inputs.device)
        stream.wait_stream(torch.cuda.current_stream(inputs.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._gradients(output := model(inputs), torch.zeros_like(output))
                del output
        pool = torch.cuda.graph_pool_handle()
        self.forward_pass, self.backward_pass = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with _capturing(self.forward_pass, pool, stream):
            output = model(inputs)
        self.grad_output = torch.zeros_like(output)
        with _capturing(self.backward_pass, pool, stream):
            self.gradients = _apart(self._gradients(output, self.grad_output), self.trained)
        torch.cuda.current_stream(inputs.device).wait_stream(stream)
        self.output = output.detach()  # and the autograd graph of the capture is gone
        self.places = {gradient.data_ptr() for gradient in self.gradients if gradient is not None}
        self.state = self._state()
        self.passes = 0
        self.open_pass: int | None = None
        self._try()

    def _try(self) -> None:
        """Replay both passes once. Numbers that the backward pass draws for itself would be other ones: refused."""
        self.forward_pass.replay()
        before = self.generator.get_offset()
        self.backward_pass.replay()
        if self.generator.get_offset() != before:
            raise RuntimeError("the backward pass draws random numbers that are not those of the forward pass")

    def _gradients(self, output: Tensor, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        found: tuple[Tensor | None, ...] = torch.autograd.grad(output, self.trained, grad_output, allow_unused=True)
        return found

    def _state(self) -> tuple[Any, ...]:
        """All but the input that a pass depends on without being told."""
        return (
            torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
            [module.training for module in self.modules],
            [_has_hooks(module) for module in self.modules],
            [(parameter.requires_grad, parameter.data_ptr()) for parameter in self.parameters],
        )

    def difference(self, x: Tensor) -> str | None:
        """What is otherwise than it was captured, in words; None where nothing is."""
        mine = self.inputs
        if (x.shape, x.dtype, x.device, x.requires_grad) != (mine.shape, mine.dtype, mine.device, False):
            return f"its input is {tuple(x.shape)} {x.dtype} on {x.device}, not {tuple(mine.shape)} {mine.dtype}"
        parts = ("the autocast is", "modes of modules are", "hooks are", "parameters are, or are trained,")
        for words, then, now in zip(parts, self.state, self._state(), strict=True):
            if then != now:
                return f"{words} not as they were captured"
        return None

    def __call__(self, x: Tensor) -> Tensor:
        output: Tensor = _Replay.apply(self, x, *self.trained)
        return output

    def replay_forward(self, x: Tensor) -> int:
        """The number of the pass whose output now lies in `output`."""
        self._free_gradients()
        self.random_state = self.generator.get_state()
        self.inputs.copy_(x)
        self.forward_pass.replay()
        self.passes += 1
        self.open_pass = self.passes
        return self.passes

    def replay_backward(self, grad_output: Tensor, number: int) -> None:
        """The gradients of a forward pass, into `gradients`.

        Blocks that are recomputed go back to the random state that they had saved. In a capture that is the distance
        from the state in which the graph starts (CUDAGeneratorImpl), which must hence be that of the forward pass.
        """
        if number != self.open_pass:
            raise RuntimeError(
                "a backward pass after another forward or backward pass: CUDA graphs keep the activations of the "
                "latest forward pass, for one backward pass; trainer.cuda_graphs=false keeps all"
            )
        self.open_pass = None
        self.grad_output.copy_(grad_output)
        after = self.generator.get_state()
        self.generator.set_state(self.random_state)
        self.backward_pass.replay()
        self.generator.set_state(after)

    def _free_gradients(self) -> None:
        """Copy gradients that `.grad` took over to memory of their own; both passes write into the graphs' memory."""
        gradients = [(parameter, parameter.grad) for parameter in self.trained if parameter.grad is not None]
        held = [(parameter, gradient) for parameter, gradient in gradients if gradient.data_ptr() in self.places]
        if held:
            own = [torch.empty_like(gradient) for _, gradient in held]
            torch._foreach_copy_(own, [gradient for _, gradient in held])
            for (parameter, _), gradient in zip(held, own):
                parameter.grad = gradient


def _apart(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients that can be taken over as `.grad`: each in a memory of its own, laid out as its parameter.

    One tensor may be the gradient of two parameters, which are added; clipping would then scale it twice. Autograd
    copies another layout, gradient by gradient, outside of the graph.
    """
    seen: set[int] = set()
    found: list[Tensor | None] = []
    for gradient, parameter in zip(gradients, parameters, strict=True):
        if gradient is not None:
            memory = gradient.untyped_storage().data_ptr()
            if memory in seen or gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            seen.add(memory)
        found.append(gradient)
    return tuple(found)


class _Replay(torch.autograd.Function):
    """The model as one operation."""

    @staticmethod
    def forward(ctx: Any, captured: _Captured, x: Tensor, *_: nn.Parameter) -> Tensor:
        ctx.captured, ctx.number = captured, captured.replay_forward(x)
        return captured.output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        captured = ctx.captured
        captured.replay_backward(grad_output, ctx.number)
        # New tensors on the same memory, which autograd takes over as `.grad` without a copy.
        return None, None, *(None if gradient is None else gradient.detach() for gradient in captured.gradients)
