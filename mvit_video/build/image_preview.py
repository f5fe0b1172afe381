"""What a preview shows of images: training images and test views, by the builders of trainings and evaluations."""

import logging
from typing import Any

from mvit_video.build.clip_preview import mixing_text, training_section, without_mixing
from mvit_video.build.images import build_image_eval_dataset, build_image_loader, image_augment, image_data
from mvit_video.build.samples import build_normalization, read_manifest
from mvit_video.config import ImageAugment, Preview
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Source
from mvit_video.engine.preview import Section
from mvit_video.tasks.clip_preview import evaluation_images

logger = logging.getLogger(__name__)


def image_sections(config: Preview, source: Source) -> list[Section]:
    """Training images and test views, as many as asked for.

    Raises:
        ValueError: a split is not configured, or its files are not as they should be.
        ImageDecodeError: a training image and all its replacements are unreadable.
    """
    sections = []
    if config.clips:
        sections.append(_training(config, read_manifest(config, source, "train", kind=IMAGES)))
    if config.videos:
        split: Any = config.split
        sections.append(_test(config, read_manifest(config, source, split, kind=IMAGES)))
    return sections


def _training(config: Preview, manifest: Manifest) -> Section:
    config = without_mixing(config)
    about = (_size_text(config), image_augment_text(image_augment(config)))
    return training_section(config, manifest, build_image_loader, sample="image", about=about, frames_of=None)


def _test(config: Preview, manifest: Manifest) -> Section:
    count = min(config.videos, len(manifest))
    shown = "1 image" if count == 1 else f"{count} images"
    logger.info("reading the test views of %s", shown)
    dataset = build_image_eval_dataset(config, manifest)
    items, failures = evaluation_images(dataset, normalization=build_normalization(config.data), count=config.videos)
    ratio = image_data(config).crop_ratio
    cut = f"centre crop of ratio {ratio:g}" if ratio else "squashed to the square"
    heading = f"{config.name}: test views of {shown} of the {config.split} split"
    about = (f"images of {manifest.source}", f"{_size_text(config)}  ·  {cut}")
    return Section("test", heading, about, items, failures, item="image")


def _size_text(config: Preview) -> str:
    data = image_data(config)
    return f"{data.crop_size} x {data.crop_size} pixels, {data.interpolation}"


def image_augment_text(augment: ImageAugment) -> str:
    """What augmentation may do, in a few words."""
    parts = [
        f"crop of {100 * augment.scale[0]:g} to {100 * augment.scale[1]:g} % of the image",
        f"flip {augment.flip:g}",
        augment.randaugment or "no RandAugment",
        *([f"colour jitter {augment.color_jitter:g}"] if augment.color_jitter else []),
        f"erasing {augment.erase_prob:g}",
        mixing_text(augment),
    ]
    return "  ·  ".join(parts)
