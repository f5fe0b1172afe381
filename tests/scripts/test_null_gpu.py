"""scripts/gpu/null_gpu: what a card refuses is refused, what it allows runs, and it can be had or says why not."""

from typing import Any

import pytest

from tests.null_gpu import NullGPU

CAPTURES = r"""
import json, threading
import torch
from gpu import null_gpu
from mvit_video.models import create_model

found = {}

def message(work):
    try:
        work()
    except Exception as error:
        while error.__context__ is not None:
            error = error.__context__
        return str(error).splitlines()[0]
    return "allowed"

def captured(work, stream=None):
    with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream):
        x @ x
        work()

x = torch.ones(8, 8, device="cuda")
other = torch.cuda.Stream()

# What is computed on the host is real; what kernels would compute is not.
found["copied"] = torch.arange(5).cuda().cpu().tolist()
found["pinned"] = torch.arange(5).pin_memory().is_pinned()

# A training step, counted.
model = create_model("mvitv2_motion", depth=2, stage_starts=(1,), num_frames=2, crop_size=16, pooling_form="library")
model = model.cuda().train()
clips = torch.zeros(1, 3, 2, 16, 16, device="cuda")
optimizer = torch.optim.AdamW(model.parameters(), fused=True, capturable=True)

def step():
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(clips).float().sum()
    loss.backward()
    optimizer.step()

for _ in range(2):
    before = null_gpu.counts()
    step()
    found.setdefault("steps", []).append((null_gpu.counts() - before).launches)
found["gradients"] = all(parameter.grad is not None for parameter in model.parameters())

side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    step()
torch.cuda.current_stream().wait_stream(side)
graph = torch.cuda.CUDAGraph()
optimizer.zero_grad(set_to_none=True)
with torch.cuda.graph(graph):
    step()
before = null_gpu.counts()
graph.replay()
found["replay"] = (null_gpu.counts() - before).launches

# What a capture refuses.
def in_other_stream(join):
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        x @ x
    if join:
        torch.cuda.current_stream().wait_stream(other)

def in_a_thread(work):
    def run():
        seen.append(message(work))
    seen = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return seen[0]

event = torch.cuda.Event()
event.record()
for name, work in {
    "item": lambda: x.sum().item(),
    "synchronize": torch.cuda.synchronize,
    "stream synchronize": lambda: torch.cuda.current_stream().synchronize(),
    "query": lambda: other.query(),
    "thread": lambda: in_a_thread(event.query),
    "pageable copy": lambda: x.copy_(torch.ones(8, 8)),
    "event of before": lambda: torch.cuda.current_stream().wait_event(event),
    "unjoined": lambda: in_other_stream(False),
    "joined": lambda: in_other_stream(True),
    "memory": lambda: torch.empty(2**26, device="cuda"),
}.items():
    found[name] = message(lambda: captured(work))
found["after"] = message(torch.cuda.synchronize)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def captures(null_gpu: NullGPU) -> dict[str, Any]:
    return null_gpu.run(CAPTURES)


def test_a_training_step_runs_and_is_counted(captures: dict[str, Any]) -> None:
    first, second = captures["steps"]
    assert captures["gradients"] and captures["copied"] == [0, 1, 2, 3, 4] and captures["pinned"]
    assert 100 < second <= first
    assert captures["replay"] == 1


@pytest.mark.parametrize(
    "call", ["item", "synchronize", "stream synchronize", "query", "thread", "pageable copy", "event of before"]
)
def test_a_capture_refuses_what_waits(call: str, captures: dict[str, Any]) -> None:
    assert "captur" in captures[call]


def test_all_streams_of_a_capture_must_come_together_again(captures: dict[str, Any]) -> None:
    assert "unjoined work" in captures["unjoined"]
    assert captures["joined"] == captures["memory"] == captures["after"] == "allowed"
