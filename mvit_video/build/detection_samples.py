"""From options to the samples of detection: data sets, how images are read, and what training views are drawn from."""

from collections.abc import Sequence
from typing import Any

from mvit_video.build.common import pair
from mvit_video.build.samples import check_kind, set_open_classes
from mvit_video.config import DetectionAugment, DetectionData, Train
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.sources import Source, Split
from mvit_video.data.detection.annotations import DetectionManifest
from mvit_video.data.detection.reading import DetectionReading
from mvit_video.data.detection.transforms import DetectionTransform, LargeScaleJitter, MultiScale
from mvit_video.data.loading.detection_dataset import DetectionTrainDataset
from mvit_video.models.detection import get_detector_config, list_detectors


def read_detection(
    config: Train, source: Source, split: Split, *, class_names: Sequence[str] | None = None
) -> DetectionManifest:
    """The images of a split with their instances; see Detection.read_split."""
    detection_data(config)
    manifest = source.manifest(split)
    check_kind(manifest, IMAGES)
    if not isinstance(manifest, DetectionManifest):
        raise ValueError(
            f"{manifest.source} has images without boxes, and the task finds objects: give data=coco or another data "
            "set of detection, or task=image_classification"
        )
    if class_names is not None:
        manifest = manifest.with_classes(tuple(class_names))
    set_open_classes(config, manifest)
    return manifest


def detection_data(config: Train) -> DetectionData:
    """The options of the group `data`.

    Raises:
        ValueError: they are those of another kind.
    """
    if not isinstance(config.data, DetectionData):
        raise ValueError("the task finds objects, and data=... is no data set of detection: give data=coco, or another")
    return config.data


def detection_augment(config: Train) -> DetectionAugment:
    """The options of the group `augment`.

    Raises:
        ValueError: they are those of another kind.
    """
    if not isinstance(config.augment, DetectionAugment):
        raise ValueError("the task finds objects, and augment=... is for naming classes: give augment=coco, or another")
    return config.augment


def build_reading(config: Train) -> DetectionReading:
    """How pixels come out of the files."""
    data = detection_data(config)
    orientation: Any = data.orientation
    return DetectionReading(orientation=orientation, max_pixels=data.max_pixels)


def build_transform(config: Train) -> DetectionTransform:
    """What training views are drawn from."""
    augment = detection_augment(config)
    if augment.view == "jitter":
        return LargeScaleJitter(
            side=config.data.crop_size, scale=pair(augment.scale), flip=augment.flip, fill=augment.fill
        )
    low, high = augment.crop_range
    return MultiScale(
        short_sides=tuple(augment.short_sides),
        long_side=augment.long_side,
        crop=augment.crop,
        crop_short_sides=tuple(augment.crop_short_sides),
        crop_range=(low, high),
        flip=augment.flip,
    )


def build_train_dataset(config: Train, manifest: DetectionManifest) -> DetectionTrainDataset:
    """Training views of a split."""
    return DetectionTrainDataset(
        manifest, transform=build_transform(config), seed=config.seed, reading=build_reading(config)
    )


def protocol(config: Train) -> dict[str, Any]:
    """What of the detector's options decides its answers, for the record."""
    names = ("short_side", "long_side", "score_threshold", "nms_threshold", "detections_per_image")
    model = config.model if isinstance(config.model, dict) else vars(config.model)
    given = {name: model[name] for name in names if model.get(name) is not None}
    if model.get("name") in list_detectors():
        preset = get_detector_config(model["name"])
        given = {name: getattr(preset, name) for name in names} | given
    return {"detector": given}
