"""Where a task stands among those of its job."""

import socket
from collections.abc import Iterator

import pytest

from mvit_video.cluster import placement as placement_module
from mvit_video.cluster.placement import PORTS, free_port, rank_environment, rendezvous_port, slurm_placement


def test_placement_of_a_slurm_task() -> None:
    environment = {
        "SLURM_JOB_ID": "17",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_PROCID": "3",
        "SLURM_NTASKS": "4",
        "SLURM_NNODES": "2",
        "SLURM_LOCALID": "1",
    }
    placement = slurm_placement(environment, ["node1", "node2"])
    assert (placement.job_id, placement.restart, placement.rank, placement.size) == ("17", 2, 3, 4)
    assert (placement.local_rank, placement.local_size, placement.main_host) == (1, 2, "node1")
    assert rank_environment(placement)["MASTER_PORT"] == str(rendezvous_port("17", 2))


def test_a_restart_meets_at_another_port() -> None:
    ports = [rendezvous_port("4711", restart) for restart in range(300)]
    assert len(set(ports)) == 300
    assert set(ports) <= set(PORTS)
    assert rendezvous_port("4711", 0) != rendezvous_port("4712", 0)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that another program listens at; there is no other."""
    with socket.socket() as server:
        while True:
            port = free_port()
            try:
                server.bind(("", port))
            except OSError:  # another test was faster
                continue
            break
        server.listen()
        monkeypatch.setattr(placement_module, "PORTS", range(port, port + 1))
        yield port


def test_a_job_in_the_background_gets_a_port_that_nobody_has(taken: int) -> None:
    with pytest.raises(RuntimeError, match=f"all TCP ports from {taken} to {taken} of this machine are taken"):
        free_port()


def test_ranks_meet_below_the_ports_of_passing_connections() -> None:
    """Linux gives them 32768 and more by default. A job whose number led there failed whenever one had its port."""
    assert PORTS.stop <= 32768
