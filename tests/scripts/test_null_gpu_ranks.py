"""Two ranks on two null GPUs: collectives give what they should, and a rank that fails lets the others know."""

from typing import Any

import pytest

from tests.null_gpu import NullGPU

RANKS = r"""
import json, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from gpu import null_gpu
from mvit_video.distributed import process_group
from mvit_video.distributed.gradients import AveragedAtOnce
from mvit_video.engine.graphs import GraphedModel
from mvit_video.models import create_model
from tests import forked_ranks

FOLDER = Path(sys.argv[1])
CUDA = torch.device("cuda")
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8)
OPERATIONS = ("SUM", "PRODUCT", "MAX", "MIN", "AVG")

def expected(a, b, operation):
    if operation == "AVG":
        return ((a.double() + b.double()) / 2).to(a.dtype)
    return {"SUM": torch.add, "PRODUCT": torch.mul, "MAX": torch.maximum, "MIN": torch.minimum}[operation](a, b)

def reductions(rank):
    wrong = []
    for dtype in TYPES:
        of_ranks = [torch.tensor([1.5, 2.25, 3.0, 7.0, 0.1]).add(3 * rank).to(dtype) for rank in range(2)]
        for operation in OPERATIONS[: 5 if dtype.is_floating_point else 4]:
            values = of_ranks[rank].cuda()
            dist.all_reduce(values, op=getattr(dist.ReduceOp, operation))
            if not torch.equal(values.cpu(), expected(*of_ranks, operation)):
                wrong.append(f"{dtype} {operation}")
    return wrong

def moves(rank):
    found = {}
    large = torch.arange(3_000_000.0)  # more than a piece
    values = large.cuda()
    dist.all_reduce(values)
    found["large"] = torch.equal(values.cpu(), 2 * large)
    gathered = torch.empty(2000, device="cuda")
    dist.all_gather_into_tensor(gathered, torch.full((1000,), rank + 1.0).cuda())
    found["gathered"] = gathered.cpu()[[0, 999, 1000, 1999]].tolist()
    part = torch.empty(500, device="cuda")
    dist.reduce_scatter_tensor(part, torch.arange(1000.0).cuda())
    found["scattered"] = part.cpu()[[0, 499]].tolist()
    values = torch.full((300_000,), rank + 5.0).cuda()
    dist.broadcast(values, 1)
    found["broadcast"] = values.cpu().unique().tolist()
    values, received = torch.full((700_000,), rank + 1.0).cuda(), torch.empty(700_000, device="cuda")
    both = [dist.P2POp(dist.isend, values, 1 - rank), dist.P2POp(dist.irecv, received, 1 - rank)]
    for work in dist.batch_isend_irecv(both):
        work.wait()
    found["received"] = received.cpu().unique().tolist()
    exchanged = torch.empty(1000, device="cuda")
    dist.all_to_all_single(exchanged, torch.arange(1000.0).add(1000 * rank).cuda())
    found["exchanged"] = exchanged.cpu()[[0, 499, 500, 999]].tolist()
    values = torch.full((3,), 2.0).cuda()
    dist.all_reduce(values, group=dist.new_group([0, 1]))
    found["another group"] = values.cpu().tolist()
    return found

def graphed():
    # What is captured is not done, and each launch of the graph does it.
    values = torch.full((100,), 1.0).cuda()
    graph, before = torch.cuda.CUDAGraph(), null_gpu.counts()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        dist.all_reduce(values)
    captured = values.cpu()[0].item()
    graph.replay()
    graph.replay()
    counted = (null_gpu.counts() - before).collectives
    return {"captured": captured, "after two": values.cpu()[0].item(), "counted": counted}

def messages(model, world):
    model = process_group.data_parallel(model.cuda(), world)
    before = null_gpu.counts()
    model(torch.ones(2, 4, device="cuda")).sum().backward()
    return (null_gpu.counts() - before).collectives

def gradients(world):
    with_table = torch.nn.Linear(4, 4)
    with_table.register_buffer("table", torch.zeros(3), persistent=False)
    with_statistics = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    return {"with a table": messages(with_table, world), "with statistics": messages(with_statistics, world)}

def by_columns(world):
    model = torch.nn.Linear(4, 3).cuda()
    model.weight = torch.nn.Parameter(torch.full((4, 3), world.rank + 1.0).cuda().t())
    AveragedAtOnce(model, world)  # NCCL refuses such a layout
    return model.weight.is_contiguous()

def graphed_step(world):
    shape = (1, 3, 2, 16, 16)
    small = {"depth": 2, "stage_starts": (1,), "num_frames": 2, "crop_size": 16, "pooling_form": "library"}
    model = create_model("mvitv2_motion", **small).cuda().train()
    graphed = GraphedModel(model)
    graphed.capture(shape, bf16=True)
    ranks = AveragedAtOnce(graphed, world)
    inputs = torch.zeros(shape, device="cuda")
    before = null_gpu.counts()
    with torch.autocast("cuda", torch.bfloat16):
        ranks(inputs).sum().backward()
    done = null_gpu.counts() - before
    gradients = sum(parameter.grad is not None for parameter in model.parameters())
    return {"launches": done.launches, "collectives": done.collectives, "gradients": gradients}

def waiting(world):
    # Collectives take their time: the host goes on, and the stream waits for rank 1, which joins after the barrier.
    if world.rank == 1:
        process_group.barrier(world)
    values = torch.full((100,), 1.0).cuda()
    dist.all_reduce(values)
    ready = torch.cuda.current_stream().query()
    if world.rank == 0:
        process_group.barrier(world)
    torch.cuda.synchronize()
    return ready

def well():
    with process_group.world(CUDA, timeout_s=60) as world:
        found = {"device": str(world.device), "reductions": reductions(world.rank), **moves(world.rank)}
        found["graph"] = graphed()
        found["gradients"], found["graphed step"] = gradients(world), graphed_step(world)
        found["contiguous"] = by_columns(world)
        before = null_gpu.counts()
        found["objects"] = process_group.gather_to_all({"rank": world.rank, "text": "x" * world.rank}, world)
        found["from main"] = process_group.from_main(["main"] * 3 if world.rank == 0 else None, world)
        process_group.barrier(world)
        found["by the GPU"] = (null_gpu.counts() - before).launches
        found["ready at once"] = waiting(world)
    with process_group.world(CUDA, timeout_s=60) as world:  # once more in the same process
        found["again"] = process_group.gather_to_all(world.rank, world)
    (FOLDER / f"well{world.rank}.json").write_text(json.dumps(found))

def fails():
    rank = int(os.environ["RANK"])
    try:
        with process_group.world(CUDA, timeout_s=300) as world:
            values = torch.ones(100, device="cuda")
            dist.all_reduce(values)
            process_group.barrier(world)
            if rank == 1:
                dist.all_reduce(values)  # which the other does not join before it asks for this one
                raise ValueError("a fault")
            process_group.gather_to_all(1, world)
    except Exception as error:
        (FOLDER / f"fails{rank}.json").write_text(json.dumps(f"{type(error).__name__}: {error}"))

def shares():
    os.environ["CUDA_VISIBLE_DEVICES"] = "1"  # both have the second one for their first
    try:
        with process_group.world(CUDA, timeout_s=60):
            pass
    except RuntimeError as error:
        (FOLDER / f"shares{os.environ['RANK']}.json").write_text(json.dumps(str(error)))
        raise

def sees_none():
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        with process_group.world(CUDA, timeout_s=60):
            pass
    except RuntimeError as error:
        (FOLDER / "sees_none.json").write_text(json.dumps(str(error)))

forked_ranks.LIMIT_S = 200  # a rank that waits for the timeout of `fails` is killed before
codes = {job.__name__: forked_ranks.run(job, ranks=2) for job in (well, fails, shares, sees_none)}
assert not any(codes["well"]), codes  # what the ranks wrote is shown then
found = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
print(json.dumps({**found, "codes": codes}))
"""


