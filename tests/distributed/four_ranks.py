"""Trainings and evaluations on so many ranks each, one after the other, which share one import of torch.

As a script it takes a JSON file with {"train": {ranks: overrides}, "evaluate": {ranks: overrides}}.
"""

import json
import sys
from pathlib import Path

import torch

from mvit_video import build
from tests import interpreters
from tests.conftest import evaluate_options, options
from tests.forked_ranks import run
from tests.paths import ROOT


def forked(folder: Path, **commands: dict[int, list[str]]) -> None:
    """Run this script on `commands`; it must succeed."""
    process = start_forked(folder, **commands)
    assert process.wait(580) == 0, process.output()


def start_forked(folder: Path, **commands: dict[int, list[str]]) -> interpreters.Process:
    """Start this script on `commands`."""
    script = folder / "commands.json"
    script.write_text(json.dumps(commands))
    return interpreters.start("-m", "tests.distributed.four_ranks", str(script), cwd=ROOT)


def main(commands: dict[str, dict[str, list[str]]]) -> None:
    for ranks, overrides in commands["train"].items():
        training = options(*overrides)
        codes = run(lambda config=training: build.train(config), ranks=int(ranks))
        assert not any(codes), codes
    for ranks, overrides in commands.get("evaluate", {}).items():
        evaluation = evaluate_options(*overrides)
        codes = run(lambda config=evaluation: build.evaluate(config), ranks=int(ranks))
        assert not any(codes), codes


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(json.loads(Path(sys.argv[1]).read_text()))
