"""Gradients averaged over the ranks at once, after a backward pass.

DistributedDataParallel sends gradients in buckets while the backward pass goes on, and starts a kernel for each
parameter to put it into its bucket. A backward pass that is replayed from a CUDA graph gives all gradients at its end:
nothing is left to go on beside, and those kernels would be nearly all that the host starts in a step.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mvit_video.distributed.process_group import World, take_weights_from_main

ALIGNED = 32
"""Elements at whose multiples gradients begin, so that kernels may read four at once."""


class AveragedAtOnce(nn.Module):
    """A model whose backward pass ends with the gradients' mean over the ranks in `.grad`.

    The gradients lie side by side in one memory then, which is summed in one message. Weights and buffers are those of
    rank 0 from the beginning on. Accumulated gradients are kept there, too: a pass in `no_sync` sends nothing, and the
    next one outside of it sends the sum.

    Args:
        model: takes one tensor and gives one; on the world's device, its trained parameters in float32.
        world: of at least two ranks. Every rank must build this, and run the same passes.

    Raises:
        ValueError: for trained parameters of another type.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        super().__init__()
        self.model = model
        self.world = world
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        others = {parameter.dtype for parameter in self._trained} - {torch.float32}
        if others:
            raise ValueError(f"gradients are averaged in float32, and parameters are {min(map(str, others))}")
        sizes = [-(-parameter.numel() // ALIGNED) * ALIGNED for parameter in self._trained]
        self._sent = torch.zeros(sum(sizes), device=world.device)
        # Laid out as their parameters, so that autograd adds to them in place and optimizers run through both alike.
        self._gradients = [
            torch.as_strided(place, parameter.shape, parameter.stride(), place.storage_offset())
            for parameter, place in zip(self._trained, self._sent.split(sizes), strict=True)
        ]
        self._sends = True
        take_weights_from_main(model, world)

    def forward(self, x: Tensor) -> Tensor:
        """What the model gives."""
        self._take_over()  # before a pass that would keep them in memory of its own
        output: Tensor = self.model(x)
        if self._sends and output.requires_grad:
            output.register_hook(self._when_backward_begins)
        return output

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes of what is computed in the block keep their gradients on their rank."""
        self._sends = False
        try:
            yield
        finally:
            self._sends = True

    def _when_backward_begins(self, _: Tensor) -> None:
        # Called back when the backward pass is over, on the stream that it was called on.
        torch.autograd.Variable._execution_engine.queue_callback(self._average)

    @torch.no_grad()
    def _average(self) -> None:
        self._take_over()
        for parameter, gradient in zip(self._trained, self._gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient.zero_()
        self._sent.mul_(1 / self.world.size)
        dist.all_reduce(self._sent)

    @torch.no_grad()
    def _take_over(self) -> None:
        """Move gradients that lie elsewhere to where they are sent from."""
        places = zip(self._trained, self._gradients, strict=True)
        found = [(part, own, part.grad) for part, own in places if part.grad is not None and part.grad is not own]
        if not found:
            return
        torch._foreach_copy_([own for _, own, _ in found], [grad for _, _, grad in found])
        for parameter, own, _ in found:
            parameter.grad = own
