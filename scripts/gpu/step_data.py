"""From video files to the training step: decode, host, device, step, and the share of time that the step waits.

Needs PyAV and Hydra besides torch; where they are absent, a note says so.
"""

import importlib.util
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gpu.context import Context

PRESET = "mvitv2_s_16x4"
TABLE = "S 16x4 from H.264 files of 256x340, the Kinetics recipe, two clips of each video"
NEEDED = ("av", "hydra", "omegaconf")
FILES = ("h264_gop32_no_b.mp4",)
SMALL = ("data.num_frames=4", "data.crop_size=32", "data.test_short_side=32", "augment.jitter=[32,40]")
PLACES = ("worker", "model")


def measure(context: Context) -> None:
    """A row for clips made in the workers and one for clips made on the device."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        context.note(f"Not measured: {', '.join(absent)} is not installed here.")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place in PLACES:
            key = {"clips are made in": place}
            context.case(TABLE, key, lambda p=place: loaded_row(folder, p, context))  # type: ignore[misc]


def loaded_row(folder: Path, place: str, context: Context) -> dict[str, Any]:
    """Train on the loader's batches and time what the step waits for."""
    from bench_data_files import make_files
    from bench_data_loader import indexed_set, recipe

    from mvit_video.build.common import build_task_builder
    from mvit_video.distributed.process_group import World
    from mvit_video.models import create_model

    workers = 1 if context.rehearse else max(1, (os.cpu_count() or 2) - 2)
    frames = 40 if context.rehearse else 300
    videos = 1 if context.rehearse else 8
    manifest = indexed_set(make_files(folder, FILES, frames=frames), folder, least=64)
    changes = [f"augment.device={place}", f"trainer.num_workers={workers}", f"trainer.batch_size={videos}"]
    changes += [f"trainer.device={context.device}", *(SMALL if context.rehearse else ())]
    config = recipe(Path(manifest.source), *changes)
    world = World(rank=0, size=1, device=torch.device(context.device))
    builder = build_task_builder(config)
    task, loader = builder.task(config, manifest), builder.train_loader(config, manifest, world)
    small = {"depth": 2, "stage_starts": (1,), "embed_dim": 8, "num_frames": 4, "crop_size": 32}
    model = create_model(PRESET, num_classes=config.data.num_classes, **(small if context.rehearse else {}))
    made = loader.batches(0)
    try:
        return timed(model.to(context.device).train(), task, made, context, warm_up=2 * workers, workers=workers)
    finally:
        made.close()  # type: ignore[attr-defined]


def timed(
    model: torch.nn.Module, task: Any, batches: Any, context: Context, *, warm_up: int, workers: int
) -> dict[str, Any]:
    """Steps after the warm-up: clips/s, and shares of the time. Each step is waited for, as a log line would."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    steps = 2 if context.rehearse else 40
    waited = moved = stepped = 0.0
    clips = 0
    for number in range(warm_up + steps):
        times = [time.perf_counter()]
        batch = next(batches)
        times.append(time.perf_counter())
        batch = batch.to(torch.device(context.device))
        inputs = task.train_inputs(batch, seed=0)
        _wait(context)
        times.append(time.perf_counter())
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(context.device, torch.bfloat16):
            outputs = model(*inputs.model_inputs)
        task.loss(outputs, inputs.targets).loss.backward()
        optimizer.step()
        _wait(context)
        times.append(time.perf_counter())
        if number >= warm_up:
            waited += times[1] - times[0]
            moved += times[2] - times[1]
            stepped += times[3] - times[2]
            clips += len(batch)
    whole = waited + moved + stepped
    return {
        "workers": workers,
        "clips/s": clips / whole,
        "waiting for the loader, %": 100 * waited / whole,
        "to the device and mixing, %": 100 * moved / whole,
        "step, %": 100 * stepped / whole,
        "ms a step": 1e3 * stepped / steps,
    }


def _wait(context: Context) -> None:
    if context.device == "cuda":
        torch.cuda.synchronize()
