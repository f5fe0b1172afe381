import pytest
import torch
import torch.nn.functional as F

from mvit_video.models.kernels import pooling
from mvit_video.models.kernels.pooling import (
    DepthwisePool,
    depthwise_pool,
    max_pool_skip,
    on_grid,
    read_count,
    read_positions,
)

CASES = [
    ((3, 3, 3), (1, 1, 1)),
    ((3, 3, 3), (1, 2, 2)),
    ((3, 3, 3), (1, 4, 4)),
    ((3, 3, 3), (2, 2, 1)),
    ((3, 3, 3), (1, 8, 8)),
    ((3, 3, 3), (4, 2, 2)),
    ((1, 3, 3), (1, 1, 1)),
    ((1, 3, 3), (1, 2, 2)),
    ((1, 3, 3), (1, 4, 4)),
    ((3, 1, 1), (2, 1, 1)),
    ((1, 1, 1), (1, 2, 2)),
]


def library(maps: torch.Tensor, weight: torch.Tensor, stride: tuple[int, int, int]) -> torch.Tensor:
    """Heads as batch, channels first: the published way."""
    batch, t, h, w, _channels = maps.shape
    width = weight.shape[0]
    heads = maps.reshape(batch, t, h, w, -1, width).permute(0, 4, 5, 1, 2, 3).reshape(-1, width, t, h, w)
    padding = [k // 2 for k in weight.shape[2:]]
    out = F.conv3d(heads, weight, stride=stride, padding=padding, groups=width)
    return out.reshape(batch, -1, *out.shape[1:]).permute(0, 3, 4, 5, 1, 2).flatten(4)


@pytest.mark.parametrize("form", ["flipped", "library", "auto"])
@pytest.mark.parametrize(("kernel", "stride"), [*CASES, ((1, 5, 5), (1, 4, 4)), ((1, 9, 9), (1, 8, 8))])
@pytest.mark.parametrize("grid", [(3, 9, 8), (1, 5, 2)])
def test_values_and_gradients_equal_the_library(kernel, stride, form, grid):
    torch.manual_seed(0)
    maps = torch.randn(2, *grid, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, *kernel, dtype=torch.float64, requires_grad=True)
    ours = depthwise_pool(maps, weight, stride, form=form)
    theirs = library(maps, weight, stride)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn_like(theirs)
    for got, wanted in zip(
        torch.autograd.grad(ours, (maps, weight), direction), torch.autograd.grad(theirs, (maps, weight), direction)
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(("kernel", "stride"), CASES)
def test_the_two_forms_of_the_input_gradient_are_equal(kernel, stride):
    torch.manual_seed(0)
    padding, size = tuple(k // 2 for k in kernel), (3, 9, 8)
    weight = torch.randn(3, 1, *kernel, dtype=torch.float64)
    grid = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, kernel, stride)]
    grad = torch.randn(2, *grid, 6, dtype=torch.float64)
    by_frames = pooling._input_gradient_2d(grad, weight, size, stride, padding)
    torch.testing.assert_close(by_frames, pooling._input_gradient_flipped(grad, weight, size, stride, padding))


@pytest.mark.parametrize(("kernel", "stride"), CASES)
def test_gradcheck(kernel, stride):
    torch.manual_seed(0)
    maps = torch.randn(1, 2, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, *kernel, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, w: depthwise_pool(m, w, stride, form="flipped"), (maps, weight))


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (1, 4, 4)])
def test_views_into_a_larger_tensor(stride):
    torch.manual_seed(0)
    tokens = torch.randn(2, 1 + 2 * 6 * 6, 12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    view = tokens[:, 1:, 4:8].reshape(2, 2, 6, 6, 4)
    ours = torch.autograd.grad(depthwise_pool(view, weight, stride).square().sum(), (tokens, weight))
    theirs = torch.autograd.grad(library(view, weight, stride).square().sum(), (tokens, weight))
    for got, wanted in zip(ours, theirs):
        torch.testing.assert_close(got, wanted)


def test_only_the_gradients_asked_for_are_computed(monkeypatch):
    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("not asked for")

    maps = torch.randn(1, 2, 4, 4, 2)
    weight = torch.randn(2, 1, 3, 3, 3, requires_grad=True)
    monkeypatch.setattr(pooling, "_input_gradient", refuse)
    depthwise_pool(maps, weight, (1, 1, 1), form="flipped").sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 4, 4)])
def test_bfloat16_maps_with_float32_weights(stride):
    torch.manual_seed(0)
    maps = torch.randn(2, 2, 8, 8, 8)
    weight = torch.randn(4, 1, 3, 3, 3)
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        x, w = maps.to(dtype, copy=True).requires_grad_(), weight.clone().requires_grad_()
        out = depthwise_pool(x, w, stride)
        assert out.dtype == dtype
        out.sum().backward()
        assert x.grad.dtype == dtype and w.grad.dtype == torch.float32
        results.append([value.float() for value in (out, x.grad, w.grad)])
    for low, full in zip(*results):
        assert (low - full).abs().max() < 0.02 * full.abs().max()


