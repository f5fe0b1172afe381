"""The benchmark of exports compares the files with the model."""

import bench_export
import torch
from torch import nn


def test_the_comparison_has_a_row_for_each_way() -> None:
    torch.manual_seed(0)
    eager = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    rows = bench_export.compared({"eager": eager, "same": eager}, torch.randn(2, 3, 2, 2), reps=1)
    assert [row[0] for row in rows] == ["eager", "same"]
    assert rows[0][3] == "1.00" and rows[1][4] == "0.0e+00"
