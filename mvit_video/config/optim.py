"""Options of the group `optim`."""

from dataclasses import dataclass

from omegaconf import MISSING

from mvit_video.config.rules import option


@dataclass
class Optim:
    """Optimizer. `lr` holds for `reference_batch` videos a step and scales with the real global batch."""

    name: str = option("adamw", choices=("adamw", "sgd"), help="the optimizer")
    lr: float = option(MISSING, above=0, help="peak learning rate, for reference_batch videos a step")
    reference_batch: int = option(MISSING, at_least=1, help="videos a step that lr was chosen for")
    betas: list[float] = option(
        [0.9, 0.999],
        length=2,
        at_least=0,
        below=1,
        entries="the averages of the gradient and of its square,",
        help="decay rates of AdamW's averages",
    )
    eps: float = option(1e-8, above=0, help="added to AdamW's denominator")
    momentum: float = option(0.9, at_least=0, below=1, help="SGD's momentum")
    nesterov: bool = option(True, help="Nesterov's momentum for SGD")
    weight_decay: float = option(0.05, at_least=0, help="decay of the weights")
    decay_1d: bool = option(False, help="decay one-dimensional parameters and biases, too")
    no_decay: list[str] = option([], help="names of further parameters that are not decayed, such as rel_pos_h")
    layer_decay: float = option(
        1.0, above=0, at_most=1, help="factor on the learning rate from each layer to the one below it; 1: none"
    )
    clip_grad_norm: float | None = option(None, above=0, help="largest norm of all gradients; null: any")
