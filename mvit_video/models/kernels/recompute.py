"""Linear layers that keep less for the backward pass than a chain of modules does.

What LayerNorm, GELU and the merging of heads put out is only read by the linear layer behind them. It is cheap to
compute again from what is kept anyway, so these functions keep the input and repeat that step in the backward pass.
Values and gradients are those of the plain modules.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvit_video.models.kernels.gradient import differentiated_again, is_fake, is_transformed, wants_gradient

CHUNK_VALUES = 2**22
"""Values of the widest tensor in one chunk of tokens of an MLP on the CPU: 16 MiB in float32.

Smaller ones cost the matrix products more than the cache gives back; larger ones leave the range in which the C
library reuses memory instead of mapping fresh pages.
"""


class LinearWeights(NamedTuple):
    """What a linear layer computes with, where the layer itself holds it in another dtype."""

    weight: Tensor
    bias: Tensor | None


Linear = nn.Linear | LinearWeights


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which matrix products of x run: autocast's where it is on, else that of x."""
    device_type = x.device.type
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):  # there is no autocast of meta tensors
        return x.dtype
    return torch.get_autocast_dtype(device_type)


def is_hooked(*modules: nn.Module | None) -> bool:
    """Whether one of these has something that runs only where the module is called.

    That is a hook of its forward or backward pass, or a forward of its own put in the place of its class's, as
    libraries do that move weights between devices (accelerate) or add adapters without another module.
    """
    return any(
        module is not None
        and (
            bool(
                module._forward_hooks
                or module._forward_pre_hooks
                or module._backward_hooks
                or module._backward_pre_hooks
            )
            or "forward" in vars(module)
        )
        for module in modules
    )


def _holds_numbers(layer: nn.Linear) -> bool:
    """Whether the weight is one tensor, rather than something that stands for it (quantised by torchao: int8, scales).

    Such a tensor knows what a linear layer does with it, and little else.
    """
    return not hasattr(type(layer.weight), "__tensor_flatten__")


def is_plain(*modules: nn.Module | None) -> bool:
    """Whether these are PyTorch's own layers without hooks, so that working on their parameters is the same.

    Adapters (LoRA) and quantisation put other modules, or other weights, in their place; those must be called, and so
    are norms that lack one of their parameters.
    """
    return not is_hooked(*modules) and all(
        module is None
        or (type(module) is nn.Linear and _holds_numbers(module))
        or (type(module) is nn.LayerNorm and module.weight is not None and module.bias is not None)
        for module in modules
    )


def layer_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """norm(x), a LayerNorm of tokens.

    Within `torch.func` x gets the dtype of the parameters before: under autocast on a CPU that is not yet so, and
    PyTorch's gradient of the norm within `vmap` then ends with an error (seen with PyTorch 2.15).
    """
    if is_transformed() and isinstance(norm, nn.LayerNorm) and norm.weight is not None:
        x = x.to(norm.weight.dtype)
    normed: Tensor = norm(x)
    return normed


def _normalised(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float, dtype: torch.dtype, fused: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """LayerNorm of tokens (..., C) in `dtype`, and mean and deviation, which the fused form does not give."""
    if fused:
        from mvit_video.models.kernels import triton_norm

        return triton_norm.layer_norm(x, gamma, beta, eps, dtype), None, None
    normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gamma, beta, eps)
    return normed.to(dtype), mean, rstd


