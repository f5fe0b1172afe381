import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mvit_video.models.kernels import library_attention
from mvit_video.models.kernels.position_columns import columns_to_fill, queries_with_terms, values_padding
from mvit_video.models.mvit.attention import position_terms

GRID, KEYS = (2, 3, 5), (2, 4, 3)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2), (0,)])
@pytest.mark.parametrize(("batch", "heads", "cls", "fill"), [(1, 1, 1, 0), (1, 3, 1, 5), (2, 1, 0, 2), (2, 3, 1, 0)])
def test_equals_the_einsums_in_values_and_gradients(batch, heads, cls, fill, axes):
    torch.manual_seed(0)
    q = torch.randn(batch, cls + 30, heads, 4, dtype=torch.float64, requires_grad=True)
    tables = [torch.randn(GRID[a], KEYS[a], 4, dtype=torch.float64, requires_grad=True) for a in axes]
    got = queries_with_terms(q, tables, axes, GRID, cls=cls, fill=fill)
    by_head = q.transpose(1, 2)
    terms = position_terms(by_head[:, :, cls:], tables, axes, GRID)
    wanted = torch.cat([by_head, torch.nn.functional.pad(terms, (0, fill, cls, 0))], dim=-1)
    torch.testing.assert_close(got, wanted)
    direction = torch.randn_like(wanted)
    leaves = [q, *tables]
    for mine, other in zip(torch.autograd.grad(got, leaves, direction), torch.autograd.grad(wanted, leaves, direction)):
        torch.testing.assert_close(mine, other)


def test_keeps_its_result_and_the_tables_only():
    q = torch.randn(1, 31, 1, 4, requires_grad=True)
    tables = [torch.randn(GRID[a], KEYS[a], 4, requires_grad=True) for a in range(3)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()), lambda _: None):
        extended = queries_with_terms(q, tables, (0, 1, 2), GRID, cls=1, fill=3)
    assert set(kept) == {tensor.data_ptr() for tensor in (extended, *tables)}


@pytest.mark.parametrize(
    ("width", "terms", "device", "dtype", "cudnn", "padding"),
    [
        (96, 22, "cpu", torch.float32, False, (2, 24)),  # S, most blocks: 120 wide
        (96, 36, "cpu", torch.bfloat16, False, (4, 40)),  # S, first blocks of a stage: 136 wide
        (96, 22, "cpu", torch.float64, False, (0, 22)),
        (96, 22, "cuda", torch.bfloat16, True, (2, 0)),  # values stay 96 wide
        (96, 22, "cuda", torch.bfloat16, False, (2, 24)),
        (96, 36, "cuda", torch.float16, False, (4, 40)),
        (96, 22, "cuda", torch.float32, False, (2, 0)),
        (72, 40, "cuda", torch.bfloat16, True, (0, 0)),  # L
        (12, 5, "cuda", torch.bfloat16, True, (7, 4)),
        (200, 60, "cuda", torch.bfloat16, False, (4, 0)),  # wider than flash-attention takes
        (96, 22, "mps", torch.float16, False, (2, 24)),
    ],
)
def test_columns_of_zeros(width, terms, device, dtype, cudnn, padding):
    """On CUDA as on an Ampere or later, which a machine without a device is taken for."""
    with FakeTensorMode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(library_attention, "_capability", lambda index: (8, 0))
        q = torch.empty(1, 2, 1, width, dtype=dtype, device=device)
        fill = columns_to_fill(width, terms, dtype)
        assert (fill, values_padding(q, width + terms + fill, cudnn=cudnn)) == padding


def test_before_ampere_values_stay_narrow(monkeypatch):
    monkeypatch.setattr(library_attention, "_capability", lambda index: (7, 5))
    with FakeTensorMode():
        q = torch.empty(1, 2, 1, 96, dtype=torch.float16, device="cuda")
        assert values_padding(q, 120, cudnn=False) == 0
