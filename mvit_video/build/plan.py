"""From the options of a plan to its tables: what `python -m mvit_video.plan` does."""

import logging
import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from mvit_video.build import common
from mvit_video.build.batch import step_batch
from mvit_video.build.batch_size import AUTO, Room, choose_batch_size, training_state
from mvit_video.config import Plan
from mvit_video.config.mistakes import choices_of
from mvit_video.config.plan import TRAINING_PLACES
from mvit_video.distributed.process_group import World
from mvit_video.models.mvit.activation_checkpointing import (
    BlockCost,
    BlockModel,
    block_model,
    choose_blocks,
    measure_forward,
    peak_bytes,
)
from mvit_video.optim import scale_lr
from mvit_video.planning import costs
from mvit_video.planning.costs import USABLE, Forecast, Machine, Strategy, Workload, forecast
from mvit_video.runtime.formatting import count_text
from mvit_video.runtime.interruption import vote_span

logger = logging.getLogger(__name__)

GB = 1e9
MOST_RANKS = 1024


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a model's forward pass of one rank's batch costs, block by block.

    Attributes:
        costs: of the blocks, with nothing recomputed.
        outside: bytes kept by stem and head.
        head_flops: operations of the head: next to nothing for classes, much for a detector's pyramid and heads.
        recomputed: indices of the blocks that are recomputed.
    """

    costs: list[BlockCost]
    outside: int
    head_flops: int
    recomputed: tuple[int, ...]

    @property
    def share(self) -> float:
        """Operations done twice, as a share of the forward pass."""
        return self.share_of(self.recomputed)

    def share_of(self, blocks: Sequence[int]) -> float:
        """Operations of some blocks as a share of the whole forward pass."""
        whole = sum(cost.flops for cost in self.costs) + self.head_flops
        return sum(self.costs[index].flops for index in blocks) / whole


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a data set is a set of, and what the model sees of it, in the singular: "video" and "clip"."""

    item: str
    sample: str


@dataclass(frozen=True, kw_only=True)
class Files:
    """What is known of the training files.

    Attributes:
        count: how many there are.
        kb, per_core_s: size of one in 1000 bytes; how many a core reads, decodes and augments per second.
        kb_from, per_core_from: where these figures come from, in words.
    """

    count: int
    kb: float
    per_core_s: float
    kb_from: str
    per_core_from: str


def print_plan(config: Plan) -> None:
    """Print what the run needs on the chosen machine, and on fewer and more of it.

    Raises:
        ValueError: the model is no MViT, the number of training videos is not known, or a step takes more than that.
    """
    builder = common.build_task_builder(config)
    words = Words(item=builder.item, sample=builder.sample)
    machine, strategy = build_machine(config), _strategy(config)
    files = training_files(config)
    measured, model = measure(config)
    work = build_workload(config, model, measured, files.count)
    chosen = forecast(work, machine, ranks=_ranks(config), strategy=strategy)
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 180, highlight=False)
    tables = summary(config, machine, work, chosen, measured, words, files), scaling(config, machine, work, words)
    for table in tables:
        table.box = None if terminal else box.MARKDOWN
        console.print(table)
        console.print()
    console.print("A prediction from data sheets and assumptions; docs/scaling.md has the formulas.")
    if chosen.memory > USABLE * machine.memory:
        logger.warning(
            "%.1f GB per %s do not fit into %.0f %% of the %.0f GB of %s. Ways out on this one: %s",
            chosen.memory / GB,
            _unit(config),
            100 * USABLE,
            machine.memory / GB,
            _machine_text(config),
            "; ".join(ways_out(config, machine, work, measured, chosen.ranks)),
        )


def build_machine(config: Plan) -> Machine:
    """The machine group in the units of costs.py."""
    m = config.machine
    return Machine(
        name=m.name,
        ranks_per_node=m.ranks_per_node,
        matrix_flops=m.matrix_tflops * 1e12,
        utilisation=m.utilisation,
        launch_s=m.launch_us * 1e-6,
        memory=m.memory_gb * GB,
        link=m.link_gb_s * GB,
        network=m.network_gbit_s / 8 * GB,
        link_latency_s=m.link_latency_us * 1e-6,
        latency_s=m.latency_us * 1e-6,
        host_latency_s=m.host_latency_us * 1e-6,
        to_host=m.to_host_gb_s * GB,
        disk=m.disk_gb_s * GB,
        gloo=m.device == "cpu",
    )


