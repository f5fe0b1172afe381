"""The configuration of a model, read off its tensors and, where these are silent, off a stored configuration."""

import ast
import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping

from torch import Tensor

from mvit_video.models.config import MViTConfig, Triple, half_kernel
from mvit_video.models.mvit.presets import PRESETS, get_config
from mvit_video.models.weights.conversion import STEM, is_image_state
from mvit_video.models.weights.files import StoredConfig

TRAINING_FIELDS = (
    "drop_path",
    "dropout",
    "init",
    "head_init_scale",
    "attention_form",
    "pooling_form",
    "activation_checkpointing",
    "activation_budget_gb",
)
"""Fields of MViTConfig that change neither tensors nor the function computed in evaluation."""


def infer_config(
    state: Mapping[str, Tensor],
    *,
    stored: Mapping[str, object],
    overrides: Mapping[str, object],
    mean_of_tokens: bool = False,
) -> MViTConfig:
    """The configuration that a model with these tensors has.

    Args:
        state: tensors under our names.
        stored: fields of MViTConfig from a configuration in the file; they decide what the tensors leave open.
        overrides: fields that the caller knows; they go first.
        mean_of_tokens: whether a model with a class token, relative positions and expansion in the MLP averages its
            tokens, if nothing says so (the MaskFeat fine-tunes of PySlowFast do).

    Raises:
        ValueError: the tensors are no MViT's, or leave open what nothing else tells.
    """
    known = {field.name for field in dataclasses.fields(MViTConfig)}
    for name in overrides:
        if name not in known:
            raise ValueError(f"unknown override {name!r}; known: {', '.join(sorted(known))}.")
    told = {**stored, **overrides}
    fields = _seen(state, told)
    fields["head_pooling"] = _head_pooling(fields, told, mean_of_tokens=mean_of_tokens)
    fields["residual_pooling"] = told.get("residual_pooling", fields["rel_pos"] != "none")
    with_cls = bool(fields["cls_token"] and fields["residual_pooling"])
    fields["residual_with_cls"] = with_cls and told.get("residual_with_cls", False)
    config = MViTConfig(**{**fields, **overrides})  # type: ignore[arg-type]
    training = _preset_training_fields(config)
    training |= {name: value for name, value in told.items() if name in TRAINING_FIELDS}
    return dataclasses.replace(config, **training)  # type: ignore[arg-type]


