"""Which parameters are trained, and what frozen parts do in training."""

import pytest
import torch
from torch import nn

from mvit_video.models import create_model
from mvit_video.optim import count_parameters, freeze_backbone, frozen_to_eval, parameter_groups


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_linear_probe_trains_the_head_and_the_norm_before_it() -> None:
    model = create_model("mvitv2_motion", num_classes=3)
    freeze_backbone(model)
    assert trained(model) == {"norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"}
    few, total = count_parameters(model)
    assert few == 2 * 192 + 3 * 192 + 3
    assert total == sum(parameter.numel() for parameter in model.parameters())


def test_the_last_blocks_are_trained_too() -> None:
    model = create_model("mvitv2_motion", num_classes=3)
    freeze_backbone(model, last_blocks=2)
    depth = len(model.blocks)
    assert {name.split(".")[1] for name in trained(model) if name.startswith("blocks.")} == {
        str(depth - 2),
        str(depth - 1),
    }
    with pytest.raises(ValueError, match=rf"last_blocks={depth + 1}: MViT has {depth} blocks"):
        freeze_backbone(model, last_blocks=depth + 1)
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5, layer_ids=model.layer_ids())
    assert {name for group in groups for name in group["param_names"]} == trained(model)


def test_frozen_parts_have_no_dropout_and_keep_their_statistics() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
            self.top = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))

        def layer_ids(self) -> dict[str, int]:
            return {name: int(name.startswith("top")) for name, _ in self.named_parameters()}

    net = Net()
    freeze_backbone(net)
    net.train()
    frozen_to_eval(net)
    assert net.training and net.top[0].training
    assert not any(module.training for module in net.body.modules())
    before = net.body[1].running_mean.clone()
    net.top(net.body(torch.randn(8, 4))).sum().backward()
    assert torch.equal(net.body[1].running_mean, before)
    whole = Net().train()
    frozen_to_eval(whole)
    assert all(module.training for module in whole.modules())


def test_a_model_without_numbered_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a model that numbers its layers, and Linear does not: give it.*"):
        freeze_backbone(nn.Linear(2, 2))
