"""The ranks of a run: started by torchrun, by submitit, or alone, from the same code."""

import inspect
import logging
import os
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

# Before any group is formed: this module's functions have the group of that time as default, and keep it and its
# connections. DistributedDataParallel imports it, too.
from torch.distributed.nn.functional import all_reduce as all_reduce_with_gradient
from torch.nn.parallel import DistributedDataParallel

from mvit_video.runtime.interruption import Interrupted, vote_span

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """This process among those of the run.

    Attributes:
        rank: number of this process, 0 to size - 1; rank 0 writes files and speaks.
        size: processes in the run.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def launched_size() -> int:
    """Processes the launcher started, by the variables torchrun and submitit export; 1 without them.

    Raises:
        RuntimeError: when only some of the variables are set, or the port is 0: a half-made launch must not become
            "one process of one".
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    present = [name for name in names if name in os.environ]
    if not present:
        return 1
    if len(present) < len(names):
        lacking = sorted(set(names) - set(present))
        raise RuntimeError(
            f"the environment has {', '.join(present)} but not {', '.join(lacking)}: start with torchrun or "
            "launcher=slurm, which set all five, or unset those for a run of one process"
        )
    if os.environ["MASTER_PORT"] == "0":
        raise RuntimeError(
            "MASTER_PORT is 0: the ranks cannot find each other there. Give torchrun a port, or --standalone, which "
            "finds a free one"
        )
    return int(os.environ["WORLD_SIZE"])


@contextmanager
def world(device: torch.device, *, timeout_s: float = 600.0) -> Iterator[World]:
    """Join the process group that the environment describes, or form a world of one; leave it at the end.

    Args:
        device: type of device to compute on; with several GPUs each rank takes the one of its local rank.
        timeout_s: seconds after which a collective that some rank did not join ends the run.

    Raises:
        RuntimeError: when the group cannot be formed, or two ranks have the same GPU; the message says what was tried.
            Or when a message of gloo's fails in the block, because another rank is gone.
    """
    size = launched_size()
    if size == 1 and "RANK" not in os.environ:
        yield World(rank=0, size=1, device=device)
        return
    if device.type == "cuda":
        device = _own_gpu()
        torch.cuda.set_device(device)
    # With both, tensors on a GPU take NCCL, and objects and barriers gloo: they need no memory of the GPU, do not wait
    # for it, and a rank that is gone is an error at once, where NCCL would wait for the timeout and end the process.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    timeout = timedelta(seconds=timeout_s)
    try:
        store = dist.PrefixStore(f"{_attempt()}, group {len(_joined)}", _meeting_place(where, timeout))
        rank = int(os.environ["RANK"])
        shared = _shared_gpu(device, store, rank) if device.type == "cuda" else None
        if shared is None:
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except Exception as error:
        raise RuntimeError(
            f"rank {os.environ['RANK']} of {size} could not join the {backend} group at {where} "
            f"within {timeout_s:g} s: {error}"
        ) from error
    if shared is not None:
        raise RuntimeError(shared)
    _joined.append(where)
    try:
        yield World(rank=dist.get_rank(), size=dist.get_world_size(), device=device)
    except Interrupted:
        dist.destroy_process_group()  # as its last step was done by all
        raise
    except BaseException as error:
        _leave_at_once(device)
        if isinstance(error, RuntimeError) and _OF_GLOO.match(str(error)):
            raise RuntimeError(
                f"rank {rank}: another rank is gone or did not come ({_cause(error)}); its own message says why"
            ) from error
        raise
    dist.destroy_process_group()


_stores: dict[str, dist.Store] = {}
"""Where this process has met others, by address. Rank 0 serves what it holds, for as long as it holds it."""
_joined: list[str] = []
"""Where each group of this process met; all ranks form the same groups one after the other."""


