"""Sharded training and its checkpoints on two CPU ranks, next to one rank that sees the same clips."""

import json
import os
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from mvit_video.distributed.process_group import World
from mvit_video.distributed.sharding import Sharding, _MetadataUnpickler, clip_grad_norm
from mvit_video.engine.average import WeightAverage
from mvit_video.engine.checkpoints import CheckpointError, load_checkpoint
from tests import interpreters


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What the functions of sharded_ranks.py found on rank 0 and on rank 1."""
    folder = tmp_path_factory.mktemp("sharded")
    ranks = interpreters.run_ranks("-m", "tests.engine.checkpoints.sharded_ranks", str(folder), ranks=2)
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(rank.output()[1] for rank in ranks)
    names = {path.name.split(".")[0] for path in folder.glob("*.json")}
    result = {name: [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in (0, 1)] for name in names}
    return {**result, "folder": [folder]}


@pytest.mark.slow
class TestTwoRanks:
    def test_the_curve_of_one_rank(self, found):
        """Accumulation exchanges the sum of two passes, and the norm is that of the whole gradient."""
        for result in found["curves"]:
            assert result["two"] == pytest.approx(result["one"], rel=1e-5)
            # AdamW divides by the root of tiny second moments: a step is 1e-3, whatever the gradient.
            assert result["weights"] < 2e-4
            assert result["average"] < 2e-4

    def test_each_rank_holds_half(self, found):
        for result in found["curves"]:
            assert 0.49 < result["share"] < 0.51

    def test_ranks_evaluate_different_numbers_of_batches_and_train_on(self, found):
        for result in found["curves"]:
            assert result["evaluated"] < 1e-4
            assert result["after_evaluation"][0] == pytest.approx(result["after_evaluation"][1], rel=1e-4)
            assert result["all_sharded"]

    def test_activation_checkpointing_and_compiled_blocks(self, found):
        for result in found["checkpointed_and_compiled"]:
            assert result["recomputed"] == pytest.approx(result["one"], rel=1e-5)
            assert result["compiled"] == pytest.approx(result["one"], rel=1e-5)

    def test_bf16_computes_and_float32_is_kept(self, found):
        for result in found["mixed_precision"]:
            assert result["seen"] == ["torch.bfloat16"]
            assert result["kept"] == ["torch.float32"]
            assert result["bf16"] != result["fp32"]
            assert result["bf16"] == pytest.approx(result["fp32"], rel=0.02)

    def test_checkpoints_go_on_without_a_changed_bit(self, found):
        """Read by the same number of ranks from shards and from an ordinary file, and whole."""
        for result in found["checkpoints"]:
            assert result["whole"] == [4, 0.0, 0.0]
            assert (result["c"], result["plain"]) == (0.0, 0.0)

    def test_the_best_is_an_ordinary_file_of_whole_weights(self, found):
        for result in found["checkpoints"]:
            assert result["best"] == [2, 0.0, {"state": {}, "param_groups": []}]

    def test_a_damaged_part_makes_all_ranks_fall_back(self, found):
        for result in found["damage"]:
            assert "step_00000002.2.shards" in result["names"]  # the same step again, beside the first
            assert result["fell_back_to"] == 1

    def test_a_full_disk_of_one_rank_is_told_on_all(self, found):
        for result in found["damage"]:
            assert "step_00000003.shards could not be written (rank 1: [Errno 28] No space left" in result["full"]
            assert result["after"] == result["names"]  # no rubbish
            assert result["then"] == 4

    def test_a_killed_save_leaves_the_one_before(self, found, tmp_path):
        """Without its manifest a folder of shards does not count."""
        folder = found["folder"][0] / "checkpoints" / "c"
        assert load_checkpoint(folder / "step_00000004.shards")["step"] == 4
        with pytest.raises(CheckpointError, match=r"step_00000009\.shards does not exist"):
            load_checkpoint(folder / "step_00000009.shards")


def test_an_index_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "index").write_bytes(pickle.dumps(os.system))
    with (
        open(tmp_path / "index", "rb") as file,
        pytest.raises(pickle.UnpicklingError, match="system does not belong into the index"),
    ):
        _MetadataUnpickler(file).load()


def test_running_statistics_are_refused():
    sharding = Sharding.__new__(Sharding)
    sharding.world = World(rank=0, size=2, device=torch.device("cpu"))
    model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))
    with pytest.raises(ValueError, match=r"running statistics \(1\.num_batches_tracked, .*trainer.strategy=ddp"):
        sharding.apply(model)


def test_the_norm_is_that_before_clipping():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip_grad_norm(parameters, 1.0) == 5.0
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.0])
    assert parameters[1].grad.tolist() == pytest.approx([0.8])


def test_the_average_is_that_of_torch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    ours = WeightAverage(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), decay=0.9)
    for step in range(3):
        model(torch.randn(5, 3))
        with torch.no_grad():
            model[0].weight.add_(step + 0.1)
        theirs.update_parameters(model)
        ours.update(model)
    for name, tensor in theirs.module.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(ours.module.state_dict()[name], tensor), name
    assert ours.module[1].num_batches_tracked == 3
    assert ours.updates == 3
