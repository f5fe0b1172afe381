"""Stops a run whose loss is no longer a number, without making the device wait."""

from collections import deque

import torch


class NonFiniteLossError(RuntimeError):
    """The loss of a step is NaN or infinite."""


class LossMonitor:
    """Looks at each loss one step late, so that the device never waits, and stops at one that is not finite."""

    def __init__(self) -> None:
        self._pending: deque[tuple[int, torch.Tensor, torch.cuda.Event | None, list[str]]] = deque()

    def push(self, step: int, loss: torch.Tensor, paths: list[str]) -> None:
        """Remember a step's loss (scalar tensor) and its files; look at the step before."""
        if loss.device.type == "cuda":
            host = torch.empty((), pin_memory=True).copy_(loss, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self._pending.append((step, host, copied, paths))
        else:
            self._pending.append((step, loss, None, paths))
        self.check(keep=1)

    def check(self, *, keep: int = 0) -> None:
        """Raise NonFiniteLossError for a bad loss among all but the newest `keep` steps."""
        while len(self._pending) > keep:
            step, loss, copied, paths = self._pending.popleft()
            if copied is not None:
                copied.synchronize()
            if not torch.isfinite(loss):
                raise NonFiniteLossError(
                    f"the loss of step {step} is {loss.item()}. Its files: {', '.join(dict.fromkeys(paths))}. "
                    "The last checkpoint is from before it; lower optim.lr, set optim.clip_grad_norm, or train with "
                    "trainer.precision=fp32"
                )