def _meeting_place(where: str, timeout: timedelta) -> dist.Store:
    """The store through which ranks tell each other their addresses; for all groups of a process the same one.

    If rank 0 served a new one for each group, a rank that is ahead would find the one of the group before, with
    addresses at which nobody is any more, and wait there.
    """
    if where not in _stores:
        _stores[where] = next(dist.rendezvous("env://", timeout=timeout))[0]
    _stores[where].set_timeout(timeout)
    return _stores[where]


def _attempt() -> str:
    """A name that the ranks of one start have in common, and those of the start before had not.

    torchrun starts ranks again with the same store, where the addresses of the ended ones still are: whoever is first
    would connect to those. It counts its starts for each node by itself, so of several nodes nothing is known here;
    launchers give them a store for each start (cluster/processes.py).
    """
    one_node = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    return f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}" if one_node else "start"


_OF_GLOO = re.compile(r"^\[\S*\bgloo/\S+:\d+\] ")
"""Where in gloo's code an error comes from, as its messages begin."""
_averaged: weakref.WeakSet[DistributedDataParallel] = weakref.WeakSet()
"""What holds the group of all ranks."""
_left: list[Any] = []
"""Groups that were left at once: PyTorch would warn, before the user reads why, that each one ends unfinished."""


def _own_gpu() -> torch.device:
    """The GPU of this rank: that of its number on the node, or the only one that it sees.

    Raises:
        RuntimeError: it sees none.
    """
    count = torch.cuda.device_count()
    if count == 0:
        raise RuntimeError(f"rank {os.environ['RANK']} sees no GPU: trainer.device=cpu trains without")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % count)


def _shared_gpu(device: torch.device, store: dist.Store, rank: int) -> str | None:
    """What to tell the user if another rank has this GPU, which NCCL would refuse in words of its own; else None.

    A GPU's UUID is its own in all the world, so each rank claims that of its GPU. A rank may do so again: a process can
    join more than once.
    """
    claim = f"gpu/{torch.cuda.get_device_properties(device).uuid}"
    holder = store.compare_set(claim, "", str(rank)).decode()  # the first one's
    if holder == str(rank):
        return None
    count = torch.cuda.device_count()
    return (
        f"ranks {holder} and {rank} have the same GPU ({device}; {count} to be seen here), and each needs its own: "
        f"start as many ranks on a node as it has GPUs (torchrun --nproc-per-node {count}), or set trainer.device=cpu"
    )


def _leave_at_once(device: torch.device) -> None:
    """Leave the group after a failure, of which the others do not know yet.

    They wait for this rank at connections of gloo's, which last as long as anything holds the group. The models in the
    frames of the error do, so in a program that goes on the others would wait up to their timeout. NCCL, too, would
    first wait for work that this rank has begun and another may never join.
    """
    for averaged in list(_averaged):
        averaged.reducer = averaged.logger = averaged.process_group = None  # type: ignore[assignment]
    if device.type != "cuda":
        dist.destroy_process_group()
        return
    _left.append(dist.group.WORLD)
    try:
        dist.distributed_c10d._abort_process_group()
    except RuntimeError as error:  # as after an error of the GPU, which is what the user must see
        logger.warning("the group of the ranks could not be left: %s", error)


def data_parallel(model: nn.Module, world: World) -> nn.Module:
    """The model with its gradients averaged over the ranks; the model itself in a world of one.

    Buffers are those of rank 0 from the beginning on; before each pass, too, where there are running statistics. Others
    are constants, and sending them would let every forward pass wait for rank 0.
    """
    if world.size == 1:
        return model
    ids = [world.device.index] if world.device.type == "cuda" else None
    # PyTorch 2.11 and 2.15 have different names for it.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    before_each_pass: Any = {name: bool(running_statistics(model))}
    averaged = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, **before_each_pass)
    _averaged.add(averaged)
    return averaged


def running_statistics(model: nn.Module) -> list[str]:
    """Names of the buffers that a model keeps with its weights, because passes change them."""
    return sorted(model.state_dict().keys() - dict(model.named_parameters()).keys())


