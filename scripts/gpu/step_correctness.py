"""The kernels against the plain form at every shape of every model, and whole models against the other libraries'.

Several processes share the cases, since each shape compiles kernels of its own. What the plain form computes in float64
is the reference. Differences are relative, by the sums of squares; a bound stands beside each.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu.context import Context, free_memory
from gpu.step_detector import SIDE, detector_config
from gpu.step_training import compile_ahead
from gpu.workbench import autocast, config_of, input_shape, relative, twins
from mvit_video.models import MViT, MViTConfig
from mvit_video.models.config import PoolingForm, Triple
from mvit_video.models.kernels import triton_attention, triton_norm, triton_pool, triton_terms
from mvit_video.models.kernels.pooling import DepthwisePool, depthwise_pool, on_grid
from mvit_video.models.mvit.attention import explicit_attention, one_hot_positions, position_terms

VIDEO = ("mvitv2_s_16x4", "mvitv2_b_32x3", "mvitv2_l_40x3")
IMAGES = ("mvitv2_t_image", "mvitv2_s_image", "mvitv2_b_image", "mvitv2_l_image")
TORCHVISION = ("mvitv2_s_16x4", "mvitv1_b_16x4")
NORMS = "Triton LayerNorm against the plain form"
ATTENTION = "Triton attention against the plain form"
KERNELS, MODELS, FORMS = "Triton pooling against the plain form", "whole models", "forms in a whole model"
BOUNDS = {torch.bfloat16: 1e-2, torch.float32: 1e-5}
ATTENTION_BOUNDS = {torch.bfloat16: 2e-2, torch.float32: 1e-5}
"""Wider in bf16: position terms are rounded before they are added, in every form."""
EPS = 1e-6
LARGEST, MOST_LOGITS = 2**23, 2**25
"""Values of float64 reference maps, and logits, above which a case takes fewer frames, heads or rows: all parts of the
step share the card's memory."""


class Shape(NamedTuple):
    """A pooling as some model has it."""

    grid: Triple
    kernel: Triple
    stride: Triple
    heads: int
    width: int
    cls: int


class Attended(NamedTuple):
    """An attention with relative positions as some model has it."""

    grid_q: Triple
    grid_kv: Triple
    heads: int
    width: int
    cls: int
    axes: tuple[int, ...]


def attended_of(config: MViTConfig, windows: MViTConfig | None = None) -> list[Attended]:
    """Every different attention of a model, with the windows of another configuration.

    With a class token the last block has one query, and no positions.
    """
    found: dict[Attended, None] = {}
    pairs = list(zip(config.blocks, (windows or config).blocks))
    for block, other in pairs[: -1 if config.head_pooling == "cls" else None]:
        axes = tuple(axis for axis in range(3) if block.table_rows[axis])
        grids = other.window_q or block.grid_q, other.window_kv or block.grid_kv
        if axes:
            found[Attended(*grids, block.num_heads, block.head_dim, int(config.cls_token), axes)] = None
    return list(found)


def shapes_of(config: MViTConfig) -> list[Shape]:
    """Every different pooling of a model."""
    found: dict[Shape, None] = {}
    cls = int(config.cls_token)
    for block in config.blocks:
        if block.kernel_q is not None:
            shape = Shape(block.grid_in, block.kernel_q, block.stride_q, block.num_heads, block.head_dim, cls)
            found[shape] = None
        if block.kernel_kv is not None:
            pool = DepthwisePool(block.head_dim, block.kernel_kv, block.stride_kv, flat=False, form="auto")
            wide = pool.skips_tokens()
            grid, stride = pool.condensed(block.grid_in) if wide else (block.grid_in, block.stride_kv)
            found[Shape(grid, block.kernel_kv, stride, block.num_heads, block.head_dim, cls)] = None
    return list(found)


