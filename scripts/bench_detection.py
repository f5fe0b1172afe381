"""Measure detection on the CPU: windows in our form of attention beside the published one, the evaluator, the views.

    python scripts/bench_detection.py                        # backbone of MViTv2-T at 512 and 1024 pixels
    python scripts/bench_detection.py --size s --pixels 800 --reps 5 --markdown
    python scripts/bench_detection.py --evaluator --images 5000
    python scripts/bench_detection.py --data                 # reading COCO files, views, targets of masks

The two backbones have one geometry and the same weights, and their features are compared. They differ in what is done
within a window alone. Ours appends the positions to queries and keys and takes the fused kernel, or products and a
softmax where windows are small. The other computes logits, adds the biases of both axes and keeps the map, as
detectron2 does (modeling/backbone/mvit.py, utils.py). They take turns in one process; times are process CPU time, the
least of the repetitions. A train step is the forward pass, a mean of squares over the four maps, and the backward pass.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_model import Clock, Result, machine, peak_bytes, saved_bytes, table
from torch import Tensor, nn

from mvit_video.data.detection.annotations import DetectionManifest, Instances
from mvit_video.data.detection.coco_json import from_coco
from mvit_video.data.detection.masks import encode_bitmap
from mvit_video.data.detection.transforms import LargeScaleJitter, MultiScale, ShortestEdge
from mvit_video.models.config import Triple
from mvit_video.models.detection.config import detection_backbone
from mvit_video.models.kernels.recompute import Linear
from mvit_video.models.mvit.attention import MultiscaleAttention
from mvit_video.models.mvit.network import MViT

OURS, PUBLISHED = "ours", "as published"
VAL2017_INSTANCES = 7.36
"""Instances of an image of val2017: 36,781 in 5,000."""


def published_attention(
    self: MultiscaleAttention, q: Tensor, k: Tensor, v: Tensor, grid_q: Triple, grid_kv: Triple, proj: Linear | None
) -> Tensor:
    """Logits, their biases, the map: q (B, N, heads, c), k and v (B, heads, M, c) -> (B, N, dim)."""
    q = q.transpose(1, 2)
    rows_h, rows_w = self._tables(grid_q, grid_kv, q.dtype)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    on_grid = q.unflatten(2, grid_q[1:])
    bias_h = torch.einsum("bnhwc,hkc->bnhwk", on_grid, rows_h)
    bias_w = torch.einsum("bnhwc,wkc->bnhwk", on_grid, rows_w)
    maps = logits.unflatten(-1, grid_kv[1:]).unflatten(2, grid_q[1:])
    biased = (maps + bias_h[..., :, None] + bias_w[..., None, :]).flatten(-2).flatten(2, 3)
    out = (biased.softmax(dim=-1) @ v + q).transpose(1, 2)
    return self._project(out, proj)


def backbones(size: str, windows: str) -> dict[str, MViT]:
    """Ours and the published form, with the same weights."""
    models = {}
    for name in (OURS, PUBLISHED):
        torch.manual_seed(0)
        model = MViT(detection_backbone(size, drop_path=0.0, windows=windows, init="pyslowfast"))  # type: ignore[arg-type]
        if name == PUBLISHED:
            for part in model.modules():
                if isinstance(part, MultiscaleAttention):
                    part._attend_pooled = types.MethodType(published_attention, part)  # type: ignore[method-assign]
        models[name] = model.train()
    return models


def features(model: nn.Module, batch: Tensor) -> list[Tensor]:
    """The four maps."""
    return model.forward_features(batch)  # type: ignore[operator, no-any-return]


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """A number that all maps have a share in."""
    return torch.stack([stage.square().mean() for stage in features(model, batch)]).sum()


def measure_backbones(models: dict[str, MViT], batch: Tensor, reps: int) -> dict[str, Result]:
    """Forward without gradients and train step, taking turns, and what they keep."""

    def evaluate(model: MViT) -> None:
        with torch.inference_mode():
            features(model, batch)

    def step(model: MViT) -> None:
        model.zero_grad(set_to_none=True)
        loss(model, batch).backward()

    results = {name: Result() for name in models}
    clock = Clock("cpu")
    for _ in range(reps):
        for name, model in models.items():
            results[name].forward.append(clock(lambda m=model: evaluate(m)))  # type: ignore[misc]
        for name, model in models.items():
            results[name].step.append(clock(lambda m=model: step(m)))  # type: ignore[misc]
    for name, model in models.items():
        for other in models.values():
            other.zero_grad(set_to_none=True)
        results[name].saved = saved_bytes(model, lambda m=model: loss(m, batch))  # type: ignore[misc]
        results[name].peak = peak_bytes("cpu", lambda m=model: step(m))  # type: ignore[misc]
    return results


def difference(models: dict[str, MViT], batch: Tensor) -> float:
    """Largest difference of the two forms' features, as a share of the largest feature."""
    with torch.inference_mode():
        ours, theirs = (features(model, batch) for model in models.values())
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def backbone_rows(results: dict[str, Result]) -> list[list[str]]:
    """Time, saved bytes and peak of both."""
    ours, theirs = results[OURS], results[PUBLISHED]
    rows = []
    for label, a, b in (("forward, s", ours.forward, theirs.forward), ("train step, s", ours.step, theirs.step)):
        turns = statistics.median(y / x for x, y in zip(a, b, strict=True))
        rows.append([label, f"{min(a):.2f}", f"{min(b):.2f}", f"{min(b) / min(a):.2f}x ({turns:.2f}x)"])
    for label, x, y in (("saved for backward, MB", ours.saved, theirs.saved), ("peak, MB", ours.peak, theirs.peak)):
        rows.append([label, f"{x / 1e6:.0f}", f"{y / 1e6:.0f}", f"{y / x:.2f}x" if x else "-"])
    return rows


