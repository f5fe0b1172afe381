"""What a training run will need, worked out from the model's size and the machine's data sheet. Pure arithmetic.

Every formula is explained in docs/scaling.md. Rates are bytes and operations per second; a rank is one GPU, or one
process where the model runs on CPUs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mvit_video.runtime.formatting import are, count_text
from mvit_video.runtime.interruption import vote_span

Strategy = Literal["ddp", "fsdp"]
Collective = Literal["all_reduce", "all_gather", "reduce_scatter"]
Exchange = tuple[Collective, float]
"""A collective, and the bytes of the whole tensor that it sums, gathers or scatters."""

FP32, BF16 = 4, 2
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20
"""Bytes of gradients that DistributedDataParallel sums at once: those that are ready first, and all others."""
LAUNCHES_PER_BLOCK = 300
"""Kernels of a block's forward and backward pass: some 100 operations are counted in the forward pass."""
USABLE = 0.9
"""Share of a GPU's memory to plan with; CUDA itself, workspaces, NCCL's buffers and gaps take the rest."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A kind of node, from its data sheets.

    Attributes:
        name: of the kind.
        ranks_per_node: GPUs of a node (processes, where it has none).
        matrix_flops: dense matrix operations per second and rank, in the arithmetic of the training.
        utilisation: share of that which a training step as a whole reaches; an assumption until measured.
        launch_s: for the host to start one kernel.
        memory: bytes per rank.
        link: bytes per second in one direction that a rank sends to others of its node.
        network: bytes per second in one direction that a node sends to others, all its ports together.
        link_latency_s: of a message within a node.
        latency_s: of a message between nodes.
        host_latency_s: of a message between the hosts' processes (gloo).
        to_host: bytes per second from a GPU to its host's memory.
        disk: bytes per second that one run's checkpoint is written at.
        gloo: processes on CPUs, where messages take the cores from the arithmetic instead of travelling beside it, and
            a reduce-scatter is an all-reduce of which each rank keeps a part.
    """

    name: str
    ranks_per_node: int
    matrix_flops: float
    utilisation: float
    launch_s: float
    memory: float
    link: float
    network: float
    link_latency_s: float
    latency_s: float
    host_latency_s: float
    to_host: float
    disk: float
    gloo: bool = False


@dataclass(frozen=True, kw_only=True)
class FileCosts:
    """What files of a kind cost where nothing is known of those of a data set.

    Attributes:
        per_core_s: files that a core reads, decodes and augments per second.
        kb: size of one, in 1000 bytes.
    """

    per_core_s: float
    kb: float


