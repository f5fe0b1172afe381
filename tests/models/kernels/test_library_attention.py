"""When PyTorch may ask cuDNN for attention: where a shape comes again, and all widths have a backward pass."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from mvit_video.models.kernels import library_attention as module
from mvit_video.models.kernels.gradient import constant_in_graphs
from mvit_video.models.kernels.library_attention import asks_cudnn, library_attention
from tests.null_gpu import NullGPU

CHOSEN = r"""
import contextlib
import json
import torch
import torch.nn.functional as F
from torch._dynamo.backends.common import aot_autograd
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from gpu.null_gpu import cudnn_attention
from mvit_video.models import create_model
from mvit_video.models.kernels.library_attention import asks_cudnn, library_attention
from mvit_video.models.kernels.position_columns import values_padding

assert cudnn_attention.install() and cudnn_attention.install()

class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []
    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = str(operator)
        if "scaled_dot_product" in name:
            self.names.append(name.split("product_")[-1].removesuffix(".default"))
        return operator(*args, **(kwargs or {}))

def operands(width, values, grad=True, dtype=torch.bfloat16):
    made = [torch.randn(2, 4, 200, c, device="cuda", dtype=dtype) for c in (width, width, values)]
    return [tensor.requires_grad_(grad) for tensor in made]

def attend(q, k, v, steady=True):
    cudnn = asks_cudnn(q, k, v, columns=q.shape[-1], steady=steady)
    v = F.pad(v, (0, values_padding(v, q.shape[-1], cudnn=cudnn)))
    return library_attention(q, k, v, cudnn=cudnn)

def chosen(width, values, grad=True, dtype=torch.bfloat16, attend=attend, **options):
    made = operands(width, values, grad, dtype)
    with Seen() as seen:
        out = attend(*made, **options)
        if grad:
            out.sum().backward()
    return seen.names

found = {
    "steady": chosen(120, 96),
    "wide": chosen(136, 96),
    "other sizes": chosen(120, 96, steady=False),
    "other sizes, one width": chosen(96, 96, steady=False),
    "no gradient": chosen(120, 96, grad=False),
    "float32": chosen(120, 96, dtype=torch.float32),
    "beyond flash-attention": chosen(264, 96),
}
torch.use_deterministic_algorithms(True)
found["deterministic"] = chosen(120, 96)
torch.use_deterministic_algorithms(False)
with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
    found["cuDNN alone"] = chosen(120, 96, steady=False)
with sdpa_kernel([SDPBackend.MATH, SDPBackend.CUDNN_ATTENTION]):
    found["no other but the literal"] = chosen(120, 96, grad=False)
with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
    found["no cuDNN"] = chosen(120, 96)
found["switched on again"] = torch.backends.cuda.cudnn_sdp_enabled()

def compiled(**options):
    # the operators of the graphs that a compiler is given
    names = []
    def read(graph, inputs):
        targets = [str(node.target) for node in graph.graph.nodes if "scaled_dot_product" in str(node.target)]
        names.extend(name.split("product_")[-1].removesuffix(".default") for name in targets)
        return graph
    compiled = torch.compile(attend, backend=aot_autograd(fw_compiler=read), fullgraph=True)
    compiled(*operands(120, 96), **options).sum().backward()
    return names

found["compiled, steady"] = compiled()
found["compiled, other sizes"] = compiled(steady=False)

def step(model, size, grad=True):
    with Seen() as seen, torch.autocast("cuda", torch.bfloat16), contextlib.nullcontext() if grad else torch.no_grad():
        model(torch.randn(1, 3, 2, size, size, device="cuda")).sum()
    return seen.names

model = create_model("mvitv2_s_16x4", depth=2, stage_starts=(1,), num_frames=2, crop_size=32, head_pooling="norm_mean")
model = model.cuda().train()
found["model"] = step(model, 32)
found["model, other size"] = step(model, 64)
found["model, evaluated"] = step(model, 32, grad=False)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def chosen(null_gpu: NullGPU) -> dict[str, Any]:
    found: dict[str, Any] = null_gpu.run(CHOSEN, NULL_GPU_CUDNN_ATTENTION="1")
    return found


def both(name: str) -> list[str]:
    return [f"{name}_attention", f"{name}_attention_backward"]


def test_training_on_one_shape_asks_cudnn(chosen: dict[str, Any]) -> None:
    assert chosen["steady"] == chosen["compiled, steady"] == both("cudnn")
    assert chosen["model"] == ["cudnn_attention"] * 2


def test_widths_that_cudnn_may_refuse_are_kept_from_it(chosen: dict[str, Any]) -> None:
    assert chosen["wide"] == both("flash")
    assert chosen["beyond flash-attention"] == both("efficient")


def test_shapes_that_change_build_no_plans(chosen: dict[str, Any]) -> None:
    assert chosen["other sizes"] == chosen["other sizes, one width"] == chosen["compiled, other sizes"] == both("flash")
    assert chosen["no gradient"] == ["flash_attention"]
    assert chosen["model, other size"] == chosen["model, evaluated"] == ["flash_attention"] * 2


def test_what_the_process_allows_is_kept(chosen: dict[str, Any]) -> None:
    assert chosen["cuDNN alone"] == both("cudnn")
    assert "cudnn_attention" not in chosen["no other but the literal"]
    assert chosen["no cuDNN"] == both("efficient")
    assert chosen["deterministic"] == both("flash")
    assert chosen["switched on again"] is True
    assert chosen["float32"] == both("efficient")


def test_other_devices_are_left_to_pytorch() -> None:
    q, k, v = (torch.randn(1, 2, 5, 8, requires_grad=True) for _ in range(3))
    assert not asks_cudnn(q, k, v, columns=8, steady=True)
    given = library_attention(q, k, v, scale=0.3, cudnn=False)
    assert torch.equal(given, F.scaled_dot_product_attention(q, k, v, scale=0.3))


@pytest.mark.parametrize(
    ("capability", "version", "first"),
    [
        ((9, 0), 91_900, True),
        ((9, 0), 91_500, False),
        ((9, 0), None, False),
        ((10, 3), 92_600, True),
        ((8, 0), 92_600, False),
    ],
)
def test_which_devices_ask_cudnn_first(
    capability: tuple[int, int], version: int | None, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_capability", lambda index: capability)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    monkeypatch.setattr(torch.backends.cuda, "cudnn_sdp_enabled", lambda: True)
    with FakeTensorMode():
        q = torch.empty(1, 2, 5, 96, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        assert asks_cudnn(q, q, q, columns=120, steady=True) is first


def test_constants_of_graphs_are_marked_as_torch_marks_them() -> None:
    def ours() -> None: ...
    def theirs() -> None: ...

    assert constant_in_graphs(ours) is ours
    assert vars(ours) == vars(torch.compiler.assume_constant_result(theirs)) != {}