def all_shapes(context: Context) -> tuple[list[tuple[str, Shape]], list[tuple[str, Attended]]]:
    """(model, pooling) and (model, attention), the video models first; what several models have is tried once.

    The detector pools maps of its large images, and attends in windows of its nominal size.
    """
    poolings: dict[Shape, str] = {}
    attentions: dict[Attended, str] = {}
    nominal = detector_config(context).backbone
    large = replace(nominal, crop_size=2 * nominal.crop_size if context.rehearse else SIDE)
    named = [(preset, config_of(preset, context), None) for preset in (*VIDEO, *IMAGES)]
    for preset, config, windows in (*named, ("detector", large, nominal)):
        for shape in shapes_of(config):
            poolings.setdefault(shape, preset)
        for attended in attended_of(config, windows):
            attentions.setdefault(attended, preset)
    return [(name, shape) for shape, name in poolings.items()], [(name, shape) for shape, name in attentions.items()]


def measure(context: Context) -> None:
    """What the next step needs compiled; pooling and norms, whole models, attention, and models with Triton attention.

    Each shape compiles kernels of its own, for seconds; the parts share what they have compiled. So pooling comes first
    in both dtypes: the models behind it find its kernels ready.
    """
    compile_ahead(context)  # before the flags, which are part of the cache's keys
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cases, attentions = all_shapes(context)
    dtypes = (torch.bfloat16, torch.float32)
    for dtype in dtypes:
        for preset, shape in cases:
            key = {"model": preset, "dtype": str(dtype).removeprefix("torch."), **_words(shape)}
            context.case(KERNELS, key, lambda s=shape, d=dtype: kernel_row(s, d, context), needs_s=2.0)  # type: ignore[misc]
    for width in norm_widths(context):
        context.case(NORMS, {"width": width}, lambda w=width: norm_row(w, context), needs_s=2.0)  # type: ignore[misc]
    for preset in (*TORCHVISION, *IMAGES):
        key = {"model": preset, "against": "timm" if "image" in preset else "torchvision"}
        context.case(MODELS, key, lambda p=preset: model_row(p, context), needs_s=5.0)  # type: ignore[misc]
        free_memory()  # the parts share the card
    for form in ("flash", "auto"):
        measure_form({"attention_form": form}, {"attention_form": "explicit"}, context)
    measure_form({"norm_form": "triton"}, {"norm_form": "library"}, context, bf16=True)
    measure_attentions(attentions, context)


def measure_attentions(attentions: list[tuple[str, Attended]], context: Context) -> None:
    """Triton attention in bf16, then in float32, whose kernels compile longest: S and its whole model first."""
    first = [entry for entry in attentions if entry[0] == VIDEO[0]]
    rest = [entry for entry in attentions if entry[0] != VIDEO[0]]
    for dtype, cases in ((torch.bfloat16, attentions), (torch.float32, first), (torch.float32, rest)):
        for preset, attended in cases:
            key = {"model": preset, "dtype": str(dtype).removeprefix("torch."), **_words(attended)}
            context.case(
                ATTENTION, key, lambda a=attended, d=dtype: attention_row(a, d, context), needs_s=4.0  # type: ignore[misc]
            )  # fmt: skip
        for form in ("triton", "triton_terms") if cases is not rest else ():
            bf16 = dtype == torch.bfloat16
            measure_form(
                {"attention_form": form}, {"attention_form": "flash" if bf16 else "explicit"}, context, bf16=bf16
            )


def measure_form(ours: dict[str, object], other: dict[str, object], context: Context, *, bf16: bool = False) -> None:
    """A whole model in a form against the same one in another form."""
    (part, form), (_, against) = *ours.items(), *other.items()
    form = f"{form} {part.removesuffix('_form')}, {'bf16' if bf16 else 'float32'}"
    key = {"model": VIDEO[0], "form": form, "against": against}
    context.case(FORMS, key, lambda: form_row(ours, other, context, bf16=bf16), needs_s=5.0)
    free_memory()


def _words(shape: Shape | Attended) -> dict[str, object]:
    words = {name: value for name, value in shape._asdict().items() if name != "axes"}
    return {name: "x".join(map(str, value)) if isinstance(value, tuple) else value for name, value in words.items()}


