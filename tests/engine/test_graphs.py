"""Forward and backward pass as CUDA graphs: what the trainer needs of them, on the null GPU, and what a CPU says."""

import copy
import logging
from typing import Any

import pytest
import torch
from torch import nn

from mvit_video.engine.graphs import CaptureError, GraphedModel
from mvit_video.engine.precision import autocast
from mvit_video.models import MViT, create_model
from mvit_video.models.mvit import network
from tests.null_gpu import NullGPU

CAPTURES = r"""
import copy, gc, json, logging, warnings
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from gpu import null_gpu
from mvit_video.engine.graphs import CaptureError, GraphedModel

warnings.simplefilter("error")  # PyTorch warns of nodes that run on the stream of a capture
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("mvit_video.engine.graphs").addHandler(handler)
found = {}

class Drawing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.rand_like(grad)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(9))
        self.unused = nn.Linear(8, 8)
        self.one, self.other = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(8))
        self.dropout = nn.Dropout(0.5)
        self.fault, self.recomputed = None, False

    def forward(self, x):
        self.seen.fill_(1)
        x = x + (self.one + self.other)
        for layer in self.layers:
            x = self.dropout(layer(x))
        if self.recomputed:
            x = checkpoint(lambda x: self.dropout(x).exp(), x, use_reentrant=False)
        if self.fault == "draws":
            x = Drawing.apply(x)
        if self.fault == "memory":
            x = x + torch.empty(2**36, device="cuda")[:8]
        if self.fault == "of Python" and torch.cuda.is_current_stream_capturing():
            raise ValueError("nothing to see")
        return x * x.sum().item() if self.fault == "waits" else x

def message(work):
    said = "allowed"
    try:
        work()
    except (RuntimeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
    gc.collect()
    return said

def step(forward, x, bf16=True):
    with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
        outputs = forward(x)
    outputs.float().square().mean().backward()

def launches(work):
    before = null_gpu.counts()
    work()
    return (null_gpu.counts() - before).launches

def clear(model):
    model.zero_grad(set_to_none=True)

model = Net().cuda().train()
model.layers[0].requires_grad_(False)
trained = [model.one, model.other, *(p for p in model.layers.parameters() if p.requires_grad)]
x = torch.zeros(2, 8, device="cuda")
graphed = GraphedModel(model)

# A capture that fails leaves the process as it was: stream, draws, memory, also that of other streams.
stream, other = torch.cuda.current_stream(), torch.cuda.Stream()

def reserved_after_use():
    for _ in range(3):
        used = torch.empty(2**24, device="cuda")
        used.record_stream(other)
        del used
        torch.rand(2, device="cuda").sum().item()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()

step(model, x)
clear(model)
graphed.capture((2, 8), bf16=True)  # cuBLAS takes its workspace
graphed.release()
reserved = reserved_after_use()
for model.fault in ("waits", "of Python", "memory", "draws"):
    failed = message(lambda: graphed.capture((2, 8), bf16=True))
    found[model.fault] = failed, torch.cuda.current_stream() == stream, reserved_after_use() - reserved
model.fault = None
handle = model.layers[3].register_forward_hook(lambda *_: None)
found["hooks"] = message(lambda: graphed.capture((2, 8), bf16=True))
handle.remove()

# A capture leaves the model as it was.
found["eager"] = [launches(lambda: step(model, x)) for _ in range(2)][1]
clear(model)
model.seen.copy_(torch.tensor(7.0))
torch.manual_seed(5)
before, names = torch.cuda.get_rng_state(), list(model.state_dict())
graphed.capture((2, 8), bf16=True)
places = graphed._captured.places
found["untouched"] = [
    torch.equal(before, torch.cuda.get_rng_state()),
    all(parameter.grad is None for parameter in model.parameters()),
    model.seen.item() == 7 and list(model.state_dict()) == names,
]

# Replays: few launches, the same draws, gradients without a copy, none for what is not used.
found["graphs"] = [launches(lambda: (clear(model), step(graphed, x))) for _ in range(2)][1]
found["taken over"] = sum(parameter.grad.data_ptr() in places for parameter in trained)
found["apart"] = len({parameter.grad.untyped_storage().data_ptr() for parameter in trained})
found["none"] = all(p.grad is None for p in [*model.unused.parameters(), *model.layers[0].parameters()])
clear(model)
states = []
for forward in (model, graphed):
    torch.manual_seed(5)
    step(forward, x)
    clear(model)
    states.append(torch.cuda.get_rng_state())
found["same draws"] = [torch.equal(*states), torch.equal(states[0], before)]

# Recomputed blocks draw again what they drew: their graph starts where the forward pass started.
class Replay:
    def __init__(self, graph):
        self.replay = lambda: (starts.append(torch.cuda.get_rng_state()), graph.replay())

model.recomputed, recomputing, states, starts = True, GraphedModel(model), [], []
recomputing.capture((2, 8), bf16=True)
recomputing._captured.backward_pass = Replay(recomputing._captured.backward_pass)
for forward in (model, recomputing):
    torch.manual_seed(6)
    torch.rand(2, device="cuda")
    start = torch.cuda.get_rng_state()
    step(forward, x)
    clear(model)
    states.append(torch.cuda.get_rng_state())
found["drawn again"] = [torch.equal(*states), torch.equal(starts[0], start), torch.equal(start, states[0])]
recomputing.release()
model.recomputed = False

# Gradients that are added up lie in memory of their own, before a pass writes over them.
step(graphed, x)
with torch.autocast("cuda", torch.bfloat16):
    outputs = graphed(x)
found["freed before the pass"] = sum(parameter.grad.data_ptr() in places for parameter in trained)
own = [parameter.grad.data_ptr() for parameter in trained]
outputs.sum().backward()
step(graphed, x)
found["added up there"] = own == [parameter.grad.data_ptr() for parameter in trained]
clear(model)

# The backward pass of a pass whose activations are gone.
with torch.autocast("cuda", torch.bfloat16):
    first, second = graphed(x), graphed(x)
found["late"] = message(lambda: first.sum().backward())
second.sum().backward(retain_graph=True)
found["twice"] = message(lambda: second.sum().backward())
clear(model)
del outputs, first, second

# Passes that are the model's own.
def replayed(work):
    passes, graphed._warned = graphed._captured.passes, False
    said.clear()
    work()
    clear(model)
    return graphed._captured.passes > passes, list(said)

def with_hook():
    handle = model.layers[2].register_forward_pre_hook(lambda *_: None)
    step(graphed, x)
    handle.remove()

def without_gradients():
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        graphed(x)

def moved():
    old = model.layers[1].weight.data
    model.layers[1].weight.data = old.clone()
    step(graphed, x)
    model.layers[1].weight.data = old

found["own"] = {
    "shape": replayed(lambda: step(graphed, x[:1])),
    "dtype": replayed(lambda: step(graphed, x.bfloat16())),
    "autocast": replayed(lambda: step(graphed, x, bf16=False)),
    "modes": replayed(lambda: (model.dropout.eval(), step(graphed, x), model.dropout.train())),
    "hooks": replayed(with_hook),
    "moved": replayed(moved),
    "no_grad": replayed(without_gradients),
    "evaluation": replayed(lambda: (graphed.eval(), without_gradients(), graphed.train())),
}
found["again"] = replayed(lambda: (model.load_state_dict(model.state_dict()), step(graphed, x)))
found["copy"] = [copied._captured is None for copied in (copy.deepcopy(graphed), GraphedModel(copy.deepcopy(model)))]

# Several ranks: DDP's hooks fire, also after passes without them.
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

def unsummed(_, bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    buckets.append(bucket.index())
    return future

buckets = []
model.unused = None
dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
graphed.capture((2, 8), bf16=True)
ranks = DistributedDataParallel(graphed, device_ids=[0], gradient_as_bucket_view=True)
ranks.register_comm_hook(None, unsummed)
for _ in range(2):
    with ranks.no_sync():
        step(ranks, x)
    found["exchanged early"] = len(buckets)
    step(ranks, x)
    found["exchanged"], found["replays"] = len(buckets), graphed._captured.passes
    places = {gradient.data_ptr() for gradient in graphed._captured.gradients}
    found["in buckets"] = sum(p.grad._is_view() and p.grad.data_ptr() not in places for p in trained)
    clear(model)
    buckets.clear()
graphed.release()
found["released"] = launches(lambda: step(graphed, x)) > 30
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def captures(null_gpu: NullGPU) -> dict[str, Any]:
    found: dict[str, Any] = null_gpu.run(CAPTURES)
    return found


def test_a_capture_leaves_the_model_as_it_was(captures: dict[str, Any]) -> None:
    assert captures["untouched"] == [True] * 3


def test_a_capture_that_fails_says_why_and_leaves_the_gpu_usable(captures: dict[str, Any]) -> None:
    text, same_stream, kept = captures["waits"]
    assert text.startswith("CaptureError: forward and backward pass cannot be captured as CUDA graphs: ")
    assert "captur" in text[70:] and text.endswith(": trainer.cuda_graphs=false trains without them")
    assert same_stream and kept < 2**23  # a tensor of 2**26 bytes was used in another stream
    text, same_stream, kept = captures["of Python"]
    assert text == "ValueError: nothing to see" and same_stream and kept < 2**23
    text, same_stream, kept = captures["memory"]
    assert text.startswith("OutOfMemoryError: CUDA out of memory.") and same_stream and kept < 2**23
    assert "as CUDA graphs: the backward pass draws random numbers that are not those of the" in captures["draws"][0]
    assert "hooks run from Python, which a CUDA graph does not: remove those of layers.3, or" in captures["hooks"]


def test_replays_start_few_kernels_and_draw_what_the_model_draws(captures: dict[str, Any]) -> None:
    assert captures["eager"] > 60 and captures["graphs"] < 20
    assert captures["same draws"] == [True, False]
    assert captures["drawn again"] == [True, True, False]


def test_gradients_are_taken_over_and_freed_before_they_are_added_up(captures: dict[str, Any]) -> None:
    assert captures["taken over"] == captures["apart"] == 18 and captures["none"]
    assert captures["freed before the pass"] == 0 and captures["added up there"]


def test_a_late_backward_pass_is_refused(captures: dict[str, Any]) -> None:
    for case in ("late", "twice"):
        assert captures[case].startswith("RuntimeError: a backward pass after another forward or backward pass")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("shape", "its input is (1, 8) torch.float32 on cuda:0, not (2, 8)"),
        ("dtype", "its input is (2, 8) torch.bfloat16"),
        ("autocast", "the autocast is not as"),
        ("modes", "modes of modules are not as"),
        ("hooks", "hooks are not as"),
        ("moved", "parameters are, or are trained, not as"),
        ("no_grad", None),
        ("evaluation", None),
    ],
)
def test_any_other_pass_is_the_models_own(case: str, words: str | None, captures: dict[str, Any]) -> None:
    replayed, said = captures["own"][case]
    assert not replayed and len(said) == (words is not None)
    assert words is None or f"runs without the CUDA graphs: {words}" in said[0]
    assert captures["again"] == [True, []] and captures["copy"] == [True, True]


def test_ranks_exchange_gradients_of_graphs_with_the_last_pass(captures: dict[str, Any]) -> None:
    assert captures["exchanged early"] == 0 and captures["exchanged"] >= 1
    assert captures["replays"] == 4 and captures["in buckets"] == 18 and captures["released"]


def test_a_cpu_and_a_model_that_trains_nothing_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"not on a GPU, and only GPUs have CUDA graphs: trainer\.cuda_graphs=false"):
        GraphedModel(nn.Linear(2, 2)).capture((1, 2), bf16=False)


def test_without_a_capture_it_is_the_model(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = nn.Linear(2, 3)
    graphed = copy.deepcopy(GraphedModel(model))
    x = torch.ones(1, 2)
    with autocast(False, x.device):
        assert torch.equal(graphed(x), model(x))
    assert caplog.text == ""


@pytest.mark.parametrize(("rate", "kept"), [(0.0, [False, False]), (0.5, [False, True])])
def test_recomputed_blocks_read_the_random_state_only_where_they_draw(
    rate: float, kept: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a capture forbids. The first block of a drop path has a rate of 0."""
    seen: list[bool] = []

    def checkpoint(block: nn.Module, *inputs: object, use_reentrant: bool, preserve_rng_state: bool) -> object:
        seen.append(preserve_rng_state)
        return block(*inputs)

    monkeypatch.setattr(network, "checkpoint", checkpoint)
    model = create_model(
        "mvitv2_motion", depth=2, stage_starts=(1,), num_frames=2, crop_size=16, drop_path=rate,
        activation_checkpointing=True,
    )  # fmt: skip
    assert isinstance(model, MViT)
    model.train()(torch.zeros(1, 3, 2, 16, 16))
    assert seen == kept
