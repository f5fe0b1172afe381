"""scripts/bench_predict.py: the forward passes that are timed alone are those of the prediction."""

from types import SimpleNamespace
from typing import Any, cast

import torch
from bench_predict import forward_passes
from torch import nn


def test_the_model_alone_computes_what_the_prediction_computes() -> None:
    model, seen = nn.Linear(2, 2), []
    batches = [torch.randn(3, 2), torch.randn(1, 2)]
    forward = forward_passes(cast(Any, SimpleNamespace(model=model)), lambda: [model(batch) for batch in batches])
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    forward()
    assert all(torch.equal(*pair) for pair in zip(seen, batches, strict=True))