def training_files(config: Plan) -> Files:
    """The training files: as many as given, else those that the data source lists, else as published.

    Sizes and rates are as given, else those of the listed files, else what the task's builder assumes of its kind.

    Raises:
        ValueError: there is nothing to know their number from.
    """
    builder = common.build_task_builder(config)
    count, held = config.num_videos, None
    if count is None and any(getattr(config.data.source, key, None) is not None for key in TRAINING_PLACES):
        source = common.build_source(config.data, World(rank=0, size=1, device=torch.device("cpu")))
        split = builder.read_split(config, source, "train")
        count, held = len(split), builder.file_bytes(split)
    count = config.published_videos if count is None else count
    if count is None:
        raise ValueError(
            "the number of training files is not known: give num_videos=..., or data.source.train=... to have them "
            "counted"
        )
    assumed = builder.file_costs
    rate, sizes = (
        config.videos_per_core_s,
        (
            (config.video_kb, "as given"),
            (None if held is None else held / 1e3, "the mean of the training files"),
            (config.published_kb, "of the data set as published"),
        ),
    )
    kb, kb_from = next(((size, text) for size, text in sizes if size is not None), (assumed.kb, "an assumption"))
    return Files(
        count=count,
        kb=kb,
        kb_from=kb_from,
        per_core_s=assumed.per_core_s if rate is None else rate,
        per_core_from="an assumption" if rate is None else "as given",
    )


def measure(config: Plan) -> tuple[Measured, BlockModel]:
    """The model, without its weights, and the costs of one rank's forward pass; nothing is computed.

    Raises:
        ValueError: the model is no MViT, or cannot keep as little as model.activation_budget_gb.
    """
    with torch.device("meta"):
        whole = common.build_model(config)
    model = block_model(whole)
    if model is None:
        name = getattr(config.model, "name", None) or type(whole).__name__
        raise ValueError(f"model={name}: plans are made for MViT models and detectors only")
    whole.to_empty(device="cpu").train()
    builder = common.build_task_builder(config)
    if config.trainer.batch_size == AUTO:
        memory = config.machine.memory_gb
        room = Room(size=USABLE * memory * GB, text=f"{USABLE:.0%} of the {memory:g} GB of {_machine_text(config)}")
        choose_batch_size(config, builder, whole, processes=_ranks(config), room=room, bf16=_bf16(config))
    shape = builder.input_shape(config, model.config)
    with torch.autocast("cpu", torch.bfloat16) if _bf16(config) else nullcontext():
        costs, outside, head_flops = measure_forward(model, shape)
    budget = model.config.activation_budget_gb
    if budget is not None:
        recomputed = choose_blocks(costs, int(budget * GB), outside)
    else:
        recomputed = model.config.recomputed_blocks
    measured = Measured(costs=costs, outside=outside, head_flops=head_flops, recomputed=recomputed)
    return measured, model


def build_workload(config: Plan, model: BlockModel, measured: Measured, videos: int) -> Workload:
    """Sizes of the model and of the training."""
    builder = common.build_task_builder(config)
    repeats = builder.repeats(config)
    batch = step_batch(config.trainer, processes=_ranks(config), items=videos)
    clips = batch.batch_size * repeats
    state = training_state(config, model, accumulate=batch.accumulate, bf16=_bf16(config))
    return Workload(
        **vars(state),
        forward_flops=(sum(cost.flops for cost in measured.costs) + measured.head_flops) / clips,
        recomputed=measured.share,
        activation_bytes=float(peak_bytes(measured.costs, measured.recomputed, measured.outside)),
        clips_per_rank=clips,
        repeats=repeats,
        videos=videos,
        epochs=config.schedule.epochs,
        compiled=any(value in (True, AUTO) for value in (config.trainer.compile, config.trainer.cuda_graphs))
        or config.machine.device == "cpu",
        item=builder.item,
    )


