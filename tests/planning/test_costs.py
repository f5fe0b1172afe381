"""The arithmetic of plans, against values worked out by hand."""

import math
from dataclasses import replace

import pytest

from mvit_video.planning.costs import (
    Machine,
    Workload,
    buckets,
    compute_s,
    decode_cores,
    exchange_s,
    forecast,
    latency_s,
    phase_s,
    phases,
    read_rate,
    sent_bytes,
    state_bytes,
    vote_s,
)

# Nodes of four; 50 T operations per second are reached.
MACHINE = Machine(
    name="test",
    ranks_per_node=4,
    matrix_flops=100e12,
    utilisation=0.5,
    launch_s=0.0,
    memory=80e9,
    link=100e9,
    network=50e9,
    link_latency_s=1e-6,
    latency_s=10e-6,
    host_latency_s=0.0,
    to_host=20e9,
    disk=1e9,
)
# Stem and head have a million parameters. A step is 6 T operations, of which 2 T are the forward pass.
WORK = Workload(
    parameters=10_000_000,
    blocks=(3_000_000, 6_000_000),
    forward_flops=1e12,
    recomputed=0.0,
    activation_bytes=7e9,
    clips_per_rank=2,
    repeats=1,
    accumulate=1,
    videos=1000,
    epochs=10.0,
    moments=2,
    ema=False,
    gathers_bf16=True,
)
# All ranks on one node, and nothing but the bandwidth of its links counts.
ONE_NODE = replace(MACHINE, ranks_per_node=64, link=1e9, link_latency_s=0.0)


def step_s(work: Workload, machine: Machine, strategy: str, ranks: int = 4) -> float:
    return sum(phase_s(phase, ranks, machine) for phase in phases(work, machine, strategy))  # type: ignore[arg-type]


def test_a_ring_sends_each_part_to_all_but_its_owner() -> None:
    assert sent_bytes(("all_gather", 100), 4) == 75
    assert sent_bytes(("reduce_scatter", 100), 4) == 75
    assert sent_bytes(("all_reduce", 100), 4) == 150
    assert sent_bytes(("all_reduce", 100), 2) == 100
    assert sent_bytes(("all_reduce", 100), 1) == 0


@pytest.mark.parametrize(
    ("strategy", "changes", "expected"),
    [
        ("ddp", {}, 70e6),  # 2 * 7/8 * 40 MB of gradients
        ("ddp", {"gathers_bf16": False}, 70e6),
        ("ddp", {"accumulate": 3}, 70e6),
        ("fsdp", {}, 68.25e6),  # 7/8 * (2 + 18 + 18 MB of weights in bf16, 40 MB of gradients)
        ("fsdp", {"gathers_bf16": False}, 101.5e6),  # 7/8 * (4 + 36 + 36 + 40 MB)
        ("fsdp", {"accumulate": 3}, 134.75e6),  # 7/8 * (3 * 38 + 40 MB)
    ],
)
def test_bytes_of_a_step(strategy, changes, expected) -> None:
    assert forecast(replace(WORK, **changes), MACHINE, ranks=8, strategy=strategy).sent_bytes == expected


def test_gloo_sums_whole_where_fsdp_asks_for_a_scatter() -> None:
    work, machine = replace(WORK, gathers_bf16=False), replace(MACHINE, gloo=True)
    assert forecast(work, machine, ranks=8, strategy="fsdp").sent_bytes == 136.5e6  # 7/8 * (76 + 2 * 40 MB)
    assert forecast(work, machine, ranks=8, strategy="ddp").sent_bytes == 70e6


@pytest.mark.parametrize(
    ("ranks", "gather_us", "sum_us"),
    [
        (1, 0, 0),
        (4, 3, 6),  # one node
        (8, 16, 26),  # ring: 6 + 10; tree: twice 3 + 10
        (256, 822, 126),  # ring: 192 + 63 * 10; tree: twice 3 + 6 * 10
    ],
)
def test_latency_of_rings_and_trees(ranks, gather_us, sum_us) -> None:
    assert latency_s("all_gather", ranks, MACHINE) == pytest.approx(gather_us * 1e-6)
    assert latency_s("reduce_scatter", ranks, MACHINE) == pytest.approx(gather_us * 1e-6)
    assert latency_s("all_reduce", ranks, MACHINE) == pytest.approx(sum_us * 1e-6)


