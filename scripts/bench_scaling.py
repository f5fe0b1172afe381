"""Measure weak scaling over CPU processes beside what mvit_video/planning/ predicts for them.

    python scripts/bench_scaling.py                          # 1, 2 and 4 ranks, DDP and FSDP, batches of 1 and 8 clips
    python scripts/bench_scaling.py --ranks 1 2 --batch 8 --rounds 5

The embedded set's small MViTv2 is trained on made-up clips, so that nothing is decoded; each rank has one thread, and
messages travel over gloo and the loopback. What the prediction needs is measured first, on one rank and on two: the
rate of matrix products, the share of it that a step alone reaches, and gloo's latency and bandwidth. Everything else is
predicted from that and from the number of cores that the ranks share. Times are the least of all rounds, because other
programs on the machine only ever make them longer; the CPU time of a rank (all its threads) beside them is what a step
would take if nobody else ran and no rank had to wait. Bytes are those the kernel counted on each rank's sockets.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from mvit_video.distributed.process_group import World, barrier, data_parallel, world
from mvit_video.distributed.sharding import Sharding
from mvit_video.models import MViT, create_model
from mvit_video.models.mvit.activation_checkpointing import measure_blocks
from mvit_video.optim import build_optimizer, parameter_groups
from mvit_video.planning.costs import Forecast, Machine, Strategy, Workload, forecast

MODEL = "mvitv2_motion"
LARGE = 4 * 2**20
"""Bytes of the all-reduce that shows gloo's bandwidth, near those of the model's gradients."""
_BYTES_SENT = 200
"""Where Linux's struct tcp_info has tcpi_bytes_sent."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: batches (clips per rank), steps of one timing, and timings of each kind per round."""

    batches: list[int]
    steps: int
    windows: int
    fsdp: bool


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="clips per rank")
    parser.add_argument("--steps", type=int, default=3, help="steps of one timing")
    parser.add_argument("--windows", type=int, default=12, help="timings of each kind per round")
    parser.add_argument("--rounds", type=int, default=3, help="times that all of it is measured")
    parser.add_argument("--no-fsdp", action="store_true")
    parser.add_argument("--keep", type=Path, help="keep what is measured in this file; earlier runs in it count, too")
    options = parser.parse_args()
    if min(options.ranks) != 1 or 2 not in options.ranks:
        parser.error("--ranks: must have 1 and 2, from which the others are predicted")
    plan = Plan(batches=options.batch, steps=options.steps, windows=options.windows, fsdp=not options.no_fsdp)
    measured = read(options.keep) if options.keep else {}
    for number in range(options.rounds):
        for ranks in sorted(options.ranks):
            print(f"round {number + 1} of {options.rounds}: {ranks} ranks", file=sys.stderr)
            measured[ranks] = best_of(measured.get(ranks, {}), run(ranks, plan))
            if options.keep:
                options.keep.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    print(report(measured, plan, cores=len(os.sched_getaffinity(0))))


def read(path: Path) -> dict[int, dict[str, float]]:
    """What earlier runs measured, by number of ranks."""
    if not path.exists():
        return {}
    return {int(ranks): found for ranks, found in json.loads(path.read_text(encoding="utf-8")).items()}


