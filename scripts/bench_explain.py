"""Whether `explain=true` points at what moves: the share of its maps on the moving figure of the embedded set.

    python scripts/bench_explain.py runs/quickstart --videos 32

The figure's outline is drawn from the scene that each test video was made of. Chance is the figure's share of the
pictures. Beside the maps of predict stand those of other ways, for comparison.
"""

import argparse
import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mvit_video import Predictor
from mvit_video.build.prediction import FilePredictor
from mvit_video.data.augmentation.clip_views import eval_view
from mvit_video.data.embedded import motion_scenes as scenes
from mvit_video.data.embedded.motion import SPLITS, MotionSpec
from mvit_video.data.loading.collation import collate
from mvit_video.models.mvit.attribution import class_maps


def figure(path: str, spec: MotionSpec) -> np.ndarray:
    """How much of each pixel the moving figure covers, 0 to 1, (frames, H, W), of a test video."""
    number, direction = Path(path).stem.split("_")
    rng = np.random.default_rng([spec.seed, SPLITS.index("test"), int(number)])
    kind = scenes.KINDS[int(number) % len(scenes.KINDS)]
    scene = scenes.sample_scene(rng, kind=kind, split="test", difficulty=spec.difficulty)
    white = dataclasses.replace(scene.sprite, colors=np.full((2, 3), 255, np.float32), striped=False)
    frames, poses = np.zeros((scene.frames, 3, scene.height, scene.width), np.float32), scenes.sprite_poses(scene)
    for start in range(0, scene.frames, scenes.FRAMES_AT_A_TIME):
        part = slice(start, start + scenes.FRAMES_AT_A_TIME)
        scenes.paint_sprite(frames[part], white, poses.seen(part, scene.shake[part]))
    covered = frames[:, 0] / 255
    return covered if direction == "forward" else covered[::-1]


def clips_of(predictor: FilePredictor, path: str, spec: MotionSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's input (clips, 3, T, S, S) and what of it the figure covers, (clips, T, S, S)."""
    manifest, task = predictor.split([path])
    evaluation = predictor.builder.evaluation(predictor.config, manifest, predictor.world, frame_order="forward")
    dataset = evaluation.dataset  # type: ignore[attr-defined]
    covered = figure(path, spec)
    with dataset.decoding.open(manifest, 0) as video:
        numbers = dataset.frame_numbers(0, video)
    masks = []
    for clip in numbers:
        grey = torch.from_numpy(np.rint(covered[clip] * 255).astype(np.uint8))[..., None].expand(-1, -1, -1, 3)
        view = eval_view(
            range(len(clip)),
            *covered.shape[1:],
            short_side=dataset.short_side,
            crop_size=dataset.crop_size,
            spatial_view=0,
            num_spatial=1,
            decode_short_side=dataset.decode_short_side,
        )
        masks.append(view.finish(view.begin(grey.contiguous()))[..., 0].float() / 255)
    (inputs,) = task.eval_inputs(collate([dataset[0]]))  # type: ignore[attr-defined]
    return inputs, torch.stack(masks)


def ways(predictor: FilePredictor, clips: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Maps (clips, T, S, S) of each way, for the class that each clip is taken for."""
    model = predictor.model
    with torch.no_grad():
        classes = model(clips).argmax(1)
    yield "chance", torch.ones_like(clips[:, 0])
    for steps in (1, 4, 8, 16):
        name = "gradient at the clip's half way" if steps == 1 else f"integrated gradients, {steps} steps"
        yield name, class_maps(model, clips, classes, steps=steps)[0]  # type: ignore[arg-type]
    pixels = clips.clone().requires_grad_()
    (gradients,) = torch.autograd.grad(model(pixels).gather(1, classes[:, None]).sum(), pixels)
    yield "gradient on the pixels, size", gradients.abs().sum(1)
    yield "gradient times pixel", (gradients * clips).sum(1).clamp_min(0)
    with torch.no_grad():
        tokens, grid = model.embed(clips)  # type: ignore[operator]
        for block in model.blocks[:-1]:  # type: ignore[index]
            tokens, grid = block(tokens, grid, False)
    last = tokens.detach().requires_grad_()
    with torch.enable_grad():
        result, _ = model.blocks[-1](last, grid, model.is_cls_only(len(model.blocks) - 1))  # type: ignore[index,operator]
        score = model.forward_head(result).gather(1, classes[:, None]).sum()  # type: ignore[operator]
        (gradients,) = torch.autograd.grad(score, last)
    cls = model.cls
    weights = gradients[:, cls:].mean(1, keepdim=True)  # Grad-CAM, arXiv 1610.02391
    coarse = (weights * last.detach()[:, cls:]).sum(-1).clamp_min(0).unflatten(1, grid)
    size = (clips.shape[2], *clips.shape[-2:])
    yield "Grad-CAM at the last block", F.interpolate(coarse[:, None], size=size, mode="trilinear")[:, 0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="name or folder of a run on the embedded motion set")
    parser.add_argument("--videos", type=int, default=32, help="test videos; default %(default)s")
    parser.add_argument("--motion", default="data/motion", help="folder of the embedded set; default %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    predictor, spec = Predictor(args.run)._predictor, MotionSpec()
    shares, hits = defaultdict(list), defaultdict(list)
    files = sorted(map(str, Path(args.motion).glob("videos/test/*.mp4")))[: args.videos]
    for path in files:
        clips, masks = clips_of(predictor, path, spec)
        for name, maps in ways(predictor, clips):
            maps = maps / maps.sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
            shares[name] += (maps * masks).sum((1, 2, 3)).tolist()
            strongest = maps.flatten(2).argmax(2, keepdim=True)
            hits[name] += (masks.flatten(2).gather(2, strongest) > 0.5).float().mean((1, 2)).tolist()
    print(f"{len(files)} test videos, {len(shares['chance'])} clips\n")
    print("| map | share on the moving figure | pictures whose strongest place is on it |\n|---|---|---|")
    for name in shares:
        hit = f"{100 * np.mean(hits[name]):.0f} %" if name != "chance" else f"{100 * np.mean(shares[name]):.0f} %"
        print(f"| {name} | {100 * np.mean(shares[name]):.0f} % | {hit} |")


if __name__ == "__main__":
    main()