def kernel_row(shape: Shape, dtype: torch.dtype, context: Context) -> dict[str, Any]:
    """Differences of the result and the four gradients of the kernel, and of the plain form in the same dtype."""
    grid = shape.grid
    frames = max(1, min(grid[0], LARGEST // (grid[1] * grid[2] * shape.heads * shape.width)))
    shape = shape._replace(grid=(frames, *grid[1:]))
    torch.manual_seed(0)
    tokens = shape.cls + frames * grid[1] * grid[2]
    qkv = torch.randn(1, tokens, 3 * shape.heads * shape.width, device=context.device).to(dtype)
    made = [torch.randn(size, device=context.device) for size in _parameter_shapes(shape)]
    exact = plain([tensor.double() for tensor in (qkv, *made)], shape)
    ours = fused([qkv, *made], shape, context)
    theirs = plain([qkv, *made], shape)
    names = ("output", "gradient of tokens", "of the kernel", "of the norm's gain", "of its shift")
    differences = [relative(*compared) for compared in zip(ours, exact, names)]
    row: dict[str, Any] = dict(zip(names, differences))
    row["plain form in this dtype, worst"] = max(relative(a, b) for a, b in zip(theirs, exact))
    return {**row, "within the bound": max(differences) < BOUNDS[dtype], "bound": BOUNDS[dtype], "frames": frames}


def _parameter_shapes(shape: Shape) -> list[tuple[int, ...]]:
    return [(shape.width, 1, *shape.kernel), (shape.width,), (shape.width,)]


def _gradients(result: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The result and the gradients of a fixed weighting of it; the weighting is the same for every form."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(result.shape, generator=generator).to(result.device, torch.bfloat16).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, inputs, weights)]


def plain(tensors: list[Tensor], shape: Shape) -> list[Tensor]:
    """Convolution and LayerNorm apart, of the second third of qkv; in float64 the library's own."""
    form: PoolingForm = "library" if tensors[0].dtype == torch.float64 else "auto"
    qkv, weight, gain, shift = (tensor.detach().requires_grad_() for tensor in tensors)
    pooled = on_grid(
        qkv.chunk(3, dim=-1)[1],
        shape.grid,
        shape.cls,
        lambda maps: depthwise_pool(maps, weight, shape.stride, form=form),
    )
    heads = pooled.unflatten(-1, (shape.heads, shape.width))
    normed = F.layer_norm(heads.to(gain.dtype), (shape.width,), gain, shift, EPS).to(qkv.dtype)
    return _gradients(normed, [qkv, weight, gain, shift])


def fused(tensors: list[Tensor], shape: Shape, context: Context) -> list[Tensor]:
    """The Triton kernels; in a rehearsal without the interpreter, which is slow, the plain form in their place."""
    qkv, weight, gain, shift = (tensor.detach().requires_grad_() for tensor in tensors)
    if context.rehearse and not triton_pool.supports(qkv, weight, shape.stride):
        return plain(tensors, shape)
    normed = triton_pool.pool_norm(
        qkv.chunk(3, dim=-1)[1], weight, gain, shift, shape.grid, shape.stride,
        cls=shape.cls, heads=shape.heads, eps=EPS,
    )  # fmt: skip
    return _gradients(normed, [qkv, weight, gain, shift])


def attention_row(shape: Attended, dtype: torch.dtype, context: Context) -> dict[str, Any]:
    """Differences of the result and its gradients, and of the plain form in the same dtype, from float64."""
    shape = fewer_logits(shape)
    torch.manual_seed(0)
    tokens = [shape.cls + grid[0] * grid[1] * grid[2] for grid in (shape.grid_q, shape.grid_kv, shape.grid_kv)]
    sizes: list[tuple[int, ...]] = [(1, count, shape.heads, shape.width) for count in tokens]
    sizes += [(shape.grid_q[axis], shape.grid_kv[axis], shape.width) for axis in shape.axes]
    made = [torch.randn(size, device=context.device).to(dtype) for size in sizes]
    exact = attended_plainly([tensor.double() for tensor in made], shape)
    theirs = attended_plainly(made, shape)
    names = ["output", "gradient of queries", "of keys", "of values", *("of a table" for _ in shape.axes)]
    differences = [relative(*compared) for compared in zip(attended(made, shape, context), exact, names)]
    row: dict[str, Any] = dict(zip(names[:4], differences))
    row["of tables, worst"] = max(differences[4:])
    row["plain form in this dtype, worst"] = max(relative(a, b) for a, b in zip(theirs, exact))
    bound = ATTENTION_BOUNDS[dtype]
    return {**row, "within the bound": max(differences) < bound, "bound": bound, "took": _took(shape)}


def fewer_logits(shape: Attended) -> Attended:
    """The shape with fewer heads, and then with fewer frames and rows of queries, so that its maps fit into memory."""
    keys = shape.cls + shape.grid_kv[0] * shape.grid_kv[1] * shape.grid_kv[2]
    t, h, w = shape.grid_q
    heads = max(1, min(shape.heads, MOST_LOGITS // (t * h * w * keys)))
    t = max(1, min(t, MOST_LOGITS // (heads * h * w * keys)))
    h = max(1, min(h, MOST_LOGITS // (heads * t * w * keys)))
    return shape._replace(heads=heads, grid_q=(t, h, w))


def _took(shape: Attended) -> str:
    return f"{shape.heads} heads, queries {'x'.join(map(str, shape.grid_q))}"


def attended_plainly(tensors: list[Tensor], shape: Attended) -> list[Tensor]:
    """The bias written out."""
    inputs = [tensor.detach().requires_grad_() for tensor in tensors]
    q, k, v = (tensor.transpose(1, 2) for tensor in inputs[:3])
    terms = position_terms(q[:, :, shape.cls :], inputs[3:], shape.axes, shape.grid_q) * shape.width**-0.5
    one_hot = one_hot_positions(shape.grid_kv, shape.axes, 0, q.device).to(q.dtype)
    return _gradients(explicit_attention(q, k, v, terms @ one_hot.t(), shape.cls).transpose(1, 2), inputs)


def attended(tensors: list[Tensor], shape: Attended, context: Context) -> list[Tensor]:
    """The Triton kernels; in a rehearsal without the interpreter the plain form in float32, in which they sum."""
    q, k, v, *tables = inputs = [tensor.detach().requires_grad_() for tensor in tensors]
    terms = sum(table.shape[1] for table in tables)
    if context.rehearse and not triton_terms.supports(q, terms):
        return attended_plainly([tensor.float() for tensor in tensors], shape)
    result = triton_attention.attention(
        q, k, v, tables, shape.grid_q, shape.grid_kv, cls=shape.cls, scale=shape.width**-0.5
    )  # fmt: skip
    return _gradients(result, inputs)


def norm_widths(context: Context) -> list[int]:
    """Widths of the tokens of all models."""
    configs = [config_of(preset, context) for preset in (*VIDEO, *IMAGES)]
    return sorted({width for config in configs for block in config.blocks for width in (block.dim_in, block.dim_attn)})


def norm_row(width: int, context: Context, tokens: int = 5003) -> dict[str, Any]:
    """Differences of the kernel's bf16 result and its three gradients from float64; the plain form's beside them."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(size, generator=generator).to(context.device) for size in ((tokens, width), (width,), (width,))]
    x, gain, shift = made[0] * 3 + 1, made[1], made[2]
    grad = torch.randn(tokens, width, generator=generator).to(context.device, torch.bfloat16)
    exact_inputs = [tensor.double().requires_grad_() for tensor in (x, gain, shift)]
    result = F.layer_norm(exact_inputs[0], (width,), exact_inputs[1], exact_inputs[2], EPS)
    exact = [result.detach(), *torch.autograd.grad(result, exact_inputs, grad.double())]
    plain_inputs = [tensor.detach().requires_grad_() for tensor in (x, gain, shift)]
    normed = F.layer_norm(plain_inputs[0], (width,), plain_inputs[1], plain_inputs[2], EPS)
    theirs = [normed.detach().bfloat16(), *torch.autograd.grad(normed, plain_inputs, grad.float())]
    ours = theirs
    if triton_norm.supports(x, torch.bfloat16):
        ours = [triton_norm.layer_norm(x, gain, shift, EPS, torch.bfloat16)]
        ours += triton_norm.layer_norm_backward(grad, x, gain, EPS)
    elif not context.rehearse:
        raise RuntimeError("triton_norm.supports() is False on this machine")
    names = ("output", "gradient of x", "of gain", "of shift")
    found = [relative(*compared) for compared in zip(ours, exact, names)]
    row: dict[str, Any] = dict(zip(names, found))
    row["plain form, worst gradient"] = max(relative(a, b) for a, b in zip(theirs[1:], exact[1:]))
    return {**row, "within the bound": found[0] < 5e-3 and max(found[1:]) < 1e-5}


def logits_and_gradient(model: nn.Module, clips: Tensor, *, bf16: bool) -> tuple[Tensor, Tensor]:
    """Logits of a model in training mode, and all gradients of a fixed weighting of them in one vector, by name."""
    model.zero_grad(set_to_none=True)
    with autocast(clips.device.type, bf16):
        logits = model(clips)
    weights = torch.linspace(-1, 1, logits.numel(), device=logits.device).view_as(logits)
    (logits.float() * weights).sum().backward()
    gradients = [p.grad.flatten().float() for p in model.parameters() if p.grad is not None]
    return logits.detach().double(), torch.cat(gradients).sort().values


def model_row(preset: str, context: Context) -> dict[str, Any]:
    """Ours and theirs with the same weights, in float32 and in bf16 against float32.

    Gradients are compared as sorted values: the two order their parameters differently.
    """
    config = config_of(preset, context)
    ours, theirs = (model.to(context.device).train() for model in twins(config))
    generator = torch.Generator().manual_seed(2)
    clips = torch.randn(input_shape(config, 2), generator=generator).to(context.device)
    a, b = (logits_and_gradient(model, clips, bf16=False) for model in (ours, theirs))
    c, d = (logits_and_gradient(model, clips, bf16=True) for model in (ours, theirs))
    logits, gradients = relative(a[0], b[0], "logits"), relative(a[1], b[1], "gradients")
    return {
        "logits, float32": logits,
        "gradients, float32": gradients,
        "bf16 logits, ours": relative(c[0], a[0]),
        "bf16 logits, theirs": relative(d[0], b[0]),
        "bf16 gradients, ours": relative(c[1], a[1]),
        "bf16 gradients, theirs": relative(d[1], b[1]),
        "within the bound": logits < 1e-4 and gradients < 1e-2,
    }


def form_row(
    ours: dict[str, object], literal: dict[str, object], context: Context, *, bf16: bool = False
) -> dict[str, Any]:
    """A model in one form against the same weights in another; in bf16 they differ by its roundings."""
    found = []
    for changes in (ours, literal):
        config = config_of(VIDEO[0], context, **changes)
        torch.manual_seed(0)
        model = MViT(config).to(context.device).train()
        clips = torch.randn(input_shape(config, 1), generator=torch.Generator().manual_seed(2)).to(context.device)
        found.append(logits_and_gradient(model, clips, bf16=bf16))
    (logits, gradients), (exact_logits, exact_gradients) = found
    differences = relative(logits, exact_logits, "logits"), relative(gradients, exact_gradients, "gradients")
    bounds = (3e-2, 3e-2) if bf16 else (1e-4, 1e-2)
    return {
        "logits": differences[0],
        "gradients": differences[1],
        "within the bound": all(found < bound for found, bound in zip(differences, bounds)),
    }
