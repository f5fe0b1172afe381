"""Parameter groups (weight-decay exclusions, layer-wise learning rates) and the optimizers built on them."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

logger = logging.getLogger(__name__)

# A group as torch.optim takes it; its values have no common type, hence the Any of torch's own annotation.
ParameterGroup = dict[str, Any]

_FUSED_DEVICES = frozenset({"cpu", "cuda"})
_FUSED_DTYPES = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16})


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    decay_1d: bool = False,
    no_decay: Sequence[str] = (),
    layer_decay: float = 1.0,
    layer_ids: Mapping[str, int] | None = None,
) -> list[ParameterGroup]:
    """Sort the trainable parameters of `model` into groups for torch.optim.

    The published MViTv2 rule (PySlowFast ZERO_WD_1D_PARAM on, ZERO_DECAY_POS_CLS off): whatever has one dimension or is
    a bias is not decayed; tables of relative positions, cls_token and pos_embed have more dimensions and are decayed.

    Args:
        model: frozen parameters (requires_grad False) are left out.
        lr: learning rate of the groups with scale 1.
        weight_decay: of the decayed groups.
        decay_1d: decay one-dimensional parameters and biases too.
        no_decay: names that are not decayed, matched on whole components of the dotted path: "rel_pos_h" matches
            "blocks.3.attn.rel_pos_h", "attn.norm_q" matches "blocks.3.attn.norm_q.weight", "rel_pos" matches neither.
        layer_decay: learning rate factor from one layer to the one below it, in (0, 1].
        layer_ids: layer number of every parameter, growing towards the head; needed when layer_decay is not 1.

    Returns:
        Non-empty groups, lower layers first, decayed before undecayed, with the keys of torch.optim ("params", "lr",
        "weight_decay") and "name", "param_names", "lr_scale" = layer_decay ** (max(layer_ids) - layer). The learning
        rate of a step is the schedule's value times "lr_scale"; "lr" starts as `lr` times it.

    Raises:
        ValueError: for an entry of `no_decay` that matches no parameter, a layer decay outside (0, 1] or without
            complete `layer_ids`, or a model without trainable parameters.
    """
    names = [name for name, _ in model.named_parameters()]
    _check_no_decay(no_decay, names)
    layers = _layers(names, layer_decay=layer_decay, layer_ids=layer_ids)
    top = max(layers.values(), default=0)

    members: dict[tuple[int, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        excluded = not decay_1d and (parameter.ndim <= 1 or name.endswith(".bias"))
        excluded = excluded or any(_names_part_of(entry, name) for entry in no_decay)
        members.setdefault((layers[name], excluded), []).append((name, parameter))
    if not members:
        raise ValueError(f"{type(model).__name__} has no trainable parameter: unfreeze some of it first")

    groups = []
    for (layer, excluded), parameters in sorted(members.items(), key=lambda item: item[0]):
        scale = layer_decay ** (top - layer)
        kind = "no_decay" if excluded else "decay"
        groups.append(
            {
                "name": kind if layer_decay == 1.0 else f"layer{layer:02d}.{kind}",
                "params": [parameter for _, parameter in parameters],
                "param_names": [name for name, _ in parameters],
                "lr": lr * scale,
                "lr_scale": scale,
                "weight_decay": 0.0 if excluded else weight_decay,
            }
        )
    return groups


def build_optimizer(
    groups: Sequence[ParameterGroup],
    *,
    name: Literal["adamw", "sgd"],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum: float = 0.9,
    nesterov: bool = True,
) -> Optimizer:
    """AdamW (the fused kernel where every parameter allows it) or SGD over the groups of `parameter_groups`.

    `betas` and `eps` are AdamW's, `momentum` and `nesterov` SGD's. The defaults are those of the published recipes.

    Raises:
        ValueError: for another name.
    """
    copies = [dict(group) for group in groups]  # torch.optim writes its defaults into the groups it is given
    if name == "sgd":
        return SGD(copies, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=0.0)
    if name != "adamw":
        raise ValueError(f"optimizer {name!r} is not known: choose 'adamw' or 'sgd'")
    first, second = betas  # a configuration file hands over a list
    fused = can_fuse(parameter for group in groups for parameter in group["params"])
    if not fused:
        logger.info("AdamW runs without its fused kernel: a parameter's device or dtype does not support it")
    return AdamW(copies, lr=lr, betas=(first, second), eps=eps, weight_decay=0.0, fused=fused)


def can_fuse(parameters: Iterable[torch.Tensor]) -> bool:
    """Whether torch's fused AdamW kernel covers all `parameters`: real floating point, on the CPU or a GPU."""
    return all(p.device.type in _FUSED_DEVICES and p.dtype in _FUSED_DTYPES for p in parameters)


def _names_part_of(entry: str, name: str) -> bool:
    """Whether `entry` is a run of whole components of the dotted `name`."""
    return f".{entry}." in f".{name}."


def _check_no_decay(no_decay: Sequence[str], names: Sequence[str]) -> None:
    if isinstance(no_decay, str):
        raise ValueError(f"no_decay is the single string {no_decay!r}: give a list of names, ['{no_decay}']")
    unmatched = [entry for entry in no_decay if not any(_names_part_of(entry, name) for name in names)]
    if unmatched:
        components = sorted({part for name in names for part in name.split(".") if not part.isdigit()})
        raise ValueError(
            f"no_decay names nothing in the model: {unmatched}; entries are components of parameter names, "
            f"here one of {components}"
        )


def _layers(names: Sequence[str], *, layer_decay: float, layer_ids: Mapping[str, int] | None) -> dict[str, int]:
    """Layer number of every name; all in layer 0 when there is no layer decay."""
    if layer_decay == 1.0:
        return dict.fromkeys(names, 0)
    if not 0.0 < layer_decay < 1.0:
        raise ValueError(f"layer_decay is {layer_decay}: it must lie in (0, 1]; 1 gives all layers the same rate")
    if layer_ids is None:
        raise ValueError(f"layer_decay is {layer_decay}, which needs layer_ids (a layer per parameter); or set it to 1")
    missing = [name for name in names if name not in layer_ids]
    if missing:
        raise ValueError(
            f"layer_ids covers {len(names) - len(missing)} of {len(names)} parameters; it must name all; "
            f"missing: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
        )
    return {name: layer_ids[name] for name in names}
