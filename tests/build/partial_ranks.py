"""Run by test_trained_part.py: a part of a model trained on drawn videos until it stops early, on one and two ranks.

Prints a JSON object: exit codes, the step of each run's end, and the largest difference of weights and adapters.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from mvit_video import build
from mvit_video.engine.checkpoints import load_latest
from mvit_video.models import create_model
from tests.conftest import SMALL_CLIPS, few_videos, options
from tests.forked_ranks import leave_out_metrics, run


def main(root: Path, out: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    weights = out / "start.pt"
    model = create_model("mvitv2_motion", num_classes=8, num_frames=4, crop_size=32)
    out.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict()}, weights)
    more = [
        *SMALL_CLIPS,
        f"weights={weights}",
        "optim.frozen=backbone",
        "optim.lora_rank=2",
        "data.sampling_weights=square_root",
        "trainer.best_metric=num_videos",  # never better than at first
        "trainer.early_stopping=1",
        "trainer.batch_size=2",
        "schedule.epochs=9",
    ]
    codes, states = [], []
    for ranks in (1, 2):
        folder = out / f"ranks{ranks}"
        overrides = few_videos(root, folder, *more, f"trainer.accumulate={2 // ranks}")
        config = options(*overrides)
        codes += run(lambda config=config: build.train(config), ranks=ranks)  # type: ignore[misc]
        state = load_latest(folder / "tiny/checkpoints")
        assert state is not None
        states.append(state)
    one, two = states
    pairs = [(one[part][name], two[part][name]) for part in ("model", "adapters") for name in one[part]]
    moved = max(float((tensor - model.state_dict()[name]).abs().max()) for name, tensor in one["model"].items())
    largest = max(float((a - b).abs().max()) for a, b in pairs)
    return {"codes": codes, "steps": [one["step"], two["step"]], "difference": largest, "moved": moved}


if __name__ == "__main__":
    torch.set_num_threads(1)
    leave_out_metrics()
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
