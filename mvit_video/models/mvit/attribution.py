"""Where and when an MViT looks: what each place of a clip adds to the score of a class.

The maps are integrated gradients (arXiv 1703.01365) on the tokens of the patch embedding. The way begins at a clip
without content, every token of which is the mean of the clip's tokens, and ends at the clip. A token's share is its way
times the mean gradient on it, summed over the channels. All shares together are the difference of the two logits. What
speaks against the class counts as nothing in the maps.

Attention rollout (arXiv 2005.00928) does not fit here. It multiplies square attention maps, and those of pooled
attention are rectangular: queries and keys are pooled by convolutions with strides of their own, queries are added to
the output, and the skip is pooled by a maximum. A rollout is also the same for every class, and the fused attention
that makes the model fast holds no map at all. Single gradients were tried, too: docs/predict.md says what was seen.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mvit_video.models.config import Triple
from mvit_video.models.mvit.network import MViT

STEPS = 4
"""Places on the way at which gradients are taken, in the middle of as many equal parts."""


def token_shares(
    model: MViT, clips: Tensor, classes: Tensor, *, steps: int = STEPS
) -> tuple[Tensor, Triple, tuple[Tensor, Tensor]]:
    """What each token adds to the logit of a class.

    Args:
        model: in eval mode, with classes. Its parameters get no gradients.
        clips: as :meth:`MViT.forward` takes them.
        classes: int64 (B,), the class of each clip.
        steps: gradients on the way, one forward and backward pass each.

    Returns:
        (B, T*H*W) shares, their grid (T, H, W), and the logits (B, num_classes) of the clips without content and of the
        clips.

    Raises:
        ValueError: the model is in training mode, or `steps` is below 1.
    """
    if model.training:
        raise ValueError("the model is in training mode, in which paths are dropped at random: call model.eval() first")
    if steps < 1:
        raise ValueError(f"steps={steps}: at least one gradient is needed; {STEPS} is the default")
    with torch.no_grad():
        tokens, grid = model.embed(clips)
        empty = _without_content(model, tokens, grid)
        ends = _logits(model, empty, grid), _logits(model, tokens, grid)
    way = tokens - empty
    gradients = torch.zeros_like(tokens)
    for step in range(steps):
        with torch.enable_grad():
            place = (empty + (step + 0.5) / steps * way).requires_grad_()
            score = _logits(model, place, grid).gather(1, classes[:, None]).sum()
            gradients += torch.autograd.grad(score, place)[0]
    return (way * gradients / steps).sum(-1)[:, model.cls :], grid, ends


def class_maps(model: MViT, clips: Tensor, classes: Tensor, *, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Where and when each clip speaks for a class.

    Args:
        model, clips, classes, steps: see :func:`token_shares`.

    Returns:
        float32 (B, T, H, W) maps, 0 or more, of the size of the clip's pictures; the sum of a map is 1, or 0 where
        nothing speaks for the class. And the logits (B, num_classes).
    """
    shares, grid, (_, logits) = token_shares(model, clips, classes, steps=steps)
    coarse = shares.float().clamp_min(0).unflatten(1, grid)
    size = (clips.shape[2] if clips.dim() == 5 else 1, *clips.shape[-2:])
    maps = F.interpolate(coarse[:, None], size=size, mode="trilinear", align_corners=False)[:, 0]
    total = maps.sum(dim=(1, 2, 3), keepdim=True)
    return maps / torch.where(total > 0, total, torch.ones_like(total)), logits


def _without_content(model: MViT, tokens: Tensor, grid: Triple) -> Tensor:
    """Tokens that say nothing: the mean of the clip everywhere, at their positions; the class token as it is."""
    cls, content = tokens[:, : model.cls], tokens[:, model.cls :]
    if model.config.abs_pos == "none":
        return torch.cat([cls, content.mean(dim=1, keepdim=True).expand_as(content)], dim=1)
    positions = model.positions(grid)[:, model.cls :]
    return torch.cat([cls, (content - positions).mean(dim=1, keepdim=True) + positions], dim=1)


def _logits(model: MViT, tokens: Tensor, grid: Triple) -> Tensor:
    for index, block in enumerate(model.blocks):
        tokens, grid = block(tokens, grid, model.is_cls_only(index))
    return model.forward_head(tokens)
