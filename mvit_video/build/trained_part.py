"""From options to the part of a model that is trained."""

import logging

from torch import nn

from mvit_video.config import Train
from mvit_video.models.lora import add_lora
from mvit_video.optim import count_parameters, freeze_backbone

logger = logging.getLogger(__name__)


def choose_trained_part(config: Train, model: nn.Module) -> None:
    """Freeze what is not to be trained, add adapters, and say how much is trained.

    After the weights are loaded; before the model is averaged, divided or given to an optimizer.
    """
    optim = config.optim
    what = "all layers"
    if optim.frozen == "backbone":
        freeze_backbone(model, last_blocks=optim.last_blocks)
        what = "the head" + (f" and the last {optim.last_blocks} blocks" if optim.last_blocks else "")
        if optim.lora_rank is not None:
            layers = add_lora(model, rank=optim.lora_rank, alpha=optim.lora_alpha, seed=config.seed)
            what += f" and adapters of rank {optim.lora_rank} on {len(layers)} layers"
    trained, total = count_parameters(model)
    share = 100 * trained / total
    logger.info("%s of %s parameters are trained (%.2f %%): %s", f"{trained:,}", f"{total:,}", share, what)
