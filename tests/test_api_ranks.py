"""Programs that train and evaluate from Python, started by torchrun: every rank runs all of the program."""

import json
from pathlib import Path

import pytest

from tests import interpreters
from tests.paths import ROOT

TRAIN_AND_EVALUATE = """
import json, os, sys, time
from mvit_video import evaluate, train
from mvit_video.engine.trainer import Trainer
from tests import forked_ranks
from tests.test_api import SMALL, TinyNet

root, output = sys.argv[1:]
given = {"data.source.root": root, "data.source.train_videos": 32, "data.source.test_videos": 16, "model": TinyNet}
given = {**SMALL, **given, "trainer": {**SMALL["trainer"], "max_steps": 1, "trackers": []}}

def refused(rank, options, name):
    try:
        train("motion_mvitv2", {**given, **options}, name=name, output_dir=output)
    except ValueError as error:
        return str(error)

def program():
    rank = int(os.environ["RANK"])
    save = Trainer._write
    def late(self, state, step, best):
        time.sleep(0.5)
        save(self, state, step, best)
    Trainer._write = late  # what rank 0 writes last
    run = train("motion_mvitv2", given, name="ours", output_dir=output)
    found = {"weights": run.checkpoint.name, "best": run.best}
    result = evaluate(run)
    found |= {"metrics": result.metrics, "folder": str(result.folder), "videos": len(result.predictions)}
    found["options"] = refused(rank, {"optim.lr": 0.1 + rank, "trainer.num_workers": rank}, "other")
    found["name"] = refused(rank, {}, f"of rank {rank}")
    with open(f"{output}/{rank}.json", "w") as file:
        json.dump(found, file)

print(forked_ranks.run(program, ranks=2))
"""


def test_all_ranks_of_a_program_find_the_same(motion_root: Path, tmp_path: Path) -> None:
    """Also where rank 0 still writes when the others are through; and ranks that do not do the same are refused."""
    done = interpreters.run("-c", TRAIN_AND_EVALUATE, str(motion_root), str(tmp_path), cwd=ROOT)
    assert done.stdout.splitlines()[-1:] == ["[0, 0]"], done.stderr
    here, there = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert here == there
    assert here["weights"] == "best.pt" and here["best"] == pytest.approx(here["metrics"]["video_top1"])
    assert here["folder"] == str(tmp_path / "ours/evaluation") and here["videos"] == 16
    assert "\n  optim.lr: 0.1 on rank 0, 1.1 on rank 1\nGive the same command" in here["options"]
    assert "\n  name: of rank 0 on rank 0, of rank 1 on rank 1\n" in here["name"]
