"""A run that is killed at any place and started again ends with the bits of one that was not."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import interpreters
from tests.paths import ROOT


@pytest.fixture(scope="module")
def found(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What resume_cells.py found."""
    script = ("-m", "tests.engine.checkpoints.resume_cells", str(motion_root), str(tmp_path_factory.mktemp("cells")))
    done = interpreters.run(*script, cwd=ROOT, check=True, timeout=580)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
class TestKilledInTheMiddleOfAnAccumulation:
    """And of an epoch: four steps of the eight or four that it has."""

    @pytest.mark.parametrize("ranks", [1, 2])
    @pytest.mark.parametrize("workers", [0, 2])
    def test_no_bit_changes(self, found, ranks, workers):
        cell = found[f"{ranks}_ranks_{workers}_workers"]
        # The step before the kill may still have been on its way to the disk, the one before that not; but rank 0,
        # which writes, may be a step behind the rank that died first.
        assert cell["call"] // 2 - 1 - ranks <= cell["resumed_at"] <= cell["call"] // 2 - 1
        assert cell["difference"] == 0.0

    def test_no_bit_changes_when_sharded(self, found):
        assert found["fsdp"]["difference"] == 0.0

    def test_sharded_ranks_compute_what_whole_ones_do(self, found):
        assert found["fsdp_and_ddp"] < 1e-4

    def test_two_sharded_ranks_then_one_then_two(self, found):
        cell = found["two_one_two"]
        assert cell["resumed_at"] == 1
        assert [name for name in cell["files"] if name.startswith("step") and not name.endswith(".json")] == [
            "step_00000001.shards",
            "step_00000002.pt",
        ]
        assert cell["difference"] < 1e-4

    def test_one_rank_evaluates_shards_as_it_does_whole_weights(self, found):
        shards, whole = found["evaluation"]
        assert shards == whole
        assert shards[1] == 48
