"""The same bits on every run of the same program on the same machine, where a GPU offers that.

On the CPU the project's sums are taken in one order anyway. On a GPU some of PyTorch's kernels add in whatever order
their threads come, cuBLAS may divide a product differently from call to call, cuDNN may pick another algorithm, and
NCCL may sum inside the network. This switches all four to what repeats.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_CHOICES = (":4096:8", ":16:8")
"""Workspaces with which cuBLAS repeats its sums (cuBLAS documentation, "Results reproducibility")."""
VARIABLES = {CUBLAS_WORKSPACE: ":4096:8", "NCCL_ALGO": "Ring"}
"""Set before the libraries start, where they are not set already. A ring sums in the order of its ranks; NVLS, which
NCCL may choose on nodes with NVSwitch, sums in the switch."""
_NOT_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")


class NotDeterministicError(RuntimeError):
    """An operation has no deterministic form on this device."""


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Take only algorithms that repeat their bits, until the block ends; nothing changes unless `enabled`.

    To be entered before the first product on a GPU and before a process group is formed: cuBLAS and NCCL read their
    variables when they start.

    Raises:
        ValueError: CUBLAS_WORKSPACE_CONFIG is set to a workspace with which cuBLAS does not repeat its sums.
    """
    if not enabled:
        yield
        return
    chosen = os.environ.get(CUBLAS_WORKSPACE)
    if chosen is not None and chosen not in CUBLAS_CHOICES:
        raise ValueError(
            f"{CUBLAS_WORKSPACE}={chosen} with trainer.deterministic=true: cuBLAS repeats its sums with "
            f"{' or '.join(CUBLAS_CHOICES)} alone; unset the variable, or set it to one of these"
        )
    added = [name for name in VARIABLES if name not in os.environ]
    before = _settings()
    os.environ.update({name: VARIABLES[name] for name in added})
    _apply((True, False, True, False, False))
    try:
        yield
    finally:
        _apply(before)
        for name in added:
            os.environ.pop(name, None)


def _settings() -> tuple[bool, bool, bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        bool(torch.utils.deterministic.fill_uninitialized_memory),  # type: ignore[attr-defined]
    )


def _apply(settings: tuple[bool, bool, bool, bool, bool]) -> None:
    algorithms, warn_only, cudnn_deterministic, cudnn_benchmark, fill = settings
    torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
    torch.backends.cudnn.deterministic = cudnn_deterministic
    torch.backends.cudnn.benchmark = cudnn_benchmark
    # Filling new memory would only show operations that leave some of it unwritten, and costs bandwidth.
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def describe() -> dict[str, object]:
    """What is in force, as plain values for the record of a run."""
    algorithms, _, cudnn_deterministic, cudnn_benchmark, _ = _settings()
    return {
        "deterministic_algorithms": algorithms,
        "cudnn_deterministic": cudnn_deterministic,
        "cudnn_benchmark": cudnn_benchmark,
        **{name: os.environ.get(name) for name in VARIABLES},
    }


@contextmanager
def named(ways_out: str) -> Iterator[None]:
    """Turn PyTorch's refusal of an operation into a message that names the operation and what to do.

    Args:
        ways_out: what the user may change.

    Raises:
        NotDeterministicError: an operation in the block has no deterministic form.
    """
    try:
        yield
    except RuntimeError as error:
        found = _NOT_DETERMINISTIC.search(str(error))
        if found is None:
            raise
        raise NotDeterministicError(
            f"{found[1]} has no deterministic form in PyTorch {torch.__version__}, and trainer.deterministic=true "
            f"takes no other. {ways_out}"
        ) from error