@pytest.mark.parametrize("cls", [0, 1])
def test_max_pool_skip_is_the_3d_pool_and_leaves_the_class_token(cls):
    torch.manual_seed(0)
    grid = (2, 7, 5)
    tokens = torch.randn(3, cls + 70, 4)
    maps = tokens[:, cls:].transpose(1, 2).reshape(3, 4, *grid)
    pooled = F.max_pool3d(maps, (1, 3, 3), (1, 2, 2), (0, 1, 1)).flatten(2).transpose(1, 2)
    out = max_pool_skip(tokens, grid, (1, 2, 2), cls=cls)
    assert torch.equal(out, torch.cat([tokens[:, :cls], pooled], dim=1))


@pytest.mark.parametrize("size", range(1, 30))
@pytest.mark.parametrize(("kernel", "stride"), [(3, 8), (3, 4), (1, 2), (3, 3), (3, 2), (5, 8)])
def test_read_positions_are_those_of_the_kernels(size, kernel, stride):
    reads = F.conv1d(torch.eye(size)[:, None], torch.ones(1, 1, kernel), stride=stride, padding=kernel // 2)
    wanted = reads.flatten(1).any(1).nonzero()[:, 0].tolist()
    wanted = wanted if stride > kernel else list(range(size))
    assert read_positions(size, kernel, stride).tolist() == wanted
    assert read_count(size, kernel, stride) == len(wanted)


@pytest.mark.parametrize("cls", [0, 1])
@pytest.mark.parametrize("grid", [(2, 9, 17), (1, 8, 8), (3, 7, 10), (2, 2, 1)])
@pytest.mark.parametrize("stride", [(1, 8, 8), (1, 4, 4), (1, 4, 2), (4, 1, 1)])
def test_pooling_the_tokens_that_are_read_is_pooling_all(stride, grid, cls):
    torch.manual_seed(0)
    pool = DepthwisePool(4, (3, 3, 3), stride, flat=False, form="auto")
    pool.reset_parameters("fan_in")
    tokens = torch.randn(2, cls + grid[0] * grid[1] * grid[2], 4)
    read = pool.read_tokens(grid, cls)
    assert pool.skips_tokens() and len(read) == len(read.unique())
    condensed, narrow = pool.condensed(grid)
    got = on_grid(tokens[:, read], condensed, cls, lambda maps: depthwise_pool(maps, pool.bank(), narrow))
    torch.testing.assert_close(got, on_grid(tokens, grid, cls, pool))


def test_s_reads_a_seventh_and_half_of_its_tokens():
    pool = DepthwisePool(96, (3, 3, 3), (1, 8, 8), flat=False, form="auto")
    assert len(pool.read_tokens((8, 56, 56), 1)) == 1 + 8 * 20 * 20
    pool = DepthwisePool(96, (3, 3, 3), (1, 4, 4), flat=False, form="auto")
    assert len(pool.read_tokens((8, 56, 56), 1)) == 1 + 8 * 41 * 41
    assert pool.condensed((8, 56, 56)) == ((8, 41, 41), (1, 3, 3))


@pytest.mark.parametrize("form", ["library", "flipped"])
@pytest.mark.parametrize(("grid", "stride"), [((2, 4, 4), (1, 2, 2)), ((2, 2, 2), (1, 3, 3)), ((4, 1, 5), (1, 2, 2))])
def test_bf16_gradients_of_maps_smaller_than_the_kernel(form, grid, stride):
    """The library's own are partly memory that nobody wrote, on a CPU with native bf16."""
    torch.manual_seed(0)
    maps, weight = torch.randn(2, *grid, 8).bfloat16(), torch.randn(8, 1, 3, 3, 3)
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        junk = [torch.full((size,), float("nan")) for size in (100, 1000, 5000)]
        del junk
        inputs = [maps.to(dtype).requires_grad_(), weight.to(weight.dtype if dtype == torch.bfloat16 else dtype)]
        inputs[1].requires_grad_()
        pooled = depthwise_pool(*inputs, stride, form=form if dtype == torch.bfloat16 else "flipped")
        found.append(torch.autograd.grad(pooled, inputs, torch.ones_like(pooled)))
    for ours, exact in zip(*found):
        assert float((ours.double() - exact).norm()) < 0.01 * float(exact.norm())


@pytest.mark.parametrize("form", ["library", "flipped"])
@pytest.mark.parametrize(("grid", "stride"), [((2, 2, 2), (1, 1, 1)), ((1, 5, 3), (1, 4, 4)), ((4, 1, 5), (1, 2, 2))])
def test_gradients_of_small_maps_under_bf16_autocast_can_be_differentiated_again(form, grid, stride):
    """Autocast casts to bf16 inside the convolution; and second derivatives convolve the gradients themselves."""
    torch.manual_seed(0)
    maps, weight = torch.randn(2, *grid, 8), torch.randn(8, 1, 3, 3, 3)
    along = [torch.randn_like(maps), torch.randn_like(weight)]
    found = []
    for dtype in (torch.float32, torch.float64):
        junk = [torch.full((size,), float("nan")) for size in (100, 1000, 5000)]
        del junk
        inputs = [tensor.to(dtype).requires_grad_() for tensor in (maps, weight)]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            pooled = depthwise_pool(inputs[0], inputs[1], stride, form=form)
            first = torch.autograd.grad(pooled.to(dtype).square().sum(), inputs, create_graph=True)
            product = sum((one * way.to(dtype)).sum() for one, way in zip(first, along))
            found.append([*first, *torch.autograd.grad(product, inputs)])
    for ours, exact in zip(*found):
        assert float((ours.double() - exact).norm()) < 0.02 * float(exact.norm())
