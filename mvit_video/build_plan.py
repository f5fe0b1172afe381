"""From the options of a plan to its tables: what `python -m mvit_video.plan` does."""

import logging
import sys
from contextlib import nullcontext

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from mvit_video import build, planning
from mvit_video.config import Plan
from mvit_video.models import MViT
from mvit_video.models.checkpointing import CheckpointPlan, measure_blocks, peak_bytes
from mvit_video.planning import Forecast, Machine, Workload, forecast

logger = logging.getLogger(__name__)

GB = 1e9


def print_plan(config: Plan) -> None:
    """Print what the run needs on the chosen machine, and on fewer and more of it.

    Raises:
        ValueError: the model is no MViT, or the size of the training split is not known.
    """
    machine = build_machine(config)
    model = build.build_model(config)
    if not isinstance(model, MViT):
        raise ValueError(f"model={config.model.name}: plans are made for MViT models only")
    work = build_workload(config, model)
    ranks = config.nodes * machine.gpus_per_node
    chosen = forecast(work, machine, ranks=ranks, strategy=config.trainer.strategy)  # type: ignore[arg-type]
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    console.print(_summary(config, machine, work, chosen))
    console.print(_scaling(config, machine, work))
    if chosen.state_bytes + chosen.activation_bytes > machine.memory:
        need = (chosen.state_bytes + chosen.activation_bytes) / GB
        logger.warning(
            "%.0f GB per GPU do not fit into the %.0f GB of %s: lower trainer.batch_size, set "
            "model.activation_checkpointing, or trainer.strategy=fsdp",
            need,
            machine.memory / GB,
            machine.name,
        )


def build_machine(config: Plan) -> Machine:
    """The machine group in the units of planning.py."""
    m = config.machine
    return Machine(
        name=m.name,
        gpus_per_node=m.gpus_per_node,
        matrix_flops=m.matrix_tflops * 1e12,
        utilisation=m.utilisation,
        memory=m.memory_gb * GB,
        link=m.link_gb_s * GB,
        network=m.network_gbit_s / 8 * GB,
        latency_s=m.latency_us * 1e-6,
        to_host=m.to_host_gb_s * GB,
        disk=m.disk_gb_s * GB,
    )


def build_workload(config: Plan, model: MViT) -> Workload:
    """Sizes of the model and of the training, measured on tensors without data."""
    bf16 = config.trainer.precision != "fp32"
    model.train()
    shape = (1, 3, config.data.num_frames, config.data.crop_size, config.data.crop_size)
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        costs, outside = measure_blocks(model, shape)
    recomputed = _recomputed_blocks(model, len(costs))
    flops = sum(cost.flops for cost in costs)
    again = sum(costs[index].flops for index in recomputed) / flops
    return Workload(
        parameters=_size(model),
        largest_block=max(_size(block) for block in model.blocks),
        forward_flops=float(flops),
        recomputed=again,
        activation_bytes=float(peak_bytes(costs, recomputed, outside)),
        clips_per_rank=config.trainer.batch_size * config.augment.repeats,
        accumulate=config.trainer.accumulate,
        videos=config.num_videos,
        repeats=config.augment.repeats,
        epochs=config.schedule.epochs,
        ema=config.trainer.ema_decay is not None,
        bf16=bf16,
    )


def _recomputed_blocks(model: MViT, count: int) -> tuple[int, ...]:
    if model.recomputed is None:
        raise ValueError(
            "model.activation_budget_gb is planned when training starts, for the batch of that moment: set "
            "model.activation_checkpointing to a number of blocks for a plan"
        )
    return tuple(index for index in range(count) if index in model.recomputed)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _summary(config: Plan, machine: Machine, work: Workload, plan: Forecast) -> Table:
    """The run on the chosen number of GPUs."""
    cores = planning.decode_cores(plan.clips_per_s, repeats=work.repeats, clips_per_core_s=config.clips_per_core_s)
    read = planning.read_rate(plan.clips_per_s, repeats=work.repeats, video_bytes=config.video_kb * 1e3)
    table = Table(title=f"{config.name} on {plan.ranks} x {machine.name} ({config.trainer.strategy})", box=None)
    table.add_column("what", style="bold")
    table.add_column("figure", justify="right")
    table.add_column("from")
    videos = work.clips_per_rank * work.accumulate // work.repeats * plan.ranks
    rows = [
        ("parameters", f"{work.parameters / 1e6:.2f} M", "the model"),
        ("forward pass", f"{work.forward_flops / 1e9:.1f} GFLOP per clip", "counted; 2 per multiply-add"),
        ("step", f"{videos} videos, {plan.ranks * work.clips_per_rank * work.accumulate} clips", "all GPUs"),
        ("memory: state", f"{plan.state_bytes / GB:.1f} GB per GPU", "float32 weights, gradients, AdamW, average"),
        ("memory: activations", f"{plan.activation_bytes / GB:.1f} GB per GPU", "counted; workspaces come on top"),
        ("arithmetic of a step", f"{1e3 * plan.compute_s:.0f} ms", f"{machine.utilisation:.0%} of the card's rate"),
        ("sent per step", f"{plan.sent_bytes / 1e6:.0f} MB per GPU", "ring collectives"),
        ("exchange of a step", f"{1e3 * plan.communication_s:.1f} ms", "before it is hidden behind the backward pass"),
        ("step time", f"{1e3 * plan.step_s:.0f} ms", f"scaling efficiency {plan.efficiency:.1%}"),
        ("steps", f"{plan.steps:,}", f"{work.epochs:g} epochs of {work.videos:,} videos"),
        ("whole run", f"{plan.gpu_hours:,.0f} GPU-hours", f"{plan.gpu_hours / plan.ranks:.1f} hours"),
        ("clips", f"{plan.clips_per_s:.1f} per s and GPU", ""),
        ("decoding", f"{cores:.1f} cores per GPU", f"at {config.clips_per_core_s:g} videos per s and core"),
        ("storage", f"{read / 1e6:.1f} MB/s per GPU, {plan.ranks * read / GB:.2f} GB/s in all", "videos read whole"),
        ("checkpoint", f"{plan.checkpoint_bytes / GB:.2f} GB", f"{1e3 * plan.stall_s:.0f} ms stall, then written"),
        ("writing it", f"{plan.write_s:.1f} s", "beside the training"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _scaling(config: Plan, machine: Machine, work: Workload) -> Table:
    """The same batch per GPU on one GPU, one node, and more nodes."""
    table = Table(title="weak scaling: the same batch per GPU", box=None)
    for name in ("GPUs", "step", "exchange", "efficiency", "clips/s", "hours", "GPU-hours", "memory per GPU"):
        table.add_column(name, justify="right")
    ranks = 1
    while ranks <= 1024:
        plan = forecast(work, machine, ranks=ranks, strategy=config.trainer.strategy)  # type: ignore[arg-type]
        table.add_row(
            str(ranks),
            f"{1e3 * plan.step_s:.0f} ms",
            f"{1e3 * plan.communication_s:.1f} ms",
            f"{plan.efficiency:.1%}",
            f"{plan.clips_per_s * ranks:,.0f}",
            f"{plan.gpu_hours / ranks:,.1f}",
            f"{plan.gpu_hours:,.0f}",
            f"{(plan.state_bytes + plan.activation_bytes) / GB:.1f} GB",
        )
        ranks = machine.gpus_per_node if ranks == 1 and machine.gpus_per_node > 1 else ranks * 2
    return table
