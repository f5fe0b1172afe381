import pytest
import torch

from mvit_video.models.mvit import attention
from mvit_video.models.mvit.attention import (
    MultiscaleAttention,
    interpolate_by_sums,
    relative_index,
    resize_table,
)
from mvit_video.runtime.determinism import deterministic
from tests.models.helpers import image_fields, small_config


def exact_index(queries: int, keys: int) -> torch.Tensor:
    """The published distances in whole-number arithmetic, as multiples of 1 / (queries * keys)."""
    query_scale, key_scale = max(keys * keys, queries * keys), max(queries * queries, queries * keys)
    i, j = torch.arange(queries)[:, None], torch.arange(keys)[None, :]
    return (i * query_scale - j * key_scale + (keys - 1) * key_scale) // (queries * keys)


def test_relative_index_on_literals():
    assert relative_index(3, 3).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    assert relative_index(4, 2).tolist() == [[2, 0], [3, 1], [4, 2], [5, 3]]
    assert relative_index(2, 4).tolist() == [[3, 2, 1, 0], [5, 4, 3, 2]]
    # S block 0: zero distance is at row 48, and the top rows of the 111 are never read.
    index = relative_index(56, 7)
    assert index[0, 0] == 48 and index.min() == 0 and index.max() == 103


@pytest.mark.parametrize(
    ("queries", "keys", "wrong"), [(78, 10, 103), (39, 10, 38), (39, 20, 0), (56, 7, 0), (14, 28, 0)]
)
def test_relative_index_truncates_in_float32_as_published(queries, keys, wrong):
    difference = exact_index(queries, keys) - relative_index(queries, keys)
    assert int((difference != 0).sum()) == wrong
    assert set(difference.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize(("queries", "keys"), [(78, 10), (39, 10), (20, 10), (10, 20), (7, 5), (13, 9)])
def test_relative_index_is_the_plain_float32_expression(queries, keys):
    ratio_q, ratio_k = max(keys / queries, 1.0), max(queries / keys, 1.0)
    plain = torch.arange(queries)[:, None] * ratio_q - torch.arange(keys)[None, :] * ratio_k + (keys - 1) * ratio_k
    assert plain.dtype == torch.float32
    assert torch.equal(relative_index(queries, keys), plain.long())


def test_table_interpolation_on_literals():
    table = torch.tensor([[0.0], [3.0], [6.0]])
    # Sample centres (i + 0.5) * 3 / 5 - 0.5, held at the ends.
    assert resize_table(table, 5)[:, 0].tolist() == pytest.approx([0.0, 1.2, 3.0, 4.8, 6.0])
    assert resize_table(table, 3) is table
    ramp = torch.arange(37.0)[:, None]
    stretched = resize_table(ramp, 39)[:, 0]
    assert stretched[0] == 0.0 and stretched[-1] == 36.0
    assert stretched[1].item() == pytest.approx(1.5 * 37 / 39 - 0.5) and stretched[19] == 18.0


@pytest.mark.parametrize(("size", "rows"), [(3, 5), (37, 39), (9, 4), (1, 3)])
def test_interpolation_by_sums_is_the_interpolation(size, rows):
    """With its gradient. It takes the place of the other on a GPU under deterministic algorithms."""
    table = torch.randn(size, 4, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(rows, 4, dtype=torch.float64)
    ours, theirs = interpolate_by_sums(table, rows), resize_table(table, rows)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad((result * direction).sum(), table)[0] for result in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_a_table_on_a_gpu_is_interpolated_by_sums_when_bits_must_repeat(monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    calls = []
    monkeypatch.setattr(attention, "interpolate_by_sums", lambda table, rows: calls.append(rows) or table)
    with FakeTensorMode():
        on_gpu, on_cpu = (torch.empty(3, 4, device=device) for device in ("cuda", "cpu"))
        resize_table(on_gpu, 5)
        with deterministic(True):
            resize_table(on_cpu, 5)
            assert calls == []
            resize_table(on_gpu, 5)
    assert calls == [5]


def small_attention(form: str, changes: dict[str, object], index: int) -> MultiscaleAttention:
    config = small_config(attention_form=form, **changes)
    layer = MultiscaleAttention(config, config.blocks[index]).double()
    torch.manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return layer


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("grid", [(2, 8, 8), (3, 7, 10)])
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rel_pos": "spatial"},
        {"rel_pos": "none"},
        {"residual_pooling": False, "pool_all_queries": False},
        {"cls_token": False, "head_pooling": "norm_mean"},
        image_fields(),
    ],
)
def test_flash_equals_explicit_in_values_and_gradients(changes, index, grid, small, monkeypatch):
    monkeypatch.setattr(attention, "SMALL_LOGITS", 10**9 if small else 0)
    grid = (1, *grid[1:]) if "patch_kernel" in changes else grid
    results = []
    for form in ("auto", "explicit"):
        layer = small_attention(form, changes, index)
        torch.manual_seed(1)
        tokens = grid[0] * grid[1] * grid[2] + layer.cls
        x = torch.randn(2, tokens, layer.geometry.dim_in, dtype=torch.float64, requires_grad=True)
        out, new_grid = layer(x, grid)
        out.square().sum().backward()
        results.append((out, new_grid, x.grad, {n: p.grad for n, p in layer.named_parameters()}))
    (out, new_grid, grad, grads), (other, other_grid, other_grad, other_grads) = results
    assert new_grid == other_grid
    torch.testing.assert_close(out, other, rtol=0, atol=1e-10)
    torch.testing.assert_close(grad, other_grad, rtol=1e-9, atol=1e-9)
    assert grads.keys() == other_grads.keys()
    for name in grads:
        torch.testing.assert_close(grads[name], other_grads[name], rtol=1e-9, atol=1e-8, msg=name)


def test_bias_spares_class_row_and_column():
    layer = small_attention("explicit", {}, 0)
    layer.residual_pooling = False
    x = torch.randn(1, 129, 8, dtype=torch.float64)
    before, _ = layer(x, (2, 8, 8))
    with torch.no_grad():
        for name in ("rel_pos_t", "rel_pos_h", "rel_pos_w"):
            getattr(layer, name).mul_(3.0)
    after, _ = layer(x, (2, 8, 8))
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert (before[:, 1:] - after[:, 1:]).abs().max() > 1e-3


def test_choose_form():
    small, large = torch.empty(1, 1, 100, 4), torch.empty(1, 1, 2000, 4)
    assert attention.choose_form("auto", small.shape[2], small) == "matmul"
    assert attention.choose_form("auto", large.shape[2], large) == "flash"
    assert attention.choose_form("flash", small.shape[2], small) == "flash"
    assert attention.choose_form("explicit", large.shape[2], large) == "explicit"


def test_index_buffers_are_not_saved():
    layer = small_attention("flash", {}, 0)
    assert {"row_index", "row_pairs", "one_hot"} <= {name for name, _ in layer.named_buffers()}
    assert not [name for name in layer.state_dict() if name.startswith("row_") or "one_hot" in name]


def test_unpooled_queries_have_neither_convolution_nor_norm():
    layer = small_attention("flash", {"pool_all_queries": False}, 0)
    assert not [name for name, _ in layer.named_parameters() if name.startswith(("pool_q", "norm_q"))]
    assert [name for name, _ in layer.named_parameters() if name.startswith(("pool_k", "norm_k"))]
