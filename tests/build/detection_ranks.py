"""Run by test_detection_runs.py: trainings of a detector that are killed and resumed, and that two ranks share.

Prints a JSON object: what was found.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import mvit_video.build.detection  # noqa: F401 - which every process would import by itself
from mvit_video import build
from mvit_video.distributed import process_group
from tests.build.detection_options import few_scenes, small
from tests.conftest import evaluate_options, options
from tests.engine.checkpoints.resume_cells import STEPS, difference, final, kill_at
from tests.forked_ranks import leave_out_metrics, run

RECIPE = (
    f"trainer.max_steps={STEPS}",
    "schedule.epochs=4",
    "trainer.batch_size=1",
    "trainer.checkpoint_every=1",
    "trainer.eval_every=99",
    "trainer.ema_decay=0.9",
)


def check_sum() -> None:
    """The sum over two ranks, and its gradient: each rank's loss depends on the values of both."""
    with process_group.world(torch.device("cpu"), timeout_s=60) as world:
        values = torch.tensor([1.0 + world.rank, 5.0], requires_grad=True)
        total = process_group.sum_over_ranks(values)
        assert total.tolist() == [3.0, 10.0]
        (total * (world.rank + 1)).sum().backward()
        assert values.grad is not None
        assert values.grad.tolist() == [3.0, 3.0]


def main(root: Path, out: Path) -> dict[str, Any]:
    def train(name: str, *, ranks: int, accumulate: int, call: int | None = None) -> list[int]:
        overrides = few_scenes(root, out / name, *RECIPE, f"trainer.accumulate={accumulate}")
        config = small(options(*overrides))

        def job() -> None:
            if call is not None:
                kill_at(call)
            build.train(config)

        return run(job, ranks=ranks)

    def evaluate(name: str, ranks: int) -> tuple[dict[str, Any], Any]:
        folder = out / name / str(ranks)
        overrides = few_scenes(root, out / name, f"output={folder}", "task.pictures=0", "trainer.eval_batch_size=1")
        config = small(evaluate_options(*overrides))
        assert run(lambda: build.evaluate(config), ranks=ranks) == [0] * ranks
        results: dict[str, Any] = json.loads((folder / "results.json").read_text())
        numbers = {k: v for k, v in results.items() if k.startswith(("box_", "mask_", "num_", "per_class"))}
        return numbers, json.loads((folder / "predictions.json").read_text())

    assert run(check_sum, ranks=2) == [0, 0]
    assert train("whole", ranks=1, accumulate=2) == [0]
    codes = train("killed", ranks=1, accumulate=2, call=6)
    found: dict[str, Any] = {"killed": codes == [-signal.SIGKILL]}
    train("killed", ranks=1, accumulate=2)
    whole = final(out / "whole" / "tiny")
    found["resumed"] = difference(final(out / "killed" / "tiny"), whole)
    assert train("shared", ranks=2, accumulate=1) == [0, 0]
    found["shared"] = difference(final(out / "shared" / "tiny"), whole)
    one, two = (evaluate("whole", ranks) for ranks in (1, 2))
    found["evaluations_equal"] = one == two
    found["num_images"], found["predictions"] = one[0]["num_images"], len(one[1])
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    leave_out_metrics()
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