def ways_out(config: Plan, machine: Machine, work: Workload, measured: Measured, ranks: int) -> list[str]:
    """Options with each of which alone the run would fit, or advice if there is none."""
    strategy = _strategy(config)
    room = USABLE * machine.memory - costs.state_bytes(work, ranks, strategy)
    found = []
    if room > 0:
        budget = math.floor(10 * room / GB) / 10
        try:
            blocks = choose_blocks(measured.costs, int(budget * GB), measured.outside)
        except ValueError:
            pass  # even with every block recomputed more is kept
        else:
            found.append(
                f"model.activation_checkpointing=false model.activation_budget_gb={budget:g} (recomputes "
                f"{len(blocks)} of {len(measured.costs)} blocks, {measured.share_of(blocks):.0%} of the forward pass)"
            )
        batch, most = config.trainer.batch_size, int(config.trainer.batch_size * room / work.activation_bytes)
        smaller = max((size for size in range(1, min(batch, most + 1)) if batch % size == 0), default=0)
        if smaller:
            # Without a number given accumulation makes up for it by itself.
            automatic = config.trainer.accumulate is None and config.trainer.global_batch is not None
            times = "" if automatic else f" trainer.accumulate={batch // smaller * work.accumulate}"
            found.append(f"trainer.batch_size={smaller}{times}")
    sharded = costs.state_bytes(work, ranks, "fsdp") + work.activation_bytes
    if strategy == "ddp" and ranks > 1 and sharded <= USABLE * machine.memory:
        found.append(f"trainer.strategy=fsdp ({sharded / GB:.1f} GB)")
    return found or ["none of activation checkpointing, a smaller batch and trainer.strategy=fsdp is enough alone"]


def summary(
    config: Plan, machine: Machine, work: Workload, plan: Forecast, measured: Measured, words: Words, files: Files
) -> Table:
    """The run on the chosen number of ranks."""
    unit = _unit(config)
    table = Table(title=f"{config.name} on {plan.ranks} x {machine.name} ({_strategy(config)})")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_column("from")
    for row in (
        *_model_rows(work, plan, measured, unit, words),
        *_step_rows(config, machine, work, plan, words),
        *_run_rows(config, work, plan, words, files),
    ):
        table.add_row(*row)
    return table


def _model_rows(
    work: Workload, plan: Forecast, measured: Measured, unit: str, words: Words
) -> list[tuple[str, str, str]]:
    """Size of the model, and memory."""
    again = f"{len(measured.recomputed)} of {len(work.blocks)} blocks recomputed" if measured.recomputed else "all kept"
    copies = f"weights, gradients, {work.moments} x optimizer" + (", average" if work.ema else "")
    return [
        ("parameters", f"{work.parameters / 1e6:.2f} M", "the model"),
        (
            "forward pass",
            f"{work.forward_flops / 1e9:.1f} GFLOP per {words.sample}",
            "of all blocks and the head; 2 per multiply-add",
        ),
        ("done twice", f"{work.recomputed:.0%} of that", again),
        ("memory: state", f"{plan.state_bytes / GB:.2f} GB per {unit}", f"float32: {copies}"),
        ("memory: activations", f"{plan.activation_bytes / GB:.2f} GB per {unit}", "counted for this batch"),
    ]


def _step_rows(
    config: Plan, machine: Machine, work: Workload, plan: Forecast, words: Words
) -> list[tuple[str, str, str]]:
    """One step."""
    repeats, unit = work.repeats, _unit(config)
    step = step_batch(config.trainer, processes=plan.ranks, items=work.videos)
    lr = scale_lr(config.optim.lr, reference_batch=config.optim.reference_batch, global_batch=step.videos)
    copies = f" augment.repeats={repeats}" if hasattr(config.augment, "repeats") else ""
    batch = f"trainer.batch_size={step.batch_size}{copies} trainer.accumulate={step.accumulate}"
    stated = f"; the recipe's are {step.recipe}: {step.reason}" if step.reason else ""
    bound = "starting kernels" if _launch_bound(work, machine) else f"{machine.utilisation:.0%} of the matrix rate"
    return [
        (f"step of one {unit}", _amount(work.videos_per_step, work.clips_per_step, words), batch),
        (
            "step of all",
            _amount(step.videos, plan.ranks * work.clips_per_step, words),
            f"learning rate {lr:.3g}{stated}",
        ),
        ("arithmetic", f"{1e3 * plan.compute_s:.1f} ms", f"bound by {bound}: an assumption"),
        ("sent", f"{plan.sent_bytes / 1e6:.1f} MB per {unit}", _strategy(config)),
        ("exchange", f"{1e3 * plan.exchange_s:.2f} ms", "before any of it is hidden beside the arithmetic"),
        ("vote to stop", f"{1e3 * plan.vote_s:.2f} ms", _beside(vote_span(plan.ranks))),
        ("step time", f"{1e3 * plan.step_s:.1f} ms", f"scaling efficiency {plan.efficiency:.1%}"),
    ]


def _amount(items: int, samples: int, words: Words) -> str:
    """Items of a step, and samples where these have another name or number."""
    if words.item == words.sample and items == samples:
        return count_text(items, words.item)
    seen = f"{samples} augmented" if words.item == words.sample else count_text(samples, words.sample)
    return f"{count_text(items, words.item)}, {seen}"


