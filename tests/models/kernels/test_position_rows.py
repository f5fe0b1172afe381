import pytest
import torch
from torch import Tensor

from mvit_video.models.kernels.position_rows import join_indices, pairs_of_rows, position_rows
from mvit_video.models.mvit.attention import MultiscaleAttention, relative_index
from tests.models.helpers import small_config

SIZES = [(2, 2), (6, 3), (3, 5)]
"""Coordinates of queries and keys on three axes."""
ROWS = [3, 11, 9]


def made() -> tuple[Tensor, Tensor]:
    """The joined index of the axes, and the pairs of its rows."""
    index = join_indices([relative_index(*size) for size in SIZES], ROWS)
    return index, pairs_of_rows(index, sum(ROWS))


def test_every_pair_is_listed_once_with_its_row():
    index, pairs = made()
    assert index.tolist()[:4] == [1, 0, 2, 1] and len(index) == 4 + 18 + 15
    listed = [(row, pair) for row, places in enumerate(pairs.tolist()) for pair in places if pair < len(index)]
    assert sorted(pair for _, pair in listed) == list(range(len(index)))
    assert all(index[pair] == row for row, pair in listed)
    assert pairs[1].tolist()[:2] == [0, 3] and set(pairs[1].tolist()[2:]) <= {len(index)}


@pytest.mark.parametrize("known", [True, False])
def test_rows_and_gradients_are_those_of_the_index(known):
    index, pairs = made()
    torch.manual_seed(0)
    tables = [torch.randn(rows, 4, requires_grad=True) for rows in ROWS]
    ours = position_rows(tables, index, pairs if known else None, scale=0.3, dtype=torch.float32)
    theirs = torch.cat(tables)[index] / 0.3
    assert torch.equal(ours, theirs)
    direction = torch.randn_like(theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, tables, direction), torch.autograd.grad(theirs, tables, direction)
    ):
        torch.testing.assert_close(mine, other)


def test_gradients_in_bf16_are_summed_in_float32():
    index = torch.zeros(3000, dtype=torch.int64)
    table = torch.zeros(1, 1, requires_grad=True)
    rows = position_rows([table], index, pairs_of_rows(index, 1), scale=1.0, dtype=torch.bfloat16)
    assert rows.dtype == torch.bfloat16
    rows.backward(torch.ones_like(rows))
    assert table.grad is not None and table.grad.item() == 3000  # bf16 has no 257


def test_infinite_gradients_reach_their_own_rows_alone():
    index, pairs = made()
    table = torch.randn(sum(ROWS), 2, requires_grad=True)
    rows = position_rows([table], index, pairs, scale=1.0, dtype=torch.float32)
    grad = torch.ones_like(rows)
    grad[0] = grad[-1] = torch.inf
    rows.backward(grad)
    assert table.grad is not None
    assert table.grad.isinf().any(1).nonzero().flatten().tolist() == sorted([int(index[0]), int(index[-1])])
    assert not table.grad.isnan().any()


def test_a_layer_knows_the_pairs_of_its_nominal_grids_alone():
    config = small_config()
    layer = MultiscaleAttention(config, config.blocks[1])
    for grids in (layer.nominal_grids, ((2, 3, 4), (2, 2, 2))):
        rows = layer._tables(*grids, torch.float32)
        names = set()
        node = rows[0].grad_fn
        while node is not None:
            names.add(type(node).__name__)
            node = next((parent for parent, _ in node.next_functions if parent is not None), None)
        assert ("PositionRowsBackward" in names) is (grids == layer.nominal_grids)
