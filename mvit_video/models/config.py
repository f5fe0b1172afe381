"""The configuration of an MViT and the geometry of its blocks, derived and never listed by hand."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

Triple = tuple[int, int, int]
"""Sizes, kernels or strides on (time, height, width)."""

Expansion = Literal["attention", "mlp"]
RelativePositions = Literal["none", "spatial", "spatiotemporal"]
AbsolutePositions = Literal["none", "joint", "separable"]
HeadPooling = Literal["cls", "norm_mean", "mean_norm"]
Initialisation = Literal["pyslowfast", "zero_bias", "zero_tables", "fan_in"]
Windows = Literal["none", "hybrid", "all"]
AttentionForm = Literal["auto", "flash", "explicit", "triton", "triton_terms"]
NormForm = Literal["library", "triton"]
PoolingForm = Literal["auto", "library", "flipped", "triton"]

QUERY_STRIDE: Triple = (1, 2, 2)
"""Stride of the query pooling in the first block of every stage but the first."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "expand_in": get_args(Expansion),
    "rel_pos": get_args(RelativePositions),
    "abs_pos": get_args(AbsolutePositions),
    "head_pooling": get_args(HeadPooling),
    "init": get_args(Initialisation),
    "windows": get_args(Windows),
    "attention_form": get_args(AttentionForm),
    "pooling_form": get_args(PoolingForm),
    "norm_form": get_args(NormForm),
}
_FLAGS = ("pool_all_queries", "residual_pooling", "residual_with_cls", "cls_token", "qkv_bias", "stage_norms")
_SIZES = {"depth": 1, "embed_dim": 1, "num_heads": 1, "num_classes": 0, "num_frames": 1, "crop_size": 1}
_SIZES["in_channels"] = 1
_TRIPLES = {"patch_kernel": 1, "patch_stride": 1, "patch_padding": 0, "pool_kernel": 1, "kv_stride": 1}
_OPTIONAL = ("patch_padding", "pool_kernel")


