"""Parameter groups, optimizers and the learning rate schedule."""

from mvit_video.optim.param_groups import build_optimizer, parameter_groups
from mvit_video.optim.schedule import WarmupCosine, scale_lr

__all__ = ["WarmupCosine", "build_optimizer", "parameter_groups", "scale_lr"]