def bench_backbones(options: argparse.Namespace) -> None:
    """A table for every size of the images."""
    for pixels in options.pixels:
        models = backbones(options.size, options.windows)
        batch = torch.randn(1, 3, pixels, pixels)
        off = difference(models, batch)  # warms up, too
        rows = backbone_rows(measure_backbones(models, batch, options.reps))
        head = f"backbone MViTv2-{options.size.upper()}, windows {options.windows}, {pixels} x {pixels}, batch 1"
        print(table([head, OURS, PUBLISHED, "published / ours (median of turns)"], rows, options.markdown))
        print(f"\nlargest difference of the features: {off:.1e} of the largest one\n", flush=True)


def drawn_set(images: int, folder: Path) -> Path:
    """A COCO file with as many instances as val2017 has, and empty files as images."""
    rng = np.random.default_rng(0)
    annotations = []
    for image in range(images):
        (folder / f"{image}.jpg").touch()
        for _ in range(int(rng.poisson(VAL2017_INSTANCES))):
            angles = np.sort(rng.random(int(rng.integers(6, 60)))) * 2 * np.pi
            side = np.exp(rng.uniform(np.log(8), np.log(200)))
            ring = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.6, 1, (len(angles), 1)) * side / 2
            ring = np.round(np.clip(ring + rng.random(2) * (640, 480), 0, (640, 480)), 2)
            low, high = ring.min(0), ring.max(0)
            if (high - low).min() < 1:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image + 1,
                    "category_id": int(rng.integers(1, 81)),
                    "bbox": np.round([*low, *(high - low)], 2).tolist(),
                    "area": float(np.prod(high - low)) * 0.7,
                    "segmentation": [ring.ravel().tolist()],
                    "iscrowd": 0,
                }
            )
    listed = [{"id": i + 1, "file_name": f"{i}.jpg", "height": 480, "width": 640} for i in range(images)]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    path = folder / "set.json"
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    return path


def best_of(work: Callable[[], object], reps: int) -> float:
    """Least CPU seconds."""
    clock = Clock("cpu")
    return min(clock(work) for _ in range(reps))


def detections_of(path: Path, a_truth: int = 3) -> list[dict[str, object]]:
    """Detections around the instances of a set: some for each of them, moved at random."""
    rng = np.random.default_rng(1)
    manifest = from_coco(path, empty_images="keep")
    found: list[dict[str, object]] = []
    for row in range(len(manifest)):
        instances = manifest.instances(row)
        assert instances.masks is not None
        packed = instances.masks.encode()
        for place, box in enumerate(instances.boxes.tolist()):
            for _ in range(a_truth):
                moved = np.array([box[0], box[1], box[2] - box[0], box[3] - box[1]]) + rng.normal(0, 4, 4)
                found.append(
                    {
                        "image_id": manifest.image_ids[row],
                        "category_id": manifest.category_ids[int(instances.labels[place])],
                        "bbox": [*moved[:2].tolist(), *np.maximum(moved[2:], 1).tolist()],
                        "score": float(rng.random()),
                        "segmentation": packed[place],
                    }
                )
    return found


