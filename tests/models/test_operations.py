"""Which operations a training step consists of: equal results alone would not show that the fast forms run."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mvit_video.models import MViT
from mvit_video.models.kernels.pooling import DepthwisePool
from tests.models.helpers import small_config


class Operations(TorchDispatchMode):
    """Names of the operations, shapes of their first inputs and of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, torch.Size | None, list[torch.Size]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        results = result if isinstance(result, (tuple, list)) else [result]
        first = args[0].shape if args and isinstance(args[0], torch.Tensor) else None
        shapes = [value.shape for value in results if isinstance(value, torch.Tensor)]
        self.seen.append((function.overloadpacket.__name__, first, shapes))
        return result

    def named(self, name: str) -> list[torch.Size | None]:
        """Shapes of the first inputs of the operations with that in their name."""
        return [first for seen, first, _ in self.seen if name in seen]


def step(form: str) -> tuple[MViT, Operations]:
    torch.manual_seed(0)
    model = MViT(small_config(attention_form=form)).train()
    with Operations() as operations:
        model(torch.randn(2, 3, 4, 32, 32)).sum().backward()
    return model, operations


def has_maps(model: MViT, operations: Operations) -> bool:
    """Whether a tensor of all logits of some block was made (the last block has one query)."""
    pairs = []
    for geometry in model.config.blocks[:-1]:
        (t, h, w), (kt, kh, kw) = geometry.grid_q, geometry.grid_kv
        pairs.append((1 + t * h * w, 1 + kt * kh * kw))
    shapes = [shape for _, _, results in operations.seen for shape in results]
    return any(len(shape) >= 3 and tuple(shape[-2:]) in pairs for shape in shapes)


def test_attention_runs_in_the_fused_kernel_without_bias_or_map():
    model, operations = step("flash")
    assert len(operations.named("flash_attention_for_cpu_backward")) == 3
    assert not has_maps(model, operations)
    model, operations = step("explicit")
    assert not operations.named("flash_attention")
    assert has_maps(model, operations)


def test_pooling_has_neither_3d_backward_kernels_nor_3d_maxima():
    _, operations = step("flash")
    backward = [shape for shape in operations.named("convolution_backward") if shape is not None]
    assert sum(len(shape) == 5 for shape in backward) == 1  # the stem's
    assert sum(len(shape) == 4 for shape in backward) > 20
    assert operations.named("max_pool2d_with_indices_backward") and not operations.named("max_pool3d")


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2)])
def test_tokens_are_pooled_where_they_lie(stride):
    pool = DepthwisePool(4, (3, 3, 3), stride, flat=False, form="auto")
    tokens = torch.randn(2, 2, 6, 6, 8)
    with torch.no_grad(), Operations() as operations:
        pooled = pool(tokens)
    assert pooled.is_contiguous()
    assert not [name for name, _, _ in operations.seen if name in ("clone", "copy_", "contiguous", "_to_copy")]
