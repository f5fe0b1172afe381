"""Recomputed blocks: the same gradients, and a budget of bytes that is kept at the fewest operations."""

import itertools

import pytest
import torch
import torch._dynamo.testing
from torch import nn

from mvit_video.models import MViT, MViTConfig
from mvit_video.models.mvit import network
from mvit_video.models.mvit.activation_checkpointing import BlockCost, choose_blocks, measure_blocks, peak_bytes
from tests.models.helpers import image_fields, randomised, small_config, v1_fields

SHAPE = (2, 3, 4, 32, 32)


def kept_bytes(model: MViT, x: torch.Tensor) -> int:
    """Bytes of the distinct storages kept between forward and backward pass, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    # What enters a recomputed block is held by torch.utils.checkpoint itself, past the hooks.
    def enters(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        pack(inputs[0])

    entering = [model.blocks[index].register_forward_pre_hook(enters) for index in model.recomputed or ()]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    for hook in entering:
        hook.remove()
    assert output.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


FORMS = {
    "flash": {"attention_form": "flash", "drop_path": 0.3, "dropout": 0.5},
    "auto": {"attention_form": "auto"},
    "explicit": {"attention_form": "explicit"},
    "mlp": {"pooling_form": "library", "expand_in": "mlp", "head_pooling": "norm_mean"},
    "v1": v1_fields(),
    "image": image_fields(cls_token=False, head_pooling="mean_norm"),
}


@pytest.mark.parametrize(
    ("form", "dtype"),
    [*((form, torch.float32) for form in FORMS), *((form, torch.bfloat16) for form in ("flash", "auto", "image"))],
)
def test_the_bytes_counted_are_those_that_autograd_keeps(form, dtype):
    model = MViT(small_config(depth=3, stage_starts=(1,), **FORMS[form])).train()
    x = torch.randn(SHAPE if not model.config.is_image else (3, 3, 32, 32))
    before = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        costs, outside = measure_blocks(model, x.shape)
        assert torch.equal(torch.get_rng_state(), before)
        # PyTorch's fake LayerNorm keeps bfloat16 statistics where the one of the CPU keeps float32.
        exact = {"rel": 0.0 if dtype == torch.float32 else 0.025, "abs": 0}
        assert kept_bytes(model, x) == pytest.approx(outside + sum(cost.saved for cost in costs), **exact)
        model.recomputed = frozenset({0, 2})
        wanted = [costs[0].entering, costs[1].saved, costs[2].entering]
        assert kept_bytes(model, x) == pytest.approx(outside + sum(wanted), **exact)


def test_operations_are_counted():
    model = MViT(small_config(attention_form="flash")).train()
    costs, _ = measure_blocks(model, SHAPE)
    geometry = model.config.blocks[2]
    tokens, keys, width = 2 * (1 + 2 * 4 * 4), 1 + 2 * 2 * 2, geometry.dim_attn
    linear = 2 * tokens * width * width * (1 + 1 + 4 + 4) + 2 * tokens * width * width * 2  # q, proj, MLP; k and v
    assert geometry.dim_in == width == 16 and model.config.blocks[2].grid_in == (2, 4, 4)
    assert linear + 4 * tokens * keys * width < costs[2].flops < 1.5 * linear
    assert costs[3].flops < costs[2].flops  # the last block computes the class token alone


def test_peak_of_the_kept_bytes():
    costs = [BlockCost(saved=s, entering=e, flops=1) for s, e in ((10, 2), (20, 3), (5, 1))]
    assert peak_bytes(costs, ()) == 35
    assert peak_bytes(costs, (0, 1, 2)) == 2 + 20  # while block 1 is there again
    assert peak_bytes(costs, (0,), outside=7) == 7 + 2 + 20 + 5
    assert peak_bytes(costs, (2,)) == 35  # recomputing the last block saves nothing


def test_the_choice_is_the_cheapest_of_all():
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        numbers = torch.randint(1, 30, (6, 3), generator=generator).tolist()
        costs = [BlockCost(saved=a + b, entering=b, flops=c) for a, b, c in numbers]
        subsets = [s for size in range(7) for s in itertools.combinations(range(6), size)]
        least, most = peak_bytes(costs, range(6), 4), peak_bytes(costs, (), 4)
        for budget in {least, (least + most) // 2, most}:
            chosen = choose_blocks(costs, budget, 4)
            assert peak_bytes(costs, chosen, 4) <= budget
            wanted = min(sum(costs[i].flops for i in s) for s in subsets if peak_bytes(costs, s, 4) <= budget)
            assert sum(costs[i].flops for i in chosen) == wanted


def gradients(model: MViT, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(3)  # drop path draws the same
    return list(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))


def count_recomputed(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    plain = network.checkpoint
    monkeypatch.setattr(network, "checkpoint", lambda block, *a, **k: blocks.append(block) or plain(block, *a, **k))
    return blocks


@pytest.mark.parametrize(
    ("chosen", "blocks"), [(True, [0, 1, 2, 3]), (2, [0, 1]), ([1, 3], [1, 3]), (0, []), ([], []), (False, [])]
)
def test_the_blocks_named_are_recomputed_with_the_same_gradients(chosen, blocks, monkeypatch):
    x = torch.randn(SHAPE, dtype=torch.float64)
    plain = gradients(randomised(small_config(drop_path=0.3)).train(), x)
    model = randomised(small_config(drop_path=0.3, activation_checkpointing=chosen)).train()
    seen = count_recomputed(monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model, x), plain, strict=True))
    assert seen == [model.blocks[index] for index in blocks]
    seen.clear()
    model.eval()(x)
    with torch.no_grad():
        model.train()(x)
    assert not seen


def test_a_budget_is_planned_for_the_first_batch_and_kept(monkeypatch):
    x = torch.randn(SHAPE)
    whole = MViT(small_config()).train()
    costs, outside = measure_blocks(whole, SHAPE)
    least, most = peak_bytes(costs, range(4), outside), peak_bytes(costs, (), outside)
    budget = (least + most) // 2
    model = MViT(small_config(activation_budget_gb=budget / 1e9)).train()
    model.load_state_dict(whole.state_dict())
    assert model.recomputed is None
    seen = count_recomputed(monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model, x), gradients(whole, x), strict=True))
    assert model.recomputed == set(choose_blocks(costs, budget, outside))
    assert seen == [model.blocks[index] for index in sorted(model.recomputed)] and seen
    assert least <= kept_bytes(model, x) <= budget < most
    plan = model.plan_checkpointing(SHAPE, budget_gb=least / 1e9)
    assert plan.peak_bytes == least and 0 < plan.recomputed <= 1
    assert model.plan_checkpointing(SHAPE, budget_gb=1.0).blocks == ()


def test_impossible_budgets_name_the_smallest():
    model = MViT(small_config(activation_budget_gb=1e-5)).train()
    costs, outside = measure_blocks(model, SHAPE)
    least = peak_bytes(costs, range(4), outside)
    with pytest.raises(ValueError, match=r"activation_budget_gb=1e-05 is too small.*, (\S+) GB are kept") as caught:
        model(torch.randn(SHAPE))
    named = float(str(caught.value).split(" GB are kept")[0].split()[-1])
    assert least <= named * 1e9 < least + 1e6
    model.plan_checkpointing(SHAPE, budget_gb=named)


def test_a_plan_needs_training_mode_and_a_budget():
    with pytest.raises(ValueError, match=r"evaluation mode, where nothing is kept: call model.train\(\)"):
        MViT(small_config(activation_budget_gb=1.0)).eval().plan_checkpointing(SHAPE)
    with pytest.raises(ValueError, match="no activation_budget_gb in the configuration: pass budget_gb"):
        MViT(small_config()).train().plan_checkpointing(SHAPE)


def test_evaluation_needs_no_plan():
    model = MViT(small_config(activation_budget_gb=1e-5)).eval()
    assert model(torch.randn(SHAPE)).shape == (2, 5) and model.recomputed is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_checkpointing": 5}, r"activation_checkpointing=5 must be False .*up to depth=4"),
        ({"activation_checkpointing": -1}, r"activation_checkpointing=-1 must be"),
        ({"activation_checkpointing": "most"}, r"activation_checkpointing='most' must be"),
        ({"activation_checkpointing": [0, 4]}, r"\[0, 4\] must be different indices of blocks below depth=4"),
        ({"activation_checkpointing": [1, 1]}, r"\[1, 1\] must be different"),
        ({"activation_checkpointing": [0.5]}, r"activation_checkpointing=0.5 must be a whole number"),
        ({"activation_budget_gb": 0}, "give a positive budget"),
        ({"activation_budget_gb": "8GB"}, "must be a number"),
        ({"activation_budget_gb": 8, "activation_checkpointing": True}, "choose the blocks, not both"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(**changes)


def compiled_config(**changes: object) -> MViTConfig:
    """One block, which computes all tokens: the compiler takes seconds for each."""
    return small_config(depth=1, stage_starts=(), attention_form="flash", head_pooling="norm_mean", **changes)


def test_recomputed_blocks_compile_into_one_graph():
    torch.compiler.reset()
    model = randomised(compiled_config(activation_checkpointing=[0])).train()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    x = torch.randn(SHAPE, dtype=torch.float64)
    plain = gradients(model, x)
    model.compile(backend=graphs, fullgraph=True)
    for mine, eager in zip(gradients(model, x), plain, strict=True):
        torch.testing.assert_close(mine, eager)
    assert graphs.frame_count == 1


def test_a_budget_is_planned_before_compiling():
    torch.compiler.reset()
    model = randomised(compiled_config(activation_budget_gb=1.0)).train()
    x = torch.randn(SHAPE, dtype=torch.float64)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"activation_budget_gb=1.0 is not planned: call model.plan_checkpointing"):
        compiled(x)
    torch.compiler.reset()
    model.plan_checkpointing(SHAPE)
    torch.testing.assert_close(compiled(x), model(x))
