"""Which blocks to recompute in the backward pass, so that what autograd keeps stays under a budget of bytes.

Every block is run once on fake tensors, which have shapes and no numbers: what it keeps is counted to the byte, and so
are the floating-point operations of running it again. The cheapest choice under the budget is then found exactly.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from mvit_video.models.config import MViTConfig, Triple
from mvit_video.models.mvit.blocks import Block

Result = TypeVar("Result")


class BlockModel(Protocol):
    """What is measured of a model: how tokens come into its blocks and out of them."""

    @property
    def training(self) -> bool: ...
    @property
    def config(self) -> MViTConfig: ...
    @property
    def blocks(self) -> nn.ModuleList: ...
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def buffers(self, recurse: bool = True) -> Iterator[Tensor]: ...
    def embed(self, x: Tensor, /) -> tuple[Tensor, Triple]: ...
    def is_cls_only(self, index: int, /) -> bool: ...
    def forward_head(self, tokens: Tensor, /) -> Tensor: ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BlockCost:
    """What one block keeps for the backward pass in bytes, and its forward pass in floating-point operations."""

    saved: int
    """Kept by the block as it is."""
    entering: int
    """Kept if it is recomputed: the tokens that enter it."""
    flops: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointPlan:
    """Blocks to recompute, and what that means."""

    blocks: tuple[int, ...]
    peak_bytes: int
    """Most that autograd keeps at any moment of the step: with the block that is being recomputed, if one is."""
    recomputed: float
    """Operations done twice, as a share of those of all blocks' forward passes."""


def peak_bytes(costs: Sequence[BlockCost], recomputed: Sequence[int], outside: int = 0) -> int:
    """Most bytes kept at any moment, when these blocks are recomputed.

    When the backward pass comes to a block, all of the block is there (recomputed or not) and what the blocks before it
    keep; later blocks are freed. At the end of the forward pass there is no more than at the last block.

    Args:
        costs: of every block, in order.
        recomputed: indices of blocks.
        outside: bytes kept by the stem, the positions and the head, counted all the time.
    """
    before, peak = 0, 0
    for index, cost in enumerate(costs):
        peak = max(peak, before + max(cost.saved, cost.entering))
        before += cost.entering if index in recomputed else cost.saved
    return outside + peak


def choose_blocks(costs: Sequence[BlockCost], budget: int, outside: int = 0) -> tuple[int, ...]:
    """The blocks to recompute for the fewest operations, so that :func:`peak_bytes` is at most `budget`.

    Raises:
        ValueError: even with all blocks recomputed more is kept; the message says how much.
    """
    everything = range(len(costs))
    least = peak_bytes(costs, everything, outside)
    if least > budget:
        raise ValueError(
            f"activation_budget_gb={budget / 1e9:g} is too small: with every block recomputed, "
            f"{math.ceil(least / 1e6) / 1e3:g} GB are kept. Give at least that, or lower the batch size, the number of "
            "frames or the crop."
        )
    # Choices for the blocks so far as (bytes kept, operations repeated, blocks); the others are worse in both.
    choices: list[tuple[int, int, tuple[int, ...]]] = [(outside, 0, ())]
    for index, cost in enumerate(costs):
        fitting = [choice for choice in choices if choice[0] + max(cost.saved, cost.entering) <= budget]
        grown = [(kept + cost.saved, flops, blocks) for kept, flops, blocks in fitting]
        grown += [(kept + cost.entering, flops + cost.flops, (*blocks, index)) for kept, flops, blocks in fitting]
        choices = []
        for choice in sorted(grown):
            if not choices or choice[1] < choices[-1][1]:
                choices.append(choice)
    return min(choices, key=lambda choice: choice[1])[2]


def plan(model: BlockModel, shape: Sequence[int], budget: int) -> CheckpointPlan:
    """The cheapest plan for clips of a shape that keeps at most `budget` bytes.

    Raises:
        ValueError: there is none.
    """
    costs, outside = measure_blocks(model, shape)
    blocks = choose_blocks(costs, budget, outside)
    repeated = sum(costs[index].flops for index in blocks) / sum(cost.flops for cost in costs)
    return CheckpointPlan(blocks=blocks, peak_bytes=peak_bytes(costs, blocks, outside), recomputed=repeated)


