"""Gradients that are averaged at once after the backward pass are those of DistributedDataParallel, to the last bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mvit_video.distributed.gradients import AveragedAtOnce
from mvit_video.distributed.process_group import World
from tests import interpreters
from tests.conftest import SMALL_CLIPS, few_videos

RANKS = r"""
import json, os, sys
from contextlib import nullcontext
from pathlib import Path
import torch
import torch.distributed as dist
from torch import nn
from mvit_video import build
from mvit_video.build import step_form
from mvit_video.distributed import gradients, process_group
from mvit_video.engine import trainer
from mvit_video.engine.checkpoints import load_latest
from tests.conftest import options
from tests.forked_ranks import run

FOLDER, TRAININGS = Path(sys.argv[1]), json.loads(sys.argv[2])
messages = []
all_reduce = dist.all_reduce

def counted(tensor, *arguments, **more):
    messages.append(tensor.numel())
    return all_reduce(tensor, *arguments, **more)

def make(rank):
    torch.manual_seed(rank)  # ranks begin with weights of their own
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2))
    model[2].weight = nn.Parameter(model[2].weight.detach().t().contiguous().t())  # laid out by columns
    model[0].bias.requires_grad_(False)
    return model

def trained(wrap, world):
    model = make(world.rank)
    forward = wrap(model, world)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for step in range(3):
        for last in (False, True):
            generator = torch.Generator().manual_seed(100 * step + 10 * last + world.rank)
            with nullcontext() if last else forward.no_sync():
                forward(torch.randn(4, 6, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return [parameter.detach().clone() for parameter in model.parameters()]

def models():
    with process_group.world(torch.device("cpu")) as world:
        expected = trained(process_group.data_parallel, world)
        dist.all_reduce = counted
        found = trained(gradients.AveragedAtOnce, world)
        forward = gradients.AveragedAtOnce(make(world.rank), world)
        forward(torch.ones(1, 6)).sum().backward()
        grads = [parameter.grad for parameter in forward.parameters() if parameter.grad is not None]
        result = {
            "same": all(torch.equal(*both) for both in zip(expected, found, strict=True)),
            "messages": messages,
            "in one memory": len({grad.untyped_storage().data_ptr() for grad in grads}),
            "begin at": [grad.storage_offset() % gradients.ALIGNED for grad in grads],
            "laid out": all(p.grad.stride() == p.stride() for p in forward.parameters() if p.requires_grad),
            "not trained": [name for name, parameter in forward.model.named_parameters() if parameter.grad is None],
        }
        with torch.no_grad():
            result["without gradients"] = forward(torch.ones(1, 6)).requires_grad
    (FOLDER / f"{world.rank}.json").write_text(json.dumps(result))

def graphed():
    # Graphs of a CPU: the passes are the model's own.
    step_form.why_no_graphs = lambda *_: None
    trainer.GraphedModel.capture = lambda *_, **__: None
    dist.all_reduce = counted
    build.train(options(*TRAININGS["graphed"], "trainer.cuda_graphs=true"))
    assert sum(size > 100_000 for size in messages) == 2, messages  # all gradients of a step

codes = run(models, ranks=2), run(lambda: build.train(options(*TRAININGS["plain"])), ranks=2), run(graphed, ranks=2)
states = [load_latest(FOLDER / name / "tiny" / "checkpoints")["model"] for name in ("plain", "graphed")]
same = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
(FOLDER / "found.json").write_text(json.dumps({"codes": codes, "trained the same": same}))
"""


@pytest.fixture(scope="module")
def found(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("gradients")
    recipe = [
        *SMALL_CLIPS,
        "trainer.batch_size=1",
        "trainer.accumulate=2",
        "trainer.max_steps=2",
        "trainer.trackers=[]",
    ]
    trainings = {name: [*few_videos(motion_root, folder / name, *recipe)] for name in ("plain", "graphed")}
    interpreters.run("-c", RANKS, str(folder), json.dumps(trainings), check=True)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.parametrize("rank", ["0", "1"])
def test_gradients_are_those_of_ddp_and_lie_side_by_side(found: dict[str, Any], rank: str) -> None:
    own = found[rank]
    assert own["same"]
    assert own["messages"] == [160] * 4  # five parameters that are trained, each begun at a multiple of 32
    assert own["in one memory"] == 1 and set(own["begin at"]) == {0} and own["laid out"]
    assert own["not trained"] == ["0.bias"] and own["without gradients"] is False


def test_a_training_with_graphs_on_two_ranks_ends_with_the_same_weights(found: dict[str, Any]) -> None:
    assert found["found"] == {"codes": [[0, 0]] * 3, "trained the same": True}


def test_parameters_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"averaged in float32, and parameters are torch\.bfloat16"):
        AveragedAtOnce(nn.Linear(2, 2).bfloat16(), World(rank=0, size=2, device=torch.device("cpu")))
