"""Run by test_distributed.py: a training and an evaluation, each on one rank and on four.

Argument: a JSON file with {"train": {ranks: overrides}, "evaluate": {ranks: overrides}}.
"""

import json
import sys
from pathlib import Path

import torch

from mvit_video import build
from tests.conftest import evaluate_options, options
from tests.forked_ranks import run, warm_up


def main(commands: dict[str, dict[str, list[str]]]) -> None:
    for ranks, overrides in commands["train"].items():
        codes = run(lambda overrides=overrides: build.train(options(*overrides)), ranks=int(ranks))
        assert not any(codes), codes
    for ranks, overrides in commands["evaluate"].items():
        codes = run(lambda overrides=overrides: build.evaluate(evaluate_options(*overrides)), ranks=int(ranks))
        assert not any(codes), codes


if __name__ == "__main__":
    torch.set_num_threads(1)
    warm_up()
    main(json.loads(Path(sys.argv[1]).read_text()))
