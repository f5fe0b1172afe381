"""Several ranks on one machine, started as torchrun does and by the local launcher."""

import json
from pathlib import Path

import pytest
import torch

from mvit_video.distributed import process_group
from mvit_video.engine.checkpoints import load_latest
from mvit_video.engine.tracking import read_metrics
from tests import interpreters
from tests.conftest import SMALL_CLIPS, motion_overrides, small_overrides
from tests.distributed.four_ranks import forked
from tests.paths import ROOT


@pytest.mark.slow
def test_two_and_four_ranks_train_and_evaluate_as_one_does(motion_root: Path, tmp_path: Path) -> None:
    """The same global batch: the same losses and weights to float tolerance, and the very same evaluation."""
    recipe = ["schedule.epochs=1.5", "augment.erase_prob=0.5", "model.drop_path=0.2", "augment.cutmix_alpha=1.0"]
    recipe += [
        *SMALL_CLIPS,
        "trainer.trackers=[]",
        "data.test_temporal_views=1",
        "trainer.batch_size=2",
        "trainer.eval_every=9",
        "trainer.max_steps=3",
    ]
    # Fifteen videos do not divide by two or four ranks, nor 45 views by the batch.
    listing = tmp_path / "fifteen.csv"
    listing.write_text("".join((motion_root / "test.csv").read_text().splitlines(keepends=True)[:15]))
    plain = [o for o in small_overrides(motion_root, tmp_path / "2") if not o.startswith("data.source.")]
    evaluation = [
        *plain,
        "data/source=list",
        f"data.source.val={listing}",
        f"data.source.root={motion_root}",
        f"data.source.class_names_file={motion_root / 'classes.txt'}",
    ]
    trainings, evaluations = {}, {}
    for ranks in (1, 2, 4):
        more = [*recipe, f"trainer.accumulate={4 // ranks}"]
        trainings[ranks] = [*motion_overrides(motion_root, tmp_path / str(ranks), *more)]
        evaluations[ranks] = [*evaluation, f"output={tmp_path / f'on_{ranks}'}"]
    # The command, with the variables that torchrun sets; its weights are those that are evaluated.
    started = interpreters.run_ranks("-m", "mvit_video.train", *trainings.pop(2), ranks=2)
    assert [process.returncode for process in started] == [0, 0], started[0].output()
    forked(tmp_path, train=trainings, evaluate=evaluations)
    lines = [read_metrics(tmp_path / str(ranks) / "tiny/metrics.jsonl") for ranks in (1, 2, 4)]
    curves = torch.tensor([[line["loss"] for line in run if line["kind"] == "train"] for run in lines])
    assert curves.shape == (3, 3)
    torch.testing.assert_close(curves[1:], curves[:1].expand(2, -1), rtol=1e-4, atol=1e-5)
    states = [load_latest(tmp_path / str(ranks) / "tiny/checkpoints") for ranks in (1, 2, 4)]
    one, *others = (state["model"] for state in states if state is not None)
    assert len(others) == 2
    assert max(float((one[name] - other[name]).abs().max()) for name in one for other in others) < 1e-4
    results = [json.loads((tmp_path / f"on_{ranks}/results.json").read_text()) for ranks in (1, 2, 4)]
    assert results[0]["num_views"] == 45
    losses = [result.pop("loss") for result in results]  # of sums in another order; everything else is equal
    assert results[1] == results[0] and results[2] == results[0]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_a_failing_rank_ends_the_command_with_its_error(motion_root: Path, tmp_path: Path) -> None:
    overrides = motion_overrides(motion_root, tmp_path, "launcher.processes=2", "trainer.batch_size=64")
    result = interpreters.run("-m", "tests.forked_launch", *overrides, cwd=tmp_path)
    assert result.returncode == 1
    assert "fewer than one step takes: 64 videos x 2 processes" in result.stderr
    assert "ended first, with exit code 1; the others were stopped" in result.stderr
    assert "Traceback" not in result.stderr


def test_half_a_launch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert process_group.launched_size() == 1
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="has RANK, WORLD_SIZE but not LOCAL_RANK, MASTER_ADDR, MASTER_PORT"):
        process_group.launched_size()


def test_port_zero_is_refused_rather_than_waited_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun --master-port 0 hands the zero on to the ranks, which would look for each other there for ever."""
    values = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=r"MASTER_PORT is 0: .*--standalone"):
        process_group.launched_size()


def test_a_group_that_cannot_form_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    match = r"rank 1 of 2 could not join the gloo group at 127\.0\.0\.1:9 within 2 s"
    with pytest.raises(RuntimeError, match=match), process_group.world(torch.device("cpu"), timeout_s=2):
        pass


AGAIN = """
import os, time, torch
import torch.distributed as dist
from mvit_video.distributed import process_group
from tests import forked_ranks

def meets_three_times():
    leave = dist.destroy_process_group
    def late():
        time.sleep(0.5 * (int(os.environ["RANK"]) == 0))
        leave()
    dist.destroy_process_group = late
    for number in range(3):
        with process_group.world(torch.device("cpu"), timeout_s=20) as world:
            assert process_group.gather_to_all((world.rank, number), world) == [(0, number), (1, number)]
            model = torch.nn.Linear(2, 3)
            model.weight = torch.nn.Parameter(torch.full((2, 3), world.rank + 1.0).T)  # not contiguous
            process_group.take_weights_from_main(model, world)
            assert model.weight.tolist() == [[1.0, 1.0]] * 3

print(forked_ranks.run(meets_three_times, ranks=2))
"""

GOES_ON = """
import os, time, torch
from pathlib import Path
from mvit_video.distributed import process_group
from tests import forked_ranks

def fails_and_goes_on(noticed=Path(os.environ["NOTICED"])):
    kept = None
    try:
        with process_group.world(torch.device("cpu"), timeout_s=20) as world:
            model = process_group.data_parallel(torch.nn.Linear(2, 2), world)
            if world.rank == 1:
                raise ValueError("only this one")
            model(torch.ones(1, 2)).sum().backward()
    except ValueError as error:
        kept = error, model
        while not noticed.exists():
            time.sleep(0.01)
    except RuntimeError as error:
        noticed.write_text(str(error))
    with process_group.world(torch.device("cpu"), timeout_s=20) as world:
        assert process_group.gather_to_all(world.rank, world) == [0, 1]

print(forked_ranks.run(fails_and_goes_on, ranks=2))
"""


def test_a_process_joins_one_group_after_the_other() -> None:
    """Also when a rank is ahead: it must not find the addresses of the group before, which rank 0 has yet to leave."""
    result = interpreters.run("-c", AGAIN, cwd=ROOT)
    assert result.stdout.splitlines()[-1:] == ["[0, 0]"], result.stderr


def test_a_rank_that_fails_and_goes_on_is_missed_at_once(tmp_path: Path) -> None:
    """Although what it failed with still holds the model whose gradients the others wait for."""
    result = interpreters.run("-c", GOES_ON, cwd=ROOT, NOTICED=str(tmp_path / "noticed"))
    assert result.stdout.splitlines()[-1:] == ["[0, 0]"], result.stderr
    said = (tmp_path / "noticed").read_text()
    assert said.startswith("rank 0: another rank is gone or did not come (") and "imed out" not in said
