import pytest
import torch

from mvit_video.models.kernels.position_columns import operand_padding, queries_with_terms
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
    ("width", "terms", "device", "dtype", "padding"),
    [
        (96, 22, "cpu", torch.float32, (2, 24)),  # S, most blocks: 120 wide
        (96, 36, "cpu", torch.bfloat16, (4, 40)),  # S, first blocks of a stage: 136 wide
        (96, 22, "cpu", torch.float64, (0, 22)),
        (96, 22, "cuda", torch.bfloat16, (2, 0)),  # values stay 96 wide
        (96, 36, "cuda", torch.float16, (4, 0)),
        (96, 22, "cuda", torch.float32, (2, 0)),
        (72, 40, "cuda", torch.bfloat16, (0, 0)),  # L
        (12, 5, "cuda", torch.bfloat16, (7, 4)),
        (96, 22, "mps", torch.float16, (2, 24)),
    ],
)
def test_operand_padding(width, terms, device, dtype, padding):
    assert operand_padding(width, terms, device, dtype) == padding
