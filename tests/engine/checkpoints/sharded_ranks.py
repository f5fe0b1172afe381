"""What two ranks of test_shards.py do: each function is one test, named on the command line.

They share the processes, for starting those takes longest. A test leaves its findings as JSON in the given folder.
"""

import copy
import faulthandler
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mvit_video.distributed.process_group import World, barrier, world
from mvit_video.distributed.sharding import Sharding, clip_grad_norm, gathered, is_sharded, whole, without_exchange
from mvit_video.engine.average import WeightAverage
from mvit_video.engine.checkpoints import (
    WHOLE,
    CheckpointError,
    CheckpointWriter,
    Snapshot,
    load_latest,
    save_checkpoint,
    save_shards,
    whole_weights,
)
from mvit_video.models import MViT
from tests.models.helpers import small_config

TIMEOUT_S = 300
SHALLOW: dict[str, Any] = {"depth": 2, "stage_starts": (1,)}


def clips(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, 3, 4, 32, 32, generator=torch.Generator().manual_seed(seed))


def build(*, seed: int = 0, **changes: Any) -> MViT:
    torch.manual_seed(seed)
    return MViT(small_config(drop_path=0.0, **changes))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, here: World, numbers: range, average: Any = None
) -> list[float]:
    """Optimizer steps of 2 x 2 clips per rank in two passes; the mean loss and the norm of the gradients of each."""
    curve: list[float] = []
    for step in numbers:
        total = torch.zeros(())
        for part in range(2):
            mine = slice(2 * here.rank, 2 * here.rank + 2) if here.size == 2 else slice(4)
            x, labels = clips(100 * step + part, 4)[mine], torch.arange(4)[mine]
            loss = nn.functional.cross_entropy(model(x).float(), labels) / 2
            if part == 0 and here.size == 2:
                with without_exchange(model):
                    loss.backward()
            else:
                loss.backward()
            total += loss.detach()
        if here.size == 2:
            torch.distributed.all_reduce(total)
            total /= 2
        curve += [float(total), float(clip_grad_norm(model.parameters(), 0.5))]
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update(model)
    return curve


def state_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, step: int, average: WeightAverage | None = None
) -> dict[str, Any]:
    ema = None if average is None else average.module.state_dict()
    state = {"step": step, "epoch": step / 10, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return {**state, "ema": ema, "config": "model: {}\n", "metrics": {"video_top1": float(step)}}


def layout_of(model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None = None) -> Any:
    def layout(place: Any, shape: torch.Size) -> torch.Tensor | None:
        match place:
            case ("model", name):
                return model.get_parameter(name)
            case ("ema", name) if average is not None:
                return average.module.get_parameter(name)
            case ("optimizer", "state", number, _):
                parameter = [p for group in optimizer.param_groups for p in group["params"]][number]
                return parameter if parameter.shape == shape else None
        return None

    return layout


def sharded(here: World, **changes: Any) -> tuple[MViT, Sharding]:
    model = build(**changes)
    sharding = Sharding(here, bf16=False, timeout_s=TIMEOUT_S)
    sharding.apply(model)
    return model, sharding


def curves(here: World, folder: Path) -> Any:
    """Losses, gradient norms and weights of three steps: one rank with all clips, and two sharded ranks."""
    alone = World(rank=0, size=1, device=here.device)
    plain = build()
    plain_average = WeightAverage(copy.deepcopy(plain), decay=0.9)
    one = steps(plain, optimizer_of(plain), alone, range(3), plain_average)
    model = build()
    average = WeightAverage(copy.deepcopy(model), decay=0.9)
    sharding = Sharding(here, bf16=False, timeout_s=TIMEOUT_S)
    sharding.apply(model)
    sharding.apply(average.module)
    two = steps(model, optimizer_of(model), here, range(3), average)
    local = sum(p.to_local().numel() for p in model.parameters())
    result = {
        "one": one,
        "two": two,
        "weights": worst(plain.state_dict(), model.state_dict()),
        "average": worst(plain_average.module.state_dict(), average.module.state_dict()),
        "share": local / sum(p.numel() for p in plain.parameters()),
    }
    # Ranks evaluate different numbers of batches: rank 1 one fewer.
    average.module.eval()
    with gathered(average.module), torch.inference_mode():
        logits = [average.module(clips(7, 1)) for _ in range(2 - here.rank)]
    plain_average.module.eval()
    with torch.inference_mode():
        result["evaluated"] = float((logits[0] - plain_average.module(clips(7, 1))).abs().max())
    with gathered(model), torch.inference_mode():
        model.eval()
        model(clips(7, 1))
    model.train()
    result["after_evaluation"] = [
        steps(model, optimizer_of(model), here, range(3, 4)),
        steps(plain, optimizer_of(plain), alone, range(3, 4)),
    ]
    result["all_sharded"] = all(is_sharded(tensor) for tensor in average.module.state_dict().values())
    return result


def worst(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - whole(other[name])).abs().max()) for name in one)


def checkpointed_and_compiled(here: World, folder: Path) -> Any:
    """Activation checkpointing and compiled blocks change nothing."""
    alone = World(rank=0, size=1, device=here.device)
    plain = build(**SHALLOW)
    result: dict[str, Any] = {"one": steps(plain, optimizer_of(plain), alone, range(2))}
    model, _ = sharded(here, activation_checkpointing=True, **SHALLOW)
    result["recomputed"] = steps(model, optimizer_of(model), here, range(2))
    model = build(activation_checkpointing=True, **SHALLOW)
    model.blocks[0].compile(backend="eager", fullgraph=True, dynamic=False)
    Sharding(here, bf16=False, timeout_s=TIMEOUT_S).apply(model)
    result["compiled"] = steps(model, optimizer_of(model), here, range(2))
    return result


