"""Which arithmetic a run uses."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from mvit_video.runtime.env import cpu_has_fast_bf16

Precision = Literal["auto", "fp32", "bf16"]


def uses_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether matrix products run in bf16: asked for, or "auto" on hardware that is fast at it."""
    if precision != "auto":
        return precision == "bf16"
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_fast_bf16()


def autocast(bf16: bool, device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast on the device, or a context that changes nothing."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