VIDEO_FILES = FileCosts(per_core_s=20, kb=500)
"""Kinetics in H.264 with a short side of 256."""
IMAGE_FILES = FileCosts(per_core_s=200, kb=110)
"""ImageNet: docs/benchmarks.md has 207 images of 500 x 375 pixels a second and core, with its augmentation."""
DETECTION_FILES = FileCosts(per_core_s=80, kb=165)
"""COCO: 82 (large-scale jitter) and 100 (multi-scale) drawn images of 640 x 480 pixels with seven polygons were read
and viewed a second and core, on a machine with other work."""


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What the memory for weights, gradients and optimizer depends on.

    Attributes:
        parameters: of the model.
        blocks: of them those of each block, first to last; FSDP exchanges a block at a time, and the rest together.
        accumulate: forward passes per step.
        moments: tensors the optimizer keeps for each parameter: two for AdamW, one for SGD with momentum.
        ema: an averaged copy of the weights is kept.
        gathers_bf16: FSDP gathers weights in bf16, which is what is computed in.
        cuda_graphs: passes are replayed from CUDA graphs, which keep the memory of their gradients.
    """

    parameters: int
    blocks: tuple[int, ...]
    accumulate: int
    moments: int
    ema: bool
    gathers_bf16: bool
    cuda_graphs: bool = False


@dataclass(frozen=True, kw_only=True)
class Workload(TrainingState):
    """A training run, as far as its needs depend on it; see TrainingState for the rest.

    Attributes:
        forward_flops: operations of a forward pass per clip.
        recomputed: share of them done a second time (activation checkpointing).
        activation_bytes: most that is kept for the backward pass of the clips of one forward pass.
        clips_per_rank: per forward pass, repeated augmentation counted.
        repeats: augmented copies of each decoded video.
        videos: in the training split.
        epochs: passes over the split.
        compiled: kernels are fused or in CUDA graphs, so that starting them does not count.
        item: what the split is a set of, for messages.
    """

    forward_flops: float
    recomputed: float
    activation_bytes: float
    clips_per_rank: int
    repeats: int
    videos: int
    epochs: float
    compiled: bool = False
    item: str = "video"

    @property
    def clips_per_step(self) -> int:
        """Of one rank."""
        return self.clips_per_rank * self.accumulate

    @property
    def videos_per_step(self) -> int:
        """Of one rank."""
        return self.clips_per_step // self.repeats


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a step: arithmetic, and the exchanges it has to wait for, those beside it and those after it."""

    compute_s: float
    before: list[Exchange] = field(default_factory=list)
    beside: list[Exchange] = field(default_factory=list)
    after: list[Exchange] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the run will need on `ranks` ranks.

    Attributes:
        ranks: GPUs (processes).
        state_bytes: weights, gradients, optimizer, average and what is gathered, per rank.
        activation_bytes: most that is kept for the backward pass, per rank.
        sent_bytes: sent by each rank per step.
        compute_s: a step's arithmetic.
        exchange_s: a step's exchange, were nothing of it hidden behind arithmetic.
        vote_s: for all ranks to agree on whether to stop; beside the steps of one vote, which are not shorter.
        step_s: a step.
        efficiency: the share of its speed alone that each rank keeps among so many.
        steps: of the whole run.
        rank_hours: of the whole run, without validations.
        clips_per_s: per rank.
        checkpoint_bytes: of one whole checkpoint.
        stall_s: that an asynchronous checkpoint holds a step up: the copy to the host's memory.
        write_s: for it to be on disk, beside the training.
    """

    ranks: int
    state_bytes: float
    activation_bytes: float
    sent_bytes: float
    compute_s: float
    exchange_s: float
    vote_s: float
    step_s: float
    efficiency: float
    steps: int
    rank_hours: float
    clips_per_s: float
    checkpoint_bytes: float
    stall_s: float
    write_s: float

    @property
    def memory(self) -> float:
        """Bytes per rank."""
        return self.state_bytes + self.activation_bytes


def sent_bytes(exchange: Exchange, ranks: int) -> float:
    """Bytes that each rank sends: (N-1)/N of the tensor, and twice that to sum it (a scatter, then a gather).

    That is what a ring sends, and no algorithm among equals sends less.
    """
    collective, size = exchange
    passes = 2 if collective == "all_reduce" else 1
    return passes * (ranks - 1) / ranks * size


def latency_s(collective: Collective, ranks: int, machine: Machine) -> float:
    """Seconds that a collective takes however little it carries.

    A ring passes through all ranks, and through each node once. Sums may go up and down a tree of nodes instead, with a
    chain through the ranks of each. After NCCL's src/graph/tuning.cc, which picks the quicker.
    """
    nodes = math.ceil(ranks / machine.ranks_per_node)
    ring = (ranks - nodes) * machine.link_latency_s + (nodes - 1) * machine.latency_s
    if collective != "all_reduce":
        return ring
    on_node = math.ceil(ranks / nodes)
    tree = (on_node - 1) * machine.link_latency_s + math.ceil(math.log2(nodes)) * machine.latency_s
    return 2 * min(ring, tree)


def exchange_s(exchange: Exchange, ranks: int, machine: Machine) -> float:
    """Seconds that a collective takes.

    Rings that leave the nodes through different ports share the data, so that all ports of a node together carry what
    one rank sends.
    """
    if ranks == 1:
        return 0.0
    narrowest = machine.link if ranks <= machine.ranks_per_node else min(machine.link, machine.network)
    return sent_bytes(exchange, ranks) / narrowest + latency_s(exchange[0], ranks, machine)


def buckets(parameters: int) -> list[float]:
    """Bytes of the float32 gradients that DistributedDataParallel sums at once, in the order of the backward pass."""
    sizes: list[float] = []
    left = float(FP32 * parameters)
    while left > 0:
        sizes.append(min(left, BUCKET if sizes else FIRST_BUCKET))
        left -= sizes[-1]
    return sizes


def compute_s(work: Workload, machine: Machine) -> float:
    """Seconds of a step's arithmetic: by its operations, a backward pass being two forward passes, or by its kernels.

    Small batches of small models are held up by the host, which has to start every kernel.
    """
    passes = 3 + work.recomputed
    by_rate = passes * work.forward_flops * work.clips_per_step / (machine.matrix_flops * machine.utilisation)
    launches = passes / 3 * LAUNCHES_PER_BLOCK * len(work.blocks) * work.accumulate
    return max(by_rate, 0.0 if work.compiled else launches * machine.launch_s)


def phases(work: Workload, machine: Machine, strategy: Strategy) -> list[Phase]:
    """A step of several ranks.

    DDP sums float32 gradients beside the last backward pass; only the last bucket is not full before that pass ends. A
    backward pass that is a CUDA graph gives all gradients at its end, and they are summed at once.
    FSDP gathers the weights of a block beside the block before it, in bf16 or float32, in the forward pass and again in
    the backward pass; stem and head come first and stay until they are used last. Beside the last backward pass it
    scatters the sums of float32 gradients. With accumulation earlier passes keep their gradients.
    """
    passes = work.accumulate
    whole = compute_s(work, machine) / passes
    forward = whole / (3 + work.recomputed)
    backward = whole - forward
    if strategy == "ddp":
        sizes = [FP32 * work.parameters] if work.cuda_graphs else buckets(work.parameters)
        *early, last = _exchanges("all_reduce", sizes)
        return [
            Phase(compute_s=passes * forward + (passes - 1) * backward),
            Phase(compute_s=backward, beside=early, after=[last]),
        ]
    stem_and_head = work.parameters - sum(work.blocks)
    sizes = [stem_and_head, *work.blocks]
    gathers = _exchanges("all_gather", [(BF16 if work.gathers_bf16 else FP32) * size for size in sizes])
    sums = _exchanges("all_reduce" if machine.gloo else "reduce_scatter", [FP32 * size for size in sizes])
    ahead = Phase(compute_s=forward, before=gathers[:2], beside=gathers[2:])
    back = Phase(compute_s=backward, before=gathers[-1:], beside=gathers[1:-1])
    final = replace(back, beside=[*gathers[1:-1], *sums[1:]], after=sums[:1])
    return [*[ahead, back] * (passes - 1), ahead, final]


def _exchanges(collective: Collective, sizes: Sequence[float]) -> list[Exchange]:
    return [(collective, float(size)) for size in sizes]


def phase_s(phase: Phase, ranks: int, machine: Machine) -> float:
    """Seconds of a phase; what is exchanged beside the arithmetic adds to it what does not fit in there."""
    before, beside, after = (
        sum(exchange_s(exchange, ranks, machine) for exchange in exchanges)
        for exchanges in (phase.before, phase.beside, phase.after)
    )
    middle = phase.compute_s + beside if machine.gloo else max(phase.compute_s, beside)
    return before + middle + after


def state_bytes(work: TrainingState, ranks: int, strategy: Strategy) -> float:
    """Weights, gradients, the optimizer's moments and the average in float32; FSDP divides them among the ranks.

    Beside its share a rank of FSDP holds, in the midst of a backward pass, the weights of stem and head and of one
    block, the next block on its way, the block's gradients and the float32 gradients of the block before that are being
    summed; and under accumulation all gradients, which are summed with the last pass. Gradients that are summed, over
    passes or ranks, lie beside those of CUDA graphs.
    """
    beside = work.cuda_graphs and (work.accumulate > 1 or ranks > 1)
    whole = float((2 + work.moments + work.ema + beside) * FP32 * work.parameters)
    if strategy == "ddp" or ranks == 1:
        return whole
    item = BF16 if work.gathers_bf16 else FP32
    rest = work.parameters - sum(work.blocks)
    transient = item * rest + (3 * item + FP32) * max(work.blocks)
    kept = FP32 * work.parameters if work.accumulate > 1 else 0
    return whole / ranks + transient + kept


def checkpoint_bytes(work: Workload) -> float:
    """Weights, moments and the average, in float32."""
    return float((1 + work.moments + work.ema) * FP32 * work.parameters)


def vote_s(ranks: int, machine: Machine) -> float:
    """Seconds for all ranks to know whether one was asked to stop: a ring over the hosts' network, twice around."""
    return 2 * (ranks - 1) * machine.host_latency_s


