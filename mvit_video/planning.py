"""What a training run will need, worked out from the model's size and the machine's data sheet. Pure arithmetic.

Every formula is explained in docs/scaling.md. Rates are bytes and operations per second; a GPU is one rank.
"""

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["ddp", "fsdp"]

FP32, BF16 = 4, 2


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A kind of GPU node, from its data sheets.

    Attributes:
        name: of the kind.
        gpus_per_node: ranks on a node.
        matrix_flops: dense bf16 matrix operations per second and GPU.
        utilisation: share of that which a training step reaches; an assumption until measured.
        memory: bytes per GPU.
        link: bytes per second in one direction between a GPU and the others of its node.
        network: bytes per second in one direction between a GPU's node and others, per GPU.
        latency_s: of one message between nodes.
        to_host: bytes per second from a GPU to its host's memory.
        disk: bytes per second that one run's checkpoint is written at.
    """

    name: str
    gpus_per_node: int
    matrix_flops: float
    utilisation: float
    memory: float
    link: float
    network: float
    latency_s: float
    to_host: float
    disk: float


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A training run, as far as its needs depend on it.

    Attributes:
        parameters: of the model.
        largest_block: parameters of its largest block (gathered whole by FSDP).
        forward_flops: operations of a forward pass per clip.
        recomputed: share of them done a second time (activation checkpointing).
        activation_bytes: kept for the backward pass, per clip.
        outside_bytes: of them what is kept whatever the batch (none for the models here).
        clips_per_rank: per forward pass, repeated augmentation counted.
        accumulate: forward passes per step.
        videos: in the training split.
        repeats: augmented copies of each decoded video.
        epochs: passes over the split.
        ema: an averaged copy of the weights is kept.
        bf16: computed in bf16.
    """

    parameters: int
    largest_block: int
    forward_flops: float
    recomputed: float
    activation_bytes: float
    clips_per_rank: int
    accumulate: int
    videos: int
    repeats: int
    epochs: float
    ema: bool
    bf16: bool


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the run will need on `ranks` GPUs.

    Attributes:
        ranks: GPUs.
        state_bytes: weights, gradients, optimizer and average, per GPU.
        activation_bytes: kept for the backward pass, per GPU.
        sent_bytes: sent by each GPU per step.
        compute_s: a step's arithmetic.
        communication_s: a step's exchange, were nothing hidden behind the backward pass.
        step_s: a step.
        efficiency: of one GPU alone, this share of whose speed each of the GPUs keeps.
        steps: of the whole run.
        gpu_hours: of the whole run.
        clips_per_s: per GPU.
        checkpoint_bytes: of one whole checkpoint.
        stall_s: that an asynchronous checkpoint holds a step up: the copy to the host's memory.
        write_s: for it to be on disk.
    """

    ranks: int
    state_bytes: float
    activation_bytes: float
    sent_bytes: float
    compute_s: float
    communication_s: float
    step_s: float
    efficiency: float
    steps: int
    gpu_hours: float
    clips_per_s: float
    checkpoint_bytes: float
    stall_s: float
    write_s: float


def sent_bytes(parameters: int, ranks: int, strategy: Strategy, *, bf16: bool) -> float:
    """Bytes each rank sends per step with ring collectives, which send (N-1)/N of the whole per pass.

    DDP sums float32 gradients: a reduce-scatter and an all-gather. FSDP gathers the weights before the forward and
    again before the backward pass (in bf16 where that is computed in), and reduce-scatters float32 gradients.
    """
    share = (ranks - 1) / ranks
    gathered = BF16 if bf16 else FP32
    factor = 2 * FP32 if strategy == "ddp" else 2 * gathered + FP32
    return share * factor * parameters


def communication_s(sent: float, ranks: int, machine: Machine) -> float:
    """Seconds for a rank to send that, the nodes' network being the narrow place as soon as there are several nodes."""
    if ranks == 1:
        return 0.0
    nodes = -(-ranks // machine.gpus_per_node)
    if nodes == 1:
        return sent / machine.link
    # A ring through all ranks crosses to another node once per node and pass: two latencies per node and step.
    return sent / machine.network + 2 * (nodes - 1) * machine.latency_s


def state_bytes(work: Workload, ranks: int, strategy: Strategy) -> float:
    """Weights, gradients, two moments of AdamW and the average in float32; FSDP divides them among the ranks.

    FSDP adds two gathered blocks: the one that is computed and the next, already on its way.
    """
    copies = 4 + work.ema
    whole = float(copies * FP32 * work.parameters)
    if strategy == "ddp" or ranks == 1:
        return whole
    gathered = BF16 if work.bf16 else FP32
    return whole / ranks + 2 * gathered * work.largest_block


def checkpoint_bytes(work: Workload) -> float:
    """Weights, two moments and the average."""
    return float((3 + work.ema) * FP32 * work.parameters)


def forecast(work: Workload, machine: Machine, *, ranks: int, strategy: Strategy) -> Forecast:
    """What the run needs on a number of GPUs.

    The exchange of the gradients overlaps with the backward pass, two thirds of the arithmetic; what does not fit in
    there adds to the step. With accumulation only the last of the passes overlaps; DDP exchanges once a step, FSDP
    gathers in every pass.
    """
    clips = work.clips_per_rank * work.accumulate
    flops = (3 + work.recomputed) * work.forward_flops * clips
    compute = flops / (machine.matrix_flops * machine.utilisation)
    sent = sent_bytes(work.parameters, ranks, strategy, bf16=work.bf16)
    if strategy == "fsdp":
        sent *= work.accumulate
    exchange = communication_s(sent, ranks, machine)
    hidden = 2 / 3 * compute / (work.accumulate if strategy == "ddp" else 1)
    step = compute + max(0.0, exchange - hidden)
    videos_per_step = clips // work.repeats * ranks
    steps = max(1, round(work.epochs * (work.videos // max(1, videos_per_step))))
    whole = checkpoint_bytes(work)
    per_host = whole / (ranks if strategy == "fsdp" else 1)
    return Forecast(
        ranks=ranks,
        state_bytes=state_bytes(work, ranks, strategy),
        activation_bytes=work.activation_bytes * work.clips_per_rank,
        sent_bytes=sent,
        compute_s=compute,
        communication_s=exchange,
        step_s=step,
        efficiency=compute / step,
        steps=steps,
        gpu_hours=steps * step * ranks / 3600,
        clips_per_s=clips / step,
        checkpoint_bytes=whole,
        stall_s=per_host / machine.to_host,
        write_s=whole / machine.disk,
    )


def decode_cores(clips_per_s: float, *, repeats: int, clips_per_core_s: float) -> float:
    """CPU cores that decode and augment fast enough for one GPU; a repeated clip is decoded once."""
    return clips_per_s / repeats / clips_per_core_s


def read_rate(clips_per_s: float, *, repeats: int, video_bytes: float) -> float:
    """Bytes per second read for one GPU, each video read whole."""
    return clips_per_s / repeats * video_bytes