def mean_over_ranks(values: torch.Tensor, world: World) -> torch.Tensor:
    """Mean of a tensor over the ranks."""
    if world.size == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world.size


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over the ranks; gradients flow back to all of them."""
    total: torch.Tensor = all_reduce_with_gradient(values, group=dist.group.WORLD)
    return total


def _cause(error: RuntimeError) -> str:
    """The first sentence of gloo's message, without its place in gloo's code."""
    first = str(error).strip().splitlines() or [type(error).__name__]
    return _OF_GLOO.sub("", first[0]).split(". ")[0]


def gather_to_main(value: Any, world: World) -> list[Any]:
    """The value of every rank, in rank order, on rank 0; an empty list on the others. Values are pickled."""
    if world.size == 1:
        return [value]
    gathered: list[Any] = [None] * world.size if world.is_main else []
    dist.gather_object(value, gathered if world.is_main else None)
    return gathered


def gather_to_all(value: Any, world: World) -> list[Any]:
    """The value of every rank, in rank order, on every rank. Values are pickled."""
    if world.size == 1:
        return [value]
    gathered: list[Any] = [None] * world.size
    dist.all_gather_object(gathered, value)
    return gathered


def from_main(value: Any, world: World) -> Any:
    """The value of rank 0 on every rank."""
    box = [value]
    if world.size > 1:
        dist.broadcast_object_list(box)
    return box[0]


@torch.no_grad()
def take_weights_from_main(model: nn.Module, world: World) -> None:
    """Give parameters and buffers of a model the values of rank 0; NCCL sends no other layout than the plain one."""
    if world.size == 1:
        return
    for tensor in (*model.parameters(), *model.buffers()):
        plain = tensor.detach().contiguous()
        dist.broadcast(plain, 0)
        tensor.copy_(plain)


def barrier(world: World) -> None:
    """Wait until every rank is here."""
    if world.size > 1:
        dist.all_reduce(torch.zeros(1))  # on the host; `dist.barrier` may take the GPU, with its own way to fail


@contextmanager
def main_first(world: World) -> Iterator[None]:
    """Rank 0 runs the block before the others do, so that what it makes on disk is there for them."""
    if not world.is_main:
        barrier(world)
    yield
    if world.is_main:
        barrier(world)


class StopVote:
    """The ranks' common answer to "was any of us asked to stop?".

    The flags travel over gloo while the ranks compute, for as many steps as `span` says, so that asking costs no time.
    Where gradients take gloo as well, that is in a group of their own; on GPUs in that of the world.

    Args:
        world: this process among the others.
        timeout_s: seconds after which a rank that has not answered counts as lost; those of the world.
    """

    def __init__(self, world: World, *, timeout_s: float) -> None:
        self.rank = world.rank
        self.span = vote_span(world.size)
        self.timeout_s = timeout_s
        self._group: dist.ProcessGroup | None = None
        if world.size > 1:
            # Each group of gloo connects every rank with every other, so there are no more of them than needed.
            own = world.device.type != "cuda"
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s)) if own else dist.group.WORLD
            assert isinstance(group, dist.ProcessGroup)
            self._group = group

    def ask(self, stop: bool) -> Callable[[], bool]:
        """Send this rank's flag off; the returned function waits for those of the others.

        Raises (the function): RuntimeError, when a rank does not answer in time or is gone.
        """
        if self._group is None:
            return lambda: stop
        flag = torch.tensor([float(stop)])
        work = dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True)

        def answer() -> bool:
            """Whether any rank's flag was set; waits for all of them."""
            assert work is not None
            try:
                work.wait()
            except RuntimeError as error:
                raise RuntimeError(
                    f"rank {self.rank}: another rank did not finish its step within {self.timeout_s:g} s, or is gone "
                    f"({_cause(error)})"
                ) from error
            return bool(flag.item())

        return answer
