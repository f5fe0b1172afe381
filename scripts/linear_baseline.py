"""How well a linear model on pixels names the embedded set of shapes: what the image quickstart is compared with.

    python scripts/linear_baseline.py data/shapes

Logistic regression on the pixels of the test view (32 x 32 x 3), trained on the set's training images to its end, with
the weight decay that does best on the test images, which favours it.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from mvit_video.data.datasets.sources import ShapesSource, Split
from mvit_video.data.loading.image_dataset import ImageEvalDataset

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
Labelled = tuple[torch.Tensor, torch.Tensor]


def pixels_and_labels(root: Path, split: Split) -> Labelled:
    """float32 (N, 3072), centred, and int64 (N,)."""
    manifest = ShapesSource(root=str(root)).manifest(split)
    dataset = ImageEvalDataset(manifest, crop_size=32, crop_ratio=0.9)
    pixels = torch.stack([dataset[index].clips.flatten() for index in range(len(dataset))])
    return pixels.float() / 255 - 0.45, torch.tensor(list(manifest.labels))


def fit(train: Labelled, *, decay: float, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (classes, features) and biases of the regression."""
    weight = torch.zeros(classes, train[0].shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(train[0], weight, bias), train[1]) + decay * weight.square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return weight.detach(), bias.detach()


def accuracy(data: Labelled, model: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Per cent that are named rightly."""
    return 100 * float((F.linear(data[0], *model).argmax(1) == data[1]).float().mean())


def main(root: Path) -> None:
    """Print the accuracies."""
    train, test = pixels_and_labels(root, "train"), pixels_and_labels(root, "test")
    classes = int(train[1].max()) + 1
    rows = []
    for decay in DECAYS:
        model = fit(train, decay=decay, classes=classes)
        rows.append((accuracy(test, model), accuracy(train, model), decay))
        print(f"weight decay {decay:g}: {rows[-1][1]:.1f} % of the training, {rows[-1][0]:.1f} % of the test images")
    best = max(rows)
    print(f"best: {best[0]:.1f} % of {len(test[1])} test images; chance is {100 / classes:.1f} %")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
