"""The head of weights that a training starts from: its rows go to the classes of the same names, never by position."""

import copy
import logging
from collections.abc import Sequence

import torch
from torch import nn

from mvit_video.data.datasets.class_names import identity, listed, numbered_names
from mvit_video.models import MViT
from mvit_video.runtime.formatting import count_text

logger = logging.getLogger(__name__)


def untrained_head(model: nn.Module) -> nn.Linear | None:
    """A copy of the head's linear layer as it is now; None where the model has none of that form."""
    if not isinstance(model, MViT) or model.config.stage_norms or not isinstance(model.head.projection, nn.Linear):
        return None
    return copy.deepcopy(model.head.projection)


@torch.no_grad()
def rows_by_name(model: nn.Module, untrained: nn.Linear | None, *, old: object, new: Sequence[str]) -> None:
    """Bring the loaded rows of a head into the order of the training's classes; rows of other classes begin anew.

    Nothing is done where names are not known on both sides, or where the head is new as a whole: the file has none, or
    one of another number of classes.

    Args:
        model: with the weights loaded.
        untrained: its head before that, of :func:`untrained_head`.
        old: names of the classes of the weights.
        new: those of the training.
    """
    if untrained is None or not isinstance(model, MViT) or not isinstance(old, list | tuple) or len(old) != len(new):
        return
    names, wanted = [identity(str(name)) for name in old], [identity(name) for name in new]
    numbered = list(numbered_names(len(new)))
    head = model.head.projection
    if names == wanted or numbered in (names, wanted) or not isinstance(head, nn.Linear):
        return
    if torch.equal(head.weight, untrained.weight):
        return  # the file has no head
    place = {name: row for row, name in enumerate(names)}
    rows = torch.tensor([place.get(name, -1) for name in wanted], device=untrained.weight.device)
    for name, parameter in head.named_parameters():
        kept = (rows >= 0).view(-1, *[1] * (parameter.dim() - 1))
        parameter.copy_(torch.where(kept, parameter[rows], untrained.get_parameter(name)))
    anew = [name for name in new if identity(name) not in place]
    logger.info(
        "the head of the weights is of other classes, or of these in another order: rows go by name%s",
        f", and {count_text(len(anew), 'class')} of {len(new)} begin anew: {listed(anew)}" if anew else "",
    )