def evaluators() -> dict[str, tuple[type, type]]:
    """COCO and COCOeval of each package that is installed."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found: dict[str, tuple[type, type]] = {"pycocotools": (COCO, COCOeval)}
    with contextlib.suppress(ImportError):
        from faster_coco_eval import COCO as QuickCOCO
        from faster_coco_eval import COCOeval_faster

        found["faster-coco-eval"] = (QuickCOCO, COCOeval_faster)
    return found


def bench_evaluator(options: argparse.Namespace) -> None:
    """Seconds of the twelve numbers, and whether the packages agree."""
    with tempfile.TemporaryDirectory() as name:
        path = drawn_set(options.images, Path(name))
        detections = detections_of(path)
        truth = json.loads(path.read_text())
    rows, numbers = [], {}
    for package, (coco, evaluation) in evaluators().items():
        for kind, drop in (("bbox", "segmentation"), ("segm", "bbox")):

            def score(coco=coco, evaluation=evaluation, kind=kind, drop=drop, package=package) -> None:  # type: ignore[no-untyped-def]
                with contextlib.redirect_stdout(io.StringIO()):
                    ours = coco()
                    ours.dataset = {"info": {}, **json.loads(json.dumps(truth))}
                    ours.createIndex()
                    found = ours.loadRes([{k: v for k, v in entry.items() if k != drop} for entry in detections])
                    scored = evaluation(ours, found, kind)
                    scored.evaluate()
                    scored.accumulate()
                    scored.summarize()
                numbers[package, kind] = np.array(scored.stats[:12], np.float64)

            seconds = best_of(score, 1)
            off = float(np.abs(numbers[package, kind] - numbers["pycocotools", kind]).max())
            rows.append([package, kind, f"{seconds:.1f}", f"{100 * numbers[package, kind][0]:.3f}", f"{off:.0e}"])
    shape = f"{options.images} images, {len(truth['annotations'])} instances, {len(detections)} detections"
    print(table([shape, "kind", "s", "AP", "largest difference of the 12"], rows, options.markdown), flush=True)


def bench_data(options: argparse.Namespace) -> None:
    """Reading, views and targets of masks."""
    with tempfile.TemporaryDirectory() as name:
        path = drawn_set(options.images, Path(name))
        rows = reading_rows(path)
        manifest = from_coco(path)
    rows += view_rows(manifest) + mask_rows(manifest.instances(0))
    head = f"{len(manifest)} images, {len(manifest.annotations)} instances"
    print(table([head, "CPU time"], rows, options.markdown), flush=True)


def reading_rows(path: Path) -> list[list[str]]:
    """Seconds from a file to a manifest."""
    from pycocotools.coco import COCO

    def pycoco() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            COCO(str(path))

    works = {"parse the JSON": lambda: json.loads(path.read_text()), "read it": lambda: from_coco(path)}
    works["pycocotools' COCO(...)"] = pycoco
    return [[what, f"{best_of(work, 3):.2f} s"] for what, work in works.items()]


def view_rows(manifest: DetectionManifest) -> list[list[str]]:
    """Milliseconds of a view of an image of 640 x 480, mean of twenty."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    rows = []
    for transform in (LargeScaleJitter(), MultiScale(), ShortestEdge()):
        views = [transform.draw(480, 640, np.random.default_rng(key)) for key in range(20)]
        before = [manifest.instances(row) for row in range(20)]
        pixels = best_of(lambda some=views: [view.pixels(image) for view in some], 3) / 20  # type: ignore[misc]
        moved = best_of(
            lambda some=views, old=before: [view.instances(own) for view, own in zip(some, old, strict=True)],  # type: ignore[misc]
            3,
        )
        name = type(transform).__name__
        rows.append([f"{name}: pixels", f"{1e3 * pixels:.1f} ms"])
        rows.append([f"{name}: instances", f"{1e3 * moved / 20:.2f} ms"])
    return rows


def mask_rows(instances: Instances) -> list[list[str]]:
    """Milliseconds of the targets of an image, and of a prediction."""
    masks = instances.masks
    assert masks is not None
    boxes = torch.from_numpy(instances.boxes).repeat(128 // len(instances) + 1, 1)[:128]
    places = torch.arange(128) % len(instances)
    targets = best_of(lambda: masks.crop(boxes, places, 28), 5)
    bitmaps = masks.bitmaps()
    packed = best_of(lambda: [encode_bitmap(bitmap) for bitmap in bitmaps], 5) / len(bitmaps)
    return [
        ["128 targets of 28 x 28 from polygons", f"{1e3 * targets:.1f} ms"],
        ["pack a mask of 640 x 480", f"{1e3 * packed:.2f} ms"],
    ]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["t", "s", "b", "l", "h"], default="t", help="of the backbone")
    parser.add_argument("--windows", choices=["hybrid", "all", "none"], default="hybrid")
    parser.add_argument("--pixels", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--evaluator", action="store_true", help="time the COCO evaluators instead")
    parser.add_argument("--data", action="store_true", help="time reading, views and targets instead")
    parser.add_argument("--images", type=int, default=5000, help="of the drawn set")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    about = argparse.Namespace(device="cpu", compile=False, model="mvitv2_s_16x4", threads=options.threads)
    print(machine(about), end="\n\n")
    if options.evaluator:
        bench_evaluator(options)
    elif options.data:
        bench_data(options)
    else:
        bench_backbones(options)


if __name__ == "__main__":
    main()
