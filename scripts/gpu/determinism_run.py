"""A short training in a process of its own, as step_determinism.py asks for in JSON.

It goes on from a checkpoint where there is one, may kill itself after writing one, and leaves a digest of all weights.
Random numbers of a step depend on its number alone, as in the trainer.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from gpu import null_gpu
from gpu.null_gpu import cudnn_attention
from gpu.workbench import SMALL, autocast, input_shape, synchronise
from mvit_video.engine.graphs import GraphedModel
from mvit_video.models import MViT, get_config
from mvit_video.runtime.determinism import deterministic
from mvit_video.runtime.env import step_seed

PRESET, DROP_PATH, SEED = "mvitv2_s_16x4", 0.2, 0


def train(asked: dict[str, Any]) -> dict[str, Any]:
    """Run the steps; the digest of the weights and the seconds of the later half of the steps."""
    small = {**SMALL, "num_frames": 4, "embed_dim": 8} if asked["rehearse"] else {}
    config = get_config(PRESET, drop_path=DROP_PATH, activation_checkpointing=asked["recomputed"], **small)
    device = asked["device"]
    torch.manual_seed(step_seed(SEED))
    model = MViT(config).to(device).train()
    start_weights = digest(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    checkpoint, first = Path(asked["checkpoint"]), 0
    if asked["resume"]:
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    shape = input_shape(config, asked["batch"])
    forward = GraphedModel(model)
    if asked["graphs"] and device == "cuda":  # a rehearsal has none
        forward.capture(shape, bf16=True)
    times = []
    for number in range(first, asked["steps"]):
        synchronise(device)
        start = time.perf_counter()
        one_step(forward, optimizer, shape, number, device)
        synchronise(device)
        times.append(time.perf_counter() - start)
        if asked["kill_after"] == number + 1:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": number + 1}
            torch.save(state, checkpoint)
            os.kill(os.getpid(), signal.SIGKILL)
    late = sorted(times[len(times) // 2 :])
    if not null_gpu.present():
        check_trained(model, start_weights)
    return {"digest": digest(model), "seconds": late[len(late) // 2]}


def check_trained(model: nn.Module, start_weights: str) -> None:
    """Equal bits of a training that has done nothing, or has lost its numbers, would prove nothing.

    Raises:
        RuntimeError: the weights are those of the start, or not all finite.
    """
    lost = [name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]
    if lost:
        raise RuntimeError(f"weights that are not finite after the training: {', '.join(lost[:3])}")
    if digest(model) == start_weights:
        raise RuntimeError("the training has left all weights as they were")


def one_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...], number: int, device: str
) -> None:
    """One step on clips and draws that its number decides."""
    generator = torch.Generator().manual_seed(step_seed(SEED, number, 1))
    clips = torch.randn(shape, generator=generator).to(device)
    targets = torch.arange(shape[0], device=device)
    torch.manual_seed(step_seed(SEED, number, 2))
    optimizer.zero_grad(set_to_none=True)
    with autocast(device):
        loss = F.cross_entropy(model(clips), targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def digest(model: nn.Module) -> str:
    """SHA-256 over the bytes of all parameters."""
    found = hashlib.sha256()
    for _, parameter in sorted(model.named_parameters()):
        found.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def main(request: str) -> None:
    """Train as asked and write the result beside the checkpoint."""
    asked = json.loads(request)
    cudnn_attention.install()
    with deterministic(asked["deterministic"]):
        result = train(asked)
    Path(asked["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
