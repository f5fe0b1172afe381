"""The names and shapes that other projects give the tensors of an MViT, and ours: from theirs, and back.

Our names are PySlowFast's, which facebookresearch/mvit shares. Rows of fused projections and of relative tables have
the same order everywhere, so a conversion renames, reshapes and (PyTorchVideo's projections) joins, and never computes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from mvit_video.models.config import MViTConfig
from mvit_video.models.mvit.network import MViT

SourceFormat = Literal["pyslowfast", "torchvision", "pytorchvideo", "timm", "mmaction2", "detectron2"]
TargetFormat = Literal["pyslowfast", "torchvision", "pytorchvideo", "timm", "mvit_video"]

KNOWN_FORMATS = (
    "PySlowFast and facebookresearch/mvit (patch_embed.proj.weight), torchvision (conv_proj.weight), "
    "PyTorchVideo (patch_embed.patch_model.weight), timm (stages.0.blocks.0.attn.qkv.weight), "
    "MMAction2 (backbone.patch_embed.projection.weight) and detectron2 (backbone.bottom_up.patch_embed.proj.weight)"
)

# PySlowFast's name, torchvision's name; \d+ and the like as in regular expressions, without groups of their own.
_TORCHVISION = (
    (r"(^)cls_token$", "pos_encoding.class_token"),
    (r"(^)pos_embed_spatial$", "pos_encoding.spatial_pos"),
    (r"(^)pos_embed_temporal$", "pos_encoding.temporal_pos"),
    (r"(^)pos_embed_class$", "pos_encoding.class_pos"),
    (r"(^)patch_embed\.proj(?=\.)", "conv_proj"),
    (r"(^)head\.projection(?=\.)", "head.1"),
    (r"(^blocks\.\d+\.attn\.)proj(?=\.)", "project.0"),
    (r"(^blocks\.\d+\.)proj(?=\.)", "project"),
    (r"(^blocks\.\d+\.mlp\.)fc1(?=\.)", "0"),
    (r"(^blocks\.\d+\.mlp\.)fc2(?=\.)", "3"),
    *((rf"(^blocks\.\d+\.attn\.)pool_{x}(?=\.weight$)", f"pool_{x}.pool") for x in "qkv"),
    *((rf"(^blocks\.\d+\.attn\.)norm_{x}(?=\.)", f"pool_{x}.norm_act.0") for x in "qkv"),
)
_FROM_TORCHVISION = (
    (r"^pos_encoding\.class_token$", "cls_token"),
    (r"^pos_encoding\.(spatial|temporal)_pos$", r"pos_embed_\1"),
    (r"^pos_encoding\.class_pos$", "pos_embed_class"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^head\.1\.", "head.projection."),
    (r"^(blocks\.\d+\.attn\.)project\.0\.", r"\1proj."),
    (r"^(blocks\.\d+\.)project\.", r"\1proj."),
    (r"^(blocks\.\d+\.mlp\.)0\.", r"\1fc1."),
    (r"^(blocks\.\d+\.mlp\.)3\.", r"\1fc2."),
    (r"^(blocks\.\d+\.attn\.)pool_([qkv])\.pool\.weight$", r"\1pool_\2.weight"),
    (r"^(blocks\.\d+\.attn\.)pool_([qkv])\.norm_act\.0\.", r"\1norm_\2."),
)
_STORED_FLAT = ("cls_token", "pos_embed_spatial", "pos_embed_temporal", "pos_embed_class")
"""Tensors that torchvision stores without the leading axes of size 1."""

# PySlowFast's name, PyTorchVideo's, as beginnings.
_PYTORCHVIDEO = (
    ("patch_embed.proj.", "patch_embed.patch_model."),
    ("cls_token", "cls_positional_encoding.cls_token"),
    ("pos_embed", "cls_positional_encoding.pos_embed"),
    ("norm.", "norm_embed."),
    ("head.projection.", "head.proj."),
)
_SEPARATE_QKV = re.compile(r"^(blocks\.\d+\.attn\.)([qkv])\.(weight|bias)$")

# timm counts blocks within their stage.
_TIMM_BLOCK = re.compile(r"^stages\.(\d+)\.blocks\.(\d+)\.(.+)$")
_TIMM_SHORTCUT = re.compile(r"^shortcut_proj_(?:attn|mlp)\.")

_DETECTRON2_PREFIX = re.compile(r"^backbone\.(?:bottom_up|net)\.(?:net\.)?")
_DETECTRON2_OTHER = ("proposal_generator.", "roi_heads.", "backbone.", "pixel_mean", "pixel_std", "anchor_generator.")


@dataclass
class Renamed:
    """A state dict under our names.

    Attributes:
        tensors: by our names.
        origin: our name to the file's.
        left_out: the file's names that have no place in a classifier (a detector's other parts, norms of early stages).
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, name: str, tensor: Tensor, origin: str) -> None:
        """Take a tensor.

        Raises:
            ValueError: there is one of that name.
        """
        if name in self.tensors:
            raise ValueError(f"{origin} and {self.origin[name]} both are {name}; remove one of them")
        self.tensors[name], self.origin[name] = tensor, origin


