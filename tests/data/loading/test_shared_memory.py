"""Memory that travels between processes: used again when the receiver is done with it, and never before."""

import gc
import os
import random
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvit_video.data.loading import shared_memory
from mvit_video.data.loading.workers import Workers

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no unnamed shared memory")

_kept: list[torch.Tensor] = []


def pieces() -> set[str]:
    """Inodes of the shared memory that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "mvit_video.batch" in line}


def filled(task: int) -> np.ndarray:
    """Of a size that varies by task."""
    return shared_memory.empty((random.Random(task).randint(1, 40) * 1000,)).fill_(task % 256).numpy()


def same_size(task: int) -> tuple[np.ndarray, set[str], int]:
    array = shared_memory.empty((50, 1000)).fill_(task % 256).numpy()
    return array, pieces(), len(os.listdir("/proc/self/fd"))


def run(fetch: Any, *, number: int = 1, prefetch: int = 2) -> Any:
    return Workers(fetch, count=number, prefetch=prefetch, timeout_s=60).run(count())


def test_a_worker_uses_few_pieces_again_and_again() -> None:
    results = run(same_size)
    used: set[str] = set()
    open_files: list[int] = []
    for task in range(60):
        array, mapped, files = next(results)
        assert (array == task).all()
        assert len(mapped) <= 5
        used |= mapped
        open_files.append(files)
        del array
    results.close()
    assert len(used) <= 6
    assert max(open_files) <= open_files[0] + 5


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_held_is_never_written_again(number: int) -> None:
    """Results of all sizes, kept for a random time, singly and as views."""
    rng = random.Random(0)
    results = run(filled, number=number, prefetch=3)
    held: list[tuple[int, np.ndarray]] = []
    for task in range(300):
        array = next(results)
        held.append((task, array[5:] if rng.random() < 0.5 else array))
        del array
        for which, kept in held:
            assert (kept == which % 256).all()
        while len(held) > rng.randint(0, 12):
            held.pop(rng.randrange(len(held)))
    results.close()
    assert all((kept == which % 256).all() for which, kept in held)


def test_free_memory_is_limited() -> None:
    """A hundred results held at once and then dropped: the worker lets most of their memory go."""
    results = run(same_size)
    held = [next(results) for _ in range(100)]
    assert len(held[-1][1]) >= 99
    held.clear()
    sizes = [len(next(results)[1]) for _ in range(10)]
    results.close()
    assert sizes[-1] <= 8


def test_a_child_of_the_receiver_gives_nothing_back() -> None:
    """It inherits the arrays, and drops them when it ends."""
    results = run(same_size)
    first = next(results)[0]
    child = os.fork()
    if not child:
        del first
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    for _ in range(8):
        next(results)
    results.close()
    assert (first == 0).all()


def keeping(task: int) -> tuple[int, bool]:
    """Makes a tensor that does not travel, and keeps it."""
    intact = all(bool((tensor == number).all()) for number, tensor in enumerate(_kept))
    _kept.append(shared_memory.empty((5000,)).fill_(task))
    return task, intact


def test_what_was_not_sent_stays_with_the_worker() -> None:
    results = run(keeping)
    assert [next(results) for _ in range(12)] == [(task, True) for task in range(12)]
    results.close()


def twice(task: int) -> tuple[np.ndarray, np.ndarray]:
    array = shared_memory.empty((4000,)).fill_(task).numpy()
    return array, array[:1000]


def test_memory_sent_twice_is_given_back_once() -> None:
    results = run(twice)
    whole, part = next(results)
    del part
    for _ in range(8):
        next(results)
    results.close()
    assert (whole == 0).all()


@pytest.mark.parametrize("length", [1, 4095, 4096, 5000, 2**20, 2**20 + 1, 3 * 2**22 + 17])
def test_sizes_are_rounded_by_at_most_an_eighth(length: int) -> None:
    size = shared_memory._rounded(length)
    assert length <= size <= max(length + 4096, length * 9 / 8)
    assert size % 4096 == 0 and shared_memory._rounded(size) == size
