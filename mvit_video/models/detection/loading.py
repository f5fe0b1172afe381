"""The detector that a file describes, and what a file of a detector holds."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from torch import Tensor

from mvit_video.models.config import MViTConfig
from mvit_video.models.detection.config import (
    DetectorConfig,
    DetectorKind,
    detection_backbone,
    get_detector_config,
    replace_fields,
)
from mvit_video.models.detection.detector import Detector
from mvit_video.models.detection.weights import BODY, CASCADE, PLAIN, is_detector
from mvit_video.models.weights.conversion import LoadReport, Rules
from mvit_video.models.weights.files import WeightsFile, without_wrapper
from mvit_video.models.weights.infer import infer_config, sections_of

_LATERAL = "backbone.fpn_lateral2.weight"


def load_detector(
    file: WeightsFile,
    *,
    allow: Sequence[str] = (),
    backbone: Mapping[str, object] | None = None,
    overrides: Mapping[str, object],
) -> tuple[Detector, LoadReport]:
    """The detector that a file describes, with its weights.

    Sizes, classes, Mask R-CNN or cascade, and widths are read off the tensors. Windows, sizes of images, anchors and
    thresholds are not in them: they come from the arguments, else from the configuration stored in a file of this
    project, else they are as published.

    Args:
        file: read; :func:`mvit_video.models.detection.weights.holds_detector` says that it holds one.
        allow: patterns of names that need not fit.
        backbone: fields of MViTConfig to replace.
        overrides: fields of DetectorConfig to replace. Another num_classes gives new predictors.

    Raises:
        ValueError: the tensors are no complete detector, or no such field.
    """
    state, removed = without_wrapper(file.tensors, is_detector)
    if removed:
        file.notes.append(f"the names without {''.join(removed)!r} in front")
    file = dataclasses.replace(file, tensors=state)
    config = replace_fields(describe(file), backbone=backbone or {}, overrides=overrides)
    detector = Detector(config)
    return detector, detector.take_weights(file, Rules(new_head="num_classes" in overrides, allow=allow))


def describe(file: WeightsFile) -> DetectorConfig:
    """The configuration that a detector with these tensors has.

    Raises:
        ValueError: they are no complete detector.
    """
    state = file.tensors
    stored = _stored_config(file)
    for name in (_LATERAL, "roi_heads.mask_head.predictor.weight", "proposal_generator.rpn_head.anchor_deltas.weight"):
        if name not in state:
            raise ValueError(f"no complete detector: {name} is missing; it needs a whole state dict.")
    kind: DetectorKind = "cascade_mask_rcnn" if CASCADE in state else "mask_rcnn"
    seen: dict[str, object] = {
        "backbone": _describe_backbone(state, stored),
        "kind": kind,
        "num_classes": state["roi_heads.mask_head.predictor.weight"].shape[0],
        "channels": state[_LATERAL].shape[0],
        "hidden": state[CASCADE if kind == "cascade_mask_rcnn" else PLAIN].shape[0],
    }
    if stored is not None:
        return dataclasses.replace(stored, **seen)  # type: ignore[arg-type]
    return DetectorConfig(**seen)  # type: ignore[arg-type]


def _describe_backbone(state: Mapping[str, Tensor], stored: DetectorConfig | None) -> MViTConfig:
    """The backbone, with the windows and rates that are stored or published."""
    body = {name.removeprefix(BODY): tensor for name, tensor in state.items() if name.startswith(BODY)}
    shown = {name: tensor for name, tensor in body.items() if not name.startswith("scale")}
    known = {} if stored is None else dataclasses.asdict(stored.backbone)
    windows = known.get("windows", "hybrid")
    known["stage_norms"] = False  # set below: what is inferred is compared with classifiers
    config = infer_config(shown, stored=known, overrides={"num_classes": 0, "windows": windows})
    config = dataclasses.replace(config, stage_norms=True, init=known.get("init", "zero_tables"))
    for size in ("t", "s", "b", "l", "h") if stored is None else ():
        published = detection_backbone(size)
        rates = {name: getattr(published, name) for name in ("drop_path", "dropout", "activation_checkpointing")}
        if dataclasses.replace(config, **rates) == published:
            return published
    return config


def _stored_config(file: WeightsFile) -> DetectorConfig | None:
    """The configuration that this project stored beside the tensors, of a detector; None without one."""
    if file.config is None or file.config.kind != "mvit_video":
        return None
    model = sections_of(file.config).get("model")
    if not isinstance(model, Mapping):
        return None
    given = {str(key): value for key, value in model.items() if value is not None and key not in ("_target_", "name")}
    target = str(model.get("_target_"))
    if target.endswith(".create_detector"):
        backbone = given.pop("backbone", None)
        chosen = {key: value for key, value in dict(backbone or {}).items() if value is not None}
        return get_detector_config(str(model.get("name")), backbone=chosen, **given)
    if target.endswith(".DetectorConfig"):
        body = MViTConfig(**given.pop("backbone"))
        return DetectorConfig(backbone=body, **given)
    raise ValueError(f"the file's configuration is of {target}, the tensors are a detector's: pass them alone.")


def detector_content(detector: Detector) -> dict[str, object]:
    """What a file of a detector holds, for torch.save: the state dict under "model", and the configuration."""
    fields = {"_target_": "mvit_video.models.detection.DetectorConfig", **dataclasses.asdict(detector.config)}
    return {"model": detector.state_dict(), "config": json.dumps({"model": fields})}
