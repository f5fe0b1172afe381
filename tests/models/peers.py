"""State dicts as other projects lay them out, made from one of ours by literal lists of names."""

import re

from torch import Tensor

from mvit_video.models import MViTConfig

State = dict[str, Tensor]

# PySlowFast and facebookresearch/mvit; torchvision; MMAction2; detectron2's MViT backbone. None: it has no such tensor.
NAMES: list[tuple[str, str | None, str | None, str | None]] = [
    ("cls_token", "pos_encoding.class_token", "backbone.cls_token", None),
    ("pos_embed_spatial", "pos_encoding.spatial_pos", None, None),
    ("pos_embed_temporal", "pos_encoding.temporal_pos", None, None),
    ("pos_embed_class", "pos_encoding.class_pos", None, None),
    ("pos_embed", None, "backbone.pos_embed", "pos_embed"),
    (
        "patch_embed.proj.weight",
        "conv_proj.weight",
        "backbone.patch_embed.projection.weight",
        "patch_embed.proj.weight",
    ),
    ("patch_embed.proj.bias", "conv_proj.bias", "backbone.patch_embed.projection.bias", "patch_embed.proj.bias"),
    ("norm.weight", "norm.weight", "backbone.norm3.weight", "scale5_norm.weight"),
    ("norm.bias", "norm.bias", "backbone.norm3.bias", "scale5_norm.bias"),
    ("head.projection.weight", "head.1.weight", "cls_head.fc_cls.weight", None),
    ("head.projection.bias", "head.1.bias", "cls_head.fc_cls.bias", None),
]
# In every block, after `blocks.<i>.`; None: as in PySlowFast.
BLOCK_NAMES: list[tuple[str, str | None]] = [
    ("norm1.weight", None),
    ("norm1.bias", None),
    ("attn.qkv.weight", None),
    ("attn.qkv.bias", None),
    ("attn.proj.weight", "attn.project.0.weight"),
    ("attn.proj.bias", "attn.project.0.bias"),
    ("attn.pool_q.weight", "attn.pool_q.pool.weight"),
    ("attn.pool_k.weight", "attn.pool_k.pool.weight"),
    ("attn.pool_v.weight", "attn.pool_v.pool.weight"),
    ("attn.norm_q.weight", "attn.pool_q.norm_act.0.weight"),
    ("attn.norm_q.bias", "attn.pool_q.norm_act.0.bias"),
    ("attn.norm_k.weight", "attn.pool_k.norm_act.0.weight"),
    ("attn.norm_k.bias", "attn.pool_k.norm_act.0.bias"),
    ("attn.norm_v.weight", "attn.pool_v.norm_act.0.weight"),
    ("attn.norm_v.bias", "attn.pool_v.norm_act.0.bias"),
    ("attn.rel_pos_h", None),
    ("attn.rel_pos_w", None),
    ("attn.rel_pos_t", None),
    ("norm2.weight", None),
    ("norm2.bias", None),
    ("mlp.fc1.weight", "mlp.0.weight"),
    ("mlp.fc1.bias", "mlp.0.bias"),
    ("mlp.fc2.weight", "mlp.3.weight"),
    ("mlp.fc2.bias", "mlp.3.bias"),
    ("proj.weight", "project.weight"),
    ("proj.bias", "project.bias"),
]


def torchvision_state(state: State) -> State:
    """torchvision's mvit_v1_b and mvit_v2_s: class token and positions without their leading axes."""
    top = {ours: theirs for ours, theirs, _, _ in NAMES}
    renamed: State = {}
    for name, tensor in state.items():
        if name in ("cls_token", "pos_embed_class"):
            tensor = tensor[0, 0]
        elif name in ("pos_embed_spatial", "pos_embed_temporal"):
            tensor = tensor[0]
        renamed[_named(name, top, dict(BLOCK_NAMES), "")] = tensor
    return renamed


def mmaction2_state(state: State) -> State:
    """MMAction2's Recognizer3D with an MViT backbone."""
    top = {ours: theirs for ours, _, theirs, _ in NAMES}
    return {_named(name, top, {short: None for short, _ in BLOCK_NAMES}, "backbone."): v for name, v in state.items()}


def detectron2_state(state: State, prefix: str = "backbone.bottom_up.") -> State:
    """detectron2's backbone of an image model without head: one norm per stage."""
    top = {ours: theirs for ours, _, _, theirs in NAMES}
    names = {name: _named(name, top, {short: None for short, _ in BLOCK_NAMES}, "") for name in state}
    return {prefix + theirs: state[ours] for ours, theirs in names.items()}


def timm_state(state: State, config: MViTConfig) -> State:
    """timm's MultiScaleVit: blocks counted within their stage, the shortcut's projection named after its place."""
    stage_of = {block: sum(block >= start for start in config.stage_starts) for block in range(config.depth)}
    shortcut = {"attention": "shortcut_proj_attn", "mlp": "shortcut_proj_mlp"}[config.expand_in]
    renamed: State = {}
    for name, tensor in state.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if block is None:
            renamed[
                {"head.projection.weight": "head.fc.weight", "head.projection.bias": "head.fc.bias"}.get(name, name)
            ] = tensor
            continue
        stage = stage_of[int(block[1])]
        within = int(block[1]) - min(other for other, of in stage_of.items() if of == stage)
        inside = {"proj.weight": f"{shortcut}.weight", "proj.bias": f"{shortcut}.bias"}.get(block[2], block[2])
        renamed[f"stages.{stage}.blocks.{within}.{inside}"] = tensor
    return renamed


def _named(name: str, top: dict[str, str | None], inside: dict[str, str | None], prefix: str) -> str:
    block = re.fullmatch(r"(blocks\.\d+\.)(.+)", name)
    if block:
        return prefix + block[1] + (inside[block[2]] or block[2])
    theirs = top[name]
    assert theirs is not None, f"{name} has no counterpart"
    return theirs
