"""Tiny detectors, and drawn images with the boxes and masks of their shapes."""

import torch
from torch import Tensor

from mvit_video.models.config import MViTConfig
from mvit_video.models.detection import Detector, DetectorConfig

Target = dict[str, Tensor]


def tiny_backbone(**changes: object) -> MViTConfig:
    """Four blocks, one a stage, 16 to 128 channels, windows of a nominal crop of 64."""
    fields: dict[str, object] = {
        "depth": 4,
        "embed_dim": 16,
        "stage_starts": (1, 2, 3),
        "num_classes": 0,
        "num_frames": 1,
        "crop_size": 64,
        "patch_kernel": (1, 7, 7),
        "patch_stride": (1, 4, 4),
        "pool_kernel": (1, 3, 3),
        "kv_stride": (1, 4, 4),
        "rel_pos": "spatial",
        "cls_token": False,
        "head_pooling": "norm_mean",
        "windows": "hybrid",
        "stage_norms": True,
        "drop_path": 0.0,
        "dropout": 0.0,
        "init": "fan_in",
    }
    return MViTConfig(**(fields | changes))


def tiny_config(**changes: object) -> DetectorConfig:
    fields: dict[str, object] = {
        "backbone": tiny_backbone(),
        "num_classes": 3,
        "channels": 16,
        "hidden": 32,
        "anchor_sides": (8, 16, 32, 64, 128),
        "canonical_side": 56,
        "proposals_per_level_train": 100,
        "proposals_per_level_test": 50,
        "proposals": 50,
        "anchors_sampled": 64,
        "rois_sampled": 32,
        "short_side": 64,
        "long_side": 96,
    }
    return DetectorConfig(**(fields | changes))


def tiny_detector(seed: int = 0, **changes: object) -> Detector:
    torch.manual_seed(seed)
    return Detector(tiny_config(**changes))


def drawn(height: int, width: int, *shapes: tuple[int, tuple[int, int, int, int], tuple[int, int, int]]):
    """A grey image with filled ellipses (class, box, colour), later ones in front, and its target."""
    image = torch.full((3, height, width), 110.0)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    masks: list[Tensor] = []
    for _, (x1, y1, x2, y2), colour in shapes:
        a, b = (x2 - x1) / 2, (y2 - y1) / 2
        mask = ((x - x1 - a) / a) ** 2 + ((y - y1 - b) / b) ** 2 <= 1
        image[:, mask] = torch.tensor(colour, dtype=torch.float32)[:, None]
        masks = [earlier & ~mask for earlier in masks] + [mask]
    target = {
        "boxes": torch.tensor([box for _, box, _ in shapes], dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor([label for label, _, _ in shapes], dtype=torch.int64),
        "masks": torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool),
    }
    return image, target


def two_images():
    """Two of 64 x 96, so that training pads neither, with two shapes and one."""
    return [
        drawn(64, 96, (0, (8, 10, 40, 42), (230, 40, 40)), (2, (50, 20, 90, 50), (40, 60, 230))),
        drawn(64, 96, (1, (16, 20, 44, 56), (40, 220, 60))),
    ]
