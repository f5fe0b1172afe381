"""Large tensors from one process to another without a copy: the sender writes them into memory that both map.

The memory has no name and no file (Linux's memfd), so that it goes with the last process that holds it, however that
ends; it does not count against the size of /dev/shm, which containers keep small; and only its descriptor travels,
through the pipe between the two, closed as soon as the receiver has mapped the memory: batches on their way hold no
open files.

Where the system has no such memory, tensors travel through the pipe like everything else.
"""

import mmap
import os
import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import numpy as np
import torch

_MAP = {"flags": mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)} if hasattr(mmap, "MAP_SHARED") else {}
# Of each tensor made here and not sent yet: address and descriptor. None in processes that send none.
_unsent: dict[int, int] | None = None


def enable() -> None:
    """Let this process make shared tensors from now on; it sends its results with `send`."""
    global _unsent
    _unsent = {} if hasattr(os, "memfd_create") else None


def empty(size: tuple[int, ...]) -> torch.Tensor:
    """A uint8 tensor of zeros or garbage; in a process that sends its results, one that `send` will not copy."""
    length = int(np.prod(size))
    if _unsent is None or length == 0:
        return torch.empty(size, dtype=torch.uint8)
    descriptor = os.memfd_create("mvit_video.batch")
    try:
        os.ftruncate(descriptor, length)
        array = np.frombuffer(mmap.mmap(descriptor, length, **_MAP), np.uint8)
    except BaseException:
        os.close(descriptor)
        raise
    _unsent[array.ctypes.data] = descriptor
    return torch.from_numpy(array).view(size)


def send(pipe: Connection, result: object) -> None:
    """Send a picklable object; arrays that lie in tensors of `empty` are shared, all else is copied."""
    unsent = _unsent if _unsent is not None else {}
    shared: list[int] = []

    def copied(buffer: pickle.PickleBuffer) -> bool:
        descriptor = unsent.get(np.frombuffer(buffer.raw(), np.uint8).ctypes.data) if buffer.raw().nbytes else None
        if descriptor is not None:
            shared.append(descriptor)
        return descriptor is None

    try:
        content = pickle.dumps(result, protocol=5, buffer_callback=copied)
        pipe.send((content, [os.fstat(descriptor).st_size for descriptor in shared]))
        for descriptor in shared:
            send_handle(pipe, descriptor, os.getppid())
    finally:
        for descriptor in unsent.values():
            os.close(descriptor)
        unsent.clear()


def receive(pipe: Connection, await_more: Callable[[], None]) -> Any:
    """What the other end sent; `await_more` is called before each wait for the next part of it."""
    content, lengths = pipe.recv()
    buffers = []
    for length in lengths:
        await_more()
        descriptor = recv_handle(pipe)
        try:
            buffers.append(mmap.mmap(descriptor, length, **_MAP))
        finally:
            os.close(descriptor)
    return pickle.loads(content, buffers=buffers)
