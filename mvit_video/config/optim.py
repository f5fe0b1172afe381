"""Options of the group `optim`."""

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import MISSING

from mvit_video.config.rules import option


@dataclass
class Optim:
    """Optimizer. `lr` holds for `reference_batch` videos or images a step and scales with the real global batch."""

    name: str = option("adamw", choices=("adamw", "sgd"), help="the optimizer")
    lr: float = option(MISSING, above=0, help="peak learning rate, for reference_batch videos or images a step")
    reference_batch: int = option(MISSING, at_least=1, help="videos or images a step that lr was chosen for")
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
    frozen: str = option(
        "none",
        choices=("none", "backbone"),
        help="backbone: only the head and the norm before it are trained (a linear probe), and what last_blocks and "
        "lora_rank add; the rest is in evaluation mode",
    )
    last_blocks: int = option(0, at_least=0, help="last blocks that are trained, too, below a frozen backbone's head")
    lora_rank: int | None = option(
        None,
        at_least=1,
        help="train adapters of this rank on qkv and proj of a frozen backbone's attention; merged in every checkpoint",
    )
    lora_alpha: float = option(16.0, above=0, help="adapters are multiplied by lora_alpha / lora_rank")

    def problems(self) -> Iterator[str]:
        """Rules between two values."""
        if self.frozen == "none" and self.last_blocks:
            yield f"optim.last_blocks={self.last_blocks}: all blocks are trained already; add optim.frozen=backbone"
        if self.frozen == "none" and self.lora_rank is not None:
            yield f"optim.lora_rank={self.lora_rank}: adapters are for a frozen backbone; add optim.frozen=backbone"
        if self.last_blocks and self.lora_rank is not None:
            yield (
                f"optim.last_blocks={self.last_blocks} with optim.lora_rank={self.lora_rank}: adapters are for blocks "
                "that are frozen; give one of the two"
            )
