"""Parameter groups, optimizers and the learning rate schedule."""

from mvit_video.optim.param_groups import build_optimizer, parameter_groups
from mvit_video.optim.schedule import WarmupCosine, scale_lr
from mvit_video.optim.trainable import count_parameters, freeze_backbone, frozen_to_eval

__all__ = [
    "WarmupCosine",
    "build_optimizer",
    "count_parameters",
    "freeze_backbone",
    "frozen_to_eval",
    "parameter_groups",
    "scale_lr",
]
