"""The card: what it is, how fast it multiplies and copies, and which versions run on it."""

import importlib.metadata
import platform

import torch

from gpu.context import Context
from gpu.workbench import copy_rate, matrix_rate
from mvit_video.models.kernels import triton_pool

LIBRARIES = ("torch", "triton", "torchvision", "timm", "av", "numpy")


def measure(context: Context) -> None:
    """Facts for the heading; matrix rate in bf16 and copy bandwidth as rows."""
    cuda = context.device == "cuda"
    versions = {"Python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    facts: dict[str, object] = {"card": "none"}
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        versions |= {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
        facts = {
            "card": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": properties.total_memory / 1e9,
            "capability": torch.cuda.get_device_capability(0),
        }
    context.fact(**facts, cores=torch.get_num_threads(), **versions, versions=list(versions))
    if cuda:
        pool_tokens = torch.empty(1, 8, 96, device="cuda", dtype=torch.bfloat16)
        runs = triton_pool.supports(pool_tokens, torch.empty(96, 1, 3, 3, 3, device="cuda"), (1, 1, 1))
        context.note(
            f"The Triton pooling runs here: {'yes' if runs else 'no (no C compiler, no Triton, or an old card)'}."
        )
    context.case("rates", {"what": "bf16 matrix product 8192^3, TFLOP/s"}, lambda: rate_row(context, "matrix_tflops"))
    context.case("rates", {"what": "copy on the card, GB/s read and written"}, lambda: rate_row(context, "copy_gb_s"))


def rate_row(context: Context, what: str) -> dict[str, object]:
    """One rate; also a fact, which other sections divide by."""
    rate = matrix_rate(context.device) / 1e12 if what == "matrix_tflops" else copy_rate(context.device) / 1e9
    context.fact(**{what: rate})
    return {"measured": rate}


def version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
