"""Which parameters are trained: all, or the head and some of the layers below it."""

from collections.abc import Callable, Mapping

from torch import nn


def freeze_backbone(model: nn.Module, *, last_blocks: int = 0) -> None:
    """Freeze every parameter below the topmost layer (head and the norm before it) and `last_blocks` layers more.

    With `last_blocks=0` the model is a linear probe: what the norm learns is linear, like the head.

    Args:
        model: numbers its layers with `layer_ids()` (parameter name -> depth, growing towards the head).
        last_blocks: layers below the head that are trained, too.

    Raises:
        ValueError: the model does not number its layers, or has fewer.
    """
    layer_ids: Callable[[], Mapping[str, int]] | None = getattr(model, "layer_ids", None)
    if layer_ids is None:
        raise ValueError(
            f"optim.frozen=backbone needs a model that numbers its layers, and {type(model).__name__} does not: give "
            "it a method layer_ids() (parameter name -> depth), or set optim.frozen=none"
        )
    ids = layer_ids()
    depths = sorted(set(ids.values()))
    if last_blocks >= len(depths) - 1:
        raise ValueError(
            f"optim.last_blocks={last_blocks}: {type(model).__name__} has {len(depths) - 2} blocks between its first "
            "layer and its head; give at most these, or train all layers with optim.frozen=none"
        )
    lowest = depths[-1 - last_blocks]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(ids[name] >= lowest)


def frozen_to_eval(model: nn.Module) -> None:
    """Put every part without a trained parameter into evaluation mode, as is usual for a frozen backbone.

    It then has no dropout and no stochastic depth, and its batch norms use the statistics they have and do not change
    them. Parts of layers with adapters, such as stochastic depth, stay in training mode. To be called after `train()`.
    """
    parameters = list(model.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        model.eval()
        return
    for child in model.children():
        frozen_to_eval(child)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Numbers that are trained, and all numbers of the parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
