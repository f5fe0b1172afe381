"""Mixup and CutMix of a batch of clips, and the soft targets that go with them.

As in PySlowFast datasets/mixup.py (mode "batch"): clip i is mixed with clip B-1-i, and one mode, one lambda and one box
are drawn for the whole batch. Mixup: arXiv 1710.09412; CutMix: arXiv 1905.04899; label smoothing: arXiv 1512.00567.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

MixMode = Literal["none", "mixup", "cutmix"]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class MixDraw:
    """What was drawn for one batch.

    Attributes:
        mode: what is done to the clips.
        lam: weight of a clip's own label; for CutMix already the share of the pixels that stay its own.
        box: (top, left, height, width) taken from the partner; zeros unless the mode is "cutmix".
    """

    mode: MixMode
    lam: float
    box: Box


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixup or CutMix, chosen per batch, with label smoothing.

    Attributes:
        num_classes: classes of the data set.
        mixup_alpha: lambda of Mixup is drawn from Beta(alpha, alpha); 0 switches Mixup off.
        cutmix_alpha: the same for CutMix.
        prob: chance that a batch is mixed at all.
        switch_prob: chance of CutMix where both are switched on.
        smoothing: share of a label spread evenly over all classes; applied to unmixed batches too.

    Raises:
        ValueError: a value outside its range.
    """

    num_classes: int
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    prob: float = 1.0
    switch_prob: float = 0.5
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(
                f"num_classes={self.num_classes}: must be at least 1; take it from the data set's class names"
            )
        for name in ("mixup_alpha", "cutmix_alpha"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value}: must be 0 (off) or a positive number, such as 0.8")
        for name in ("prob", "switch_prob"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: a probability lies in [0, 1]; set it to 0 to switch this off")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing={self.smoothing}: label smoothing lies in [0, 1); 0.1 is the published value")

    @property
    def enabled(self) -> bool:
        """Whether batches can be mixed at all."""
        return self.prob > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)

    def draw(self, rng: np.random.Generator, height: int, width: int) -> MixDraw:
        """Draw mode, lambda and box for one batch of clips of `height` x `width` pixels."""
        if height < 1 or width < 1:
            raise ValueError(f"a clip of {height} x {width} pixels cannot be mixed: both sides must be at least 1")
        if not self.enabled or rng.random() >= self.prob:
            return MixDraw(mode="none", lam=1.0, box=(0, 0, 0, 0))
        if self.mixup_alpha > 0 and self.cutmix_alpha > 0:
            cutmix = rng.random() < self.switch_prob
        else:
            cutmix = self.cutmix_alpha > 0
        alpha = self.cutmix_alpha if cutmix else self.mixup_alpha
        lam = float(rng.beta(alpha, alpha))
        if not cutmix:
            return MixDraw(mode="mixup", lam=lam, box=(0, 0, 0, 0))
        center = (int(rng.integers(height)), int(rng.integers(width)))
        box = cutmix_box(height, width, lam=lam, center=center)
        return MixDraw(mode="cutmix", lam=1.0 - box[2] * box[3] / (height * width), box=box)

    def apply(self, clips: torch.Tensor, labels: torch.Tensor, draw: MixDraw) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch as drawn; the inputs are left unchanged.

        Args:
            clips: floating point (B, C, T, H, W).
            labels: int64 (B,), each below num_classes.
            draw: from `draw` with the height and width of these clips.

        Returns:
            The mixed clips (`clips` itself if nothing is mixed), and float32 (B, num_classes) targets whose rows add up
            to 1.

        Raises:
            ValueError: clips and labels do not go together, or the clips are not floating point.
        """
        if clips.ndim != 5 or labels.ndim != 1 or clips.shape[0] != labels.shape[0]:
            raise ValueError(
                f"clips {tuple(clips.shape)} with labels {tuple(labels.shape)}: "
                "mixing takes (B, C, T, H, W) clips and one label per clip; pass both from the same batch"
            )
        if not clips.is_floating_point():
            raise ValueError(
                f"clips of {clips.dtype}: only normalised, floating point clips are mixed; normalise them first"
            )
        targets = smoothed_one_hot(labels, num_classes=self.num_classes, smoothing=self.smoothing)
        return self.mix(clips, targets, draw)

    def mix(self, clips: torch.Tensor, targets: torch.Tensor, draw: MixDraw) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix clips (B, C, T, H, W) and any targets (B, num_classes) as drawn; the inputs are left unchanged."""
        if draw.mode == "none":
            return clips, targets
        # The labels weigh as much as the clips do: lambda is the same number for both.
        targets = targets * draw.lam + targets.flip(0) * (1.0 - draw.lam)
        if draw.mode == "mixup":
            return torch.lerp(clips.flip(0), clips, draw.lam), targets
        top, left, height, width = draw.box
        rows, columns = slice(top, top + height), slice(left, left + width)
        mixed = clips.clone()
        mixed[..., rows, columns] = clips[..., rows, columns].flip(0)
        return mixed, targets


def cutmix_box(height: int, width: int, *, lam: float, center: tuple[int, int]) -> Box:
    """(top, left, height, width) of the CutMix box around `center` (row, column), cut off at the frame's border.

    Its sides are sqrt(1 - lam) of the frame's; the caller corrects lambda by the area that is left.
    """
    ratio = math.sqrt(1.0 - lam)
    half_height, half_width = int(height * ratio) // 2, int(width * ratio) // 2
    row, column = center
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    return top, left, bottom - top, right - left


def smoothed_one_hot(labels: torch.Tensor, *, num_classes: int, smoothing: float) -> torch.Tensor:
    """float32 (B, num_classes): smoothing / num_classes everywhere, and 1 - smoothing more at the label."""
    off = smoothing / num_classes
    targets = torch.full((labels.shape[0], num_classes), off, dtype=torch.float32, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1.0 - smoothing + off)


def smoothed_multi_hot(targets: torch.Tensor, *, smoothing: float) -> torch.Tensor:
    """Targets (B, classes) of 0 and 1, each of them moved by `smoothing` / 2 towards the other."""
    return targets * (1.0 - smoothing) + 0.5 * smoothing


def soft_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, *, class_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the batch of -sum(weights * targets * log_softmax(logits)), float32 whatever the logits' precision.

    Args:
        logits: (B, classes).
        targets: floating point (B, classes), rows adding up to 1.
        class_weights: (classes,); None: 1 for all. The mean is over the batch, not over the weights in it, so that the
            gradient of a sample does not depend on what else is in its batch.

    Raises:
        ValueError: the shapes differ.
    """
    if logits.shape != targets.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} with targets {tuple(targets.shape)}: both must be (batch, classes); "
            "build the model and the mixing with the same num_classes"
        )
    if class_weights is not None:
        targets = targets * class_weights.to(targets.device)
    return F.cross_entropy(logits.float(), targets.float())
