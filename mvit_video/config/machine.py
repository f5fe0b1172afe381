"""Options of the group `machine`: what `python -m mvit_video.plan` reckons with."""

from dataclasses import dataclass

from omegaconf import MISSING

from mvit_video.config.rules import option


@dataclass
class Machine:
    """A kind of node, from its data sheets; what is not on one is an assumption until it is measured."""

    name: str = option(MISSING, help="name of the kind of node")
    device: str = option("cuda", choices=("cuda", "cpu"), help="what it trains on")
    ranks_per_node: int = option(8, at_least=1, help="GPUs, or processes")
    matrix_tflops: float = option(
        MISSING, above=0, help="dense TFLOP/s, per GPU or process, in the training's arithmetic (bf16 on a GPU)"
    )
    utilisation: float = option(
        0.15, above=0, help="share of it that a training step as a whole reaches; docs/scaling.md says why"
    )
    launch_us: float = option(5.0, at_least=0, help="microseconds for the host to start one kernel")
    memory_gb: float = option(MISSING, above=0, help="memory per GPU or process, in 10^9 bytes")
    link_gb_s: float = option(MISSING, above=0, help="GB/s between the GPUs of a node, per GPU, one direction")
    network_gbit_s: float = option(
        MISSING, above=0, help="Gbit/s between nodes, all ports of a node together, one direction"
    )
    link_latency_us: float = option(2.0, at_least=0, help="latency of a message within a node")
    latency_us: float = option(6.0, at_least=0, help="latency of a message between nodes")
    host_latency_us: float = option(
        30.0, at_least=0, help="latency of a message between the hosts' processes, over TCP"
    )
    to_host_gb_s: float = option(25.0, above=0, help="GB/s from a GPU's memory to its host's")
    disk_gb_s: float = option(1.0, above=0, help="GB/s that a checkpoint is written at")
