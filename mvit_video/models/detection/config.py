"""The configuration of a detector, and the published ones by name."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from mvit_video.models.config import MViTConfig
from mvit_video.models.mvit.presets import get_config

DetectorKind = Literal["mask_rcnn", "cascade_mask_rcnn"]

_COUNTS = (
    "num_classes",
    "channels",
    "hidden",
    "short_side",
    "long_side",
    "canonical_side",
    "detections_per_image",
    "proposals",
    "proposals_per_level_train",
    "proposals_per_level_test",
    "anchors_sampled",
    "rois_sampled",
)
_SHARES = ("score_threshold", "nms_threshold")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Everything that defines a detector. The defaults are the published values (detectron2 configs/common/models).

    Raises:
        ValueError: a value is impossible; the message holds the value, the rule and the way out.
    """

    backbone: MViTConfig
    """An image model with `stage_norms=True` and four stages."""
    kind: DetectorKind = "mask_rcnn"
    """"mask_rcnn": one stage of boxes, two linear layers, class-specific boxes. "cascade_mask_rcnn": three stages, each
    of four convolutions with batch norm and a linear layer, boxes for all classes, and two convolutions for proposals.
    """
    num_classes: int = 80
    """Without background, which is the last row of the classifiers."""
    channels: int = 256
    """Channels of the feature pyramid and of all convolutions behind it."""
    hidden: int = 1024
    """Width of the linear layers of the box heads."""
    anchor_sides: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Square root of the area of the anchors of p2 to p6, in pixels."""
    canonical_side: int = 224
    """Boxes of this side (square root of the area) are pooled from p4; half of it from p3, and so on."""
    proposals_per_level_train: int = 2000
    proposals_per_level_test: int = 1000
    proposals: int = 1000
    """Proposals of an image after non-maximum suppression, in training and test."""
    anchors_sampled: int = 256
    """Anchors of an image in the loss of the proposals."""
    rois_sampled: int = 512
    """Boxes of an image in the losses of the box heads."""
    short_side: int = 800
    """Images are resized in detection to this short side, unless the long side would exceed `long_side`."""
    long_side: int = 1333
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections_per_image: int = 100

    def __post_init__(self) -> None:
        if self.kind not in get_args(DetectorKind):
            raise ValueError(f"kind={self.kind!r} is not one of {', '.join(map(repr, get_args(DetectorKind)))}.")
        for name in _COUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1.")
        for name in _SHARES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f"{name}={value!r} must lie in [0, 1].")
        object.__setattr__(self, "anchor_sides", tuple(float(side) for side in self.anchor_sides))
        if len(self.anchor_sides) != 5 or min(self.anchor_sides) <= 0:
            raise ValueError(f"anchor_sides={self.anchor_sides} must be five positive numbers, for p2 to p6.")
        backbone = self.backbone
        if not (backbone.is_image and backbone.stage_norms and len(backbone.stage_starts) == 3):
            raise ValueError(
                f"a backbone with num_frames={backbone.num_frames}, stage_norms={backbone.stage_norms} and "
                f"{len(backbone.stage_starts) + 1} stages: a detector takes an image model (num_frames=1) with "
                "stage_norms=True and four stages."
            )
        if backbone.patch_stride[1:] != (4, 4):
            raise ValueError(f"patch_stride={backbone.patch_stride} of a detector's backbone must be (1, 4, 4).")

    @property
    def is_cascade(self) -> bool:
        return self.kind == "cascade_mask_rcnn"


def detection_backbone(size: Literal["t", "s", "b", "l", "h"], **changes: object) -> MViTConfig:
    """The backbone of a published detector, with hybrid windows (detectron2 projects/MViTv2/configs).

    Sizes are those of classification, but that L widens in the attention, too.
    """
    published: dict[str, dict[str, object]] = {
        "t": {"drop_path": 0.2},
        "s": {"drop_path": 0.2},
        "b": {"drop_path": 0.4},
        "l": {"drop_path": 0.5, "expand_in": "attention"},
        "h": {"drop_path": 0.6, "activation_checkpointing": True},
    }
    fields = {"windows": "hybrid", "stage_norms": True, "num_classes": 0, "init": "zero_tables"}
    return get_config(f"mvitv2_{size}_image", **{**published[size], **fields, **changes})


def scenes_detector() -> DetectorConfig:
    """A Mask R-CNN of 1.9 M parameters that learns the embedded set of scenes in minutes on a CPU. All values are ours.

    Its windows are as large as a grid of 64 pixels, so that images of 128 have four in the first stage.
    """
    backbone = get_config(
        "mvitv2_s_image",
        depth=6,
        embed_dim=32,
        stage_starts=(1, 2, 5),
        num_classes=0,
        crop_size=64,
        drop_path=0.0,
        windows="hybrid",
        stage_norms=True,
        init="fan_in",
    )
    return DetectorConfig(
        backbone=backbone,
        num_classes=5,
        channels=48,
        hidden=128,
        anchor_sides=(16.0, 28.0, 44.0, 72.0, 112.0),
        canonical_side=56,
        proposals_per_level_train=200,
        proposals_per_level_test=100,
        proposals=100,
        anchors_sampled=128,
        rois_sampled=48,
        short_side=96,
        long_side=128,
    )


def _presets() -> dict[str, Callable[[], DetectorConfig]]:
    def preset(kind: DetectorKind, size: Literal["t", "s", "b", "l", "h"]) -> Callable[[], DetectorConfig]:
        return lambda: DetectorConfig(backbone=detection_backbone(size), kind=kind)

    sizes: tuple[Literal["t", "s", "b", "l", "h"], ...] = ("t", "s", "b", "l", "h")
    published = {f"{kind}_mvitv2_{size}": preset(kind, size) for kind in get_args(DetectorKind) for size in sizes}
    return {**published, "mask_rcnn_mvitv2_scenes": scenes_detector}


DETECTORS = _presets()


def list_detectors() -> list[str]:
    """Names that :func:`get_detector_config` takes: [cascade_]mask_rcnn_mvitv2_{t,s,b,l,h}, mask_rcnn_mvitv2_scenes."""
    return list(DETECTORS)


def get_detector_config(
    name: str, *, backbone: Mapping[str, object] | None = None, **overrides: object
) -> DetectorConfig:
    """The configuration of a published detector with some fields replaced.

    Args:
        name: one of :func:`list_detectors`.
        backbone: fields of MViTConfig to replace in the backbone, such as `{"windows": "all", "drop_path": 0.1}`.
        **overrides: fields of DetectorConfig.

    Raises:
        ValueError: no such detector, no such field, or an impossible value.
    """
    if name not in DETECTORS:
        close = difflib.get_close_matches(name, DETECTORS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"unknown detector {name!r}{hint}; known: {', '.join(DETECTORS)}.")
    config = DETECTORS[name]()
    return replace_fields(config, backbone=backbone or {}, overrides=overrides)


def replace_fields(
    config: DetectorConfig, *, backbone: Mapping[str, object], overrides: Mapping[str, object]
) -> DetectorConfig:
    """A configuration with fields of the backbone and of the detector replaced.

    Raises:
        ValueError: no such field, or an impossible value.
    """
    for kind, changes in ((MViTConfig, backbone), (DetectorConfig, overrides)):
        known = [field.name for field in dataclasses.fields(kind)]
        for key in changes:
            if key not in known:
                raise ValueError(f"unknown field {key!r} of {kind.__name__}; known: {', '.join(known)}.")
    changed = dataclasses.replace(config.backbone, **backbone)  # type: ignore[arg-type]
    return dataclasses.replace(config, **{"backbone": changed, **overrides})  # type: ignore[arg-type]