def mixed_precision(here: World, folder: Path) -> Any:
    """bf16 where the parameters are gathered; kept in float32."""
    model = build()
    sharding = Sharding(here, bf16=False, timeout_s=TIMEOUT_S)
    sharding.bf16 = True  # on a GPU it would be
    sharding.apply(model)
    seen = set()
    model.blocks[1].attn.qkv.register_forward_pre_hook(lambda module, args: seen.add(str(module.weight.dtype)))
    optimizer = optimizer_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        curve = steps(model, optimizer, here, range(2))
    kept = {str(p.dtype) for p in model.parameters()} | {str(s["exp_avg"].dtype) for s in optimizer.state.values()}
    plain = build()
    one = steps(plain, optimizer_of(plain), World(rank=0, size=1, device=here.device), range(2))
    return {"seen": sorted(seen), "kept": sorted(kept), "bf16": curve, "fp32": one}


def checkpoints(here: World, folder: Path) -> Any:
    """Saved by two ranks in the background, read whole, and read by two ranks; further steps are bit-identical."""
    model = build(**SHALLOW)
    average = WeightAverage(copy.deepcopy(model), decay=0.9)
    sharding = Sharding(here, bf16=False, timeout_s=TIMEOUT_S)
    sharding.apply(model)
    sharding.apply(average.module)
    optimizer = optimizer_of(model)

    def write(state: Any, step: int, best: bool) -> None:
        save_shards(folder / "c", state, step=step, keep_last=2, best=best, sharding=sharding)

    with CheckpointWriter(write, snapshot=Snapshot(sharding.host_copy)) as writer:
        for step in range(4):
            steps(model, optimizer, here, range(step, step + 1), average)
            state = state_of(model, optimizer, step + 1, average)
            if step == 1:
                state[WHOLE] = whole_weights(state, keep=here.is_main)
            writer.save(state, step=step + 1, best=step == 1, wait=step == 3)
            if step == 1:
                at_best = {name: whole(tensor).clone() for name, tensor in average.module.state_dict().items()}
    result: dict[str, Any] = {}
    best = torch.load(folder / "c" / "best.pt", weights_only=True)
    result["best"] = [best["step"], worst(best["ema"], at_best), best["optimizer"]]
    loaded = load_latest(folder / "c")
    assert loaded is not None
    result["whole"] = [
        loaded["step"],
        worst(loaded["model"], model.state_dict()),
        worst(loaded["ema"], average.module.state_dict()),
    ]
    # On two ranks again, from shards and from an ordinary file; then one more step of all three.
    steps(model, optimizer, here, range(4, 5))
    if here.is_main:
        save_checkpoint(folder / "plain", loaded, step=4)
    barrier(here)
    for name in ("c", "plain"):
        other, _ = sharded(here, seed=5, **SHALLOW)
        other_optimizer = optimizer_of(other)
        again = load_latest(folder / name, world=here, layout=layout_of(other, other_optimizer))
        assert again is not None
        other.load_state_dict(again["model"])
        other_optimizer.load_state_dict(again["optimizer"])
        steps(other, other_optimizer, here, range(4, 5))
        result[name] = max(worst({k: whole(v) for k, v in model.state_dict().items()}, other.state_dict()), 0.0)
    return result


def damage(here: World, folder: Path) -> Any:
    """A flipped byte in the part of rank 1 makes all fall back; a full disk leaves the older checkpoints."""
    model, sharding = sharded(here, **SHALLOW)
    optimizer = optimizer_of(model)
    steps(model, optimizer, here, range(1))

    def save(step: int) -> None:
        save_shards(
            folder / "c", state_of(model, optimizer, step), step=step, keep_last=3, best=False, sharding=sharding
        )

    save(1)
    save(2)
    save(2)  # of the same step, under another name
    result: dict[str, Any] = {"names": sorted(path.name for path in (folder / "c").iterdir())}
    if here.is_main:
        path = folder / "c" / "step_00000002.2.shards" / "__1_0.distcp"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(bytes(content))
        (folder / "c" / "step_00000002.shards" / "__0_0.distcp").write_bytes(b"short")
    barrier(here)
    loaded = load_latest(folder / "c", world=here, layout=layout_of(model, optimizer))
    assert loaded is not None
    result["fell_back_to"] = loaded["step"]
    real = torch.distributed.checkpoint.FileSystemWriter.write_data

    def full(self: Any, plan: Any, planner: Any) -> Any:
        if here.rank == 1:
            raise OSError(28, "No space left on device")
        return real(self, plan, planner)

    torch.distributed.checkpoint.FileSystemWriter.write_data = full
    try:
        save(3)
    except CheckpointError as error:
        result["full"] = str(error)
    torch.distributed.checkpoint.FileSystemWriter.write_data = real
    barrier(here)
    result["after"] = sorted(path.name for path in (folder / "c").iterdir())
    barrier(here)  # else the next save begins while the other rank still looks
    save(4)
    loaded = load_latest(folder / "c", world=here)
    result["then"] = loaded and loaded["step"]
    return result


def main() -> None:
    faulthandler.dump_traceback_later(TIMEOUT_S * 2, exit=True)
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with world(torch.device("cpu"), timeout_s=TIMEOUT_S) as here:
        test: Callable[[World, Path], Any]
        for test in (curves, checkpointed_and_compiled, mixed_precision, checkpoints, damage):
            if len(sys.argv) > 2 and test.__name__ not in sys.argv[2:]:
                continue
            own = folder / test.__name__
            own.mkdir(exist_ok=True)
            result = test(here, own)
            (folder / f"{test.__name__}.{here.rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
