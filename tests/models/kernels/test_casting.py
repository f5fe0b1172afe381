import torch
from torch import nn

from mvit_video.models.kernels.casting import cast_layers, cast_together


def test_tensors_and_gradients_are_cast_as_one_by_one():
    torch.manual_seed(0)
    tensors = [torch.randn(size, requires_grad=True) for size in ((3, 4), (5,), (2, 2))]
    cast = cast_together(tensors, torch.bfloat16)
    assert all(torch.equal(one, tensor.bfloat16()) for one, tensor in zip(cast, tensors))
    assert all(one.requires_grad for one in cast)
    sum(one.square().sum() for one in cast[:2]).backward()
    for tensor in tensors[:2]:
        assert tensor.grad is not None and tensor.grad.dtype == torch.float32
        torch.testing.assert_close(tensor.grad, 2 * tensor.detach(), rtol=1e-2, atol=1e-2)
    assert tensors[2].grad is None  # nothing read it


def test_frozen_tensors_stay_frozen():
    frozen, trained = torch.ones(2), torch.ones(2, requires_grad=True)
    cast = cast_together([frozen, trained, frozen], torch.float16)
    assert [one.requires_grad for one in cast] == [False, True, False]
    assert all(one.dtype == torch.float16 for one in cast)
    with torch.no_grad():
        assert not any(one.requires_grad for one in cast_together([trained], torch.float16))


def test_on_the_cpu_layers_stay_layers():
    layers = [nn.Linear(2, 3), None, nn.Linear(3, 1, bias=False)]
    assert cast_layers(layers, torch.bfloat16) == layers
    assert cast_layers([None], torch.bfloat16) == [None]
