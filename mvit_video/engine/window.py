"""What is summed between two log lines of a training."""

import time
from collections.abc import Mapping

import torch


class Window:
    """Sums between two log lines; losses stay on the device until the line is written."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.waited = 0.0
        self.samples = 0
        self.sums: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor, metrics: Mapping[str, torch.Tensor], *, samples: int) -> None:
        """Add one step: scalar tensors, and the samples it took on this rank."""
        self.sums.append(torch.stack([loss, *metrics.values()]))
        self.samples += samples

    def means(self) -> torch.Tensor:
        """Mean loss and mean of each metric over the window, (1 + metrics,)."""
        return torch.stack(self.sums).mean(0)
