"""Options of detection: the data set, the augmentation and the detector."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, SI

from mvit_video.config.augment import Augment
from mvit_video.config.data import Data
from mvit_video.config.rules import option


@dataclass
class DetectionData(Data):
    """Images with boxes and masks, and how they are read. The detector resizes and normalises them itself."""

    crop_size: int = option(
        1024,
        at_least=1,
        help="height and width in pixels that training images are cut or padded to (augment.view=jitter)",
    )
    orientation: str = option(
        "apply", choices=("apply", "ignore"), help="what is done about the EXIF orientation of photographs"
    )
    max_pixels: int = option(
        178_956_970, at_least=1, help="height * width above which a file counts as broken, undecoded"
    )

    def problems(self) -> Iterator[str]:
        """Rules between two values."""
        yield from super().problems()
        if self.sampling_weights != "natural":
            yield (
                f"data.sampling_weights={self.sampling_weights}: weighs classes, of which an image of detection has "
                "several; leave it at natural"
            )


@dataclass
class DetectionAugment(Augment):
    """Training views of images with boxes and masks."""

    view: str = option(
        "multi_scale",
        choices=("multi_scale", "jitter"),
        help="multi_scale: perhaps a crop, then one of several short sides; jitter: large-scale jitter, then a crop or "
        "padding to data.crop_size",
    )
    short_sides: list[int] = option(
        [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
        above=0,
        help="multi_scale: one of these short sides is drawn, pixels",
    )
    long_side: int = option(1333, at_least=1, help="multi_scale: limit of the long side")
    crop: float = option(0.5, at_least=0, at_most=1, help="multi_scale: chance of a crop before that")
    crop_short_sides: list[int] = option(
        [400, 500, 600], above=0, help="multi_scale: short side that the image has when it is cropped; one is drawn"
    )
    crop_range: list[int] = option(
        [384, 600], length=2, above=0, ascending=True, help="multi_scale: height and width of the crop, each drawn"
    )
    scale: list[float] = option(
        [0.1, 2.0], length=2, above=0, ascending=True, help="jitter: the image is scaled to fit in this times crop_size"
    )
    fill: int = option(128, at_least=0, at_most=255, help="jitter: grey of the padding")


@dataclass
class DetectorBackbone:
    """The MViT of a detector. A field left at null keeps the preset's own value."""

    windows: str | None = option(
        None,
        choices=("hybrid", "all", "none"),
        help="where attention is in windows: all blocks but the last one of later stages, all, or none",
    )
    rel_pos: str | None = option(None, choices=("none", "spatial"), help="axes that have relative positions")
    drop_path: float | None = option(
        None, at_least=0, below=1, help="stochastic depth: rate of the last block; earlier ones less in proportion"
    )
    init: str | None = option(
        None, choices=("pyslowfast", "zero_bias", "zero_tables", "fan_in"), help="how weights are drawn before training"
    )
    activation_checkpointing: Any = option(
        None,
        neutral=True,
        help="blocks recomputed in the backward pass: false, true, the first n, or a list of indices",
    )


@dataclass
class Detector:
    """A preset of the detectors. A field left at null keeps the preset's own value."""

    _target_: str = "mvit_video.models.detection.create_detector"
    name: str = option(MISSING, help="the preset, as `mvit_video.models.detection.list_detectors()` lists them")
    num_classes: int | None = option(SI("${data.num_classes}"), at_least=1, help="classes, without background")
    backbone: DetectorBackbone = field(default_factory=DetectorBackbone)
    short_side: int | None = option(
        None, at_least=1, help="images are resized in detection to this short side, unless the long one is too long"
    )
    long_side: int | None = option(None, at_least=1, help="limit of the long side in detection")
    score_threshold: float | None = option(
        None, at_least=0, at_most=1, neutral=True, help="detections of a lower score are left out"
    )
    nms_threshold: float | None = option(
        None,
        at_least=0,
        at_most=1,
        neutral=True,
        help="overlap from which the worse of two boxes of a class is left out",
    )
    detections_per_image: int | None = option(None, at_least=1, neutral=True, help="most detections of an image")


@dataclass
class Detection:
    """Finding objects: Mask R-CNN's losses, COCO's average precision of boxes and masks."""

    _target_: str = "mvit_video.build.detection.Detection"
    pictures: int = option(
        6,
        at_least=0,
        neutral=True,
        help="evaluation: so many of the best, the worst and random images are drawn, with what was found and missed",
    )


@dataclass
class ScenesSource:
    """The embedded set of detection: scenes of figures that hide parts of each other, generated on first use."""

    _target_: str = "mvit_video.data.detection.scenes_source.ScenesSource"
    root: str = option("data/scenes", help="folder it is written to")
    train_images: int = option(1200, at_least=1, help="training images")
    test_images: int = option(200, at_least=1, help="test images")
    seed: int = option(0, at_least=0, help="another seed draws other pictures")
