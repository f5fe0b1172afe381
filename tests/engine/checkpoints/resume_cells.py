"""Run by test_resume.py: trainings that are killed with signal 9 and started again, on one and two ranks.

Prints a JSON object: cell -> what was found.
"""

import dataclasses
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mvit_video import build
from mvit_video.engine.checkpoints import load_latest
from mvit_video.engine.trainer import Trainer
from mvit_video.models.mvit import presets
from tests.conftest import evaluate_options, options, small_overrides
from tests.forked_ranks import free_ports, leave_out_metrics, run

STEPS, ACCUMULATE = 4, 2
RECIPE = [
    f"trainer.max_steps={STEPS}",
    "trainer.batch_size=2",
    "trainer.checkpoint_every=1",
    "trainer.eval_every=99",
    "data.test_temporal_views=1",
    "trainer.ema_decay=0.9",
    "model.drop_path=0.2",
    "augment.erase_prob=0.5",
    "augment.mixup_alpha=0.8",
    "optim.clip_grad_norm=0.5",
]


def kill_at(call: int) -> None:
    """Let this process die at the start of forward pass number `call`; even ones are inside an accumulation."""
    real, calls = Trainer.forward_loss, 0

    def forward_loss(self: Trainer, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, batch)

    Trainer.forward_loss = forward_loss  # type: ignore[method-assign]


def leave_out_blocks() -> None:
    """Two blocks instead of four: sharding takes its time for every parameter."""
    whole = presets.mvitv2_motion()
    presets.PRESETS["mvitv2_motion"] = lambda: dataclasses.replace(whole, depth=2, stage_starts=(1,))


def final(run_dir: Path) -> dict[str, Any]:
    state = load_latest(run_dir / "checkpoints")
    assert state is not None and state["step"] == STEPS, state and state["step"]
    return state


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference of weights, average and optimizer moments."""
    pairs = [(one[key][name], other[key][name]) for key in ("model", "ema") for name in one[key]]
    moments = [state["optimizer"]["state"] for state in (one, other)]
    pairs += [(moments[0][index]["exp_avg"], moments[1][index]["exp_avg"]) for index in moments[0]]
    return max(float((a - b).abs().max()) for a, b in pairs)


def main(root: Path, out: Path) -> dict[str, Any]:
    rng = random.Random(5)
    found: dict[str, Any] = {}

    def overrides(name: str, *more: str, accumulate: int = ACCUMULATE) -> Sequence[str]:
        return small_overrides(root, out / name, *RECIPE, f"trainer.accumulate={accumulate}", *more)

    def train(name: str, *more: str, ranks: int, accumulate: int = ACCUMULATE, call: int | None = None) -> list[int]:
        config = options(*overrides(name, *more, accumulate=accumulate))

        def job() -> None:
            if call is not None:
                kill_at(call)
            build.train(config)

        return run(job, ranks=ranks)

    def killed(cell: str, *more: str, ranks: int, call: int) -> None:
        codes = train(cell, *more, ranks=ranks, call=call)
        assert codes[0] == -signal.SIGKILL, codes
        state = load_latest(out / cell / "tiny/checkpoints")
        found[cell] = {"call": call, "resumed_at": state["step"] if state else 0}

    references = {}
    for ranks in (1, 2):
        train(f"whole_{ranks}", ranks=ranks)
        references[ranks] = final(out / f"whole_{ranks}" / "tiny")
        for workers in (0, 2):
            cell, more = f"{ranks}_ranks_{workers}_workers", f"trainer.num_workers={workers}"
            killed(cell, more, ranks=ranks, call=rng.choice([4, 6, 8]))
            train(cell, more, ranks=ranks)
            found[cell]["difference"] = difference(final(out / cell / "tiny"), references[ranks])
    # Sharded: without a fault, killed, and killed again after going on with another number of ranks.
    fsdp = "trainer.strategy=fsdp"
    killed("fsdp", fsdp, ranks=2, call=6)
    now = "trainer.checkpoint_async=false"
    killed("two_one_two", fsdp, now, ranks=2, call=4)
    assert train("two_one_two", now, accumulate=2 * ACCUMULATE, ranks=1, call=8)[0] == -signal.SIGKILL
    found["two_one_two"]["files"] = sorted(path.name for path in (out / "two_one_two/tiny/checkpoints").iterdir())
    # The first sharded steps of a process take seconds: these trainings share their two processes. So does a sharded
    # checkpoint, and only their last is looked at.
    names, last = ("whole_fsdp", "fsdp", "two_one_two"), f"trainer.checkpoint_every={STEPS}"
    jobs = list(zip((options(*overrides(name, fsdp, last)) for name in names), free_ports(len(names)), strict=True))

    def finish() -> None:
        for config, port in jobs:
            os.environ["MASTER_PORT"] = str(port)
            build.train(config)

    assert run(finish, ranks=2) == [0, 0]
    whole = final(out / "whole_fsdp" / "tiny")
    found["fsdp_and_ddp"] = difference(whole, references[2])
    found["fsdp"]["difference"] = difference(final(out / "fsdp" / "tiny"), whole)
    found["two_one_two"]["difference"] = difference(final(out / "two_one_two" / "tiny"), references[2])
    found["evaluation"] = evaluate(root, out)
    return found


def evaluate(root: Path, out: Path) -> list[Any]:
    """One rank evaluates the shards and the whole weights of a sharded run."""
    overrides = small_overrides(root, out / "fsdp")
    folder = out / "fsdp" / "tiny" / "checkpoints"

    def job() -> None:
        for name in (f"step_{STEPS:08d}.shards", "best.pt"):
            build.evaluate(evaluate_options(*overrides, f"checkpoint={folder / name}", f"output={out / name}"))

    assert run(job, ranks=1) == [0]
    results = [
        json.loads((out / name / "results.json").read_text()) for name in (f"step_{STEPS:08d}.shards", "best.pt")
    ]
    return [[result["video_top1"], result["num_views"]] for result in results]


if __name__ == "__main__":
    torch.set_num_threads(1)
    leave_out_metrics()
    leave_out_blocks()
    result = main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(result))
