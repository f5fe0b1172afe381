"""Fitting a state dict under our names to a model: layouts, tables of another size, image weights for video models.

Takes and gives state dicts; :mod:`mvit_video.models.weights.loading` reads files.
"""

import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor, nn

from mvit_video.models.config import Triple
from mvit_video.models.mvit.attention import resize_table
from mvit_video.models.mvit.layers import joint_positions, resize_spatial, resize_temporal
from mvit_video.models.mvit.network import MViT

ImageToVideo = Literal["published", "corrected"]

STEM = "patch_embed.proj.weight"
_POOL = re.compile(r"blocks\.\d+\.attn\.pool_[qkv]\.weight")
_TABLE = re.compile(r"blocks\.\d+\.attn\.rel_pos_[thw]")
# What video models have and image models lack, and the other way round.
_VIDEO_ONLY = re.compile(r"cls_token|pos_embed_\w+|blocks\.\d+\.attn\.rel_pos_t")
_IMAGE_ONLY = re.compile(r"cls_token|pos_embed\w*")


@dataclass
class LoadReport:
    """What happened to the tensors of a state dict.

    Every tensor of the model is in exactly one of `loaded`, `interpolated`, `inflated` and `new`.

    Attributes:
        format: who wrote the file; None where the names are the model's own and no known format's.
        loaded: tensors of the model that hold the file's numbers, bit for bit.
        converted: the file's name to ours, for tensors whose name or shape differs; their numbers do not.
        interpolated: relative tables and position embeddings resized to the model's input size.
        inflated: image weights spread over the time axis of a video model.
        left_out: tensors of the file that went nowhere.
        new: tensors of the model left as they were initialised.
        averaged: whether the weights are averaged over the steps of their training.
        notes: what else is to be known: which of two sets of weights was taken, prefixes taken off, objects of the file
            that were left unread, and where the file's model differs from this one in what no tensor holds.
    """

    format: str | None = None
    loaded: list[str] = field(default_factory=list)
    converted: dict[str, str] = field(default_factory=dict)
    interpolated: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    averaged: bool = False
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        if self.converted:
            text += f", {len(self.converted)} of them converted from {self.format}"
        for title, names in (
            ("interpolated", self.interpolated),
            ("inflated", self.inflated),
            ("left out", self.left_out),
            ("new", self.new),
        ):
            if names:
                text += f"; {title}: {_listed(names)}"
        return "; ".join([text, *self.notes])


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a load may do besides copying; see :func:`mvit_video.models.weights.loading.load_weights`."""

    new_head: bool = False
    allow: Sequence[str] = ()
    image_to_video: ImageToVideo | None = None

    def __post_init__(self) -> None:
        if self.image_to_video not in (None, *get_args(ImageToVideo)):
            raise ValueError(f"image_to_video={self.image_to_video!r} is not 'published', 'corrected' or None.")
        if isinstance(self.allow, str):
            raise ValueError(f"allow={self.allow!r} must be a list of patterns, such as ['mask_token', 'pred_head.*'].")

    def allows(self, *names: str) -> bool:
        """Whether one of the names matches a pattern that the caller allowed."""
        return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in self.allow)


def fit_state_dict(
    model: nn.Module, state: Mapping[str, Tensor], *, origin: Mapping[str, str], rules: Rules
) -> tuple[dict[str, Tensor], LoadReport]:
    """Make the tensors of a file those of a model, without touching the model.

    Args:
        model: what they must fit.
        state: the file's tensors under our names.
        origin: our name to the file's name, for messages and patterns.
        rules: what may be done besides copying.

    Returns:
        A complete state dict for the model, and what was done.

    Raises:
        ValueError: names or shapes do not fit; the message lists them.
    """
    own: dict[str, Tensor] = model.state_dict()
    _check_kinds(own, state, rules)
    report, fitted = LoadReport(), {}
    problems: list[str] = []
    surplus: list[str] = []
    for name in state:
        if name not in own:
            if _may_be_left(name, own, origin, rules):
                report.left_out.append(origin[name])
            else:
                surplus.append(origin[name])
                problems.append(f"{origin[name]}: in the file, not in the model")
    for name, target in own.items():
        source = state.get(name)
        fitted[name] = target
        if source is not None and source.is_floating_point() != target.is_floating_point():
            problems.append(f"{origin[name]}: {source.dtype} in the file, {target.dtype} in the model")
            continue
        adapted = None if source is None else _adapt(model, name, source, target, origin[name], rules, report)
        if adapted is not None:
            fitted[name] = adapted
        elif _may_be_new(name, source, origin, rules):
            report.new.append(name)
            if source is not None:
                report.left_out.append(origin[name])
        else:
            problems.append(_problem(name, source, target, origin))
    if problems:
        shown = "\n  ".join(problems[:8] + ["..."] * (len(problems) > 8))
        why = "".join(f" {reason}" for reason in _unlike(own, state)) if isinstance(model, MViT) else ""
        if surplus and len(surplus) == len(problems):
            shown += (
                f"\nIf they are no part of it, allow=[{surplus[0]!r}], a list of patterns, leaves them out (--allow in "
                "convert, whose output then fits)"
            )
        raise ValueError(f"the weights do not fit the model ({len(problems)} problems):{why}\n  {shown}")
    return fitted, report


def is_image_state(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors (under our names) are an image model's: a stem without a time axis, or with one of 1."""
    stem = state.get(STEM)
    if stem is None or stem.dim() not in (4, 5):
        return False
    timeless = not any(_TABLE.fullmatch(name) and name.endswith("_t") for name in state)
    return stem.dim() == 4 or (stem.shape[2] == 1 and timeless and "pos_embed_temporal" not in state)


