"""Where a task stands among those of its job."""

from mvit_video.cluster.placement import rank_environment, rendezvous_port, slurm_placement


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
    assert all(20000 <= port < 60000 for port in ports)
    assert rendezvous_port("4711", 0) != rendezvous_port("4712", 0)
