"""Checkpoints written while training goes on: a copy of the state in host memory, and one thread that writes it."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch

from mvit_video.distributed.sharding import local_part
from mvit_video.models.weights.files import CheckpointError

logger = logging.getLogger(__name__)

Write = Callable[[Mapping[str, Any], int, bool], object]
"""(state, step, whether it is the best so far): writes a checkpoint, or raises CheckpointError."""
Rebuild = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_NOTEWORTHY_WAIT_S = 1.0
_PATIENCE_AFTER_ERROR_S = 120.0


class Snapshot:
    """Copies of a state in host memory, in buffers that are used again for the next one.

    Args:
        rebuild: (tensor, copy of its local part) -> the copy as it goes into the state; for sharded tensors.
    """

    def __init__(self, rebuild: Rebuild = lambda tensor, copied: copied) -> None:
        self._rebuild = rebuild
        self._buffers: dict[tuple[object, ...], torch.Tensor] = {}

    def take(self, state: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[], None]]:
        """A copy of a state dict that later steps do not change.

        Copies from a GPU go to page-locked memory and are only queued here, behind the work queued before and ahead of
        the next step's; the host does not wait.

        Returns:
            The copy; and a function that waits until it is complete, to be called (by any thread) before it is read.
        """
        used: dict[tuple[object, ...], torch.Tensor] = {}
        devices: set[torch.device] = set()
        copy = self._copy(state, (), used, devices)
        self._buffers = used
        events = []
        for device in devices:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            events.append(event)

        def wait() -> None:
            for event in events:
                event.synchronize()

        return copy, wait

    def _copy(
        self,
        value: Any,
        path: tuple[object, ...],
        used: dict[tuple[object, ...], torch.Tensor],
        devices: set[torch.device],
    ) -> Any:
        if isinstance(value, Mapping):
            return {key: self._copy(item, (*path, key), used, devices) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(item, (*path, index), used, devices) for index, item in enumerate(value))
        if not isinstance(value, torch.Tensor):
            return value
        local = local_part(value).detach()
        buffer = self._buffers.get(path)
        on_gpu = local.device.type == "cuda"
        if buffer is None or buffer.shape != local.shape or buffer.dtype != local.dtype:
            buffer = torch.empty(local.shape, dtype=local.dtype, pin_memory=on_gpu)
        buffer.copy_(local, non_blocking=on_gpu)
        if on_gpu:
            devices.add(local.device)
        used[path] = buffer
        return self._rebuild(value, buffer)


class CheckpointWriter:
    """Writes checkpoints, one at a time, by default in a thread of its own.

    A checkpoint that could not be written (full disk) is a warning, and training goes on with the last good one; only
    a save with `wait` raises. Every other error of the thread is raised at the next call.

    Args:
        write: how a checkpoint is written.
        snapshot: how the state is copied.
        background: False writes within `save`.
        timeout_s: longest time to wait for a checkpoint, after which the disk is taken to hang.
    """

    def __init__(
        self, write: Write, *, snapshot: Snapshot | None = None, background: bool = True, timeout_s: float = 1800.0
    ) -> None:
        self.lost_best = False  # the last checkpoint that was to be the best one could not be written
        self._write = write
        self._background = background
        self._timeout_s = timeout_s
        self._snapshot = snapshot or Snapshot()
        self._thread: threading.Thread | None = None
        self._step = 0
        self._best = False
        self._error: BaseException | None = None

    def save(self, state: Mapping[str, Any], *, step: int, best: bool = False, wait: bool = False) -> None:
        """Write a checkpoint of `state`.

        Waits for the one before it to be written, with a message if that takes long.

        Args:
            state: as save_checkpoint takes it; it may change as soon as this returns.
            step: optimizer steps done.
            best: also make it the best one.
            wait: return when it is on disk; for the last checkpoint of a process.

        Raises:
            CheckpointError: with `wait`, if it could not be written; always, if the one before takes longer than
                `timeout_s`.
        """
        self._join()
        self._step, self._best = step, best
        if wait or not self._background:
            self._run(lambda: state)
            if wait and self._error is not None:
                error, self._error = self._error, None
                raise error
            self._report()
            return
        copy, ready = self._snapshot.take(state)

        def copied() -> Mapping[str, Any]:
            ready()
            return copy

        # A daemon: a process that must end does not wait for a hanging disk; half a checkpoint is passed over.
        self._thread = threading.Thread(target=self._run, args=(copied,), name=f"checkpoint-{step}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Report a checkpoint that has ended since; costs nothing while one is being written."""
        if self._thread is not None and not self._thread.is_alive():
            self._join()

    def close(self, *, timeout_s: float | None = None) -> None:
        """Wait for the checkpoint being written, if any, up to `timeout_s` (by default the writer's own)."""
        self._join(timeout_s)

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:  # a run that fails keeps its last checkpoint, but its own error is the one to show
            self.close(timeout_s=_PATIENCE_AFTER_ERROR_S)
        except Exception as second:
            logger.error("the checkpoint of step %d: %s", self._step, second)

    def _run(self, state: Callable[[], Mapping[str, Any]]) -> None:
        try:
            self._write(state(), self._step, self._best)
        except BaseException as error:  # raised, or reported, by the thread that trains
            self._error = error

    def _join(self, timeout_s: float | None = None) -> None:
        if self._thread is not None:
            started = time.monotonic()
            limit = self._timeout_s if timeout_s is None else timeout_s
            self._thread.join(limit)
            if self._thread.is_alive():
                raise CheckpointError(
                    f"the checkpoint of step {self._step} is still being written after another {limit:g} s: "
                    "the disk hangs or is too slow; the checkpoints before it are intact"
                )
            waited = time.monotonic() - started
            if waited > _NOTEWORTHY_WAIT_S:
                logger.info(
                    "training waited %.1f s for the checkpoint of step %d; raise trainer.checkpoint_every to save less "
                    "often",
                    waited,
                    self._step,
                )
            self._thread = None
        self._report()

    def _report(self) -> None:
        """Warn of a checkpoint that could not be written; raise any other error."""
        error, self._error = self._error, None
        if error is None:
            return
        if not isinstance(error, CheckpointError):
            raise error
        self.lost_best = self.lost_best or self._best
        logger.warning("%s. Training goes on; the next save tries again", error)