def _check_kinds(own: Mapping[str, Tensor], state: Mapping[str, Tensor], rules: Rules) -> None:
    """Raise ValueError where image weights meet a video model unasked, or are asked for and do not."""
    from_image, to_video = is_image_state(state), STEM in own and not is_image_state(own)
    if from_image and to_video and rules.image_to_video is None:
        raise ValueError(
            "the file holds an image model, and this is a video model: pass image_to_video='corrected' (weights "
            "divided over time) or 'published' (repeated), with new_head=True for other classes."
        )
    if rules.image_to_video is not None and not (from_image and to_video):
        raise ValueError(
            f"image_to_video={rules.image_to_video!r} takes an image file and a video model; the file holds "
            f"{'an image' if from_image else 'a video'} model, this is {'a video' if to_video else 'an image'} model."
        )
    if STEM in own and STEM in state and not (from_image or to_video or rules.allow):
        raise ValueError(
            "the file holds a video model, and this is an image model: weights of images become those of videos, and "
            "not the other way. Start from image weights (in1k_mvitv2_s and others, which `python -m "
            "mvit_video.weights` lists, or a run on images), or train a video model on videos."
        )


def _adapt(
    model: nn.Module, name: str, source: Tensor, target: Tensor, origin: str, rules: Rules, report: LoadReport
) -> Tensor | None:
    """The file's tensor in the model's shape, noted in the report; None if there is no way."""
    if source.shape == target.shape:
        report.loaded.append(name)
        if origin != name:
            report.converted[origin] = name
        return source
    if not isinstance(model, MViT):
        return None
    reshaped = _time_axis_of_one(name, source, target)
    if reshaped is not None:
        report.loaded.append(name)
        report.converted[origin] = name
        return reshaped
    if rules.image_to_video is not None and target.dim() == 5:
        inflated = _inflate(name, source, target, rules)
        if inflated is not None:
            report.inflated.append(name)
        return inflated
    resized = _resize(model, name, source, target)
    if resized is not None:
        report.interpolated.append(name)
    return resized


def _time_axis_of_one(name: str, source: Tensor, target: Tensor) -> Tensor | None:
    """Convolution weights (a, b, h, w) and (a, b, 1, h, w) are the same weights."""
    if name != STEM and not _POOL.fullmatch(name):
        return None
    if source.dim() == 5 and target.dim() == 4 and source.squeeze(2).shape == target.shape:
        return source.squeeze(2)
    if source.dim() == 4 and target.dim() == 5 and source.unsqueeze(2).shape == target.shape:
        return source.unsqueeze(2)
    return None


def _inflate(name: str, source: Tensor, target: Tensor, rules: Rules) -> Tensor | None:
    """Image convolution weights repeated over time: (a, b, [1,] h, w) -> (a, b, T, h, w); None where they do not fit.

    "published" is PySlowFast's utils/checkpoint.py image_init: repeated as they are, so that the stem answers T times
    as strongly (the LayerNorm after a pooling hides that factor). Its code turns pooling weights without a time axis
    into a wrong shape and drops them silently; here that must be allowed by name. "corrected" divides by T: a clip of
    equal frames gets the image's response.
    """
    if name == STEM and source.dim() == 5 and source.shape[2] != 1:
        return None
    flat = source if source.dim() == 4 else source.squeeze(2)
    if flat.dim() != 4 or flat.shape != target.shape[:2] + target.shape[3:]:
        return None
    if rules.image_to_video == "published" and _POOL.fullmatch(name) and source.dim() == 4:
        return None
    frames = target.shape[2]
    repeated = flat.unsqueeze(2).repeat(1, 1, frames, 1, 1)
    return repeated if rules.image_to_video == "published" else repeated / frames


def _resize(model: MViT, name: str, source: Tensor, target: Tensor) -> Tensor | None:
    """A table for another input size, in float32: relative and temporal ones linear, spatial ones bicubic.

    The rules of PySlowFast's utils/checkpoint.py, which leaves joint embeddings alone: these go as the model resizes
    them at run time, if their grid can be told from their length. None where the shapes do not allow it.
    """
    if source.dim() != target.dim() or source.shape[-1] != target.shape[-1]:
        return None
    table = source.float()
    if _TABLE.fullmatch(name):
        return resize_table(table, target.shape[0]).to(source.dtype)
    _, height, width = model.config.table_grid
    if name == "pos_embed_temporal":
        return resize_temporal(table, target.shape[1]).to(source.dtype)
    if name == "pos_embed_spatial":
        side = math.isqrt(source.shape[1])
        square = side * side == source.shape[1]
        return resize_spatial(table, (side, side), (height, width)).to(source.dtype) if square else None
    if name == "pos_embed":
        return _resize_joint(model, table, source)
    return None


