"""Parameter groups: the published exclusions, layer decay, and the optimizers built on them."""

import pytest
import torch
from torch import nn

from mvit_video.optim.param_groups import build_optimizer, can_fuse, parameter_groups


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.norm_q = nn.LayerNorm(4)
        self.rel_pos_h = nn.Parameter(torch.zeros(5, 4))
        self.scale_2d = nn.Module()
        self.scale_2d.bias = nn.Parameter(torch.zeros(2, 2))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.blocks = nn.ModuleList([Attention()])
        self.head = nn.Linear(4, 3)


LAYERS = {
    "cls_token": 0,
    "blocks.0.qkv.weight": 1,
    "blocks.0.qkv.bias": 1,
    "blocks.0.norm_q.weight": 1,
    "blocks.0.norm_q.bias": 1,
    "blocks.0.rel_pos_h": 1,
    "blocks.0.scale_2d.bias": 1,
    "head.weight": 2,
    "head.bias": 2,
}


def names(groups: list[dict]) -> dict[str, list[str]]:
    return {group["name"]: group["param_names"] for group in groups}


def test_one_dimensional_parameters_and_biases_are_not_decayed():
    groups = parameter_groups(Model(), lr=0.1, weight_decay=0.05)
    assert names(groups) == {
        "decay": ["cls_token", "blocks.0.rel_pos_h", "blocks.0.qkv.weight", "head.weight"],
        "no_decay": [
            "blocks.0.qkv.bias",
            "blocks.0.norm_q.weight",
            "blocks.0.norm_q.bias",
            "blocks.0.scale_2d.bias",  # has two dimensions, but is a bias
            "head.bias",
        ],
    }
    assert [(g["weight_decay"], g["lr"], g["lr_scale"]) for g in groups] == [(0.05, 0.1, 1.0), (0.0, 0.1, 1.0)]
    assert [len(g["params"]) for g in groups] == [4, 5]


def test_params_are_those_named():
    model = Model()
    by_name = dict(model.named_parameters())
    for group in parameter_groups(model, lr=0.1, weight_decay=0.05):
        assert all(by_name[name] is p for name, p in zip(group["param_names"], group["params"], strict=True))


def test_decay_1d_decays_everything():
    (group,) = parameter_groups(Model(), lr=0.1, weight_decay=0.05, decay_1d=True)
    assert group["name"] == "decay"
    assert len(group["params"]) == 9


def test_no_decay_matches_whole_components():
    groups = names(parameter_groups(Model(), lr=0.1, weight_decay=0.05, no_decay=["rel_pos_h", "cls_token"]))
    assert groups["decay"] == ["blocks.0.qkv.weight", "head.weight"]
    groups = names(parameter_groups(Model(), lr=0.1, weight_decay=0.05, no_decay=["blocks.0"]))
    assert groups["decay"] == ["cls_token", "head.weight"]


def test_no_decay_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"no_decay names nothing in the model: \['rel_pos', 'pos'\].*'rel_pos_h'"):
        parameter_groups(Model(), lr=0.1, weight_decay=0.05, no_decay=["rel_pos", "cls_token", "pos"])


def test_no_decay_as_a_string_is_refused():
    with pytest.raises(ValueError, match=r"single string 'cls_token': give a list"):
        parameter_groups(Model(), lr=0.1, weight_decay=0.05, no_decay="cls_token")


def test_layer_decay_scales_the_lower_layers_down():
    groups = parameter_groups(Model(), lr=0.8, weight_decay=0.05, layer_decay=0.5, layer_ids=LAYERS)
    assert [(g["name"], g["lr_scale"], g["lr"]) for g in groups] == [
        ("layer00.decay", 0.25, 0.2),
        ("layer01.decay", 0.5, 0.4),
        ("layer01.no_decay", 0.5, 0.4),
        ("layer02.decay", 1.0, 0.8),
        ("layer02.no_decay", 1.0, 0.8),
    ]
    assert groups[0]["param_names"] == ["cls_token"]


