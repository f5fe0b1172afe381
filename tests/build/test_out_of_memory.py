"""Out of memory ends a run with the options to lower."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mvit_video import build
from mvit_video.build import training
from mvit_video.build.out_of_memory import OutOfMemoryError
from mvit_video.config import Train
from tests.conftest import motion_overrides, options


class Hungry(nn.Module):
    """A model that fails like an allocator."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 8)
        self.error = error

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        raise self.error


def use(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    made: Callable[[Train], nn.Module] = lambda config: Hungry(error)  # noqa: E731
    monkeypatch.setattr(training, "build_model", made)


CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 79.11 GiB"
CPU = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(CUDA), torch.cuda.OutOfMemoryError(CUDA), RuntimeError(CPU)])
def test_the_message_names_the_options(
    error: RuntimeError, motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, error)
    with pytest.raises(OutOfMemoryError) as caught:
        build.train(options(*motion_overrides(motion_root, tmp_path, "trainer.global_batch=16")))
    text = str(caught.value)
    assert text.startswith(f"cpu is out of memory: {str(error).splitlines()[0]}\n")
    for way in (
        "trainer.batch_size=4 instead of 8: accumulation makes up for it; or trainer.batch_size=auto",
        "trainer.eval_batch_size below 48",
        "model.activation_checkpointing=true",
        "model.activation_budget_gb",
        "trainer.strategy=fsdp",
        "trainer.precision=bf16 instead of fp32",
        "data.crop_size below 48",
    ):
        assert way in text, text


def test_a_step_without_a_stated_batch_is_kept_by_hand(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, torch.OutOfMemoryError(CUDA))
    with pytest.raises(OutOfMemoryError, match=r"batch_size=4 instead of 8: trainer\.accumulate=2 makes up for it"):
        build.train(options(*motion_overrides(motion_root, tmp_path)))


def test_other_errors_are_left_as_they_are(motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"):
        build.train(options(*motion_overrides(motion_root, tmp_path)))
