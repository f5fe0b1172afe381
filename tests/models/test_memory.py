"""What autograd keeps, and what is not computed at all."""

import pytest
import torch
from torch import nn

from mvit_video.models import MViT
from tests.models.helpers import randomised, small_config
from tests.models.test_torchvision import torchvision_model


def kept_bytes(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes of the distinct storages saved for the backward pass, without parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return sum(kept.values())


@pytest.mark.parametrize(("form", "share"), [("flash", 0.7), ("auto", 0.75)])
def test_keeps_less_than_torchvision(form, share):
    config = small_config(embed_dim=32, attention_form=form)
    x = torch.randn(2, 3, 4, 32, 32)
    ours, theirs = MViT(config).train(), torchvision_model(config).train()
    assert kept_bytes(ours, x) < share * kept_bytes(theirs, x)


def test_the_last_block_computes_the_class_token_alone():
    model = randomised(small_config())
    shapes: list[torch.Size] = []
    model.blocks[-1].register_forward_hook(lambda _m, _i, out: shapes.append(out[0].shape))
    x = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    model(x)
    assert shapes == [(2, 1, 32)]
    pooled = randomised(small_config(head_pooling="norm_mean"))
    pooled.blocks[-1].register_forward_hook(lambda _m, _i, out: shapes.append(out[0].shape))
    pooled(x)
    assert shapes[1:] == [(2, 9, 32)]


@pytest.mark.parametrize("changes", [{}, {"depth": 2, "stage_starts": (1,)}, {"expand_in": "mlp"}, {"rel_pos": "none"}])
def test_the_class_token_alone_equals_the_whole(changes):
    """Also where the last block is the first of a stage, and strides and widens."""
    model = randomised(small_config(**changes))
    block, geometry = model.blocks[-1], model.blocks[-1].geometry
    t, h, w = geometry.grid_in
    x = torch.randn(2, 1 + t * h * w, geometry.dim_in, dtype=torch.float64, requires_grad=True)
    whole, grid = block(x, geometry.grid_in)
    alone, same_grid = block(x, geometry.grid_in, cls_only=True)
    assert grid == same_grid
    torch.testing.assert_close(alone, whole[:, :1])
    direction = torch.randn_like(alone)
    parameters = list(block.parameters())
    wanted = torch.autograd.grad(whole[:, :1], [x, *parameters], direction, allow_unused=True)
    got = torch.autograd.grad(alone, [x, *parameters], direction)
    for mine, other in zip(got, wanted):
        torch.testing.assert_close(mine, other if other is not None else torch.zeros_like(mine))


def test_layers_put_in_place_of_ours_are_called():
    """An adapter around a linear layer must not be bypassed by the functions that read its weights."""

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = randomised(small_config())
    x = torch.randn(1, 3, 4, 32, 32, dtype=torch.float64)
    for index, path in [
        (0, "attn.qkv"),
        (0, "attn.proj"),
        (1, "mlp.fc1"),
        (1, "mlp.fc2"),
        (3, "attn.qkv"),
        (3, "proj"),
    ]:
        parent, _, name = f"blocks.{index}.{path}".rpartition(".")
        owner = model.get_submodule(parent)
        plain = getattr(owner, name)
        adapter = Doubled(plain.in_features, plain.out_features).double()
        adapter.load_state_dict(plain.state_dict())
        setattr(owner, name, adapter)
        adapted = model(x)
        setattr(owner, name, plain)
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter.mul_(2)
        torch.testing.assert_close(adapted, model(x))
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter.div_(2)
