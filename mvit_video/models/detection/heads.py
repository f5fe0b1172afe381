"""The small networks on the features of a box: classes, offsets and masks. Names are detectron2's."""

import torch.nn.functional as F
from torch import Tensor, nn

from mvit_video.models.detection.batch_norm import BoxBatchNorm


class HeadConv(nn.Conv2d):
    """3 x 3 convolution with bias, or with batch norm and no bias; then ReLU."""

    def __init__(self, channels_in: int, channels: int, *, norm: bool) -> None:
        super().__init__(channels_in, channels, 3, padding=1, bias=not norm)
        self.norm = BoxBatchNorm(channels) if norm else None
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.relu(x if self.norm is None else self.norm(x))


class BoxHead(nn.Module):
    """Features of boxes (N, C, 7, 7) -> (N, hidden): convolutions with batch norm, then linear layers with ReLU."""

    SIDE = 7

    def __init__(self, channels: int, hidden: int, *, convs: int, linears: int) -> None:
        super().__init__()
        self.convs = [f"conv{index + 1}" for index in range(convs)]
        self.linears = [f"fc{index + 1}" for index in range(linears)]
        for name in self.convs:
            self.add_module(name, HeadConv(channels, channels, norm=True))
        width = channels * self.SIDE**2
        for name in self.linears:
            linear = nn.Linear(width, hidden)
            nn.init.kaiming_uniform_(linear.weight, a=1)
            nn.init.zeros_(linear.bias)
            self.add_module(name, linear)
            width = hidden

    def forward(self, x: Tensor) -> Tensor:
        """Features (R, hidden) of pooled regions (R, C, H, W)."""
        for name in self.convs:
            x = getattr(self, name)(x)
        x = x.flatten(1)
        for name in self.linears:
            x = F.relu(getattr(self, name)(x))
        return x


class BoxPredictor(nn.Module):
    """Class logits, background last, and offsets, of each class or of all together."""

    def __init__(self, hidden: int, num_classes: int, *, class_agnostic: bool) -> None:
        super().__init__()
        self.cls_score = nn.Linear(hidden, num_classes + 1)
        self.bbox_pred = nn.Linear(hidden, 4 if class_agnostic else 4 * num_classes)
        for linear, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, hidden) -> logits (N, classes + 1) and offsets (N, 4 or 4 * classes), in float32 (float64 stays)."""
        logits, deltas = self.cls_score(x), self.bbox_pred(x)
        return (logits, deltas) if logits.dtype.itemsize >= 4 else (logits.float(), deltas.float())


class MaskHead(nn.Module):
    """Features of boxes (N, C, 14, 14) -> mask logits of every class (N, classes, 28, 28)."""

    SIDE = 14

    def __init__(self, channels: int, num_classes: int, *, norm: bool) -> None:
        super().__init__()
        for index in range(4):
            self.add_module(f"mask_fcn{index + 1}", HeadConv(channels, channels, norm=norm))
        self.deconv = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.predictor = nn.Conv2d(channels, num_classes, 1)
        nn.init.kaiming_normal_(self.deconv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.predictor.weight, std=0.001)
        for layer in (self.deconv, self.predictor):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for index in range(4):
            x = getattr(self, f"mask_fcn{index + 1}")(x)
        logits = self.predictor(F.relu(self.deconv(x)))
        return logits if logits.dtype.itemsize >= 4 else logits.float()