@pytest.fixture(scope="module")
def found(null_gpu: NullGPU, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result: dict[str, Any] = null_gpu.run(RANKS, str(tmp_path_factory.mktemp("ranks")), NULL_GPU_COUNT="2")
    return result


@pytest.mark.parametrize("rank", [0, 1])
def test_collectives_move_and_reduce_what_the_host_can_check(found: dict[str, Any], rank: int) -> None:
    own = found[f"well{rank}"]
    assert own["device"] == f"cuda:{rank}"
    assert own["reductions"] == []
    assert own["large"]
    assert own["gathered"] == [1, 1, 2, 2]
    assert own["scattered"] == [1000 * rank, 1000 * rank + 998]
    assert own["broadcast"] == [6]
    assert own["received"] == [2 - rank]
    assert own["exchanged"] == [500 * rank, 500 * rank + 499, 1000 + 500 * rank, 1499 + 500 * rank]
    assert own["another group"] == [4, 4, 4]


@pytest.mark.parametrize("rank", [0, 1])
def test_collectives_in_graphs_and_of_gradients_are_done_and_counted(found: dict[str, Any], rank: int) -> None:
    own = found[f"well{rank}"]
    assert own["graph"] == {"captured": 1, "after two": 4, "counted": 1}
    assert own["gradients"]["with a table"] == 1 < own["gradients"]["with statistics"]
    # Fewer launches than the model has parameters: DistributedDataParallel copies each gradient.
    step = own["graphed step"]
    assert step["collectives"] == 1 and step["launches"] < 20 < step["gradients"]
    assert own["contiguous"] is False


def test_a_collective_takes_its_time(found: dict[str, Any]) -> None:
    assert found["well0"]["ready at once"] is False


@pytest.mark.parametrize("rank", [0, 1])
def test_objects_and_barriers_of_ranks_on_gpus_do_not_touch_them(found: dict[str, Any], rank: int) -> None:
    own = found[f"well{rank}"]
    assert own["objects"] == [{"rank": 0, "text": ""}, {"rank": 1, "text": "x"}]
    assert own["from main"] == ["main"] * 3
    assert own["by the GPU"] == 0
    assert own["again"] == [0, 1]


def test_a_rank_that_fails_leaves_at_once_and_the_others_hear_of_it(found: dict[str, Any]) -> None:
    """Without leaving at once both would sit through the timeout of 300 s, in NCCL and in gloo."""
    assert found["fails1"] == "ValueError: a fault"
    assert found["fails0"].startswith("RuntimeError: rank 0: another rank is gone or did not come (")
    assert found["fails0"].endswith("); its own message says why") and ".cc:" not in found["fails0"]
    assert "imed out" not in found["fails0"]


def test_two_ranks_on_one_gpu_are_told_apart_from_two_that_see_one_each(found: dict[str, Any]) -> None:
    # The first one to ask waits for the other in the group, where it may be told that nobody comes.
    (told,) = [text for text in (found.get("shares0", ""), found.get("shares1", "")) if "the same GPU" in text]
    assert "(cuda:0; 1 to be seen here), and each needs its own" in told and "torchrun --nproc-per-node 1" in told
    assert "sees no GPU: trainer.device=cpu" in found["sees_none"]


def test_the_ranks_end_as_they_should(found: dict[str, Any]) -> None:
    assert found["codes"]["well"] == found["codes"]["fails"] == [0, 0]
    assert 1 in found["codes"]["shares"]