def test_the_narrowest_place_sets_the_time() -> None:
    gradients = ("all_reduce", 100e6)
    assert exchange_s(gradients, 1, MACHINE) == 0.0
    assert exchange_s(gradients, 4, MACHINE) == pytest.approx(1.5e-3 + 6e-6)  # 150 MB over the link
    assert exchange_s(gradients, 8, MACHINE) == pytest.approx(3.5e-3 + 26e-6)  # 175 MB over the node's ports
    wide = replace(MACHINE, network=1e12)
    assert exchange_s(gradients, 8, wide) == pytest.approx(1.75e-3 + 26e-6)  # each rank still has only its link


def test_buckets_are_those_of_ddp() -> None:
    assert buckets(10_000_000) == [1_048_576, 26_214_400, 12_737_024]
    assert buckets(1000) == [4000]
    assert sum(buckets(213_390_112)) == 4 * 213_390_112


def test_arithmetic_by_rate_or_by_kernels() -> None:
    assert compute_s(WORK, MACHINE) == pytest.approx(0.12)
    assert compute_s(replace(WORK, recomputed=0.5), MACHINE) == pytest.approx(0.14)
    assert compute_s(replace(WORK, accumulate=2), MACHINE) == pytest.approx(0.24)
    slow_host = replace(MACHINE, launch_s=1e-3)
    assert compute_s(WORK, slow_host) == pytest.approx(0.6)  # 300 kernels of two blocks
    assert compute_s(replace(WORK, accumulate=2), slow_host) == pytest.approx(1.2)
    assert compute_s(replace(WORK, recomputed=1.0), slow_host) == pytest.approx(0.8)
    assert compute_s(replace(WORK, compiled=True), slow_host) == pytest.approx(0.12)


def test_ddp_hides_all_but_the_last_bucket() -> None:
    last = 1.5 * 12_737_024 / 1e9
    assert step_s(WORK, ONE_NODE, "ddp") == pytest.approx(0.12 + last)


def test_ddp_adds_what_does_not_fit_beside_the_backward_pass() -> None:
    slow = replace(ONE_NODE, link=0.25e9)  # 60 MB take 0.24 s; the backward pass takes 0.08 s
    assert step_s(WORK, slow, "ddp") == pytest.approx(0.04 + 0.24)
    assert step_s(replace(WORK, accumulate=2), slow, "ddp") == pytest.approx(0.04 + 0.08 + 0.04 + 0.24)


def test_gradients_of_graphs_travel_after_the_backward_pass() -> None:
    assert step_s(replace(WORK, cuda_graphs=True), ONE_NODE, "ddp") == pytest.approx(0.12 + 1.5 * 40e6 / 1e9)


def test_fsdp_waits_for_the_first_and_the_last() -> None:
    # Gathers of stem and head and of the blocks: 1.5, 4.5 and 9 ms; sums: 3, 9 and 18 ms; forward pass 40 ms.
    assert step_s(WORK, ONE_NODE, "fsdp") == pytest.approx(0.006 + 0.04 + 0.009 + 0.08 + 0.003)
    slow = replace(ONE_NODE, link=0.1e9)
    forward, backward = 0.06 + 0.09, 0.09 + (0.045 + 0.27) + 0.03
    assert step_s(WORK, slow, "fsdp") == pytest.approx(forward + backward)
    earlier_pass = 0.06 + 0.09 + 0.09 + 0.08  # keeps its gradients; 45 ms of gathers beside 80 ms
    assert step_s(replace(WORK, accumulate=2), slow, "fsdp") == pytest.approx(earlier_pass + forward + backward)


def test_nothing_is_hidden_where_messages_take_the_cores() -> None:
    assert step_s(WORK, replace(ONE_NODE, gloo=True), "ddp") == pytest.approx(0.12 + 0.06)


