"""The model that a file of weights describes: a classifier, or a detector where the file holds one."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mvit_video.models.mvit.network import MViT
from mvit_video.models.weights.loading import Source, load_checkpoint_model, read_source

if TYPE_CHECKING:
    from mvit_video.models.detection.detector import Detector


def from_checkpoint(
    source: Source,
    *,
    allow: Sequence[str] = (),
    use_ema: bool = True,
    allow_nonfinite: bool = False,
    backbone: Mapping[str, object] | None = None,
    **overrides: object,
) -> "MViT | Detector":
    """The model that a file or a state dict describes, with its weights.

    A file with the heads of a Mask R-CNN or Cascade Mask R-CNN (detectron2's .pkl files, and ours) gives a
    :class:`mvit_video.models.detection.Detector`: :func:`mvit_video.models.detection.loading.load_detector` says how.
    Every other file gives an MViT: see :func:`mvit_video.models.weights.loading.from_checkpoint`.

    Args:
        source, allow, use_ema, allow_nonfinite: as in :func:`mvit_video.models.weights.loading.load_weights`.
        backbone: of a detector, fields of MViTConfig to replace, such as `{"windows": "all"}`.
        **overrides: fields of MViTConfig, of a detector those of DetectorConfig.

    Raises:
        ValueError: nobody known wrote it, the tensors are no complete model or hold NaN or infinity, or no such field.
        CheckpointError: the file cannot be read, or names a function that runs code.
    """
    file = read_source(source, use_ema=use_ema, allow_nonfinite=allow_nonfinite)
    if any(".rpn_head." in name or ".fpn_" in name for name in file.tensors):
        # Imported where it is used: classifiers need no torchvision.
        from mvit_video.models.detection.loading import load_detector
        from mvit_video.models.detection.weights import holds_detector

        if holds_detector(file.tensors):
            return load_detector(file, allow=allow, backbone=backbone, overrides=overrides)[0]
    if backbone is not None:
        raise ValueError(f"backbone={dict(backbone)!r} is for detectors; the file holds none: pass fields as they are.")
    return load_checkpoint_model(
        file, allow=allow, use_ema=use_ema, allow_nonfinite=allow_nonfinite, overrides=overrides
    )[0]
