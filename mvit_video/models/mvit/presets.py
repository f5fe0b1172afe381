"""The published sizes, and one small model for the embedded data set, by name."""

import dataclasses
import difflib
from collections.abc import Callable

from mvit_video.models.config import MViTConfig
from mvit_video.models.mvit.network import MViT

IN21K_CLASSES = 19_168
"""Classes of the published ImageNet-21k weights: the release of winter 2021 joined with ImageNet-1k."""


def mvitv2_s_16x4() -> MViTConfig:
    """MViTv2-S, 16 frames at stride 4, Kinetics-400 (PySlowFast configs/Kinetics/MVITv2_S_16x4.yaml)."""
    return MViTConfig()


def mvitv2_b_32x3() -> MViTConfig:
    """MViTv2-B, 32 frames at stride 3, Kinetics-400 (PySlowFast configs/Kinetics/MVITv2_B_32x3.yaml)."""
    return MViTConfig(depth=24, stage_starts=(2, 5, 21), num_frames=32, drop_path=0.3)


def mvitv2_l_40x3() -> MViTConfig:
    """MViTv2-L, 40 frames at stride 3, crop 312, Kinetics-400 (PySlowFast configs/Kinetics/MVITv2_L_40x3_test.yaml).

    Heads are 72 wide. Relative tables of the last two stages are shorter than their grids need, as published.
    """
    return MViTConfig(
        depth=48,
        embed_dim=144,
        num_heads=2,
        stage_starts=(2, 8, 44),
        num_frames=40,
        crop_size=312,
        drop_path=0.75,
    )


def mvitv1_b_16x4() -> MViTConfig:
    """MViTv1-B, 16 frames at stride 4, Kinetics-400 (PySlowFast configs/Kinetics/MVIT_B_16x4_CONV.yaml)."""
    return MViTConfig(
        expand_in="mlp",
        pool_all_queries=False,
        residual_pooling=False,
        rel_pos="none",
        abs_pos="separable",
    )


def mvitv1_b_32x3() -> MViTConfig:
    """MViTv1-B, 32 frames at stride 3, of PyTorchVideo's mvit_base_32x3: 16 blocks, 36.6 M parameters.

    PySlowFast's MVIT_B_32x3_CONV.yaml as written builds another model, of 24 blocks (a duplicate DEPTH key) and pooling
    kernels of stride + 1: `depth=24, stage_starts=(2, 5, 21), pool_kernel=None`.
    """
    return dataclasses.replace(mvitv1_b_16x4(), num_frames=32)


def _image(**changes: object) -> MViTConfig:
    base = MViTConfig(
        num_classes=1000,
        num_frames=1,
        patch_kernel=(1, 7, 7),
        patch_stride=(1, 4, 4),
        pool_kernel=(1, 3, 3),
        kv_stride=(1, 4, 4),
        rel_pos="spatial",
        cls_token=False,
        head_pooling="norm_mean",
        drop_path=0.1,
        dropout=0.0,
        init="zero_bias",
    )
    return _replace("image", base, changes)


def mvitv2_t_image() -> MViTConfig:
    """MViTv2-T for ImageNet-1k (facebookresearch/mvit configs/MVITv2_T.yaml)."""
    return _image(depth=10, stage_starts=(1, 3, 8))


def mvitv2_s_image() -> MViTConfig:
    """MViTv2-S for ImageNet-1k (facebookresearch/mvit configs/MVITv2_S.yaml)."""
    return _image()


def mvitv2_b_image() -> MViTConfig:
    """MViTv2-B for ImageNet-1k (facebookresearch/mvit configs/MVITv2_B.yaml)."""
    return _image(depth=24, stage_starts=(2, 5, 21), drop_path=0.3)


def mvitv2_l_image() -> MViTConfig:
    """MViTv2-L for ImageNet-1k (facebookresearch/mvit configs/test/MVITv2_L_test.yaml).

    The published checkpoint widens in the MLP, as MViTv1 did; the other sizes widen in the attention.
    """
    return _image(depth=48, embed_dim=144, num_heads=2, stage_starts=(2, 8, 44), expand_in="mlp", drop_path=0.5)


def mvitv2_h_image() -> MViTConfig:
    """MViTv2-H for ImageNet (sizes as in detectron2's MViTv2-H backbone), widening in the attention.

    No classification configuration was published; the drop path rate is that of L.
    """
    return _image(depth=80, embed_dim=192, num_heads=3, stage_starts=(4, 12, 72), drop_path=0.5)


