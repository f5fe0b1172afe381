"""Batch norm of the heads of a cascade, whose batch is the boxes of all processes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Total = Callable[[Tensor], Tensor]
"""A differentiable sum of a tensor over all processes."""


class BoxBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d of box features (N, C, h, w), where a process may have no box at all.

    On one process it is nn.BatchNorm2d. With :func:`synchronise`, statistics are those of the boxes of all processes,
    each box counting the same, in float32, and the running variance comes from the biased estimate, as in detectron2
    (layers/batch_norm.py, NaiveSyncBatchNorm with stats_mode "N"); nn.SyncBatchNorm takes CUDA tensors alone.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.total: Total | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape and dtype."""
        if self.training and self.total is not None:
            return self._synchronised(x, self.total)
        if self.training and not x.shape[0]:
            return x * self.weight.to(x.dtype).view(-1, 1, 1) + self.bias.to(x.dtype).view(-1, 1, 1)
        return super().forward(x)

    def _synchronised(self, x: Tensor, total: Total) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count, channels = x.shape[0], x.shape[1]
        if count:
            sums = [wide.mean((0, 2, 3)), wide.square().mean((0, 2, 3)), wide.new_ones(1)]
            vector = torch.cat(sums) * count
        else:  # zeros that depend on x, so that the sum of the backward pass runs in every process
            vector = wide.new_zeros(2 * channels + 1) + wide.sum()
        vector = total(vector)
        boxes = vector[-1].detach()
        mean, squares = (vector[:-1] / boxes.clamp(min=1)).split(channels)
        variance = squares - mean * mean
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            step = boxes.clamp(max=1) * self.momentum  # without any box nothing is learnt
            self.running_mean += (step * (mean - self.running_mean)).to(self.running_mean.dtype)
            self.running_var += (step * (variance - self.running_var)).to(self.running_var.dtype)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (wide * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).to(x.dtype)


def synchronise(model: nn.Module, total: Total | None) -> int:
    """Let every BoxBatchNorm of a model use the boxes of all processes; None: those of its own process.

    Args:
        total: sums a tensor over the processes, differentiably.

    Returns:
        The number of norms.
    """
    norms = [module for module in model.modules() if isinstance(module, BoxBatchNorm)]
    for norm in norms:
        norm.total = total
    return len(norms)
