"""Where and when an MViT looks: how much each token adds to the score of a class.

A map is the token times the gradient of the class's logit, summed over the channels, at the input of one block: the
first-order change of the logit if that token were gone (HiResCAM, arXiv 2011.08891, on tokens). What speaks against the
class counts as nothing.

Attention rollout (arXiv 2005.00928) does not fit here. It multiplies square attention maps, and those of pooled
attention are rectangular: queries and keys are pooled by convolutions with strides of their own, queries are added to
the output, and the skip is pooled by a maximum. A rollout is also the same for every class, and the fused attention
that makes the model fast holds no map at all.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mvit_video.models.config import Triple
from mvit_video.models.mvit.network import MViT


@dataclass(frozen=True)
class TokenGradients:
    """Tokens at the input of a block, and what they do to a logit.

    Attributes:
        tokens: (B, T*H*W, C), without the class token.
        gradients: of the logits, likewise.
        grid: (T, H, W).
        logits: (B, num_classes).
    """

    tokens: Tensor
    gradients: Tensor
    grid: Triple
    logits: Tensor


def token_gradients(model: MViT, clips: Tensor, classes: Tensor, *, block: int) -> TokenGradients:
    """The tokens at the input of a block with the gradients of one logit of each clip.

    Args:
        model: in eval mode, with classes. Its parameters get no gradients.
        clips: as :meth:`MViT.forward` takes them.
        classes: int64 (B,), the class of each clip.
        block: 0 for the first one.

    Raises:
        ValueError: the model has no such block, or is in training mode.
    """
    if not 0 <= block < len(model.blocks):
        raise ValueError(f"block={block}: the model has the blocks 0 to {len(model.blocks) - 1}")
    if model.training:
        raise ValueError("the model is in training mode, in which paths are dropped at random: call model.eval() first")
    with torch.no_grad():
        tokens, grid = model.embed(clips)
        for index in range(block):
            tokens, grid = model.blocks[index](tokens, grid, model.is_cls_only(index))
    with torch.enable_grad():
        tokens = tokens.detach().clone().requires_grad_()
        result, result_grid = tokens, grid
        for index in range(block, len(model.blocks)):
            result, result_grid = model.blocks[index](result, result_grid, model.is_cls_only(index))
        logits = model.forward_head(result)
        (gradients,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), tokens)
    return TokenGradients(tokens.detach()[:, model.cls :], gradients[:, model.cls :], grid, logits.detach())


def explained_block(model: MViT) -> int:
    """The block at whose input maps are taken: the first of the stage before the last.

    There the tokens have seen much of the clip and still lie finer than in the last stage, 14 x 14 on 224 pixels.
    """
    starts = model.config.stage_starts
    return starts[-2] if len(starts) > 1 else starts[-1] if starts else 0


def class_maps(model: MViT, clips: Tensor, classes: Tensor, *, block: int | None = None) -> tuple[Tensor, Tensor]:
    """Where and when each clip speaks for a class.

    Args:
        model, clips, classes: see :func:`token_gradients`.
        block: at whose input; None: :func:`explained_block`.

    Returns:
        float32 (B, T, H, W) maps, 0 or more, of the size of the clip's pictures; the sum of a map is 1, or 0 where
        nothing speaks for the class. And the logits (B, num_classes).
    """
    found = token_gradients(model, clips, classes, block=explained_block(model) if block is None else block)
    shares = (found.tokens.float() * found.gradients.float()).sum(-1).clamp_min(0).unflatten(1, found.grid)
    frames = clips.shape[2] if clips.dim() == 5 else 1
    size = (frames, *clips.shape[-2:])
    maps = F.interpolate(shares[:, None], size=size, mode="trilinear", align_corners=False)[:, 0]
    total = maps.sum(dim=(1, 2, 3), keepdim=True)
    return maps / torch.where(total > 0, total, torch.ones_like(total)), found.logits