def _resize_joint(model: MViT, table: Tensor, source: Tensor) -> Tensor | None:
    """(1, cls + T*H*W, C) resized, taking T to be the model's and H and W equal."""
    grid = model.config.table_grid
    positions, rest = divmod(source.shape[1] - model.cls, grid[0])
    side = math.isqrt(max(positions, 0))
    if rest or side < 1 or side * side != positions:
        return None
    nominal: Triple = (grid[0], side, side)
    parts = [table[:, : model.cls], joint_positions(table[:, model.cls :], nominal, grid)]
    resized = parts[1].new_empty(1, model.cls + parts[1].shape[1], table.shape[-1])
    resized[:, : model.cls], resized[:, model.cls :] = parts
    return resized.to(source.dtype)


def _may_be_left(name: str, own: Mapping[str, Tensor], origin: Mapping[str, str], rules: Rules) -> bool:
    """Whether a tensor of the file may go nowhere: allowed, a head for a model without one, an image's positions."""
    if rules.allows(name, origin[name]):
        return True
    if _is_head(name):
        return rules.new_head or not any(_is_head(known) for known in own)
    return rules.image_to_video is not None and bool(_IMAGE_ONLY.fullmatch(name))


def _may_be_new(name: str, source: Tensor | None, origin: Mapping[str, str], rules: Rules) -> bool:
    """Whether a tensor of the model may stay as it was initialised."""
    if rules.allows(name, origin.get(name, name)) or (rules.new_head and _is_head(name)):
        return True
    return rules.image_to_video is not None and source is None and bool(_VIDEO_ONLY.fullmatch(name))


def _is_head(name: str) -> bool:
    return name.startswith("head.")


def _unlike(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """In which way the file's model is another one, in words, with the way out."""
    ours, theirs = _shape_of(own), _shape_of(state)
    reasons = []
    if theirs["depth"] != ours["depth"] or theirs["width"] != ours["width"]:
        reasons.append(
            f"the file's model has {theirs['depth']} blocks from {theirs['width']} channels on, this one "
            f"{ours['depth']} from {ours['width']}: take weights of the same size."
        )
    if {theirs["widens"], ours["widens"]} == {"attention", "mlp"}:
        reasons.append(
            f"the file's model widens in the {theirs['widens']} (MViTv1, the published ImageNet-1k file of L and "
            f"MaskFeat's widen in the mlp, other MViTv2 in the attention), this one in the {ours['widens']}: build it "
            f"with expand_in='{theirs['widens']}' (model.expand_in={theirs['widens']} in a command)."
        )
    if "cls_token" in state and "cls_token" not in own:
        reasons.append(
            "the file's model has a class token, as those of ImageNet-21k have, this one has none: build it with "
            "cls_token=True, head_pooling='cls' (an image model of the name ..._cls)."
        )
    return reasons


def _shape_of(state: Mapping[str, Tensor]) -> dict[str, object]:
    """Number of blocks, width of the stem, and whether "attention" or "mlp" widens; None for what is not to be seen."""
    blocks = [int(name.split(".")[1]) for name in state if name.startswith("blocks.") and name.split(".")[1].isdigit()]
    widens = None
    for index in range(1 + max(blocks, default=-1)):
        qkv, out = (state.get(f"blocks.{index}.{layer}.weight") for layer in ("attn.qkv", "mlp.fc2"))
        if qkv is None or out is None or qkv.dim() != 2:
            continue
        if qkv.shape[0] // 3 != qkv.shape[1]:
            widens = "attention"
        elif out.shape[0] != qkv.shape[0] // 3:
            widens = "mlp"
    stem = state.get(STEM)
    return {"depth": 1 + max(blocks, default=-1), "width": None if stem is None else stem.shape[0], "widens": widens}


def _problem(name: str, source: Tensor | None, target: Tensor, origin: Mapping[str, str]) -> str:
    if source is None:
        text = f"{name}: in the model, not in the file"
        return f"{text}; pass new_head=True to begin with a new class head" if _is_head(name) else text
    text = f"{origin[name]}: {tuple(source.shape)} in the file, {tuple(target.shape)} in the model"
    if _is_head(name):
        text += (
            f": weights for {len(source)} classes, a model for {len(target)}. Build it with num_classes={len(source)} "
            f"(data.num_classes={len(source)} in a command) to use them as they are, or pass new_head=True "
            "(weights=PATH in a training) to start from them with a new class head"
        )
    elif _POOL.fullmatch(name) and source.dim() == 4 and target.dim() == 5:
        text += (
            ": the published rule loses pooling weights without a time axis; use image_to_video='corrected', or "
            "allow=['blocks.*.attn.pool_*'] to do as published and leave them at random"
        )
    return text


def _listed(names: Sequence[str], shown: int = 4) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
