"""Low-rank adapters (LoRA, arXiv 2106.09685) on the attention's linear layers, and plain weights made of them.

A frozen weight W (out, in) is used as W + alpha / rank * B A with trained A (rank, in) and B (out, rank). A is drawn, B
is zero, so training begins with the model as it was loaded (section 4.1 of the paper).
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvit_video.models.mvit.attention import MultiscaleAttention

_LAYERS = ("qkv", "proj")


class LoRALinear(nn.Linear):
    """A linear layer whose weight and bias are frozen, with an adapter that is trained.

    The adapter is added to the weight before the product, in the weight's own precision, so that the layer computes
    what a plain one computes with the merged weight.

    Args:
        linear: the layer to take the place of; its parameters are used, not copied.
        rank: of the adapter.
        alpha: factor on the adapter, divided by the rank.
        generator: draws A; on the CPU.
    """

    def __init__(self, linear: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator | None = None) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.scale = alpha / rank
        drawn = torch.empty(rank, self.in_features)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        self.lora_a = nn.Parameter(drawn.to(self.weight))
        self.lora_b = nn.Parameter(self.weight.new_zeros(self.out_features, rank))

    def merged(self) -> Tensor:
        """The weight with the adapter, (out, in)."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return self.weight + self.scale * (self.lora_b @ self.lora_a)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x, self.merged(), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.lora_a.shape[0]}"


def add_lora(model: nn.Module, *, rank: int, alpha: float, seed: int) -> list[str]:
    """Put adapters on the layers `qkv` and `proj` of every attention of an MViT, in place.

    Args:
        model: on any device.
        rank: at least 1, and at most the smallest side of such a layer.
        alpha: see LoRALinear.
        seed: of the draws of A, in the order of the layers.

    Returns:
        Names of the layers.

    Raises:
        ValueError: the model has no such attention, or the rank is no rank of its weights.
    """
    attentions = [(name, module) for name, module in model.named_modules() if isinstance(module, MultiscaleAttention)]
    if not attentions:
        raise ValueError(
            f"{type(model).__name__} has no attention of MViT to put adapters on: leave out optim.lora_rank, or train "
            "some blocks with optim.last_blocks"
        )
    layers = [(name, attention, layer) for name, attention in attentions for layer in _LAYERS]
    largest = min(min(getattr(attention, layer).weight.shape) for _, attention, layer in layers)
    if not 1 <= rank <= largest:
        raise ValueError(f"optim.lora_rank={rank}: must be from 1 to {largest}, the smallest side of the weights")
    generator = torch.Generator().manual_seed(seed)
    for _, attention, layer in layers:
        linear = getattr(attention, layer)
        setattr(attention, layer, LoRALinear(linear, rank=rank, alpha=alpha, generator=generator))
    return [f"{name}.{layer}" for name, _, layer in layers]


def plain_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the same model without adapters: these are merged into the weights. Any tool loads it."""
    state: dict[str, Tensor] = model.state_dict()
    for name, module in _adapted(model):
        state[f"{name}.weight"] = module.merged().detach()
        del state[f"{name}.lora_a"], state[f"{name}.lora_b"]
    return state


def adapter_state(model: nn.Module) -> dict[str, Tensor] | None:
    """What `plain_state_dict` does not keep: adapters and the weights below them; None for a model without."""
    kept: dict[str, Tensor] = {}
    for name, module in _adapted(model):
        kept |= {f"{name}.{part}": getattr(module, part).detach() for part in ("weight", "lora_a", "lora_b")}
    return kept or None


def load_with_adapters(model: nn.Module, plain: Mapping[str, Tensor], adapters: Mapping[str, Tensor] | None) -> None:
    """Restore what `plain_state_dict` and `adapter_state` gave, to the bit."""
    model.load_state_dict({**plain, **(adapters or {})})


def _adapted(model: nn.Module) -> list[tuple[str, LoRALinear]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear)]