def forecast(work: Workload, machine: Machine, *, ranks: int, strategy: Strategy) -> Forecast:
    """What the run needs on a number of ranks, each with the same batch.

    Raises:
        ValueError: a step takes more videos than there are.
    """
    per_step = work.videos_per_step * ranks
    if per_step > work.videos:
        rest = " or trainer.accumulate"
        if ranks > 1:
            rest = (
                f", trainer.accumulate or nodes, or plan for fewer ranks than {machine.name} has: another machine=..., "
                "or machine.ranks_per_node=1"
            )
        raise ValueError(
            f"a step on {count_text(ranks, 'rank')} takes {count_text(per_step, work.item)}, and there "
            f"{are(work.videos)} {work.videos}: lower trainer.batch_size{rest}"
        )
    compute, step = compute_s(work, machine), compute_s(work, machine)
    exchanges: list[Exchange] = []
    if ranks > 1:
        parts = phases(work, machine, strategy)
        exchanges = [exchange for part in parts for exchange in (*part.before, *part.beside, *part.after)]
        vote = vote_s(ranks, machine) / vote_span(ranks)
        step = max(sum(phase_s(part, ranks, machine) for part in parts), vote)
    steps = max(1, round(work.epochs * (work.videos // per_step)))
    whole = checkpoint_bytes(work)
    return Forecast(
        ranks=ranks,
        state_bytes=state_bytes(work, ranks, strategy),
        activation_bytes=work.activation_bytes,
        sent_bytes=sum(sent_bytes(exchange, ranks) for exchange in exchanges),
        compute_s=compute,
        exchange_s=sum(exchange_s(exchange, ranks, machine) for exchange in exchanges),
        vote_s=vote_s(ranks, machine),
        step_s=step,
        efficiency=compute / step,
        steps=steps,
        rank_hours=steps * step * ranks / 3600,
        clips_per_s=work.clips_per_step / step,
        checkpoint_bytes=whole,
        stall_s=(whole if strategy == "ddp" else whole / ranks) / machine.to_host,
        write_s=whole / machine.disk,
    )


def decode_cores(clips_per_s: float, *, repeats: int, videos_per_core_s: float) -> float:
    """CPU cores that decode and augment fast enough for one rank; a repeated clip is decoded once."""
    return clips_per_s / repeats / videos_per_core_s


def read_rate(clips_per_s: float, *, repeats: int, video_bytes: float) -> float:
    """Bytes per second read for one rank, each video read whole."""
    return clips_per_s / repeats * video_bytes
