"""From options to the samples of images: how they are read, cut and augmented; data sets, loaders, the test view."""

from typing import Any

from mvit_video.build.common import pair
from mvit_video.build.samples import build_loader, build_loading, build_normalization, classification_augment
from mvit_video.config import ImageAugment, ImageData, Train
from mvit_video.data.augmentation.image_views import ImageTransform, Resampling, fill_colour
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.image_dataset import ImageEvalDataset, ImageReading, ImageTrainDataset
from mvit_video.data.loading.loader import TrainLoader
from mvit_video.distributed.process_group import World
from mvit_video.metrics import BoolArray
from mvit_video.tasks.image_classification import ImageEvaluation


def image_data(config: Train) -> ImageData:
    """The options of the group `data`.

    Raises:
        ValueError: they are those of videos, or the model is for clips.
    """
    if not isinstance(config.data, ImageData):
        raise ValueError("the task is for images, and data=... is a data set of videos: give one of images")
    frames = getattr(config.model, "num_frames", 1)
    if frames != 1:
        raise ValueError(
            f"model.num_frames={frames}: an image has one frame; leave the option out. A video model starts from the "
            "trained image model with weights=runs/NAME, in a training on videos"
        )
    return config.data


def image_augment(config: Train) -> ImageAugment:
    """The options of the group `augment`.

    Raises:
        ValueError: they are those of videos.
    """
    if not isinstance(config.augment, ImageAugment):
        raise ValueError("the task is for images, and augment=... is for videos: give augment=imagenet, or another one")
    return config.augment


def build_resampling(config: Train) -> Resampling:
    """How pixels are made of pixels."""
    data = image_data(config)
    interpolation: Any = data.interpolation
    return Resampling(interpolation=interpolation, exact=data.exact, fill=fill_colour(data.mean))


def build_reading(config: Train) -> ImageReading:
    """How pixels come out of the files."""
    data = image_data(config)
    orientation: Any = data.orientation
    return ImageReading(orientation=orientation, min_side=data.decode_min_side, max_pixels=data.max_pixels)


def build_image_loader(config: Train, manifest: Manifest, world: World) -> TrainLoader:
    """Endless training batches of this rank."""
    augment, device = image_augment(config), _device(config)
    transform = ImageTransform(
        crop_size=config.data.crop_size,
        scale=pair(augment.scale),
        ratio=pair(augment.ratio),
        flip=augment.flip,
        randaugment=augment.randaugment,
        color_jitter=augment.color_jitter,
        erase_prob=augment.erase_prob,
        resampling=build_resampling(config),
    )
    dataset = ImageTrainDataset(
        manifest,
        transform=transform,
        repeats=augment.repeats,
        seed=config.seed,
        reading=build_reading(config),
        device=device,
    )
    return build_loader(config, dataset, world)


def build_image_eval_dataset(config: Train, manifest: Manifest) -> ImageEvalDataset:
    """The test view of every image of a split."""
    data = image_data(config)
    return ImageEvalDataset(
        manifest,
        crop_size=data.crop_size,
        crop_ratio=data.crop_ratio,
        resampling=build_resampling(config),
        reading=build_reading(config),
        device=_device(config),
    )


def build_image_evaluation(
    config: Train, manifest: Manifest, world: World, *, allowed: BoolArray | None = None
) -> ImageEvaluation:
    """The images of a split, scored once each; with `allowed`, bool (classes,), these classes alone may be named."""
    return ImageEvaluation(
        build_image_eval_dataset(config, manifest),
        normalization=build_normalization(config.data),
        images_per_batch=config.trainer.eval_batch_size,
        loading=build_loading(config, world),
        allowed=allowed,
    )


def _device(config: Train) -> Any:
    return classification_augment(config).device