def _normalised_again(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor | None, rstd: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """:func:`_normalised` in the backward pass, in the form that the forward pass took (a mean is of the library's).

    Where gradients are differentiated again it is the library's, which can be.
    """
    if mean is None and differentiated_again():
        x = x.to(gamma.dtype)
    normed, again, deviation = _normalised(
        x, gamma, beta, eps, dtype, fused=mean is None and not differentiated_again()
    )
    return (normed, again, deviation) if mean is None else (normed, mean, rstd)


def _for_norm(x: Tensor, norm: nn.LayerNorm, dtype: torch.dtype, fused: bool) -> tuple[Tensor, bool]:
    """What a norm reads, and whether by the fused form: x itself then, else x in the dtype of the norm's parameters.

    While compiling the library's form is taken: compilers fuse norm and casts themselves, and cannot see into ours.
    """
    if fused and not torch.compiler.is_compiling() and not torch.jit.is_tracing() and not is_transformed():
        from mvit_video.models.kernels import triton_norm  # imported where it is used: importing Triton takes seconds

        if triton_norm.supports(x, dtype):
            return x, True
    return x.to(norm.weight.dtype), False


def _norm_gradient(
    grad: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor | None, rstd: Tensor | None, eps: float,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of x, gamma and beta, as far as they are needed, from the one of :func:`_normalised`'s result."""
    found: tuple[Tensor | None, ...]
    if mean is None:
        from mvit_video.models.kernels import triton_norm

        found = triton_norm.layer_norm_backward(grad, x, gamma, eps)
    else:
        found = torch.ops.aten.native_layer_norm_backward(
            grad.to(x.dtype), x, x.shape[-1:], mean, rstd, gamma, beta, list(needs)
        )
    return tuple(gradient if needed else None for gradient, needed in zip(found, needs))


def _rows(tokens: Tensor) -> Tensor:
    return tokens.reshape(-1, tokens.shape[-1])


def _linears(normed: Tensor, picked: Tensor | None, layers: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Linear layers (weight, bias, weight, ...) of tokens; the last one reads the `picked` tokens alone."""
    weights, biases = layers[0::2], layers[1::2]
    assert weights[0] is not None
    normed = normed.to(weights[0].dtype)
    inputs = [normed] * len(weights)
    if picked is not None:
        inputs[-1] = normed.index_select(1, picked)
    return tuple(F.linear(a, w, b) for a, w, b in zip(inputs, weights, biases) if w is not None)


class NormLinears(torch.autograd.Function):
    """LayerNorm, then several linear layers; keeps the input of the norm and its statistics."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, picked: Tensor | None, fused: bool,
        *layers: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """One (B, N or len(picked), width) for each layer; see :func:`norm_linears`."""
        assert layers[0] is not None
        normed, mean, rstd = _normalised(x, gamma, beta, eps, layers[0].dtype, fused)
        ctx.save_for_backward(x, gamma, beta, mean, rstd, picked, *layers[0::2])
        ctx.eps = eps
        return _linears(normed, picked, layers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x (B, N, C), of the norm and of every layer, as far as they are needed."""
        x, gamma, beta, mean, rstd, picked, *weights = ctx.saved_tensors
        normed, mean, rstd = _normalised_again(x, gamma, beta, mean, rstd, ctx.eps, weights[0].dtype)
        needs = ctx.needs_input_grad
        grad_normed: Tensor | None = None
        layers: list[Tensor | None] = []
        for index, (grad, weight) in enumerate(zip(grads, weights)):
            selected = picked is not None and index == len(weights) - 1
            rows = _rows(grad)
            read = normed.index_select(1, picked) if selected else normed
            layers.append(rows.t() @ _rows(read) if needs[6 + 2 * index] else None)
            layers.append(rows.sum(0) if needs[7 + 2 * index] else None)
            if not any(needs[:3]):
                continue
            if selected:
                if grad_normed is None:
                    grad_normed = torch.zeros_like(x, dtype=grad.dtype)
                grad_normed.index_add_(1, picked, grad @ weight)
            elif grad_normed is None:
                grad_normed = (rows @ weight).view_as(x)
            else:
                _rows(grad_normed).addmm_(rows, weight)
        if grad_normed is None:
            return None, None, None, None, None, None, *layers
        of_norm = _norm_gradient(grad_normed, x, gamma, beta, mean, rstd, ctx.eps, needs[:3])
        return *of_norm, None, None, None, *layers


def norm_linears(
    x: Tensor,
    norm: nn.LayerNorm,
    layers: list[tuple[Tensor, Tensor | None]],
    picked: Tensor | None = None,
    *,
    fused: bool = False,
) -> tuple[Tensor, ...]:
    """Linear layers (weight, bias) of the normalised tokens, keeping only x (B, N, C).

    Args:
        picked: int64 indices, without repetition, of the tokens that the last of several layers reads; None: all.
        fused: normalise by the Triton kernels where they take the tokens.

    Returns:
        One (B, N or len(picked), width) for each layer.
    """
    dtype = compute_dtype(x)
    flat: list[Tensor | None] = []
    for weight, bias in layers:
        flat += [weight.to(dtype), None if bias is None else bias.to(dtype)]
    x, fused = _for_norm(x, norm, dtype, fused)
    if not wants_gradient(x, norm.weight, norm.bias, *flat):
        assert flat[0] is not None
        normed, _, _ = _normalised(x, norm.weight, norm.bias, norm.eps, flat[0].dtype, fused)
        return _linears(normed, picked, flat)
    outputs: tuple[Tensor, ...] = NormLinears.apply(x, norm.weight, norm.bias, norm.eps, picked, fused, *flat)
    return outputs


def _chunks(rows: Tensor, width: int) -> list[slice]:
    """Equal slices of the rows, of at most CHUNK_VALUES values at `width` columns; all of them but on an eager CPU.

    Fake tensors hold no values: in slices they would only be a thousand times the operations to count.
    """
    count = rows.shape[0]
    if rows.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing() or is_fake():
        return [slice(0, count)]
    if is_transformed():  # `torch.func` has no results that are written into what is given
        return [slice(0, count)]
    step = -(-count // -(-count * width // CHUNK_VALUES)) if count else 1
    return [slice(start, start + step) for start in range(0, count, step)]


def _mlp(rows: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *, keep: bool) -> tuple[Tensor, Tensor | None]:
    """Linear, exact GELU, linear of (tokens, C), chunk by chunk; and what enters the GELU, if it is to be kept."""
    parts = _chunks(rows, w1.shape[0])
    if len(parts) == 1:
        entering = torch.addmm(b1, rows, w1.t())
        return torch.addmm(b2, F.gelu(entering), w2.t()), entering if keep else None
    # One buffer for all chunks, where nothing is kept: fresh pages for each would cost as much as the GELU.
    hidden = rows.new_empty(rows.shape[0] if keep else parts[0].stop, w1.shape[0])
    out = rows.new_empty(rows.shape[0], w2.shape[0])
    for part in parts:
        chunk = rows[part]
        entering = torch.addmm(b1, chunk, w1.t(), out=hidden[part] if keep else hidden[: chunk.shape[0]])
        torch.addmm(b2, F.gelu(entering), w2.t(), out=out[part])
    return out, hidden if keep else None


class NormMlp(torch.autograd.Function):
    """LayerNorm, linear, exact GELU, linear; keeps the input and what enters the GELU.

    On a CPU many tokens are worked through in chunks, so that the wide tensors between the layers stay small.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, fused: bool, w1: Tensor, b1: Tensor, w2: Tensor,
        b2: Tensor,
    ) -> Tensor:  # fmt: skip
        """(..., width) of x (..., C); see :func:`norm_mlp`."""
        normed, mean, rstd = _normalised(x, gamma, beta, eps, w1.dtype, fused)
        rows = _rows(normed)
        out, hidden = _mlp(rows, w1, b1, w2, b2, keep=True)
        ctx.save_for_backward(x, gamma, beta, mean, rstd, hidden, w1, b1, w2)
        ctx.eps = eps
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x (..., C), of the norm and of both layers, as far as they are needed."""
        x, gamma, beta, mean, rstd, hidden, w1, b1, w2 = ctx.saved_tensors
        needs = ctx.needs_input_grad
        again, mean, rstd = _normalised_again(x, gamma, beta, mean, rstd, ctx.eps, w1.dtype)
        normed, rows = _rows(again), _rows(grad)
        if differentiated_again():
            hidden = F.linear(normed, w1, b1)
        parts = _chunks(rows, w1.shape[0])
        of_normed: list[Tensor] = []
        sums: list[Tensor | None] = [None, None, None]
        for part in parts:
            of_hidden = torch.ops.aten.gelu_backward(rows[part] @ w2, hidden[part])
            terms = (
                (of_hidden.t(), normed[part]) if needs[5] else None,
                of_hidden.sum(0) if needs[6] else None,
                (rows[part].t(), _gelu_again(hidden[part])) if needs[7] else None,
            )
            sums = [_accumulate(total, term) for total, term in zip(sums, terms)]
            if any(needs[:3]):
                of_normed.append(of_hidden @ w1)
        of_norm: tuple[Tensor | None, ...] = (None, None, None)
        if of_normed:
            grad_normed = (torch.cat(of_normed) if len(of_normed) > 1 else of_normed[0]).view_as(x)
            of_norm = _norm_gradient(grad_normed, x, gamma, beta, mean, rstd, ctx.eps, needs[:3])
        return *of_norm, None, None, *sums, rows.sum(0) if needs[8] else None


def _gelu_again(hidden: Tensor) -> Tensor:
    """GELU of (rows, width), computed a second time.

    A compiler that saw the operation of the forward pass again would keep its result beside `hidden`, a sixth of all
    that a compiled model keeps; on another shape it is another operation.
    """
    return F.gelu(hidden.unsqueeze(0)).squeeze(0) if torch.compiler.is_compiling() else F.gelu(hidden)


def _accumulate(total: Tensor | None, term: Tensor | tuple[Tensor, Tensor] | None) -> Tensor | None:
    """total + term, where a pair stands for its matrix product; the first term starts the total."""
    if term is None:
        return None
    if isinstance(term, Tensor):
        return term if total is None else total.add_(term)
    return term[0] @ term[1] if total is None else total.addmm_(*term)


def norm_mlp(x: Tensor, norm: nn.LayerNorm, fc1: Linear, fc2: Linear, *, fused: bool = False) -> Tensor:
    """fc2(gelu(fc1(norm(x)))), keeping only x (B, N, C) and what enters the GELU; `fused` as for norm_linears."""
    dtype = compute_dtype(x)
    assert fc1.bias is not None and fc2.bias is not None
    parameters = [p.to(dtype) for p in (fc1.weight, fc1.bias, fc2.weight, fc2.bias)]
    x, fused = _for_norm(x, norm, dtype, fused)
    if not wants_gradient(x, norm.weight, norm.bias, *parameters):
        rows = _rows(_normalised(x, norm.weight, norm.bias, norm.eps, dtype, fused)[0])
        return _mlp(rows, *parameters, keep=False)[0].view(*x.shape[:-1], -1)
    out: Tensor = NormMlp.apply(x, norm.weight, norm.bias, norm.eps, fused, *parameters)
    return out


class MergeHeads(torch.autograd.Function):
    """Attention output and pooled queries added and merged, then the projection; keeps what attention keeps anyway."""

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, q: Tensor, extended: Tensor, weight: Tensor, bias: Tensor | None, cls: int
    ) -> Tensor:
        ctx.save_for_backward(out, extended, weight)
        ctx.cls, ctx.width = cls, q.shape[-1]
        return F.linear(_merge(out, extended, cls, ctx.width), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of out (B, heads, N, c + e), q (B, N, heads, c) and the projection.

        That of `extended`, whose values are those of q, goes to q. It has a gradient of its own where this one is
        differentiated again.
        """
        out, extended, weight = ctx.saved_tensors
        rows = _rows(grad)
        grad_weight = grad_bias = grad_out = grad_q = None
        if ctx.needs_input_grad[3]:
            grad_weight = rows.t() @ _rows(_merge(out, extended, ctx.cls, ctx.width))
        if ctx.needs_input_grad[4]:
            grad_bias = rows.sum(0)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            grad_q = (rows @ weight).view(grad.shape[0], grad.shape[1], -1, ctx.width)
            added = out.shape[-1] - ctx.width
            by_head = grad_q.transpose(1, 2)
            # A copy either way: the next line changes grad_q.
            grad_out = F.pad(by_head, (0, added)) if added else by_head.clone()
            grad_q[:, : ctx.cls].zero_()
        return grad_out, grad_q, None, grad_weight, grad_bias, None


def _merge(out: Tensor, extended: Tensor, cls: int, width: int) -> Tensor:
    """(B, heads, N, width + e) twice -> (B, N, heads * width): their sum, without the queries for the class token."""
    if torch.compiler.is_compiling():  # exporting, too: a graph has no buffers that are written into
        added = extended[:, :, cls:, :width].transpose(1, 2)
        if cls:
            added = F.pad(added, (0, 0, 0, 0, cls, 0))
        return (out[..., :width].transpose(1, 2) + added).flatten(2)  # added in the order of the result: one pass
    merged = out[..., :width].transpose(1, 2).clone(memory_format=torch.contiguous_format)
    merged[:, cls:] += extended[:, :, cls:, :width].transpose(1, 2)
    return merged.flatten(2)


def merge_heads(out: Tensor, q: Tensor, extended: Tensor, proj: Linear, cls: int) -> Tensor:
    """proj(out + q), with the class token spared from the addition.

    Args:
        out: (B, heads, N, c + e), of which the first c columns count.
        q: (B, N, heads, c): pooled queries, for their gradient.
        extended: (B, heads, N, c + e'): the same queries in the first c columns, for their values.
    """
    dtype = compute_dtype(out)
    weight, bias = proj.weight.to(dtype), None if proj.bias is None else proj.bias.to(dtype)
    if not wants_gradient(out, q, weight, bias):
        return F.linear(_merge(out, extended, cls, q.shape[-1]), weight, bias)
    merged: Tensor = MergeHeads.apply(out, q, extended, weight, bias, cls)
    return merged


class ZeroGradient(torch.autograd.Function):
    """The identity, which gives parameters that the result does not depend on a gradient of zero instead of none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)


def with_zero_gradients(x: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """x; the parameters get zero gradients, so that weight decay and gradient exchange treat them like all others."""
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if not wants_gradient(*wanted):
        return x
    same: Tensor = ZeroGradient.apply(x, *wanted)
    return same