def best_of(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """The highest of rates and the least of times; bytes are always the same."""
    return {
        name: (max if name.endswith("_per_s") else min)(found[name] for found in (one, other) if name in found)
        for name in {**one, **other}
    }


def run(ranks: int, plan: Plan) -> dict[str, float]:
    """What a world of so many processes measures: of each time that of the slowest rank, of bytes the mean."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(measure_rank, (ranks, port, plan, folder), nprocs=ranks)
        found = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.json")]
    return {
        name: statistics.mean(values) if name.endswith("_bytes") else max(values)
        for name, values in ((name, [one[name] for one in found]) for name in found[0])
    }


def measure_rank(rank: int, ranks: int, port: int, plan: Plan, folder: str) -> None:
    """One process: measure, and leave the figures in the folder."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    kinds = ["none"] if ranks == 1 else ["none", "ddp", "fsdp"] if plan.fsdp else ["none", "ddp"]
    with world(torch.device("cpu"), timeout_s=300) as here:
        found = {"matrix_per_s": matrix_rate(plan.windows)} if ranks == 1 else exchange_times(here, plan.windows)
        for batch in plan.batches:
            for kind in kinds:
                timing = time_steps(make_step(kind, batch, here), here, plan)
                found |= {f"{kind}_{batch}_{name}": value for name, value in timing.items()}
    Path(folder, f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def make_step(kind: str, batch: int, here: World) -> Callable[[], object]:
    """A training step on made-up clips: without any exchange, with DDP or with FSDP."""
    torch.manual_seed(here.rank)
    model = create_model(MODEL)
    clips, labels = torch.randn(clip_shape(model, batch)), torch.arange(batch) % 8
    if kind == "fsdp":
        Sharding(here, bf16=False, timeout_s=300).apply(model)
    optimizer = build_optimizer(parameter_groups(model, lr=1e-4, weight_decay=0.05), name="adamw", lr=1e-4)
    forward: nn.Module = data_parallel(model, here) if kind == "ddp" else model

    def step() -> None:
        F.cross_entropy(forward(clips), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def clip_shape(model: MViT, batch: int) -> tuple[int, ...]:
    """(B, C, T, H, W) of so many clips."""
    return batch, 3, model.config.num_frames, model.config.crop_size, model.config.crop_size


def time_steps(step: Callable[[], object], here: World, plan: Plan) -> dict[str, float]:
    """A step's seconds and seconds of CPU time, the least of several timings, and the bytes this rank sends in one."""
    for _ in range(3):  # DDP sorts its buckets anew after the first
        step()
    wall = cpu = float("inf")
    sent = 0
    for _ in range(plan.windows):
        barrier(here)
        before, started, used = bytes_sent(), time.perf_counter(), time.process_time()
        for _ in range(plan.steps):
            step()
        wall = min(wall, (time.perf_counter() - started) / plan.steps)
        cpu = min(cpu, (time.process_time() - used) / plan.steps)
        sent += bytes_sent() - before
    return {"s": wall, "cpu_s": cpu, "bytes": sent / plan.steps / plan.windows}


def matrix_rate(windows: int) -> float:
    """Operations per second of CPU time of float32 matrix products, of a size at which they are quick."""
    a, b = torch.randn(768, 768), torch.randn(768, 768)
    return 2 * 768**3 / least(lambda: torch.mm(a, b), 5 * windows, clock=time.process_time)


def exchange_times(here: World, windows: int) -> dict[str, float]:
    """Seconds of an all-reduce of nothing to speak of and of a large one."""
    small, large = torch.zeros(1), torch.zeros(LARGE // 4)
    barrier(here)
    quick = least(lambda: dist.all_reduce(small), 20 * windows)
    barrier(here)
    return {"small_s": quick, "large_s": least(lambda: dist.all_reduce(large), 10 * windows)}


def least(work: Callable[[], object], times: int, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that `work` takes, the least of several times."""
    best = float("inf")
    for _ in range(times + 1):
        started = clock()
        work()
        best = min(best, clock() - started)
    return best


def bytes_sent() -> int:
    """Bytes that this process gave to TCP so far, summed over its open connections (Linux)."""
    total = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile, or a socket of another kind
            if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(number))) as connection:
                about = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                if len(about) >= _BYTES_SENT + 8:
                    total += struct.unpack_from("Q", about, _BYTES_SENT)[0]
    return total


def describe_machine(measured: dict[int, dict[str, float]], batch: int, flops: float) -> Machine:
    """A machine of as many cores as ranks, from what one rank and two measured.

    Args:
        measured: by number of ranks.
        batch: clips per rank.
        flops: of a step on them.
    """
    one, two = measured[1], measured[2]
    return Machine(
        name="cpu",
        ranks_per_node=max(measured),
        matrix_flops=one["matrix_per_s"],
        utilisation=flops / one[f"none_{batch}_cpu_s"] / one["matrix_per_s"],
        launch_s=0.0,
        memory=float("inf"),
        # Of two ranks each sends as many bytes as the tensor has, in two messages.
        link=LARGE / (two["large_s"] - two["small_s"]),
        network=float("inf"),
        link_latency_s=two["small_s"] / 2,
        latency_s=0.0,
        host_latency_s=0.0,
        to_host=float("inf"),
        disk=float("inf"),
        gloo=True,
    )


def shared(machine: Machine, ranks: int, cores: int) -> Machine:
    """The machine as each of `ranks` finds it where they share fewer cores: gloo's work is the cores', too."""
    share = min(1.0, cores / ranks)
    return replace(
        machine,
        matrix_flops=machine.matrix_flops * share,
        link=machine.link * share,
        link_latency_s=machine.link_latency_s / share,
    )


def describe_work(model: MViT, batch: int) -> Workload:
    """A step of the small model in the terms of planning/costs.py."""
    costs, _ = measure_blocks(model.train(), clip_shape(model, batch))
    return Workload(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        blocks=tuple(sum(parameter.numel() for parameter in block.parameters()) for block in model.blocks),
        forward_flops=sum(cost.flops for cost in costs) / batch,
        recomputed=0.0,
        activation_bytes=0.0,
        clips_per_rank=batch,
        repeats=1,
        accumulate=1,
        videos=10**9,
        epochs=1.0,
        moments=2,
        ema=False,
        gathers_bf16=False,
        compiled=True,
    )


def report(measured: dict[int, dict[str, float]], plan: Plan, *, cores: int) -> str:
    """All of it as Markdown."""
    one, two = measured[1], measured[2]
    lines = [
        f"{MODEL} on {cores} cores of {platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"{date.today()}: matrix products {one['matrix_per_s'] / 1e9:.0f} GFLOP/s; all-reduce of two ranks "
        f"{1e6 * two['small_s']:.0f} us for 4 bytes, {1e3 * two['large_s']:.2f} ms for {LARGE / 2**20:.0f} MiB.",
        "",
        "| clips/rank | ranks | exchange | step | CPU time | predicted | efficiency | by CPU time | predicted "
        "| sent per rank and step | predicted |",
        "|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    model = create_model(MODEL)
    for batch in plan.batches:
        work = describe_work(model, batch)
        machine = describe_machine(measured, batch, 3 * work.forward_flops * batch)
        for ranks in sorted(measured):
            there = shared(machine, ranks, cores)
            alone = forecast(work, there, ranks=1, strategy="ddp")
            lines.append(_row(measured, replace(alone, ranks=ranks), "none", batch, cores))
            strategies: list[Strategy] = [] if ranks == 1 else ["ddp", "fsdp"] if plan.fsdp else ["ddp"]
            for strategy in strategies:
                predicted = forecast(work, there, ranks=ranks, strategy=strategy)
                lines.append(_row(measured, predicted, strategy, batch, cores))
    return "\n".join(lines)


def _row(measured: dict[int, dict[str, float]], predicted: Forecast, kind: str, batch: int, cores: int) -> str:
    """A line of the table. Efficiency is against the CPU time of one rank, which it would take on a core of its own."""
    alone, ranks = measured[1][f"none_{batch}_cpu_s"], predicted.ranks
    wall, cpu, sent = (measured[ranks][f"{kind}_{batch}_{name}"] for name in ("s", "cpu_s", "bytes"))
    in_turns = cpu * max(1.0, ranks / cores)
    cells = [
        f"{batch} | {ranks} | {kind}",
        f"{1e3 * wall:.1f} ms | {1e3 * cpu:.1f} ms | {1e3 * predicted.step_s:.1f} ms",
        f"{alone / wall:.0%} | {alone / in_turns:.0%} | {alone / predicted.step_s:.0%}",
        f"{sent / 1e6:.2f} MB | {predicted.sent_bytes / 1e6:.2f} MB",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