def conv_grid(grid: Triple, kernel: Triple, stride: Triple, padding: Triple) -> Triple:
    """Output size of a convolution or pooling with floor rounding, per axis: (n + 2p - k) // s + 1."""
    t, h, w = (((n + 2 * p - k) // s + 1) for n, k, s, p in zip(grid, kernel, stride, padding))
    return t, h, w


def half_kernel(kernel: Triple) -> Triple:
    """The padding k // 2 that goes with every pooling kernel of MViT."""
    return kernel[0] // 2, kernel[1] // 2, kernel[2] // 2


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockGeometry:
    """Widths, strides and nominal grids of one block; see :attr:`MViTConfig.blocks`."""

    index: int
    """Of the block, from 0."""
    stage: int
    """Of the block, from 0."""
    dim_in: int
    """Width of the tokens that enter."""
    dim_attn: int
    """Width inside the attention: dim_out when it expands, else dim_in."""
    dim_out: int
    """Width of the tokens that leave."""
    num_heads: int
    """Attention heads."""
    stride_q: Triple
    """Of the pooling of queries; (1, 1, 1) but at the start of a stage."""
    stride_kv: Triple
    """Of the pooling of keys and values."""
    kernel_q: Triple | None
    """None: queries are neither pooled nor normalised."""
    kernel_kv: Triple | None
    """None: keys and values are neither pooled nor normalised."""
    grid_in: Triple
    """Tokens (T, H, W) that enter the block at the nominal input size."""
    grid_q: Triple
    """Queries, and the tokens that leave."""
    grid_kv: Triple
    """Keys and values."""
    window: Triple | None
    """Tokens of the input in one window of attention; None: every query attends to all keys."""
    table_rows: Triple
    """Rows of rel_pos_{t,h,w}; 0 where the block has no such table."""
    drop_path: float
    """Probability that the block's branches are dropped in training."""

    @property
    def head_dim(self) -> int:
        return self.dim_attn // self.num_heads

    @property
    def window_q(self) -> Triple | None:
        """Pooled queries in one window."""
        return None if self.window is None else _floor_divide(self.window, self.stride_q)

    @property
    def window_kv(self) -> Triple | None:
        """Pooled keys in one window."""
        return None if self.window is None else _floor_divide(self.window, self.stride_kv)


@dataclass(frozen=True, kw_only=True)
class MViTConfig:
    """Everything that defines an MViT, version 1 or 2, for video (num_frames > 1) or images (num_frames = 1).

    The defaults are those of MViTv2-S 16x4. Lists are accepted where tuples are written.

    Raises:
        ValueError: a value is impossible; the message holds the value, the rule and the way out.
    """

    depth: int = 16
    """Blocks, over all stages."""
    embed_dim: int = 96
    """Width of the first stage; every later stage doubles it and the number of heads."""
    num_heads: int = 1
    """Attention heads of the first stage."""
    stage_starts: tuple[int, ...] = (1, 3, 14)
    """Index of the first block of every stage but the first: there queries are pooled by (1, 2, 2)."""
    num_classes: int = 400
    """Logits. 0 builds no head: the model returns the pooled features."""
    num_frames: int = 16
    """Nominal clip length. 1 builds an image model: 2-D stem and 2-D pooling weights."""
    crop_size: int = 224
    """Nominal height and width. Sizes of tables follow it; any other size may be fed at run time."""
    in_channels: int = 3
    """Channels of the input: 3 for RGB."""
    patch_kernel: Triple = (3, 7, 7)
    """Kernel of the patch convolution, on time, height and width; odd on every axis."""
    patch_stride: Triple = (2, 4, 4)
    """Its stride: one token for so many frames, rows and columns."""
    patch_padding: Triple | None = None
    """Its padding. None: patch_kernel // 2."""
    pool_kernel: Triple | None = (3, 3, 3)
    """Kernel of every pooling convolution. None: stride + 1 on strided axes, 1 elsewhere."""
    kv_stride: Triple = (1, 8, 8)
    """Key/value stride of the first stage; divided by the query stride (floor, at least 1) at every stage start."""
    expand_in: Expansion = "attention"
    """Where the width doubles: in the attention of a stage's first block (v2) or the MLP of the block before (v1)."""
    pool_all_queries: bool = True
    """Pool (and normalise) queries in every block, not only where they are strided."""
    residual_pooling: bool = True
    """Add the pooled queries to the output of the attention (v2)."""
    residual_with_cls: bool = False
    """Whether the class token, too, adds its query in residual pooling. timm's models do, as the first release of
    facebookresearch/mvit did; its later code, PySlowFast and every published video model do not."""
    rel_pos: RelativePositions = "spatiotemporal"
    """Axes that have decomposed relative positions (v2): none, height and width, or time as well."""
    abs_pos: AbsolutePositions = "none"
    """Absolute position embedding (v1): none, one table of all places, or tables of time and of place that add up."""
    cls_token: bool = True
    """A class token beside those of the patches."""
    head_pooling: HeadPooling = "cls"
    """Feature for the head: normalised class token, mean of normalised tokens, or normalised mean of tokens."""
    qkv_bias: bool = True
    """A bias in the linear layers of queries, keys and values."""
    pool_norm_eps: float = 1e-6
    """Added to the variance by the LayerNorm behind a pooling; PyTorchVideo's models have 1e-5."""
    mlp_ratio: float = 4.0
    """Hidden width of an MLP, relative to its input."""
    drop_path: float = 0.2
    """Rate of the last block; block i has drop_path * i / (depth - 1)."""
    dropout: float = 0.5
    """Dropout before the linear layer of the head."""
    windows: Windows = "none"
    """Where an image model attends within windows: in no block; as detection does, in every block but the last one of
    each stage after the first ("hybrid": there all keys are seen, pooled by twice the stride, but in the last stage);
    or in every block ("all"). A window is as large as the nominal grid of its block, so that tables fit it."""
    stage_norms: bool = False
    """A LayerNorm for the last map of each stage, `scale2_norm` and so on, in place of the final norm and the head: the
    backbone of a detector, which :meth:`mvit_video.models.mvit.network.MViT.forward_features` runs."""
    init: Initialisation = "pyslowfast"
    """How weights are drawn before training; see :func:`mvit_video.models.mvit.layers.init_module`."""
    head_init_scale: float = 1.0
    """Factor on the first weights of the head's linear layer."""
    attention_form: AttentionForm = "auto"
    """How attention is computed, with the same result; see :func:`mvit_video.models.mvit.attention.choose_form`.
    "triton" and "triton_terms" are kernels for CUDA that were not timed on a GPU yet."""
    pooling_form: PoolingForm = "auto"
    """How pooling is computed, with the same result; see :func:`mvit_video.models.kernels.pooling.depthwise_pool`.
    "auto" is "triton" on CUDA where the kernel takes the tokens, see
    :func:`mvit_video.models.kernels.triton_pool.supports`."""
    norm_form: NormForm = "library"
    """How the norms before linear layers are computed: "triton" is one kernel to half precision where it takes the
    tokens (:func:`mvit_video.models.kernels.triton_norm.supports`), the library elsewhere and while compiling."""
    activation_checkpointing: bool | int | tuple[int, ...] = False
    """Blocks that keep only their input for the backward pass and are recomputed there: none (False), all (True), the
    first n (a number; early blocks keep most), or those of the given indices."""
    activation_budget_gb: float | None = None
    """Instead: choose the blocks so that autograd keeps at most so many 10^9 bytes at any moment of a step, at the
    fewest recomputed operations; see :meth:`mvit_video.models.mvit.network.MViT.plan_checkpointing`."""

    def __post_init__(self) -> None:
        for name, minimum in _SIZES.items():
            _check_int(name, getattr(self, name), minimum)
        for name, minimum in _TRIPLES.items():
            if not (getattr(self, name) is None and name in _OPTIONAL):
                object.__setattr__(self, name, _as_triple(name, getattr(self, name), minimum))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, choices))}.")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False.")
        self._check_stages()
        self._check_rates()
        self._check_checkpointing()
        self._check_combinations()

    def _check_stages(self) -> None:
        starts = self.stage_starts
        if not isinstance(starts, (tuple, list)):
            raise ValueError(f"stage_starts={starts!r} must be a list of block indices, such as (1, 3, 14).")
        for start in starts:
            _check_int("stage_starts", start, 1)
        if list(starts) != sorted(set(starts)) or (starts and starts[-1] >= self.depth):
            raise ValueError(
                f"stage_starts={tuple(starts)} must rise and stay below depth={self.depth}; give the index of "
                "the first block of each stage but the first."
            )
        object.__setattr__(self, "stage_starts", tuple(starts))
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim={self.embed_dim} must be a multiple of num_heads={self.num_heads}.")

    def _check_rates(self) -> None:
        for name in ("drop_path", "dropout"):
            value = _as_float(name, getattr(self, name))
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name}={value} must lie in [0, 1): it is the probability of dropping.")
            object.__setattr__(self, name, value)
        for name in ("mlp_ratio", "head_init_scale", "pool_norm_eps"):
            value = _as_float(name, getattr(self, name))
            if value <= 0.0:
                raise ValueError(f"{name}={value} must be positive.")
            object.__setattr__(self, name, value)

    def _check_checkpointing(self) -> None:
        chosen, budget = self.activation_checkpointing, self.activation_budget_gb
        if isinstance(chosen, (tuple, list)):
            for index in chosen:
                _check_int("activation_checkpointing", index, 0)
            if len(set(chosen)) < len(chosen) or max(chosen, default=0) >= self.depth:
                raise ValueError(
                    f"activation_checkpointing={list(chosen)} must be different indices of blocks below "
                    f"depth={self.depth}."
                )
            object.__setattr__(self, "activation_checkpointing", tuple(chosen))
        elif not isinstance(chosen, int) or not 0 <= chosen <= self.depth:
            raise ValueError(
                f"activation_checkpointing={chosen!r} must be False (no block), True (all), a number of blocks up to "
                f"depth={self.depth} (the first ones), or a list of indices."
            )
        if budget is None:
            return
        budget = _as_float("activation_budget_gb", budget)
        if budget <= 0.0 or self.recomputed_blocks:
            raise ValueError(
                f"activation_budget_gb={budget} with activation_checkpointing={chosen!r}: give a positive budget or "
                "choose the blocks, not both."
            )
        object.__setattr__(self, "activation_budget_gb", budget)

    def _check_combinations(self) -> None:
        if self.head_pooling == "cls" and not self.cls_token:
            raise ValueError(
                "head_pooling='cls' needs cls_token=True; without the token use 'norm_mean' or 'mean_norm'"
            )
        if self.residual_with_cls and not (self.cls_token and self.residual_pooling):
            raise ValueError(
                "residual_with_cls=True needs cls_token=True and residual_pooling=True: it is about the class token's "
                "share in residual pooling."
            )
        for name in ("pool_kernel", "patch_kernel"):
            kernel = getattr(self, name)
            if kernel is not None and any(k % 2 == 0 for k in kernel):
                raise ValueError(f"{name}={kernel} must be odd on every axis, so that padding keeps the grids aligned.")
        self._check_features()
        if self.is_image:
            for name in ("patch_kernel", "patch_stride", "pool_kernel", "kv_stride"):
                value = getattr(self, name)
                if value is not None and value[0] != 1:
                    raise ValueError(
                        f"num_frames=1 makes an image model, where {name}={value} must have 1 on the time axis; "
                        "set it, start from an image preset, or use num_frames of 2 or more."
                    )
            if self.rel_pos == "spatiotemporal":
                raise ValueError("num_frames=1 makes an image model, without rel_pos='spatiotemporal'; use 'spatial'.")
        if min(self.table_grid) < 1:
            raise ValueError(
                f"num_frames={self.num_frames} and crop_size={self.crop_size} give an empty patch grid "
                f"{self.table_grid} at patch_stride={self.patch_stride}; use a longer clip or a larger crop."
            )
        self._check_windows()

    def _check_features(self) -> None:
        if self.stage_norms and (self.cls_token or self.num_classes or self.expand_in == "mlp"):
            raise ValueError(
                f"stage_norms=True with cls_token={self.cls_token}, num_classes={self.num_classes} and "
                f"expand_in={self.expand_in!r}: a backbone has no class token, no head (num_classes=0), and widens in "
                "the attention."
            )
        if self.stage_norms and self.activation_budget_gb is not None:
            raise ValueError(
                f"activation_budget_gb={self.activation_budget_gb} with stage_norms=True: what a detector keeps beside "
                "its backbone is not measured; choose the blocks by activation_checkpointing."
            )

    def _check_windows(self) -> None:
        if self.windows == "none":
            return
        if not self.is_image or self.cls_token:
            raise ValueError(
                f"windows={self.windows!r} with num_frames={self.num_frames} and cls_token={self.cls_token}: windows "
                "are for image models (num_frames=1) without a class token."
            )
        for block in self.blocks:
            window = block.window
            if window is None:
                continue
            if any(n % s for stride in (block.stride_q, block.stride_kv) for n, s in zip(window, stride)):
                raise ValueError(
                    f"windows={self.windows!r} and crop_size={self.crop_size}: block {block.index} has windows of "
                    f"{window[1]} x {window[2]}, which its strides {block.stride_q} and {block.stride_kv} do not "
                    "divide; take a crop_size that is a multiple of every stride, such as 224."
                )

    @property
    def is_image(self) -> bool:
        """Whether this is an image model (one frame, 2-D weights)."""
        return self.num_frames == 1

    @property
    def recomputed_blocks(self) -> tuple[int, ...]:
        """Indices of the blocks that activation_checkpointing names."""
        chosen = self.activation_checkpointing
        if isinstance(chosen, tuple):
            return chosen
        return tuple(range(self.depth if chosen is True else chosen))

    @property
    def padding(self) -> Triple:
        """Padding of the patch convolution."""
        return half_kernel(self.patch_kernel) if self.patch_padding is None else self.patch_padding

    @property
    def patch_grid(self) -> Triple:
        """Tokens (T, H, W) after the patch convolution at the nominal size."""
        size = (self.num_frames, self.crop_size, self.crop_size)
        return conv_grid(size, self.patch_kernel, self.patch_stride, self.padding)

    @property
    def table_grid(self) -> Triple:
        """The patch grid by floor division, which sizes relative tables and absolute embeddings (as published)."""
        t, h, w = self.patch_stride
        return self.num_frames // t, self.crop_size // h, self.crop_size // w

    @property
    def out_dim(self) -> int:
        """Width of the features that enter the head."""
        return self.embed_dim * 2 ** len(self.stage_starts)

    @cached_property
    def blocks(self) -> tuple[BlockGeometry, ...]:
        """Geometry of every block.

        Relative tables are sized by floor division (78 -> 39 -> 19 -> 9), although the pooling convolutions round up
        (78 -> 39 -> 20 -> 10): published checkpoints have tables of that size; the model interpolates them on the fly.
        """
        blocks: list[BlockGeometry] = []
        dim, heads, kv_stride = self.embed_dim, self.num_heads, self.kv_stride
        grid, table_grid = self.patch_grid, self.table_grid
        for index in range(self.depth):
            starts = index in self.stage_starts
            stride_q: Triple = QUERY_STRIDE if starts else (1, 1, 1)
            if starts:
                heads *= 2
                kv_stride = _floor_divide(kv_stride, stride_q)
            stage = sum(index >= start for start in self.stage_starts)
            is_global = self._is_global(index, stage)
            own_kv_stride = kv_stride
            if self.windows == "hybrid" and is_global and stage < len(self.stage_starts):
                own_kv_stride = (kv_stride[0], kv_stride[1] * 2, kv_stride[2] * 2)
            expands = starts if self.expand_in == "attention" else index + 1 in self.stage_starts
            dim_out = dim * 2 if expands else dim
            kernel_q = self._pool_kernel(stride_q) if starts or self.pool_all_queries else None
            kernel_kv = self._pool_kernel(own_kv_stride)
            block = BlockGeometry(
                index=index,
                stage=stage,
                dim_in=dim,
                dim_attn=dim_out if self.expand_in == "attention" else dim,
                dim_out=dim_out,
                num_heads=heads,
                stride_q=stride_q,
                stride_kv=own_kv_stride,
                kernel_q=kernel_q,
                kernel_kv=kernel_kv,
                grid_in=grid,
                grid_q=pooled_grid(grid, kernel_q, stride_q),
                grid_kv=pooled_grid(grid, kernel_kv, own_kv_stride),
                window=None if is_global else table_grid,
                table_rows=self._table_rows(table_grid, stride_q, kv_stride),  # as without windows: weights fit both
                drop_path=self.drop_path * index / max(self.depth - 1, 1),
            )
            blocks.append(block)
            dim, grid, table_grid = dim_out, block.grid_q, _floor_divide(table_grid, stride_q)
        return tuple(blocks)

    def _is_global(self, index: int, stage: int) -> bool:
        """Whether a block's queries see all keys (detectron2 modeling/backbone/mvit.py, last_block_indexes)."""
        is_last = index + 1 in self.stage_starts or index + 1 == self.depth
        return self.windows == "none" or (self.windows == "hybrid" and is_last and stage > 0)

    def _pool_kernel(self, stride: Triple) -> Triple | None:
        t, h, w = (s + 1 if s > 1 else 1 for s in stride)
        kernel = (t, h, w) if self.pool_kernel is None else self.pool_kernel
        return None if kernel == stride == (1, 1, 1) else kernel

    def _table_rows(self, grid: Triple, stride_q: Triple, stride_kv: Triple) -> Triple:
        if self.rel_pos == "none":
            return 0, 0, 0
        query, key = _floor_divide(grid, stride_q), _floor_divide(grid, stride_kv)
        # The time table follows the block's input, whatever the strides (PySlowFast models/attention.py).
        rows_t = 2 * grid[0] - 1 if self.rel_pos == "spatiotemporal" else 0
        return rows_t, 2 * max(query[1], key[1]) - 1, 2 * max(query[2], key[2]) - 1


def pooled_grid(grid: Triple, kernel: Triple | None, stride: Triple) -> Triple:
    """Grid after a pooling convolution of that kernel (padding k // 2); unchanged where there is none."""
    return grid if kernel is None else conv_grid(grid, kernel, stride, half_kernel(kernel))


def _floor_divide(grid: Triple, stride: Triple) -> Triple:
    t, h, w = (max(n // s, 1) for n, s in zip(grid, stride))
    return t, h, w


def _check_int(name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}={value!r} must be a whole number.")
    if value < minimum:
        raise ValueError(f"{name}={value} must be at least {minimum}.")


def _as_float(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name}={value!r} must be a number.")
    return float(value)


def _as_triple(name: str, value: object, minimum: int) -> Triple:
    if not isinstance(value, (tuple, list)) or len(value) != 3:
        raise ValueError(f"{name}={value!r} must be three whole numbers: (time, height, width).")
    for item in value:
        _check_int(name, item, minimum)
    t, h, w = value
    return t, h, w
