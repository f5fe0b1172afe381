"""Adapters: they change nothing at first, learn, and are merged into plain weights that any tool loads."""

import copy

import pytest
import torch
from torch import nn

from mvit_video.models import create_model
from mvit_video.models.lora import LoRALinear, adapter_state, add_lora, load_with_adapters, plain_state_dict
from mvit_video.models.mvit.network import MViT


@pytest.fixture
def model() -> MViT:
    torch.manual_seed(0)
    made = create_model("mvitv2_motion", num_classes=3)
    return made.eval()


def clips(model: MViT) -> torch.Tensor:
    size = model.config.crop_size
    return torch.randn(2, 3, model.config.num_frames, size, size)


def with_adapters(model: MViT, *, trained: bool = True) -> MViT:
    adapted = copy.deepcopy(model)
    names = add_lora(adapted, rank=4, alpha=8.0, seed=3)
    assert names == [f"blocks.{i}.attn.{layer}" for i in range(len(model.blocks)) for layer in ("qkv", "proj")]
    if trained:
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if name.endswith("lora_b"):
                    parameter.normal_(std=0.05)
    return adapted


def test_a_new_adapter_changes_no_output(model: MViT) -> None:
    x = clips(model)
    torch.testing.assert_close(with_adapters(model, trained=False)(x), model(x), rtol=1e-4, atol=1e-5)


def test_merged_weights_are_those_of_a_plain_model_and_give_its_outputs(model: MViT) -> None:
    adapted = with_adapters(model)
    merged = plain_state_dict(adapted)
    assert list(merged) == list(model.state_dict())
    plain = create_model("mvitv2_motion", num_classes=3).eval()
    plain.load_state_dict(merged)
    x = clips(model)
    assert (adapted(x) - model(x)).abs().max() > 1e-2
    torch.testing.assert_close(plain(x), adapted(x), rtol=1e-4, atol=1e-5)


def test_a_merged_weight_is_w_plus_alpha_by_rank_times_b_a() -> None:
    layer = LoRALinear(nn.Linear(2, 3), rank=1, alpha=2.0)
    with torch.no_grad():
        layer.weight.zero_()
        layer.lora_a.copy_(torch.tensor([[1.0, 2.0]]))
        layer.lora_b.copy_(torch.tensor([[1.0], [0.0], [-1.0]]))
    assert layer.merged().tolist() == [[2.0, 4.0], [0.0, 0.0], [-2.0, -4.0]]
    assert "rank=1" in repr(layer)


def test_only_adapters_get_gradients_in_the_attention(model: MViT) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    adapted = with_adapters(model)
    adapted.train()(clips(model)).sum().backward()
    got = {name.rsplit(".", 1)[1] for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert got == {"lora_a", "lora_b"}


def test_state_comes_back_to_the_bit(model: MViT) -> None:
    adapted = with_adapters(model)
    again = with_adapters(model, trained=False)
    load_with_adapters(again, plain_state_dict(adapted), adapter_state(adapted))
    assert all(torch.equal(a, b) for a, b in zip(adapted.state_dict().values(), again.state_dict().values()))
    assert adapter_state(model) is None
    load_with_adapters(model, plain_state_dict(model), None)


def test_draws_depend_on_the_seed_alone(model: MViT) -> None:
    one, two = with_adapters(model, trained=False), with_adapters(model, trained=False)
    assert torch.equal(one.blocks[1].attn.qkv.lora_a, two.blocks[1].attn.qkv.lora_a)


def test_merging_is_in_float32_under_autocast() -> None:
    layer = LoRALinear(nn.Linear(64, 64), rank=8, alpha=8.0)
    with torch.no_grad():
        layer.lora_b.normal_()
    expected = layer.merged()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.merged(), expected)
        assert layer(torch.randn(2, 64)).dtype == torch.bfloat16


def test_what_cannot_have_adapters_is_refused(model: MViT) -> None:
    with pytest.raises(ValueError, match="Linear has no attention of MViT to put adapters on"):
        add_lora(nn.Linear(2, 2), rank=1, alpha=1.0, seed=0)
    with pytest.raises(ValueError, match=r"lora_rank=4096: must be from 1 to \d+"):
        add_lora(model, rank=4096, alpha=1.0, seed=0)