def recognise(names: Iterable[str]) -> SourceFormat | None:
    """Who wrote a state dict with these names (free of wrappers' prefixes); None if nobody known.

    facebookresearch/mvit and this project have PySlowFast's names.
    """
    known = set(names)
    if "conv_proj.weight" in known:
        return "torchvision"
    if "patch_embed.patch_model.weight" in known:
        return "pytorchvideo"
    if {"patch_embed.proj.weight", "stages.0.blocks.0.attn.qkv.weight"} <= known:
        return "timm"
    if known & {"backbone.patch_embed.projection.weight", "patch_embed.projection.weight"}:
        return "mmaction2"
    if any(_DETECTRON2_PREFIX.match(name) or re.match(r"scale\d+_norm\.", name) for name in known):
        return "detectron2"
    if {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= known:
        return "pyslowfast"
    return None


def to_our_names(state: Mapping[str, Tensor], source: SourceFormat) -> Renamed:
    """Rename (and reshape) the tensors of a known format.

    The norm after the last stage of a detectron2 or MMAction2 backbone (scale5_norm, norm3) becomes `norm`; the norms
    of earlier stages are left out, as are the other parts of a detector.

    Raises:
        ValueError: two tensors would get one name, or blocks are missing whose number the names depend on.
    """
    if source == "timm":
        return _from_timm(state)
    if source == "torchvision":
        return _from_torchvision(state)
    if source == "pytorchvideo":
        return _from_pytorchvideo(state)
    if source == "mmaction2":
        return _from_mmaction2(state)
    if source == "detectron2":
        return _from_detectron2(state)
    result = Renamed()
    for name, tensor in state.items():
        result.add(name, tensor, name)
    return result


def _from_torchvision(state: Mapping[str, Tensor]) -> Renamed:
    result = Renamed()
    for name, tensor in state.items():
        ours = name
        for pattern, replacement in _FROM_TORCHVISION:
            ours, matched = re.subn(pattern, replacement, name)
            if matched:
                break
        if ours in _STORED_FLAT:
            tensor = tensor.reshape(1, -1, tensor.shape[-1])
        result.add(ours, tensor, name)
    return result


def pool_norm_eps(source: SourceFormat) -> float:
    """MViTConfig.pool_norm_eps of the models that have these names (pytorchvideo layers/attention.py)."""
    return 1e-5 if source == "pytorchvideo" else 1e-6


def adds_query_to_cls(source: SourceFormat) -> bool:
    """MViTConfig.residual_with_cls of the models with a class token that have these names (timm models/mvitv2.py)."""
    return source == "timm"


def _from_pytorchvideo(state: Mapping[str, Tensor]) -> Renamed:
    """Queries, keys and values have a projection each, or (later releases) one together."""
    result = Renamed()
    for name, tensor in state.items():
        separate = _SEPARATE_QKV.match(name)
        if separate is None:
            result.add(_renamed(name, [(theirs, ours) for ours, theirs in _PYTORCHVIDEO]), tensor, name)
        elif separate[2] == "q":
            names = [f"{separate[1]}{x}.{separate[3]}" for x in "qkv"]
            missing = [other for other in names if other not in state]
            if missing:
                raise ValueError(f"{name} is there, {' and '.join(missing)} not: it needs a whole state dict.")
            joined = torch.cat([state[other] for other in names])
            result.add(f"{separate[1]}qkv.{separate[3]}", joined, f"{separate[1]}{{q,k,v}}.{separate[3]}")
        elif f"{separate[1]}q.{separate[3]}" not in state:
            raise ValueError(f"{name} is there, {separate[1]}q.{separate[3]} not: it needs a whole state dict.")
    return result


def _as_pytorchvideo(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        fused = re.match(r"^(blocks\.\d+\.attn\.)qkv\.(weight|bias)$", name)
        if fused:
            renamed |= {f"{fused[1]}{x}.{fused[2]}": part for x, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            renamed[_renamed(name, _PYTORCHVIDEO)] = tensor.unsqueeze(2) if _is_flat_pool(name, tensor) else tensor
    return renamed


def _from_timm(state: Mapping[str, Tensor]) -> Renamed:
    """Blocks are counted through all stages; the shortcut's projection is one, wherever the block widens."""
    places = {name: found for name in state if (found := _TIMM_BLOCK.match(name))}
    depths: dict[int, int] = {}
    for found in places.values():
        depths[int(found[1])] = max(depths.get(int(found[1]), 0), int(found[2]) + 1)
    missing = set(range(max(depths) + 1)) - depths.keys()
    if missing:
        raise ValueError(
            f"stages.{max(depths)} is there, stages.{min(missing)} not: blocks are numbered through all stages, which "
            "needs a whole state dict."
        )
    first = {stage: sum(depths[earlier] for earlier in range(stage)) for stage in depths}
    result = Renamed()
    for name, tensor in state.items():
        place = places.get(name)
        if place is None:
            result.add(_renamed(name, [("head.fc.", "head.projection.")]), tensor, name)
            continue
        index = first[int(place[1])] + int(place[2])
        result.add(f"blocks.{index}.{_TIMM_SHORTCUT.sub('proj.', place[3])}", tensor, name)
    return result


def _as_timm(state: Mapping[str, Tensor], config: MViTConfig) -> dict[str, Tensor]:
    shortcut = "shortcut_proj_attn." if config.expand_in == "attention" else "shortcut_proj_mlp."
    first = (0, *config.stage_starts)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        block = re.match(r"^blocks\.(\d+)\.(.+)$", name)
        if block is None:
            renamed[_renamed(name, [("head.projection.", "head.fc.")])] = tensor
            continue
        stage = config.blocks[int(block[1])].stage
        inside = _renamed(block[2], [("proj.", shortcut)])
        renamed[f"stages.{stage}.blocks.{int(block[1]) - first[stage]}.{inside}"] = tensor
    return renamed


def _renamed(name: str, beginnings: Iterable[tuple[str, str]]) -> str:
    """The name with its beginning exchanged, if that is one of the first of these pairs."""
    return next((new + name[len(old) :] for old, new in beginnings if name.startswith(old)), name)


def _from_mmaction2(state: Mapping[str, Tensor]) -> Renamed:
    result = Renamed()
    short = {name: name.removeprefix("backbone.") for name in state}
    last = _last_stage(short.values(), r"norm(\d+)\.")
    for name, tensor in state.items():
        stage = re.match(r"norm(\d+)\.", short[name])
        if (stage and int(stage[1]) != last) or name.startswith("data_preprocessor."):
            result.left_out.append(name)
            continue
        ours = re.sub(r"^norm\d+\.", "norm.", short[name])
        ours = ours.replace("patch_embed.projection.", "patch_embed.proj.")
        # MMAction2's head, MMPretrain's.
        result.add(re.sub(r"^(?:cls_head\.fc_cls|head\.fc)\.", "head.projection.", ours), tensor, name)
    return result


def _from_detectron2(state: Mapping[str, Tensor]) -> Renamed:
    result = Renamed()
    short = {name: _DETECTRON2_PREFIX.sub("", name) for name in state}
    last = _last_stage(short.values(), r"scale(\d+)_norm\.")
    for name, tensor in state.items():
        stage = re.match(r"scale(\d+)_norm\.", short[name])
        other = short[name] == name and name.startswith(_DETECTRON2_OTHER)
        if other or (stage and int(stage[1]) != last):
            result.left_out.append(name)
            continue
        result.add(re.sub(r"^scale\d+_norm\.", "norm.", short[name]), tensor, name)
    return result


def _last_stage(names: Iterable[str], pattern: str) -> int | None:
    stages = [int(found[1]) for found in (re.match(pattern, name) for name in names) if found]
    return max(stages, default=None)


def save_as(model: MViT, format: TargetFormat) -> dict[str, Tensor]:
    """The model's state dict under another project's names and shapes; the tensors share the model's memory.

    - "mvit_video": as it is. facebookresearch/mvit has the same names, and the same shapes for images.
    - "pyslowfast": the same, except that the pooling weights of image models get a time axis of 1, as PySlowFast
      (configs/ImageNet) has them.
    - "torchvision": the names of torchvision.models.video.mvit_v1_b and mvit_v2_s, which load it strictly.
    - "pytorchvideo": the names of its create_multiscale_vision_transformers, which loads it strictly (MViTv1 alone).
    - "timm": the names of its mvitv2_tiny, _small, _base, _large and of their _cls variants, which load it strictly
      (image models alone).

    Raises:
        ValueError: the format is unknown, or its class has no such model.
    """
    if format not in get_args(TargetFormat):
        raise ValueError(f"format={format!r} is not one of {', '.join(map(repr, get_args(TargetFormat)))}.")
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    _check_target(model.config, format)
    if format == "pyslowfast":
        return {name: tensor.unsqueeze(2) if _is_flat_pool(name, tensor) else tensor for name, tensor in state.items()}
    if format == "torchvision":
        return dict(_as_torchvision(name, tensor) for name, tensor in state.items())
    if format == "timm":
        return _as_timm(state, model.config)
    return _as_pytorchvideo(state) if format == "pytorchvideo" else state


def _is_flat_pool(name: str, tensor: Tensor) -> bool:
    return ".attn.pool_" in name and tensor.dim() == 4


def _as_torchvision(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    if name in _STORED_FLAT:
        tensor = tensor[0] if name in ("pos_embed_spatial", "pos_embed_temporal") else tensor[0, 0]
    for pattern, replacement in _TORCHVISION:
        theirs, matched = re.subn(pattern, rf"\g<1>{replacement}", name)
        if matched:
            return theirs, tensor
    return name, tensor


def _check_target(config: MViTConfig, format: TargetFormat) -> None:
    """Raise ValueError for what another project's MViT cannot be, or would compute otherwise."""
    if format == "mvit_video":
        return
    eps = 1e-5 if format == "pytorchvideo" else 1e-6
    wanted = {f"pool_norm_eps={eps:g}": config.pool_norm_eps == eps}
    if format == "torchvision":
        positions = (config.rel_pos, config.abs_pos)
        wanted |= {
            "num_frames of 2 or more": not config.is_image,
            "cls_token=True": config.cls_token,
            "head_pooling='cls'": config.head_pooling == "cls",
            "num_classes of 1 or more": config.num_classes > 0,
            "in_channels=3": config.in_channels == 3,
            "mlp_ratio=4": config.mlp_ratio == 4.0,
            "qkv_bias=True": config.qkv_bias,
            "rel_pos='spatiotemporal' with abs_pos='none', or rel_pos='none' with abs_pos='separable'": positions
            in (("spatiotemporal", "none"), ("none", "separable")),
        }
    elif format == "pytorchvideo":
        wanted |= {
            "rel_pos='none'": config.rel_pos == "none",
            "abs_pos='separable' or 'joint'": config.abs_pos != "none",
            "residual_pooling=False": not config.residual_pooling,
            "pool_all_queries=False": not config.pool_all_queries,
            "expand_in='mlp'": config.expand_in == "mlp",
            "head_pooling='cls' with a class token, or 'norm_mean' without": config.head_pooling
            == ("cls" if config.cls_token else "norm_mean"),
            "num_classes of 1 or more": config.num_classes > 0,
        }
    elif format == "timm":
        wanted |= {
            "num_frames=1": config.is_image,
            "rel_pos='spatial' or 'none'": config.rel_pos != "spatiotemporal",
            "abs_pos='none' or 'joint'": config.abs_pos != "separable",
            "pool_all_queries=True": config.pool_all_queries,
            "a pool_kernel": config.pool_kernel is not None,
            "head_pooling='cls' or 'norm_mean'": config.head_pooling != "mean_norm",
        }
    if config.cls_token and config.residual_pooling:
        with_cls = adds_query_to_cls(format)
        wanted[f"residual_with_cls={with_cls}"] = config.residual_with_cls == with_cls
    lacking = [rule for rule, holds in wanted.items() if not holds]
    if lacking:
        project = {"pyslowfast": "PySlowFast", "pytorchvideo": "PyTorchVideo"}.get(format, format)
        way_out = "" if format == "pyslowfast" else " Save as 'mvit_video' or 'pyslowfast' instead."
        if config.pool_norm_eps != eps:
            way_out += f" pool_norm_eps={eps:g} (--set in convert) makes it one with slightly other logits."
        if f"residual_with_cls={not config.residual_with_cls}" in lacking:
            way_out += (
                f" residual_with_cls={not config.residual_with_cls} (--set in convert) makes it one with other logits."
            )
        raise ValueError(f"{project}'s MViT has no such model: it needs {'; '.join(lacking)}.{way_out}")
