"""Large tensors from one process to another without a copy: the sender writes them into memory that both map.

The memory has no name and no file (Linux's memfd), so that it goes with the last process that holds it, however that
ends; it does not count against the size of /dev/shm, which containers keep small; and only its descriptor travels,
through the pipe between the two, closed as soon as the receiver has mapped the memory: batches on their way hold no
open files there.

The sender uses a piece of memory again once the receiver has dropped what came in it: getting a batch's memory anew,
page by page, takes as long as a tenth of its augmentation. A byte at the end of each piece tells, so that neither waits
for the other.

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
_FREE, _TAKEN = 0, 1
_MOST_FREE = 2  # pieces kept for later; a worker makes one or two batches while the trainer holds the others


class _Piece:
    """Shared memory of this process's making; its last byte is for `_FREE` or `_TAKEN`."""

    def __init__(self, length: int) -> None:
        self.size = _rounded(length + 1)
        self.descriptor = os.memfd_create("mvit_video.batch")
        try:
            os.ftruncate(self.descriptor, self.size)
            self._map = mmap.mmap(self.descriptor, self.size, **_MAP)
        except BaseException:
            os.close(self.descriptor)
            raise

    def array(self, length: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Its first bytes."""
        return np.frombuffer(self._map, np.uint8, length)

    @property
    def free(self) -> bool:
        """The receiver has dropped what it was sent last."""
        return self._map[-1] == _FREE

    def take(self) -> None:
        self._map[-1] = _TAKEN

    def forget(self) -> None:
        """The memory stays while a tensor or another process uses it."""
        os.close(self.descriptor)


def _rounded(length: int) -> int:
    """The least size for `length` bytes, in steps of an eighth: batches of varying sizes find a piece that fits."""
    step = max(mmap.PAGESIZE, (1 << length.bit_length()) // 16)
    return -(-length // step) * step


class _Pool:
    """The pieces of a process that sends its results."""

    def __init__(self) -> None:
        self._sent: list[_Piece] = []
        self.unsent: dict[int, _Piece] = {}  # by address

    def take(self, length: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """`length` bytes that nobody uses."""
        free = sorted((piece for piece in self._sent if piece.free), key=lambda piece: piece.size)
        fitting = [piece for piece in free if length < piece.size <= 2 * _rounded(length + 1)]
        piece = fitting[0] if fitting else _Piece(length)
        for other in [one for one in free if one is not piece][:-_MOST_FREE]:
            other.forget()
            self._sent.remove(other)
        if fitting:
            self._sent.remove(piece)
        piece.take()
        array = piece.array(length)
        self.unsent[array.ctypes.data] = piece
        return array

    def reclaim(self, sent: list[_Piece]) -> None:
        """After sending: those of `sent` come back one day; the rest may still be used here by somebody."""
        for piece in self.unsent.values():
            if piece in sent:
                self._sent.append(piece)
            else:
                piece.forget()
        self.unsent.clear()


class _Received(mmap.mmap):
    """Memory that came from another process; it is given back when the last array in it is gone."""

    _owner = 0

    def __del__(self) -> None:
        if self._owner == os.getpid():  # not by a forked child, whose copy ends while the parent's is in use
            self[len(self) - 1] = _FREE


_pool: _Pool | None = None  # in processes that send none


def enable() -> None:
    """Let this process make shared tensors from now on; it sends its results with `send`."""
    global _pool
    _pool = _Pool() if hasattr(os, "memfd_create") else None


def empty(size: tuple[int, ...]) -> torch.Tensor:
    """A uint8 tensor of zeros or garbage; in a process that sends its results, one that `send` will not copy."""
    length = int(np.prod(size))
    if _pool is None or length == 0:
        return torch.empty(size, dtype=torch.uint8)
    return torch.from_numpy(_pool.take(length)).view(size)


def send(pipe: Connection, result: object) -> None:
    """Send a picklable object; arrays that lie in tensors of `empty` are shared, all else is copied.

    Tensors of `empty` are the receiver's from here on, those that were not in the result are nobody's.
    """
    unsent = _pool.unsent if _pool is not None else {}
    shared: list[tuple[_Piece, int]] = []

    def copied(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        piece = unsent.get(np.frombuffer(raw, np.uint8).ctypes.data) if raw.nbytes else None
        if piece is None or any(piece is other for other, _ in shared):  # given back once, so sent once
            return True
        shared.append((piece, raw.nbytes))
        return False

    try:
        content = pickle.dumps(result, protocol=5, buffer_callback=copied)
        pipe.send((content, [(piece.size, length) for piece, length in shared]))
        for piece, _ in shared:
            send_handle(pipe, piece.descriptor, os.getppid())
    finally:
        if _pool is not None:
            _pool.reclaim([piece for piece, _ in shared])


def receive(pipe: Connection, await_more: Callable[[], None]) -> Any:
    """What the other end sent; `await_more` is called before each wait for the next part of it."""
    content, pieces = pipe.recv()
    buffers = []
    for size, length in pieces:
        await_more()
        descriptor = recv_handle(pipe)
        try:
            received = _Received(descriptor, size, **_MAP)
            received._owner = os.getpid()
        finally:
            os.close(descriptor)
        buffers.append(memoryview(received)[:length])
    return pickle.loads(content, buffers=buffers)