def block_model(model: nn.Module) -> BlockModel | None:
    """A model as it is measured, which its method `block_model` gives; None for one without."""
    make: Callable[[], BlockModel] | None = getattr(model, "block_model", None)
    return None if make is None else make()


def measure_blocks(model: BlockModel, shape: Sequence[int]) -> tuple[list[BlockCost], int]:
    """Costs of every block for clips of a shape, and the bytes that stem, positions and head keep; see
    `measure_forward`."""
    costs, outside, _ = measure_forward(model, shape)
    return costs, outside


def measure_forward(model: BlockModel, shape: Sequence[int]) -> tuple[list[BlockCost], int, int]:
    """Costs of every block for clips of a shape; bytes that stem, positions and head keep; operations of the head.

    Counted are distinct storages given to autograd, parameters and buffers aside, on the model's device and under the
    autocast in force. Nothing is computed, and no random number is drawn. (On the CPU in bfloat16 autocast the counts
    are short of two bytes in four of LayerNorm's statistics, a few thousandths of all: PyTorch's fake kernel is wrong
    there.)

    Args:
        model: in training mode.
        shape: (B, C, T, H, W) or (B, C, H, W).

    Raises:
        ValueError: the model is in evaluation mode, or takes no such clips.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # costs a second to import

    if not model.training:
        raise ValueError("the model is in evaluation mode, where nothing is kept: call model.train() first.")
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    state = [*model.parameters(), *model.buffers()]
    state += [fake.from_tensor(tensor) for tensor in state]  # held, as long as `fake` shall find them again
    own = {_storage(tensor) for tensor in state}
    weight = next(model.parameters())
    with _uncached_autocast(weight.device.type), fake, torch.enable_grad():
        clips = torch.empty(tuple(shape), device=weight.device, dtype=weight.dtype)
        outside, _, (tokens, grid) = _run(lambda: model.embed(clips), own)
        costs: list[BlockCost] = []
        measured: dict[Hashable, tuple[BlockCost, Tensor, Triple]] = {}
        for index, module in enumerate(model.blocks):
            block: Block = module  # type: ignore[assignment]
            cls_only = model.is_cls_only(index)
            kind = (_kind(block), grid, tokens.dtype, cls_only)
            if kind not in measured:
                saved, flops, result = _run(lambda: block(tokens, grid, cls_only), own)  # noqa: B023
                measured[kind] = BlockCost(saved=saved, entering=tokens.nbytes, flops=flops), *result
            cost, tokens, grid = measured[kind]
            costs.append(cost)
        head, head_flops, _ = _run(lambda: model.forward_head(tokens), own)
    return costs, outside + head, head_flops


def _uncached_autocast(device_type: str) -> torch.autocast:
    """The autocast in force, but for its cache: fake copies of weights must not come to lie there."""
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    return torch.autocast(device_type, dtype, enabled=enabled, cache_enabled=False)


def _run(work: Callable[[], Result], own: set[int]) -> tuple[int, int, Result]:
    """Bytes that autograd keeps of some work, besides the storages `own`; its operations; its result."""
    from torch.utils.flop_counter import FlopCounterMode

    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor  # held, so that no later storage has its number
        return tensor

    # PyTorch before 2.12 counts the attention of CPUs as nothing.
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    with (
        FlopCounterMode(display=False, custom_mapping=attention) as counter,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
    ):
        result = work()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), counter.get_total_flops(), result


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    """Of two products for shapes (batch, heads, tokens, channels), a multiplication and addition counted as two."""
    batch, heads, queries, channels = query
    return 2 * batch * heads * queries * key[2] * (channels + value[3])


def _storage(tensor: Tensor) -> int:
    """A number for the storage; fake tensors have no address."""
    number: int = tensor.untyped_storage()._cdata
    return number


def _kind(block: Block) -> Hashable:
    """What is the same for blocks that keep and compute the same amounts."""
    geometry = dataclasses.replace(block.geometry, index=0, drop_path=float(block.drop_path.rate > 0))
    modules = tuple((name, type(module)) for name, module in block.named_modules())
    parameters = tuple((name, p.shape, p.dtype, p.requires_grad) for name, p in block.named_parameters())
    return geometry, modules, parameters