def test_layer_decay_needs_a_layer_for_every_parameter():
    with pytest.raises(ValueError, match=r"layer_decay is 0\.5, which needs layer_ids"):
        parameter_groups(Model(), lr=0.1, weight_decay=0.05, layer_decay=0.5)
    with pytest.raises(ValueError, match=r"covers 7 of 9 parameters.*missing: head\.weight, head\.bias$"):
        some = {name: layer for name, layer in LAYERS.items() if not name.startswith("head")}
        parameter_groups(Model(), lr=0.1, weight_decay=0.05, layer_decay=0.5, layer_ids=some)


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5])
def test_layer_decay_out_of_range(value):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        parameter_groups(Model(), lr=0.1, weight_decay=0.05, layer_decay=value, layer_ids=LAYERS)


def test_frozen_parameters_are_left_out():
    model = Model()
    model.blocks.requires_grad_(False)
    assert names(parameter_groups(model, lr=0.1, weight_decay=0.05)) == {
        "decay": ["cls_token", "head.weight"],
        "no_decay": ["head.bias"],
    }
    with pytest.raises(ValueError, match="Model has no trainable parameter"):
        parameter_groups(model.requires_grad_(False), lr=0.1, weight_decay=0.05)


def test_adamw_on_the_cpu_is_fused_and_keeps_its_groups():
    groups = parameter_groups(Model(), lr=0.8, weight_decay=0.05, layer_decay=0.5, layer_ids=LAYERS)
    optimizer = build_optimizer(groups, name="adamw", lr=0.8, betas=[0.9, 0.95], eps=1e-6)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(g["fused"] is True and g["betas"] == (0.9, 0.95) and g["eps"] == 1e-6 for g in optimizer.param_groups)
    assert [g["lr"] for g in optimizer.param_groups] == [0.2, 0.4, 0.4, 0.8, 0.8]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.05, 0.05, 0.0, 0.05, 0.0]
    assert "betas" not in groups[0]  # the caller's groups are as they were


def test_fused_adamw_steps_as_the_plain_one():
    torch.manual_seed(0)
    x = torch.randn(8, 4)
    weights = []
    for fused in (True, False):
        torch.manual_seed(1)
        head = nn.Linear(4, 3)
        optimizer = build_optimizer(parameter_groups(head, lr=0.1, weight_decay=0.5), name="adamw", lr=0.1)
        if not fused:
            optimizer = torch.optim.AdamW(parameter_groups(head, lr=0.1, weight_decay=0.5), lr=0.1, foreach=False)
        for _ in range(3):
            optimizer.zero_grad()
            head(x).square().sum().backward()
            optimizer.step()
        weights.append(head.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1])


def test_adamw_falls_back_where_the_fused_kernel_cannot_be_used(caplog):
    model = nn.Linear(2, 2, device="meta")
    with caplog.at_level("INFO"):
        optimizer = build_optimizer(parameter_groups(model, lr=0.1, weight_decay=0.0), name="adamw", lr=0.1)
    assert not any(group["fused"] for group in optimizer.param_groups)
    assert "without its fused kernel" in caplog.text
    assert not can_fuse([torch.zeros(2, dtype=torch.complex64)])
    assert can_fuse([torch.zeros(2, dtype=torch.bfloat16)])


def test_sgd_and_unknown_optimizer():
    groups = parameter_groups(Model(), lr=0.1, weight_decay=1e-4)
    optimizer = build_optimizer(groups, name="sgd", lr=0.1, momentum=0.9, nesterov=True)
    assert isinstance(optimizer, torch.optim.SGD)
    assert [(g["momentum"], g["nesterov"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (0.9, True, 1e-4),
        (0.9, True, 0.0),
    ]
    with pytest.raises(ValueError, match="optimizer 'adam' is not known: choose 'adamw' or 'sgd'"):
        build_optimizer(groups, name="adam", lr=0.1)


def test_optimizer_state_loads_with_weights_only(tmp_path):
    model = Model()
    groups = parameter_groups(model, lr=0.1, weight_decay=0.05)
    optimizer = build_optimizer(groups, name="adamw", lr=0.1)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    state = torch.load(tmp_path / "o.pt", weights_only=True)
    assert [g["name"] for g in state["param_groups"]] == ["decay", "no_decay"]
    assert state["param_groups"][0]["param_names"][0] == "cls_token"
