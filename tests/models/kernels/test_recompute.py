"""The functions that keep less must give what the plain modules give, in values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mvit_video.models.kernels import recompute
from mvit_video.models.kernels.recompute import is_plain, merge_heads, norm_linears, norm_mlp, with_zero_gradients


def randomised(*modules: nn.Module) -> list[nn.Parameter]:
    torch.manual_seed(0)
    parameters = [parameter for module in modules for parameter in module.double().parameters()]
    for parameter in parameters:
        nn.init.normal_(parameter)
    return parameters


def assert_same(got: list[torch.Tensor], wanted: list[torch.Tensor], leaves: list[torch.Tensor]) -> None:
    """Equal outputs, equal gradients for a random direction, and equal gradients of these."""
    torch.testing.assert_close(got, wanted)
    directions = [torch.randn_like(output) for output in wanted]
    first, second = [], []
    for outputs in (got, wanted):
        first.append(torch.autograd.grad(outputs, leaves, directions, retain_graph=True))
        gradients = torch.autograd.grad(outputs, leaves, directions, create_graph=True)
        total = sum(gradient.pow(3).sum() for gradient in gradients)
        second.append(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(*first)
    torch.testing.assert_close(*second)


@pytest.mark.parametrize("picked", [None, [0, 2, 3], [4]])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_norm_linears(count, picked):
    norm, layers = nn.LayerNorm(6, eps=1e-6), [nn.Linear(6, 4 + i, bias=i != 1) for i in range(count)]
    parameters = randomised(norm, *layers)
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    index = None if picked is None else torch.tensor(picked)
    got = norm_linears(x, norm, [(layer.weight, layer.bias) for layer in layers], index)
    wanted = [layer(norm(x)) for layer in layers]
    if picked is not None:
        wanted[-1] = wanted[-1][:, picked]
    assert_same(list(got), wanted, [x, *parameters])


@pytest.mark.parametrize("chunk", [2**22, 48])
def test_norm_mlp_whole_and_in_chunks(chunk, monkeypatch):
    monkeypatch.setattr(recompute, "CHUNK_VALUES", chunk)
    norm, fc1, fc2 = nn.LayerNorm(3, eps=1e-6), nn.Linear(3, 12), nn.Linear(12, 3)
    parameters = randomised(norm, fc1, fc2)
    x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    assert len(recompute._chunks(x.flatten(0, 1), 12)) == (1 if chunk > 48 else 4)
    assert_same([norm_mlp(x, norm, fc1, fc2)], [fc2(F.gelu(fc1(norm(x))))], [x, *parameters])


def test_frozen_parameters_get_no_gradient():
    norm, fc1, fc2 = nn.LayerNorm(3), nn.Linear(3, 12), nn.Linear(12, 3)
    parameters = randomised(norm, fc1, fc2)
    for parameter in parameters[:4]:
        parameter.requires_grad_(False)
    norm_mlp(torch.randn(1, 4, 3, dtype=torch.float64), norm, fc1, fc2).sum().backward()
    assert [parameter.grad is None for parameter in parameters] == [True] * 4 + [False] * 2


def test_chunks_are_equal_and_cover_all_rows(monkeypatch):
    monkeypatch.setattr(recompute, "CHUNK_VALUES", 100)
    parts = recompute._chunks(torch.empty(41, 1), 10)
    assert [(part.start, part.stop) for part in parts] == [(0, 9), (9, 18), (18, 27), (27, 36), (36, 45)]
    assert recompute._chunks(torch.empty(10, 1), 10) == [slice(0, 10)]


@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("cls", [0, 1])
def test_merge_heads(cls, extra):
    proj = nn.Linear(8, 5)
    parameters = randomised(proj)
    padded = torch.randn(2, 2, 6, 4 + extra, dtype=torch.float64, requires_grad=True)
    q = torch.randn(2, 6, 2, 4, dtype=torch.float64, requires_grad=True)
    extended = F.pad(q.transpose(1, 2), (0, 3))
    spared = torch.cat([torch.zeros_like(q[:, :cls]), q[:, cls:]], dim=1)
    wanted = proj((padded[..., :4].transpose(1, 2) + spared).flatten(2))
    assert_same([merge_heads(padded, q, extended, proj, cls)], [wanted], [padded, q, *parameters])


def test_only_the_inputs_are_kept():
    norm, fc1, fc2 = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)
    kept: list[int] = []
    x = torch.randn(1, 10, 16, requires_grad=True)
    own = {parameter.data_ptr() for module in (norm, fc1, fc2) for parameter in module.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        norm_mlp(x, norm, fc1, fc2)
    assert sorted(kept) == [10, 10, 160, 640]  # mean, rstd, x, what enters the GELU


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_the_products_in_its_dtype(dtype):
    norm, fc1, fc2 = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)
    x = torch.randn(2, 10, 16, requires_grad=True)
    full = fc2(F.gelu(fc1(norm(x))))
    with torch.autocast("cpu", dtype):
        low = norm_mlp(x, norm, fc1, fc2)
        (linear,) = norm_linears(x, norm, [(fc1.weight, fc1.bias)])
    assert low.dtype == linear.dtype == dtype
    assert (low.float() - full).abs().max() < 0.02
    (low.float().sum() + linear.float().sum()).backward()
    assert x.grad.dtype == fc1.weight.grad.dtype == norm.weight.grad.dtype == torch.float32


def test_is_plain_sees_hooks_and_other_layers():
    class Adapter(nn.Linear):
        pass

    plain, hooked = nn.Linear(2, 2), nn.Linear(2, 2)
    assert is_plain(plain, None, nn.LayerNorm(2))
    hooked.register_forward_hook(lambda *_: None)
    assert not is_plain(plain, hooked) and not is_plain(Adapter(2, 2))
    assert not is_plain(nn.LayerNorm(2, bias=False)) and not is_plain(nn.LayerNorm(2, elementwise_affine=False))
    for kind in ("forward_pre", "full_backward", "full_backward_pre"):
        layer = nn.Linear(2, 2)
        getattr(layer, f"register_{kind}_hook")(lambda *_: None)
        assert not is_plain(layer), kind
    replaced = nn.Linear(2, 2)
    replaced.forward = lambda x: x
    assert not is_plain(replaced)


def test_is_plain_sees_weights_that_stand_for_others():
    """As torchao quantises: a subclass of tensors that knows `linear`, and no slices."""

    class Quantised(torch.Tensor):
        def __tensor_flatten__(self):
            return [], None

    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised))
    assert not is_plain(layer)


def test_zero_gradients_instead_of_none():
    x, idle = torch.ones(2, requires_grad=True), nn.Parameter(torch.ones(3))
    with_zero_gradients(x * 2, [idle]).sum().backward()
    assert idle.grad.tolist() == [0, 0, 0] and x.grad.tolist() == [2, 2]
    with torch.no_grad():
        assert with_zero_gradients(x, [idle]) is x
