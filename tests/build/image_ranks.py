"""Run by test_image_runs.py: trainings on images that are killed and resumed, and that two ranks share.

Prints a JSON object: what was found.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import mvit_video.build.image_classification  # noqa: F401 - which every process would import by itself
from mvit_video import build
from mvit_video.data.datasets.imagenet_names import readable_names
from tests.build.image_options import small_images
from tests.conftest import evaluate_options, options
from tests.engine.checkpoints.resume_cells import STEPS, difference, final, kill_at
from tests.forked_ranks import leave_out_metrics, run

RECIPE = (
    f"trainer.max_steps={STEPS}",
    "trainer.batch_size=2",
    "trainer.checkpoint_every=1",
    "trainer.eval_every=99",
    "trainer.ema_decay=0.9",
    "model.drop_path=0.2",
    "augment.repeats=2",
)


def main(folder: Path, out: Path) -> dict[str, Any]:
    def train(name: str, *, ranks: int, accumulate: int, call: int | None = None) -> list[int]:
        overrides = small_images(folder, out / name, *RECIPE, f"trainer.accumulate={accumulate}")
        config = options(*overrides)

        def job() -> None:
            if call is not None:
                kill_at(call)
            build.train(config)

        return run(job, ranks=ranks)

    def evaluate(name: str, ranks: int) -> dict[str, Any]:
        overrides = small_images(folder, out / name, f"output={out / name / str(ranks)}")
        config = evaluate_options(*overrides)
        assert run(lambda: build.evaluate(config), ranks=ranks) == [0] * ranks
        results: dict[str, Any] = json.loads((out / name / str(ranks) / "results.json").read_text())
        return {key: results[key] for key in ("top1", "top5", "loss", "num_images", "per_class", "num_failed")}

    assert train("whole", ranks=1, accumulate=2) == [0]
    codes = train("killed", ranks=1, accumulate=2, call=6)
    found: dict[str, Any] = {"killed": codes == [-signal.SIGKILL]}
    train("killed", ranks=1, accumulate=2)
    whole = final(out / "whole" / "tiny")
    found["resumed"] = difference(final(out / "killed" / "tiny"), whole)
    assert train("shared", ranks=2, accumulate=1) == [0, 0]
    found["shared"] = difference(final(out / "shared" / "tiny"), whole)
    found["evaluations"] = [evaluate("whole", ranks) for ranks in (1, 2)]
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    leave_out_metrics()
    readable_names(None)  # imports torchvision
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