@pytest.mark.parametrize(
    ("strategy", "changes", "expected"),
    [
        ("ddp", {}, 160e6),  # weights, gradients, two moments
        ("ddp", {"ema": True}, 200e6),
        ("ddp", {"moments": 1}, 120e6),
        ("ddp", {"accumulate": 2}, 160e6),
        ("fsdp", {}, 20e6 + 2e6 + 60e6),  # an eighth, stem and head, and ten bytes for each weight of a block
        ("fsdp", {"gathers_bf16": False}, 20e6 + 4e6 + 96e6),
        ("fsdp", {"accumulate": 2}, 82e6 + 40e6),
    ],
)
def test_memory_of_the_state(strategy, changes, expected) -> None:
    assert state_bytes(replace(WORK, **changes), 8, strategy) == expected


def test_one_rank_alone() -> None:
    plan = forecast(WORK, MACHINE, ranks=1, strategy="fsdp")
    assert (plan.sent_bytes, plan.exchange_s, plan.vote_s, plan.efficiency) == (0, 0, 0, 1)
    assert plan.state_bytes == 160e6 and plan.memory == 7.16e9
    assert plan.step_s == plan.compute_s == pytest.approx(0.12)


def test_checkpoints() -> None:
    whole = forecast(WORK, MACHINE, ranks=8, strategy="ddp")
    assert (whole.checkpoint_bytes, whole.stall_s, whole.write_s) == (120e6, 6e-3, 0.12)
    shared = forecast(WORK, MACHINE, ranks=8, strategy="fsdp")
    assert (shared.checkpoint_bytes, shared.stall_s, shared.write_s) == (120e6, 0.75e-3, 0.12)
    assert forecast(replace(WORK, ema=True), MACHINE, ranks=1, strategy="ddp").checkpoint_bytes == 160e6


def test_steps_and_hours_of_the_run() -> None:
    work = replace(WORK, clips_per_rank=4, repeats=2, accumulate=2)  # 4 videos, 8 clips per rank and step
    plan = forecast(work, MACHINE, ranks=8, strategy="ddp")
    assert plan.steps == 310  # 1000 // 32 in each of ten epochs
    assert plan.compute_s == pytest.approx(0.48)
    assert plan.rank_hours == pytest.approx(310 * plan.step_s * 8 / 3600)
    assert plan.clips_per_s == pytest.approx(8 / plan.step_s)
    assert plan.efficiency == pytest.approx(0.48 / plan.step_s) and plan.efficiency < 1


def test_a_step_of_more_videos_than_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"a step on 512 ranks takes 1024 videos, and there are 1000.*batch_size.*another machine="
    ):
        forecast(WORK, MACHINE, ranks=512, strategy="ddp")
    with pytest.raises(
        ValueError, match=r"on 1 rank takes 2 videos, and there is 1: lower .*_size or trainer\.accumul"
    ):
        forecast(replace(WORK, videos=1), MACHINE, ranks=1, strategy="ddp")


def test_no_step_is_shorter_than_the_vote_on_stopping() -> None:
    slow = replace(MACHINE, host_latency_s=0.1)
    assert vote_s(8, slow) == pytest.approx(1.4)
    assert forecast(WORK, slow, ranks=8, strategy="ddp").step_s == pytest.approx(1.4)
    assert forecast(replace(WORK, videos=10**6), slow, ranks=1024, strategy="ddp").step_s == pytest.approx(204.6 / 16)
    quick = replace(MACHINE, host_latency_s=1e-6)
    assert forecast(WORK, quick, ranks=8, strategy="ddp").step_s < 0.13


def test_cores_and_storage() -> None:
    assert decode_cores(160.0, repeats=2, videos_per_core_s=20.0) == 4.0
    assert read_rate(160.0, repeats=2, video_bytes=5e5) == 40e6


def test_many_small_gathers_cost_more_than_few_large_sums() -> None:
    """Sharding a small model over a thousand ranks is bound by the latency of its rings."""
    work = replace(WORK, blocks=(500_000,) * 18)
    sharded, whole = (forecast(replace(work, videos=10**6), MACHINE, ranks=1024, strategy=s) for s in ("fsdp", "ddp"))
    assert math.isclose(sharded.sent_bytes, whole.sent_bytes, rel_tol=0.05)
    assert sharded.exchange_s > 20 * whole.exchange_s
