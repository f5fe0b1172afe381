"""Mask R-CNN on MViTv2-T at 1024 pixels: training step and detection, beside torchvision's Mask R-CNN on ResNet-50."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gpu.context import Context, free_memory
from gpu.workbench import autocast, compile_arguments, launches_of, median_seconds, once, peak_gb, reset_peak
from mvit_video.models.detection import Detector, DetectorConfig, get_detector_config
from mvit_video.models.mvit.attention import MultiscaleAttention

PRESET, SIDE, INSTANCES = "mask_rcnn_mvitv2_t", 1024, 10
OURS, THEIRS = "MViTv2-T, ours", "ResNet-50 FPN, torchvision"
EAGER, FUSED, COMPILED = "eager", "eager, Triton attention", "backbone compiled"
TRAIN = f"Mask R-CNN, images of {SIDE} pixels, bf16: training step"
DETECT = f"Mask R-CNN, images of {SIDE} pixels, eager: detection"
PLAN = (
    (2, OURS, EAGER),
    (2, THEIRS, EAGER),
    (2, OURS, FUSED),
    (8, OURS, EAGER),
    (8, THEIRS, EAGER),
    (2, OURS, COMPILED),
    (8, OURS, COMPILED),
    (8, OURS, FUSED),
)
"""(images, whose, form), the most valuable first; the recipe has 2 images a GPU."""
SMALL = {"depth": 4, "embed_dim": 16, "stage_starts": (1, 2, 3), "crop_size": 64}
SMALL_HEADS = {
    "num_classes": 3, "channels": 16, "hidden": 32, "anchor_sides": (8, 16, 32, 64, 128), "canonical_side": 56,
    "proposals_per_level_train": 100, "proposals_per_level_test": 50, "proposals": 50, "anchors_sampled": 64,
    "rois_sampled": 32, "short_side": 64, "long_side": 96,
}  # fmt: skip

SMALL_TORCHVISION = {
    "rpn_pre_nms_top_n_train": 20, "rpn_post_nms_top_n_train": 10, "rpn_pre_nms_top_n_test": 20,
    "rpn_post_nms_top_n_test": 10, "box_batch_size_per_image": 16, "box_detections_per_img": 5,
}  # fmt: skip


def detector_config(context: Context) -> DetectorConfig:
    """The detector without drop path; in a rehearsal four narrow blocks."""
    changes = {"drop_path": 0.0, **(SMALL if context.rehearse else {})}
    return get_detector_config(PRESET, backbone=changes, **(SMALL_HEADS if context.rehearse else {}))  # type: ignore[arg-type]


def side(context: Context) -> int:
    """Pixels of an image."""
    return 64 if context.rehearse else SIDE


def measure(context: Context) -> None:
    """Training in every form that needs no compiler, detection in images one by one, then the compiled forms."""
    models = {OURS: Detector(detector_config(context))}
    try:
        models[THEIRS] = torchvision_detector(context)  # type: ignore[assignment]
    except ImportError as error:
        context.note(f"Ours alone: {error}.")
    measure_training(models, [entry for entry in PLAN if entry[2] != COMPILED], context)
    for whose, model in models.items():
        key = {"model": whose, "form": "bf16" if whose == THEIRS else "float32, as it always is"}
        context.case(DETECT, key, lambda m=model: detect_row(m, context), needs_s=0.0 if context.rehearse else 4.0)  # type: ignore[misc]
        free_memory()
    measure_training(models, [entry for entry in PLAN if entry[2] == COMPILED], context)


def measure_training(models: dict[str, Detector], plan: list[tuple[int, str, str]], context: Context) -> None:
    """A row for each entry whose library is there."""
    for batch, whose, form in plan:
        if whose not in models:
            continue
        key = {"images": batch, "model": whose, "form": form}
        needs = 0.0 if context.rehearse else 45.0 if form == COMPILED else 6.0
        model = models[whose]
        context.case(TRAIN, key, lambda m=model, b=batch, f=form: train_row(m, b, f, context), needs_s=needs)  # type: ignore[misc]
        free_memory()


def torchvision_detector(context: Context) -> nn.Module:
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    size = side(context)
    few = SMALL_TORCHVISION if context.rehearse else {}
    model: nn.Module = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=91, min_size=size, max_size=size, **few
    )
    return model


def samples(batch: int, context: Context, *, scale: float) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Noise with rectangles to find, values up to `scale`: the same every time."""
    size = side(context)
    generator = torch.Generator().manual_seed(1)
    images, targets = [], []
    for _ in range(batch):
        corners = torch.randint(0, size // 2, (INSTANCES, 2), generator=generator)
        extents = torch.randint(size // 16, size // 2, (INSTANCES, 2), generator=generator)
        boxes = torch.cat([corners, corners + extents], dim=1)
        masks = torch.zeros(INSTANCES, size, size, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist()):
            mask[y1:y2, x1:x2] = True
        labels = torch.arange(INSTANCES) % 2 + 1  # for torchvision 0 is the background
        images.append((scale * torch.rand(3, size, size, generator=generator)).to(context.device))
        target = {"boxes": boxes.float(), "labels": labels, "masks": masks}
        targets.append({name: value.to(context.device) for name, value in target.items()})
    return images, targets


def train_row(model: nn.Module, batch: int, form: str, context: Context) -> dict[str, Any]:
    batch = min(batch, 2) if context.rehearse else batch
    model.to(context.device).train()
    model.zero_grad(set_to_none=True)
    images, targets = samples(batch, context, scale=255.0 if isinstance(model, Detector) else 1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=context.device == "cuda")
    reset_peak(context.device)
    work = step_of(model, form, images, targets, optimizer, context)
    first = once(work, context.device)
    seconds = median_seconds(work, context.device, most=20)
    return {
        "ms": 1e3 * seconds,
        "images/s": batch / seconds,
        "peak memory, GB": peak_gb(context.device),
        "first step, s": first,
        **launches_of(work),
    }


def step_of(
    model: nn.Module,
    form: str,
    images: list[Tensor],
    targets: list[dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    context: Context,
) -> Callable[[], object]:
    """Forward, all losses, backward and the update, with the backbone in a form."""
    if isinstance(model, Detector):
        for module in model.modules():
            if isinstance(module, MultiscaleAttention):
                module.form = "triton" if form == FUSED else "auto"
        if form == COMPILED:
            model.backbone.compile(dynamic=False, **compile_arguments(ours=True, rehearse=context.rehearse))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(context.device):
            losses = model(images, targets)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        optimizer.step()

    return step


def detect_row(model: nn.Module, context: Context) -> dict[str, Any]:
    """One image: the model with its weights as they are, so that how much is found says nothing."""
    model.to(context.device).eval()
    images, _ = samples(1, context, scale=255.0 if isinstance(model, Detector) else 1.0)

    def detect() -> None:
        with torch.inference_mode(), autocast(context.device, enabled=not isinstance(model, Detector)):
            model(images)

    first = once(detect, context.device)
    seconds = median_seconds(detect, context.device, most=20)
    return {"ms": 1e3 * seconds, "images/s": 1 / seconds, "first call, s": first}