def _seen(state: Mapping[str, Tensor], told: Mapping[str, object]) -> dict[str, object]:
    """Everything the tensors show, sizes included."""
    if STEM not in state or "blocks.0.attn.qkv.weight" not in state:
        raise ValueError(f"no MViT: {STEM} or blocks.0.attn.qkv.weight is missing; it needs a whole state dict.")
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    if any(f"blocks.{index}.attn.qkv.weight" not in state for index in range(depth)):
        raise ValueError(f"some of blocks.0 to blocks.{depth - 1} are missing; it needs a whole state dict.")
    stem, flat = state[STEM], is_image_state(state)
    patch_kernel = (1, *stem.shape[-2:]) if stem.dim() == 4 else tuple(stem.shape[2:])
    patch_stride = _triple(told.get("patch_stride", tuple((k + 1) // 2 for k in patch_kernel)))
    pool_kernel, kv_stride = _pooling(state, depth)
    starts, expand_in = _stages(state, depth)
    head = state.get("head.projection.weight")
    fields: dict[str, object] = {
        "depth": depth,
        "embed_dim": stem.shape[0],
        "in_channels": stem.shape[1],
        "num_heads": _num_heads(state, depth, told),
        "stage_starts": starts,
        "num_classes": 0 if head is None else head.shape[0],
        "patch_kernel": patch_kernel,
        "patch_stride": patch_stride,
        "patch_padding": _padding(_triple(patch_kernel), told.get("patch_padding")),
        "pool_kernel": pool_kernel,
        "expand_in": expand_in,
        "pool_all_queries": "blocks.0.attn.pool_q.weight" in state,
        "rel_pos": _relative_positions(state),
        "abs_pos": _absolute_positions(state),
        "cls_token": "cls_token" in state,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "mlp_ratio": _mlp_ratio(state),
        "pool_norm_eps": told.get("pool_norm_eps", 1e-6),
        "windows": told.get("windows", "none"),
    }
    fields["kv_stride"] = kv_stride or told.get("kv_stride") or _kv_stride_from_tables(state, starts, flat=flat)
    frames, side = _table_grid(state, told, patch_stride, flat=flat)
    fields["num_frames"] = 1 if flat else _size(frames, patch_stride[0], told.get("num_frames"), default=16)
    fields["crop_size"] = _size(side, patch_stride[1], told.get("crop_size"), default=224)
    return fields


def _stages(state: Mapping[str, Tensor], depth: int) -> tuple[tuple[int, ...], str]:
    """First blocks of the stages but the first, and where the width doubles."""
    in_attention, in_mlp = [], []
    for index in range(depth):
        rows, dim_in = state[f"blocks.{index}.attn.qkv.weight"].shape
        dim_out = state[f"blocks.{index}.mlp.fc2.weight"].shape[0]
        if rows // 3 != dim_in:
            in_attention.append(index)
        if dim_out != rows // 3:
            in_mlp.append(index + 1)
    if in_attention and in_mlp:
        raise ValueError(f"blocks {in_attention} widen in the attention, {in_mlp} in the MLP: no MViT does both.")
    return (tuple(in_mlp), "mlp") if in_mlp else (tuple(in_attention), "attention")


def _num_heads(state: Mapping[str, Tensor], depth: int, told: Mapping[str, object]) -> object:
    """Heads of the first block, from the width of one head: that of pooling kernels or of relative tables."""
    width = None
    for index in range(depth):
        prefix = f"blocks.{index}.attn."
        for name, axis in (("pool_k.weight", 0), ("pool_q.weight", 0), ("rel_pos_h", 1)):
            if width is None and prefix + name in state:
                width = state[prefix + name].shape[axis]
    if width is not None:
        return state["blocks.0.attn.qkv.weight"].shape[0] // 3 // width
    if "num_heads" in told:
        return told["num_heads"]
    raise ValueError("neither pooling weights nor relative tables tell the number of heads: pass num_heads=...")


def _pooling(state: Mapping[str, Tensor], depth: int) -> tuple[Triple | None, Triple | None]:
    """Kernel of the pooling (None: stride + 1) and, where the kernels tell it, the stride of keys and values."""
    kernels: dict[int, Triple] = {}
    for index in range(depth):
        weight = state.get(f"blocks.{index}.attn.pool_k.weight")
        if weight is not None:
            kernels[index] = _triple((1, *weight.shape[-2:]) if weight.dim() == 4 else tuple(weight.shape[2:]))
    if len(kernels) == depth and len(set(kernels.values())) == 1:
        return kernels[0], None
    t, h, w = kernels.get(0, (1, 1, 1))
    return None, (max(t - 1, 1), max(h - 1, 1), max(w - 1, 1))


def _kv_stride_from_tables(state: Mapping[str, Tensor], starts: tuple[int, ...], *, flat: bool) -> Triple:
    """Stride of keys and values in the first stage, taking it for a power of two.

    A stage's first block has a table for max(queries, keys) positions: it is longer where keys are not strided.
    """
    grid = _positions(state, 0, "h")
    if grid is None:
        return (1, 4, 4) if flat else (1, 8, 8)
    for stage, index in enumerate(starts, start=1):
        if _positions(state, index, "h") == grid:
            return 1, 2**stage, 2**stage
        grid = max(grid // 2, 1)
    # Longer than every stage: at least this, and the published stride where that is more.
    stride = max(4 if flat else 8, 2 ** (len(starts) + 1))
    return 1, stride, stride


def _positions(state: Mapping[str, Tensor], index: int, axis: str) -> int | None:
    table = state.get(f"blocks.{index}.attn.rel_pos_{axis}")
    return None if table is None else (table.shape[0] + 1) // 2


def _table_grid(
    state: Mapping[str, Tensor], told: Mapping[str, object], stride: Triple, *, flat: bool
) -> tuple[int | None, int | None]:
    """Tokens in time and on one side of the frame; None where the tensors do not tell."""
    frames, side = _positions(state, 0, "t"), _positions(state, 0, "h")
    if side is not None and _positions(state, 0, "w") != side:
        raise ValueError("tables of height and width differ in length: only square nominal sizes can be described.")
    if "pos_embed_temporal" in state:
        frames = state["pos_embed_temporal"].shape[1]
    positions = None
    if "pos_embed_spatial" in state:
        positions = state["pos_embed_spatial"].shape[1]
    elif "pos_embed" in state:
        if flat:
            frames = 1
        elif frames is None and isinstance(told.get("num_frames"), int):
            frames = int(str(told["num_frames"])) // stride[0]
        if frames is None:
            raise ValueError("a joint position embedding does not tell the number of frames: pass num_frames=...")
        positions = (state["pos_embed"].shape[1] - ("cls_token" in state)) // frames
    if positions is not None and side is None:
        side = math.isqrt(positions)
    if positions is not None and side is not None and side * side != positions:
        raise ValueError(
            f"position embeddings of {positions} tokens are not square: only square sizes can be described."
        )
    return frames, side


def _size(tokens: int | None, stride: int, told: object, *, default: int) -> object:
    """A length in frames or pixels whose floor division by the patch stride is `tokens`."""
    if tokens is None:
        return default if told is None else told
    if isinstance(told, int) and told // stride == tokens:
        return told
    return tokens * stride


def _head_pooling(fields: Mapping[str, object], told: Mapping[str, object], *, mean_of_tokens: bool) -> object:
    asked = told.get("head_pooling")
    if not fields["cls_token"]:
        return "norm_mean" if asked in (None, "cls") else asked
    if asked is not None:
        return asked
    averages = mean_of_tokens and fields["expand_in"] == "mlp" and fields["rel_pos"] != "none"
    return "mean_norm" if averages else "cls"


def _relative_positions(state: Mapping[str, Tensor]) -> str:
    if "blocks.0.attn.rel_pos_t" in state:
        return "spatiotemporal"
    return "spatial" if "blocks.0.attn.rel_pos_h" in state else "none"


def _absolute_positions(state: Mapping[str, Tensor]) -> str:
    if "pos_embed" in state:
        return "joint"
    return "separable" if "pos_embed_spatial" in state else "none"


def _mlp_ratio(state: Mapping[str, Tensor]) -> float:
    hidden, dim = state["blocks.0.mlp.fc1.weight"].shape
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def _padding(kernel: Triple, told: object) -> Triple | None:
    padding = None if told is None else _triple(told)
    return None if padding == half_kernel(kernel) else padding


def _preset_training_fields(config: MViTConfig) -> dict[str, object]:
    """Drop rates and the like of the preset that is this model but for classes and numerics; nothing without one."""
    for make in PRESETS.values():
        preset = make()
        training: dict[str, object] = {name: getattr(preset, name) for name in TRAINING_FIELDS}
        other = {name: getattr(preset, name) for name in ("num_classes", "pool_norm_eps", "residual_with_cls")}
        same = dataclasses.replace(config, **other, **training)  # type: ignore[arg-type]
        if same == preset:
            return training
    return {}


def stored_fields(config: StoredConfig | None) -> dict[str, object]:
    """Fields of MViTConfig from the configuration in a file; empty without one.

    Raises:
        ValueError: it cannot be read, or is another model's.
    """
    if config is None:
        return {}
    sections = sections_of(config)
    if config.kind == "pyslowfast":
        return _pyslowfast_fields(sections)
    model = _section(sections, "model")
    target, name = str(model.get("_target_")), model.get("name")
    given = {str(key): value for key, value in model.items() if key not in ("_target_", "name")}
    if target.endswith(".MViTConfig"):
        unknown = given.keys() - {field.name for field in dataclasses.fields(MViTConfig)}
        if unknown:
            raise ValueError(
                f"the file's configuration has unknown fields {', '.join(sorted(unknown))}: pass its state dict alone."
            )
        return dataclasses.asdict(MViTConfig(**given))  # type: ignore[arg-type]
    if not target.endswith(".create_model") or not isinstance(name, str):
        raise ValueError(f"the file's configuration is of {target}, which is no MViT; build that model and load it.")
    # In the options of a run null leaves a field to the preset.
    return dataclasses.asdict(get_config(name, **{key: value for key, value in given.items() if value is not None}))


def _pyslowfast_fields(sections: Mapping[str, object]) -> dict[str, object]:
    """What the configuration of PySlowFast or facebookresearch/mvit tells (PySlowFast config/defaults.py)."""
    mvit, data, model = (_section(sections, name) for name in ("MVIT", "DATA", "MODEL"))
    fields: dict[str, object] = {
        "residual_pooling": mvit.get("RESIDUAL_POOLING"),
        "drop_path": mvit.get("DROPPATH_RATE"),
        "dropout": model.get("DROPOUT_RATE"),
        "num_heads": mvit.get("NUM_HEADS"),
        "num_frames": data.get("NUM_FRAMES"),
        "crop_size": data.get("TRAIN_CROP_SIZE"),
        "patch_stride": _filled(mvit.get("PATCH_STRIDE"), 1),
        "patch_padding": _filled(mvit.get("PATCH_PADDING"), 0),
        "kv_stride": _filled(mvit.get("POOL_KV_STRIDE_ADAPTIVE"), 1),
        "head_pooling": "mean_norm" if mvit.get("USE_MEAN_POOLING") is True else None,
    }
    per_block = mvit.get("POOL_KV_STRIDE")
    if fields["kv_stride"] is None and isinstance(per_block, list):
        first = [entry[1:] for entry in per_block if isinstance(entry, list) and entry[:1] == [0]]
        fields["kv_stride"] = _filled(first[0], 1) if first else None
    if mvit.get("USE_MEAN_POOLING") is False and mvit.get("CLS_EMBED_ON") is True:
        fields["head_pooling"] = "cls"
    return {name: value for name, value in fields.items() if value is not None and value != "None"}


def _filled(value: object, fill: int) -> Triple | None:
    """Three numbers from a list, or its text, of two or three; two get `fill` for the time axis."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):  # free text: nothing is told
            return None
    if not isinstance(value, (list, tuple)) or len(value) not in (2, 3):
        return None
    return _triple([fill, *value] if len(value) == 2 else value)


def _triple(value: object) -> Triple:
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(isinstance(item, int) for item in value):
        raise ValueError(f"{value!r} must be three whole numbers: (time, height, width).")
    t, h, w = value
    return t, h, w


def sections_of(config: StoredConfig) -> Mapping[str, object]:
    """The sections of a configuration in a file.

    Raises:
        ValueError: it cannot be read.
    """
    return _parse_yaml(config.text)


def _section(sections: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = sections.get(name)
    return section if isinstance(section, Mapping) else {}


def _parse_yaml(text: str) -> Mapping[str, object]:
    if text.startswith("{"):  # ours is JSON: YAML would take a number such as 1e-06 for text
        with contextlib.suppress(ValueError):
            return dict(json.loads(text))
    try:
        import yaml  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ValueError(
            "the file's configuration is YAML: pip install pyyaml, or pass its state dict alone"
        ) from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"the file's configuration cannot be read ({problem}): pass its state dict alone") from error
    return content if isinstance(content, Mapping) else {}
