"""Trainings and evaluations on so many ranks each, one after the other, which share one import of torch.

As a script it takes a JSON file with {"train": {ranks: overrides}, "evaluate": {ranks: overrides}}.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from mvit_video import build
from tests.conftest import evaluate_options, options
from tests.forked_ranks import run, warm_up
from tests.paths import ROOT


def forked(folder: Path, **commands: dict[int, list[str]]) -> None:
    """Run this script on `commands`; it must succeed."""
    script = folder / "commands.json"
    script.write_text(json.dumps(commands))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "tests.distributed.four_ranks", str(script)]
    result = subprocess.run(start, env=env, cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert result.returncode == 0, result.stderr


def main(commands: dict[str, dict[str, list[str]]]) -> None:
    for ranks, overrides in commands["train"].items():
        codes = run(lambda overrides=overrides: build.train(options(*overrides)), ranks=int(ranks))
        assert not any(codes), codes
    for ranks, overrides in commands.get("evaluate", {}).items():
        codes = run(lambda overrides=overrides: build.evaluate(evaluate_options(*overrides)), ranks=int(ranks))
        assert not any(codes), codes


if __name__ == "__main__":
    torch.set_num_threads(1)
    warm_up()
    main(json.loads(Path(sys.argv[1]).read_text()))