def _beside(steps: int) -> str:
    """What hides the vote."""
    return "beside the step, which is not shorter" if steps == 1 else f"beside {steps} steps, which are not shorter"


def _run_rows(config: Plan, work: Workload, plan: Forecast, words: Words, files: Files) -> list[tuple[str, str, str]]:
    """The whole run, and what feeds and saves it."""
    unit, ranks = _unit(config), plan.ranks
    cores = costs.decode_cores(plan.clips_per_s, repeats=work.repeats, videos_per_core_s=files.per_core_s)
    read = costs.read_rate(plan.clips_per_s, repeats=work.repeats, video_bytes=files.kb * 1e3)
    return [
        ("steps", f"{plan.steps:,}", f"{work.epochs:g} epochs of {work.videos:,} {words.item}s"),
        ("whole run", f"{_hours(plan.rank_hours)} {unit}-hours", f"{_hours(plan.rank_hours / ranks)} hours"),
        (
            f"{words.sample}s",
            f"{plan.clips_per_s:.1f} per s and {unit}",
            f"{plan.clips_per_s * ranks:,.0f} per s in all",
        ),
        (
            "decoding",
            f"{cores:.1f} cores per {unit}, {cores * ranks:,.0f} in all",
            f"{files.per_core_s:g} {words.item}s per s and core: {files.per_core_from}",
        ),
        (
            "storage",
            f"{read / 1e6:.1f} MB/s per {unit}, {ranks * read / GB:.2f} GB/s in all",
            f"{words.item}s of {files.kb:.4g} kB ({files.kb_from}), read whole",
        ),
        ("checkpoint", f"{plan.checkpoint_bytes / GB:.2f} GB", f"{1e3 * plan.stall_s:.0f} ms stall"),
        ("writing it", f"{plan.write_s:.1f} s", "beside the training"),
    ]


def scaling(config: Plan, machine: Machine, work: Workload, words: Words) -> Table:
    """The same batch per forward pass on one of them, one node, and more nodes; accumulation as a training would."""
    unit = _unit(config)
    table = Table(title="more of them: the same batch per forward pass on each")
    items, rate = f"{words.item}s/step", f"{words.sample}s/s"
    columns = ("accumulate", items, "step", "exchange", "vote", "efficiency", rate, "hours")
    for name in (f"{unit}s" if unit == "GPU" else "processes", *columns, f"{unit}-hours", "memory"):
        table.add_column(name, justify="right")
    ranks = 1
    while ranks <= MOST_RANKS:
        step = step_batch(config.trainer, processes=ranks, items=work.videos)
        if step.videos > work.videos:
            break
        there = replace(work, accumulate=step.accumulate)
        plan = forecast(there, machine, ranks=ranks, strategy=_strategy(config))
        table.add_row(
            f"{ranks:,}",
            f"{step.accumulate}",
            f"{step.videos:,}",
            f"{1e3 * plan.step_s:.1f} ms",
            f"{1e3 * plan.exchange_s:.2f} ms",
            f"{1e3 * plan.vote_s:.2f} ms",
            f"{plan.efficiency:.1%}",
            f"{plan.clips_per_s * ranks:,.0f}",
            _hours(plan.rank_hours / ranks),
            _hours(plan.rank_hours),
            f"{plan.memory / GB:.1f} GB",
        )
        ranks = machine.ranks_per_node if ranks == 1 and machine.ranks_per_node > 1 else ranks * 2
    return table


def _machine_text(config: Plan) -> str:
    """The machine that is reckoned with, and how to choose another."""
    return f"{config.machine.name} (another: machine=..., one of {', '.join(choices_of('machine'))})"


def _launch_bound(work: Workload, machine: Machine) -> bool:
    return not work.compiled and costs.compute_s(work, machine) > costs.compute_s(replace(work, compiled=True), machine)


def _strategy(config: Plan) -> Strategy:
    return "fsdp" if config.trainer.strategy == "fsdp" else "ddp"


def _bf16(config: Plan) -> bool:
    """Whether a run on the planned machine computes in bf16; this machine does not matter."""
    precision = config.trainer.precision
    return precision == "bf16" or (precision == "auto" and config.machine.device == "cuda")


def _ranks(config: Plan) -> int:
    """GPUs (processes) of the planned run."""
    return config.nodes * config.machine.ranks_per_node


def _unit(config: Plan) -> str:
    return "GPU" if config.machine.device == "cuda" else "process"


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
