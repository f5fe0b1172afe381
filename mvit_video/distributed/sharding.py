"""Parameters, gradients and optimizer state divided among the ranks (FSDP2), and their distributed checkpoints (DCP).

Each block is gathered when it is computed and let go afterwards, so a rank holds 1/N of the float32 weights, gradients
and optimizer moments, and of the whole only one or two blocks at a time. Tensors of a sharded model are DTensors.
"""

import json
import logging
import pickle
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mvit_video.distributed.process_group import World, running_statistics
from mvit_video.runtime.compilation import COMPILE_OPTIONS

logger = logging.getLogger(__name__)

TensorPath = tuple[str | int, ...]
"""Where a tensor is in a nested state dict."""
Layout = Callable[[TensorPath, torch.Size], torch.Tensor | None]
"""(place in a state dict, whole shape) -> a sharded tensor that is divided as the one there should be; None: whole."""


class Sharding:
    """How the ranks of a world divide models among themselves.

    Args:
        world: of at least two ranks. Every rank must build this, in the same place.
        bf16: on a GPU, gather parameters and compute in bf16; gradients are summed, and everything is kept, in float32.
        timeout_s: seconds after which a rank that does not answer while a checkpoint is written counts as lost.
    """

    def __init__(self, world: World, *, bf16: bool, timeout_s: float) -> None:
        from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

        assert world.size > 1
        self.world = world
        self.bf16 = bf16 and world.device.type == "cuda"
        self.mesh = init_device_mesh(world.device.type, (world.size,))
        # Checkpoints are written in a thread of each rank: its messages must not mix with those of the steps.
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        assert isinstance(group, dist.ProcessGroup)
        self.group = group
        self._host_mesh = DeviceMesh.from_group(group, "cpu")

    def apply(self, model: nn.Module, *, compile: bool = False) -> None:
        """Divide a model's parameters, in place: each of its `blocks` for itself, and the rest together.

        Args:
            model: on the world's device, with the same weights on every rank.
            compile: compile each block (a whole sharded model cannot be compiled as one graph).

        Raises:
            ValueError: for a model with running statistics, which the ranks would not exchange.
        """
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        statistics = running_statistics(model)
        if statistics:
            raise ValueError(
                f"{type(model).__name__} keeps running statistics ({statistics[0]}, ...), which sharded ranks do not "
                "exchange: set trainer.strategy=ddp"
            )
        policy = MixedPrecisionPolicy()
        if self.bf16:
            # Inputs stay as autocast makes them, so that the residual stream has the precision it has without sharding.
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        blocks = list(getattr(model, "blocks", ()))
        if compile:  # they share their code, for which torch by default compiles no more than eight versions
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(blocks))
        for block in blocks:
            if compile:
                # Blocks differ in shape; a block does not change its own.
                block.compile(dynamic=False, options=COMPILE_OPTIONS)
            fully_shard(block, mesh=self.mesh, mp_policy=policy)
        fully_shard(model, mesh=self.mesh, mp_policy=policy)

    def host_copy(self, tensor: torch.Tensor, copied: torch.Tensor) -> torch.Tensor:
        """`copied`, a copy in host memory of the local part of `tensor`, in the place `tensor` has among the ranks."""
        if not is_sharded(tensor):
            return copied
        from torch.distributed.tensor import DTensor

        assert isinstance(tensor, DTensor)
        return DTensor.from_local(
            copied, self._host_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
        )

    def agree(self, work: Callable[[], Any]) -> list[Any]:
        """What `work()` gives on every rank, in rank order, on every rank.

        Raises:
            RuntimeError: if it failed anywhere, on all ranks; OSErrors of any rank are an OSError.
        """
        value: Any = None
        failure: tuple[bool, str] | None = None
        try:
            value = work()
        except Exception as error:  # raised below, here and on all the others
            failure = (isinstance(error, OSError), f"rank {self.world.rank}: {error}")
        gathered: list[Any] = [None] * self.world.size
        dist.all_gather_object(gathered, (value, failure), group=self.group)
        failures = [failed for _, failed in gathered if failed is not None]
        if failures:
            text = "; ".join(reason for _, reason in failures)
            raise (OSError if any(is_os_error for is_os_error, _ in failures) else RuntimeError)(text)
        return [value for value, _ in gathered]


def gathers_bf16(model: object, *, bf16: bool) -> bool:
    """Whether sharded ranks that compute in bf16 gather this model's weights in bf16; else in float32."""
    return bf16 and not getattr(model, "needs_float32_weights", False)


