"""What a preview shows of detection: training views and images, by the builders of trainings and evaluations."""

import logging
from typing import Any

import torch

from mvit_video.build.detection_samples import (
    build_reading,
    build_train_dataset,
    detection_augment,
    detection_data,
    read_detection,
)
from mvit_video.build.samples import build_loader
from mvit_video.config import Preview
from mvit_video.data.datasets.sources import Source
from mvit_video.data.loading.detection_dataset import DetectionEvalDataset
from mvit_video.distributed.process_group import World
from mvit_video.engine.preview import Section
from mvit_video.tasks.detection_preview import evaluation_pictures, training_views

logger = logging.getLogger(__name__)


def detection_sections(config: Preview, source: Source) -> list[Section]:
    """Training views and images, as many as asked for.

    Raises:
        ValueError: a split is not configured, or its files are not as they should be; or a view of each class is asked
            for, and images have several.
        ImageDecodeError: a training image and all its replacements are unreadable.
    """
    if config.per_class:
        raise ValueError("per_class=true: shows a sample of each class, and an image here has several: leave it out")
    sections = []
    if config.clips:
        sections.append(_training(config, source))
    if config.videos:
        sections.append(_test(config, source))
    return sections


def _training(config: Preview, source: Source) -> Section:
    manifest = read_detection(config, source, "train")
    world = World(rank=config.rank, size=config.processes, device=torch.device("cpu"))
    logger.info("reading %d training images from step %d on", config.clips, config.step)
    loader = build_loader(config, build_train_dataset(config, manifest), world)
    items, failures = training_views(loader, step=config.step, count=config.clips)
    rank = f"batch of {config.trainer.batch_size}  ·  rank {config.rank} of {config.processes}  ·  seed {config.seed}"
    about = (f"images of {manifest.source}", view_text(config), rank)
    heading = f"{config.name}: training images from step {config.step} on"
    return Section("train", heading, about, items, failures, item="image")


def _test(config: Preview, source: Source) -> Section:
    split: Any = config.split
    manifest = read_detection(config, source, split)
    dataset = DetectionEvalDataset(manifest, reading=build_reading(config))
    items, failures = evaluation_pictures(dataset, count=config.videos)
    heading = f"{config.name}: {len(items)} images of the {config.split} split"
    about = (f"images of {manifest.source}", "as they are; the detector resizes them")
    return Section("test", heading, about, items, failures, item="image")


def view_text(config: Preview) -> str:
    """What a training view may be, in a few words."""
    augment = detection_augment(config)
    if augment.view == "jitter":
        side, (low, high) = detection_data(config).crop_size, augment.scale
        made = f"scaled to fit in {low:g} to {high:g} times {side} pixels, then cut or padded to {side} x {side}"
    else:
        made = (
            f"crop {augment.crop:g}  ·  short side {min(augment.short_sides)} to {max(augment.short_sides)} pixels, "
            f"long side up to {augment.long_side}"
        )
    return f"{made}  ·  flip {augment.flip:g}"