def _image_cls(**changes: object) -> MViTConfig:
    """As :func:`_image`, with the class token that ImageNet-21k models have, and their 19,168 classes."""
    return _image(cls_token=True, head_pooling="cls", num_classes=IN21K_CLASSES, **changes)


def mvitv2_b_image_cls() -> MViTConfig:
    """MViTv2-B for ImageNet-21k: head on a class token (the published MViTv2_B_in21k.pyth; timm's mvitv2_base_cls).

    No configuration was published; the drop path rate is that of ImageNet-1k, whose recipe the paper takes over.
    """
    return _image_cls(depth=24, stage_starts=(2, 5, 21), drop_path=0.3)


def mvitv2_l_image_cls() -> MViTConfig:
    """MViTv2-L for ImageNet-21k: class token, and widening in the attention, unlike the ImageNet-1k file.

    The published MViTv2_L_in21k.pyth; timm's mvitv2_large_cls. Drop path as in :func:`mvitv2_b_image_cls`.
    """
    return _image_cls(depth=48, embed_dim=144, num_heads=2, stage_starts=(2, 8, 44), drop_path=0.5)


def mvitv2_h_image_cls() -> MViTConfig:
    """MViTv2-H for ImageNet-21k: class token (the published MViTv2_H_in21k.pyth; timm's mvitv2_huge_cls).

    The drop path rate is that of L.
    """
    return _image_cls(depth=80, embed_dim=192, num_heads=3, stage_starts=(4, 12, 72), drop_path=0.5)


def mvitv2_motion() -> MViTConfig:
    """A 0.7 M parameter MViTv2 that learns the embedded motion data set in minutes on a CPU: 8 frames, crop 48."""
    return MViTConfig(
        depth=4,
        embed_dim=48,
        stage_starts=(1, 3),
        num_classes=8,
        num_frames=8,
        crop_size=48,
        kv_stride=(1, 4, 4),
        drop_path=0.0,
        dropout=0.0,
        init="fan_in",
    )


def mvitv2_shapes() -> MViTConfig:
    """A 0.7 M parameter image MViTv2 that learns the embedded set of shapes in two minutes on a CPU: crop 32.

    Its blocks are those of :func:`mvitv2_motion`, which can start from its weights.
    """
    return _image(
        depth=4,
        embed_dim=48,
        stage_starts=(1, 3),
        num_classes=4,
        crop_size=32,
        kv_stride=(1, 2, 2),
        drop_path=0.0,
        init="fan_in",
    )


PRESETS: dict[str, Callable[[], MViTConfig]] = {
    preset.__name__: preset
    for preset in (
        mvitv2_s_16x4,
        mvitv2_b_32x3,
        mvitv2_l_40x3,
        mvitv1_b_16x4,
        mvitv1_b_32x3,
        mvitv2_t_image,
        mvitv2_s_image,
        mvitv2_b_image,
        mvitv2_l_image,
        mvitv2_h_image,
        mvitv2_b_image_cls,
        mvitv2_l_image_cls,
        mvitv2_h_image_cls,
        mvitv2_motion,
        mvitv2_shapes,
    )
}


def list_models() -> list[str]:
    """Names that :func:`create_model` takes."""
    return list(PRESETS)


def get_config(name: str, **overrides: object) -> MViTConfig:
    """The configuration of a preset with some fields of MViTConfig replaced.

    Raises:
        ValueError: no such model, no such field, or an impossible value.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown model {name!r}{_close(name, list_models())}; known: {', '.join(list_models())}.")
    return _replace(name, PRESETS[name](), overrides)


def create_model(name: str, **overrides: object) -> MViT:
    """A freshly initialised model; see :func:`list_models` for names and MViTConfig for what can be overridden.

    Raises:
        ValueError: no such model, no such field, or an impossible value.
    """
    return MViT(get_config(name, **overrides))


def _replace(name: str, config: MViTConfig, changes: dict[str, object]) -> MViTConfig:
    fields = [field.name for field in dataclasses.fields(MViTConfig)]
    for key in changes:
        if key not in fields:
            raise ValueError(f"{name}: unknown override {key!r}{_close(key, fields)}; known: {', '.join(fields)}.")
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def _close(word: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=3)
    return f" (did you mean {' or '.join(map(repr, matches))}?)" if matches else ""
