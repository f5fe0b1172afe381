"""One graph without breaks, in training and evaluation, for a fixed batch and for any batch."""

from typing import Any

import pytest
import torch
import torch._dynamo.testing
from functorch.compile import default_partition, make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.compile_utils import fx_graph_cse
from torch._inductor.fx_passes.joint_graph import joint_graph_passes

from mvit_video.models import create_model
from mvit_video.models.mvit.attention import MultiscaleAttention
from tests.models.helpers import randomised, small_config


def test_any_batch_is_one_graph_compiled_once_for_training_and_once_for_evaluation():
    """The latter in the form of the attention that the sizes choose, and only traced: it has no backward pass."""
    torch.compiler.reset()
    model = randomised(small_config(depth=2, stage_starts=(1,), attention_form="flash"))
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    for count, training in enumerate((False, True), start=1):
        model.train(training)
        if not training:
            graphs.backend = "eager"
            for module in model.modules():
                if isinstance(module, MultiscaleAttention):
                    module.form = "auto"
        for batch in (2, 3, 5) if training else (2, 3):
            x = torch.randn(batch, 3, 4, 32, 32, dtype=torch.float64)
            torch._dynamo.mark_dynamic(x, 0)
            with torch.set_grad_enabled(training):
                out, plain = compiled(x), model(x)
            torch.testing.assert_close(out, plain)
            if training:
                parameters = list(model.parameters())
                wanted = torch.autograd.grad(plain.square().sum(), parameters)
                got = torch.autograd.grad(out.square().sum(), parameters)
                for mine, eager in zip(got, wanted, strict=True):
                    torch.testing.assert_close(mine, eager)
        assert graphs.frame_count == count


@pytest.mark.slow
def test_any_input_size_is_one_graph_compiled_once():
    """Besides the nominal size, whose index tables are buffers."""
    torch.compiler.reset()
    # Short strides: what takes long is torch's algebra of sizes that are divided again and again.
    model = randomised(small_config(depth=2, stage_starts=(1,), kv_stride=(1, 2, 2), attention_form="flash"))
    graphs = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=graphs, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for batch, *size in ((2, 6, 40, 44), (5, 8, 48, 36), (3, 10, 36, 56)):
            x = torch.randn(batch, 3, *size, dtype=torch.float64)
            torch.testing.assert_close(compiled(x), model(x))
    assert graphs.frame_count == 1


def test_autocast_compiles_into_one_graph():
    """In the form of the attention that the sizes choose, and with dropped paths."""
    torch.compiler.reset()
    torch.manual_seed(0)
    small = {"depth": 2, "stage_starts": (1,), "num_frames": 4, "crop_size": 32, "pool_kernel": (1, 3, 3)}
    model = create_model("mvitv2_motion", drop_path=0.1, dropout=0.0, **small).train()
    x = torch.randn(2, 3, 4, 32, 32)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        plain = model(x)
        torch.manual_seed(1)
        out = compiled(x)
    assert out.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(out, plain, rtol=0.02, atol=0.02)
    out.float().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_compilers_do_not_take_the_second_gelu_for_the_first() -> None:
    """They would keep its result for the backward pass: of all that a compiled model keeps, a sixth."""
    torch.compiler.reset()
    counts: list[int] = []

    def partition(joint: torch.fx.GraphModule, *arguments: Any, **options: Any) -> Any:
        joint_graph_passes(joint)
        nodes = fx_graph_cse(joint.graph).nodes
        counts.append(sum(node.target is torch.ops.aten.gelu.default for node in nodes))
        return default_partition(joint, *arguments, **options)

    model = randomised(small_config(depth=2, stage_starts=(1,), attention_form="flash")).train()
    backend = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph), partition_fn=partition)
    x = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    torch.compile(model, backend=backend, fullgraph=True, dynamic=False)(x).sum().backward()
    assert counts == [2 * model.config.depth]