def is_sharded(tensor: object) -> bool:
    """Whether the ranks hold different parts of this tensor."""
    # Importing DTensor takes a second; where nobody has, there is none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _is_divided(module: nn.Module) -> bool:
    """Whether the ranks have divided this module among themselves, which nobody has who has not imported FSDP."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor: its shard, or all of it if it is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a sharded tensor, gathered on every rank: every rank must call."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def divided_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, the same on every rank, divided as `like` is; nothing is sent."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    there = tensor.to(like.to_local().device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


def without_exchange(model: nn.Module) -> AbstractContextManager[object]:
    """Backward passes in the block keep their gradients on their rank, for a later one to exchange the sum."""
    if _is_divided(model):
        return _without_reduction(model)
    no_sync: Callable[[], AbstractContextManager[object]] | None = getattr(model, "no_sync", None)
    return nullcontext() if no_sync is None else no_sync()


@contextmanager
def _without_reduction(model: Any) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale all gradients so that their common norm is at most `max_norm`; the norm before, a scalar tensor.

    The norm is that of the whole gradient, also where each rank holds a part of it.
    """
    listed = list(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in listed if p.grad is not None])
    norm = whole(norm)
    nn.utils.clip_grads_with_norm_(listed, max_norm, norm)
    return norm


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """In the block every rank holds the whole model, so that ranks may compute forward passes without one another.

    For evaluation: ranks have different numbers of batches. Every rank must enter.
    """
    if not _is_divided(model):
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    with torch.no_grad():
        for module in modules:
            module.unshard()
            module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in modules:
            module.reshard()
            module.set_reshard_after_forward(module is not model, recurse=False)


def write_parts(folder: Path, tensors: Mapping[TensorPath, torch.Tensor], sharding: Sharding) -> list[str]:
    """Write this rank's parts of tensors in host memory (DCP); names of the files it wrote. Every rank must call.

    Raises:
        OSError: if a rank could not write.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    writer = dcp.FileSystemWriter(folder, sync_files=True, thread_count=1)
    named = {json.dumps(path): tensor for path, tensor in tensors.items()}
    try:
        dcp.save(named, storage_writer=writer, process_group=sharding.group)
    except CheckpointException as error:  # not an Exception; raised on all ranks
        reasons = {rank: failure[0] for rank, failure in error.failures.items()}
        text = "; ".join(f"rank {rank}: {str(reason).splitlines()[0]}" for rank, reason in reasons.items())
        raise OSError(text) from error
    mine = sorted(path.name for path in folder.glob(f"__{sharding.world.rank}_*"))
    return [*mine, ".metadata"] if sharding.world.is_main else mine


def read_parts(folder: Path, layout: Layout) -> dict[TensorPath, torch.Tensor]:
    """Tensors that `write_parts` wrote, on any number of ranks; whole ones in host memory, or divided as laid out.

    Each rank reads what it needs by itself.

    Raises:
        OSError, RuntimeError, ValueError, pickle.UnpicklingError: if the files are damaged.
    """
    import torch.distributed.checkpoint as dcp

    reader = _reader(folder)
    stored = reader.read_metadata().state_dict_metadata
    tensors: dict[TensorPath, torch.Tensor] = {}
    for key, about in stored.items():
        path: TensorPath = tuple(json.loads(key))
        like = layout(path, about.size)
        empty = torch.empty(about.size, dtype=about.properties.dtype)
        tensors[path] = empty if like is None else torch.empty_like(like, dtype=about.properties.dtype)
    named = {json.dumps(path): tensor for path, tensor in tensors.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as wanted
        dcp.load(named, storage_reader=reader, no_dist=True)
    return tensors


def _reader(folder: Path) -> Any:
    """DCP's reader of a folder, which does not run code from it."""
    from torch.distributed.checkpoint import FileSystemReader

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            with open(folder / ".metadata", "rb") as file:
                metadata = _MetadataUnpickler(file).load()
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return Reader(folder)


class _MetadataUnpickler(pickle.Unpickler):
    """Unpickles the index of a DCP folder, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """The class a pickle names, if it is one of those an index consists of."""
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _METADATA_CLASSES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into the index of a checkpoint")


_METADATA_CLASSES = frozenset(
    {
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("pathlib", "PosixPath"),
        ("pathlib._local", "PosixPath"),  # Python 3.13
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    }
    | {
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    }
)
