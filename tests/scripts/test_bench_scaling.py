"""scripts/bench_scaling.py: how it counts bytes and predicts, and one small run of two ranks."""

import socket
import sys

import bench_scaling
import pytest

from mvit_video.models import create_model
from mvit_video.planning.costs import forecast

MEASURED = {
    1: {"matrix_per_s": 80e9, "none_8_s": 0.11, "none_8_cpu_s": 0.1, "none_8_bytes": 0.0},
    2: {"small_s": 2e-4, "large_s": 2e-4 + 4.194304e-3, "ddp_8_s": 0.125, "ddp_8_cpu_s": 0.11, "ddp_8_bytes": 2.8e6},
    4: {"ddp_8_s": 0.3, "ddp_8_cpu_s": 0.125, "ddp_8_bytes": 4.2e6},
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bytes_on_the_sockets_of_this_process() -> None:
    with (
        socket.create_server(("localhost", 0)) as server,
        socket.create_connection(server.getsockname()) as here,
        server.accept()[0] as there,
    ):
        before = bench_scaling.bytes_sent()
        here.sendall(bytes(10_000))
        there.sendall(bytes(500))
        assert bench_scaling.bytes_sent() - before == 10_500


def test_the_machine_is_what_one_rank_and_two_measured() -> None:
    machine = bench_scaling.describe_machine(MEASURED, batch=8, flops=4e9)
    assert machine.utilisation == pytest.approx(0.5)  # 4 G operations in 0.1 s, of 80 G per second
    assert machine.link == pytest.approx(1e9)  # 4 MiB in 4.19 ms
    assert machine.link_latency_s == pytest.approx(1e-4)
    assert machine.gloo


def test_four_ranks_share_two_cores() -> None:
    machine = bench_scaling.describe_machine(MEASURED, batch=8, flops=4e9)
    assert bench_scaling.shared(machine, 2, cores=2) == machine
    four = bench_scaling.shared(machine, 4, cores=2)
    assert (four.matrix_flops, four.link) == (pytest.approx(40e9), pytest.approx(0.5e9))
    assert four.link_latency_s == pytest.approx(2e-4)


def test_a_row_of_the_table() -> None:
    work = bench_scaling.describe_work(create_model(bench_scaling.MODEL), 8)
    machine = bench_scaling.describe_machine(MEASURED, batch=8, flops=3 * work.forward_flops * 8)
    predicted = forecast(work, machine, ranks=2, strategy="ddp")
    # Two buckets of 2.79 MB in all at 1 GB/s, twice two messages of 0.1 ms.
    assert predicted.step_s == pytest.approx(0.1 + 2.789e-3 + 4e-4, rel=1e-3)
    row = bench_scaling._row(MEASURED, predicted, "ddp", 8, cores=2)
    assert row == "| 8 | 2 | ddp | 125.0 ms | 110.0 ms | 103.2 ms | 80% | 91% | 97% | 2.80 MB | 2.79 MB |"
    crowded = forecast(work, bench_scaling.shared(machine, 4, cores=2), ranks=4, strategy="ddp")
    # Half the bandwidth, three quarters of the bytes twice, six messages of 0.2 ms for each bucket.
    assert crowded.step_s == pytest.approx(0.2 + 8.368e-3 + 2.4e-3, rel=1e-3)
    row = bench_scaling._row(MEASURED, crowded, "ddp", 8, cores=2)
    assert row == "| 8 | 4 | ddp | 300.0 ms | 125.0 ms | 210.8 ms | 33% | 40% | 47% | 4.20 MB | 4.18 MB |"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_ranks_send_what_is_predicted(quick_ranks: None) -> None:
    plan = bench_scaling.Plan(batches=[1], steps=1, windows=2, fsdp=True)
    found = bench_scaling.run(2, plan)
    one = {"matrix_per_s": 80e9, "none_1_s": 0.02, "none_1_cpu_s": 0.02, "none_1_bytes": 0.0}
    assert found["ddp_1_bytes"] == pytest.approx(2.79e6, rel=0.03)  # the index tables are sent, too
    assert found["fsdp_1_bytes"] == pytest.approx(5.53e6, rel=0.03)
    assert found["none_1_bytes"] < 1e4
    table = bench_scaling.report({1: one, 2: found}, plan, cores=2)
    assert [line[:14] for line in table.splitlines()[4:]] == [
        "| 1 | 1 | none",
        "| 1 | 2 | none",
        "| 1 | 2 | ddp ",
        "| 1 | 2 | fsdp",
    ]
