"""Made-up weights under the published names: the layout of the published files, with the small models of small.py.

None of these files has a published hash, so a made-up one passes for it; its own hash is recorded at its first use, as
after a download. Names whose hash is published cannot be made, and no page uses one.
"""

import dataclasses
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from mvit_video.models.detection.config import get_detector_config
from mvit_video.models.detection.detector import Detector
from mvit_video.models.mvit.network import MViT
from mvit_video.models.mvit.presets import get_config
from mvit_video.models.weights.loading import checkpoint_content
from mvit_video.models.weights.zoo import Entry, zoo
from pages import small
from pages.commands import Command


def published_names(commands: Iterable[Command]) -> list[str]:
    """The published weights that commands name."""
    words = {word for one in commands for word in re.findall(r"[\w.]+", one.text)}
    return sorted(words & zoo().keys())


def write_weights(cache: Path, stage: Path, names: Iterable[str]) -> None:
    """The files of `names` in torch.hub's folder of `cache`, and those that pages take from the stage itself."""
    folder = cache / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    for name in names:
        entry = zoo()[name]
        if entry.sha256 is not None:
            raise ValueError(
                f"{name}: the hash of its file is published, so that none can be made up; use another name"
            )
        _write(folder / entry.file, entry)
    for name in ("k400_mvitv2_s.pyth", "s.pyth"):
        _write(stage / name, zoo()["k400_mvitv2_s"])
    maskfeat = MViT(small.small_config(get_config("mvitv2_s_16x4", expand_in="mlp", head_pooling="mean_norm")))
    state: dict[str, Any] = dict(checkpoint_content(maskfeat, "pyslowfast")["model_state"])  # type: ignore[call-overload]
    torch.save({"model_state": state}, stage / "maskfeat.pth")
    width = maskfeat.config.embed_dim
    pretraining = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    pretraining |= {"mask_token": torch.zeros(1, 1, width), "pred_head.transforms.0.weight": torch.zeros(width, width)}
    torch.save({"model_state": pretraining}, stage / "k400_MVIT_S_MaskFeat_PT_epoch_00300.pyth")


def _write(path: Path, entry: Entry) -> None:
    if entry.task == "detection":
        config = get_detector_config(entry.name.removeprefix("coco_"))
        backbone = small.small_config(config.backbone)
        detector = Detector(small.small_detector(dataclasses.replace(config, backbone=backbone)))
        tensors = {name: tensor.numpy() for name, tensor in detector.state_dict().items()}
        path.write_bytes(pickle.dumps({"model": tensors, "__author__": "made up"}))
        return
    if entry.model is None:
        raise ValueError(f"{entry.name}: which model it is of is not known")
    model = MViT(small.small_config(get_config(entry.model)))
    torch.save({**checkpoint_content(model, "pyslowfast"), "epoch": 1}, path)
