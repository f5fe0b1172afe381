"""Imports all that a training imports on its way, for processes that are forked off one that has done so.

No thread may be left running, and no device be used: neither survives a fork.
"""

import matplotlib.pyplot
import torch.distributed.checkpoint
import torch.distributed.fsdp
import torch.distributed.tensor
import torch.utils.tensorboard
import torchvision  # noqa: F401

import tests.conftest  # noqa: F401 - which leaves the curves undrawn
from mvit_video.distributed.sharding import clip_grad_norm
from mvit_video.models import create_model
from mvit_video.models.mvit.activation_checkpointing import measure_blocks
from tests.composing import compose


def _lazy_imports() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    clip_grad_norm([parameter], 1.0)
    torch.optim.AdamW([parameter], fused=True).step()  # torch's compiler
    model = create_model("mvitv2_motion", depth=1, stage_starts=(), num_frames=2, crop_size=16)
    measure_blocks(model.train(), (1, 3, 2, 16, 16))  # what torch needs for tensors without values
    for config_name in ("config", "evaluate"):
        compose(config_name, ["+experiment=motion_mvitv2"])  # which most ranks of tests do
    figure = matplotlib.pyplot.figure()  # the list of fonts
    figure.add_subplot().set_title("text")
    figure.canvas.draw()
    matplotlib.pyplot.close(figure)


torch.set_num_threads(1)
_lazy_imports()
