"""What a preview shows of videos: training clips and test views, by the builders of trainings and evaluations."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from mvit_video.build.clips import build_eval_dataset, build_train_loader, video_augment, video_data
from mvit_video.build.samples import build_mixing, build_normalization, classification_augment, read_manifest
from mvit_video.config import ClassificationAugment, Preview, Train, VideoAugment, VideoData
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Source
from mvit_video.data.loading.batch import Batch
from mvit_video.data.loading.loader import TrainLoader
from mvit_video.distributed.process_group import World
from mvit_video.engine.preview import Section
from mvit_video.tasks.clip_preview import FramesOf, class_clips, evaluation_views, frames_of_clip, training_clips
from mvit_video.tasks.multilabel import targets_of

logger = logging.getLogger(__name__)

FRAME_NUMBERS = "below each picture: the number of its frame in the file, from 0"


def preview_sections(config: Preview, source: Source, *, multi_label: bool = False) -> list[Section]:
    """Training clips and test views, as many as asked for; of videos with several classes, if `multi_label`.

    Raises:
        ValueError: a split is not configured, or its files are not as they should be.
        VideoDecodeError: a training video and all its replacements are unreadable.
    """
    sections = []
    if config.clips:
        sections.append(_training(config, read_manifest(config, source, "train", multi_label=multi_label)))
    if config.videos:
        split: Any = config.split
        sections.append(_test(config, read_manifest(config, source, split, multi_label=multi_label)))
    return sections


def _training(config: Preview, manifest: Manifest) -> Section:
    """Training clips from the builders that a training run uses."""
    config = without_mixing(config)
    targets = (
        None
        if manifest.label_sets is None
        else targets_of(manifest, smoothing=classification_augment(config).smoothing)
    )
    about = (clip_text(video_data(config)), augment_text(video_augment(config)), FRAME_NUMBERS)
    return training_section(config, manifest, build_train_loader, sample="clip", about=about, targets=targets)


def training_section(
    config: Preview,
    manifest: Manifest,
    build: Callable[[Train, Manifest, World], TrainLoader],
    *,
    sample: str,
    about: Sequence[str],
    targets: Callable[[Batch], torch.Tensor] | None = None,
    frames_of: FramesOf | None = frames_of_clip,
) -> Section:
    """Training samples, one of each class or those of a step on.

    Args:
        config: the options, mixing as it is to be shown.
        manifest: of the training split.
        build: the loader of a training.
        sample: what the model sees of a file: "clip" or "image".
        about: how samples are made, and lines to follow.
        targets, frames_of: see tasks.clip_preview.training_clips.
    """
    loader = build(config, manifest, World(rank=config.rank, size=config.processes, device=torch.device("cpu")))
    normalization, mixing = build_normalization(config.data), build_mixing(config)
    if config.per_class:
        logger.info("reading a training %s of each of %d classes", sample, manifest.num_classes)
        items, failures = class_clips(
            loader,
            normalization=normalization,
            mixing=mixing,
            step=config.step,
            targets_of=targets,
            frames_of=frames_of,
        )
        heading = f"{config.name}: a training {sample} of each class"
    else:
        logger.info("reading %d training %ss from step %d on", config.clips, sample, config.step)
        items, failures = training_clips(
            loader,
            normalization=normalization,
            mixing=mixing,
            seed=config.seed,
            step=config.step,
            count=config.clips,
            targets_of=targets,
            frames_of=frames_of,
        )
        heading = f"{config.name}: training {sample}s from step {config.step} on"
    files = manifest.kind.plural
    copies = f"{sample}s ({files} x copies)"
    batch = f"batch of {config.trainer.batch_size} x {classification_augment(config).repeats} {copies}"
    made, *rest = about
    rank = f"rank {config.rank} of {config.processes}"
    lines = (f"{files} of {manifest.source}", f"{made}  ·  {batch}  ·  {rank}  ·  seed {config.seed}", *rest)
    return Section("train", heading, lines, items, failures, item=manifest.kind.noun)


def _test(config: Preview, manifest: Manifest) -> Section:
    """Test views from the builders that an evaluation uses."""
    data = video_data(config)
    count = min(config.videos, len(manifest))
    shown = "1 video" if count == 1 else f"{count} videos"
    logger.info("reading the test views of %s", shown)
    dataset = build_eval_dataset(
        config, manifest, temporal_views=data.test_temporal_views, spatial_views=data.test_spatial_views
    )
    clips, failures = evaluation_views(dataset, normalization=build_normalization(config.data), count=config.videos)
    views = f"{data.test_temporal_views} x {data.test_spatial_views} views, short side {data.test_short_side}"
    heading = f"{config.name}: test views of {shown} of the {config.split} split"
    about = (f"videos of {manifest.source}", f"{clip_text(data)}  ·  {views}", FRAME_NUMBERS)
    return Section("test", heading, about, clips, failures, item="video")


def without_mixing(config: Preview) -> Preview:
    """The options, without mixing where samples are to be shown by themselves."""
    if config.mix and not config.per_class:
        return config
    return replace(config, augment=replace(classification_augment(config), mix_prob=0.0))


def mixing_text(augment: ClassificationAugment) -> str:
    """What mixing may do, in a few words."""
    mixed = augment.mix_prob > 0
    mixup, cutmix = (alpha if mixed else 0 for alpha in (augment.mixup_alpha, augment.cutmix_alpha))
    return f"mixup {mixup:g}, cutmix {cutmix:g}  ·  smoothing {augment.smoothing:g}"


def clip_text(data: VideoData) -> str:
    """How clips are taken, in a few words."""
    spread = "one of each segment" if data.sampling == "segments" else f"one in {data.sampling_rate:g}"
    rate = f"{data.target_fps:g} frames/s"
    return f"{data.num_frames} frames, {spread} at {rate}  ·  {data.crop_size} x {data.crop_size} pixels"


def augment_text(augment: VideoAugment) -> str:
    """What augmentation may do, in a few words."""
    if augment.crop == "resized":
        crop = f"crop of {100 * augment.scale[0]:g} to {100 * augment.scale[1]:g} % of the frame"
    else:
        crop = f"crop from a short side of {augment.jitter[0]} to {augment.jitter[1]}"
    parts = [
        crop,
        f"flip {augment.flip:g}",
        augment.randaugment or "no RandAugment",
        f"erasing {augment.erase_prob:g}",
        mixing_text(augment),
    ]
    return "  ·  ".join(parts)
