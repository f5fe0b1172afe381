"""The exponential moving average of a model's weights."""

import torch
from torch import nn

from mvit_video.distributed.sharding import local_part


class WeightAverage:
    """Weights averaged over the steps: the model's after the first update, then decay * old + (1 - decay) * new.

    Args:
        module: receives the average; a copy of the model, sharded in the same way if the model is.
        decay: in [0, 1).
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.updates = 0
        for parameter in module.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of `model` (same parameters) after a step; buffers of floating point are averaged too."""
        pairs = [
            (local_part(own), local_part(new)) for own, new in zip(_tensors(self.module), _tensors(model), strict=True)
        ]
        averaged = [pair for pair in pairs if self.updates > 0 and pair[0].is_floating_point()]
        for own, new in pairs:
            if self.updates == 0 or not own.is_floating_point():
                own.copy_(new)
        if averaged:
            torch._foreach_lerp_([own for own, _ in averaged], [new for _, new in averaged], 1 - self.decay)
        self.updates += 1


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
