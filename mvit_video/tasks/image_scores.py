"""What is kept of a model's probabilities of images: the best classes, and the places of the right ones.

All probabilities of the 522,500 validation images of ImageNet-21k-P would take 22 GB, and more on their way between
the ranks.
"""

import math
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch

from mvit_video.data.datasets.manifest import Manifest
from mvit_video.metrics import LEAST_PROBABILITY, BoolArray, FloatArray, IntArray, classes_before

KEPT = 5
"""Best classes that are kept of each image."""


class ImageScoresState(TypedDict):
    """`ImageScores` as plain arrays, of the images that came."""

    images: IntArray
    best: IntArray
    shares: FloatArray
    own: FloatArray
    pairs: IntArray
    before: IntArray
    failed: IntArray
    duplicates: int


class ImageScores:
    """Scores of the images of a split, each counted exactly once.

    An image either has scores, has failed (it could not be read) or is missing (nothing came yet).

    Args:
        manifest: the images and their labels. Where it has several for an image, each of them is right, and the class
            of the image is the first.

    Attributes:
        best: int64 (images, k), the k = min(KEPT, classes) best classes, of equal ones the first.
        shares: float32 (images, k), their probabilities.
        duplicates: images that arrived when they were already there, and were ignored.
    """

    def __init__(self, manifest: Manifest) -> None:
        count, kept = len(manifest), min(KEPT, manifest.num_classes)
        sets = manifest.label_sets
        self._paths = manifest.paths
        self._labels = np.asarray(manifest.labels, np.int64)
        # Pairs of an image and a class that is right for it, image by image.
        self._owners = np.arange(count) if sets is None else np.repeat(np.arange(count), sets.sizes)
        self._right = self._labels if sets is None else sets.values
        self._first_pair = np.searchsorted(self._owners, np.arange(count + 1))
        self._before = np.zeros(len(self._owners), np.int64)
        self._own = np.zeros(count, np.float32)
        self.best = np.zeros((count, kept), np.int64)
        self.shares = np.zeros((count, kept), np.float32)
        self.scored: BoolArray = np.zeros(count, np.bool_)
        self.failed: BoolArray = np.zeros(count, np.bool_)
        self.duplicates = 0

    def add(self, images: IntArray, probabilities: torch.Tensor, *, failed: BoolArray) -> None:
        """Record some images.

        Args:
            images: int64 (B,), their numbers in the manifest.
            probabilities: float32 (B, classes), softmax of the logits.
            failed: (B,), those that could not be read: their probabilities are ignored.

        Raises:
            ValueError: probabilities that are not finite.
        """
        self._mark_failed(images[failed])
        rows = self._first_arrivals(images, ~failed)
        images, probabilities = images[rows], probabilities[torch.from_numpy(rows).to(probabilities.device)]
        broken = ~torch.isfinite(probabilities).all(1).cpu().numpy()
        if broken.any():
            raise ValueError(
                f"the model's probabilities for {self._paths[int(images[broken][0])]} are not finite: its weights or "
                "the precision it runs in are broken"
            )
        # Stable: torch.topk takes any of equal ones.
        shares, best = probabilities.sort(dim=1, descending=True, stable=True)
        kept = self.best.shape[1]
        self.best[images], self.shares[images] = best[:, :kept].cpu().numpy(), shares[:, :kept].cpu().numpy()
        self._own[images] = self._of(probabilities, np.arange(len(images)), self._labels[images])
        pairs = self._pairs_of(images)
        places = np.repeat(np.arange(len(images)), self._first_pair[images + 1] - self._first_pair[images])
        self._before[pairs] = _before(probabilities, places, self._right[pairs])
        self._has(images)

    @staticmethod
    def _of(probabilities: torch.Tensor, rows: IntArray, classes: IntArray) -> FloatArray:
        device = probabilities.device
        found: FloatArray = (
            probabilities[torch.from_numpy(rows).to(device), torch.from_numpy(classes).to(device)].cpu().numpy()
        )
        return found

    def _pairs_of(self, images: IntArray) -> IntArray:
        parts = [np.arange(self._first_pair[image], self._first_pair[image + 1]) for image in images]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def _first_arrivals(self, images: IntArray, readable: BoolArray) -> IntArray:
        """The places in a batch of images that are readable and new; the other readable ones count as duplicates."""
        places = np.flatnonzero(readable)
        first = places[np.unique(images[places], return_index=True)[1]]
        new: IntArray = np.sort(first[~self.scored[images[first]]])
        self.duplicates += len(places) - len(new)
        return new

    def _has(self, images: IntArray) -> None:
        self.scored[images] = True
        self.failed[images] = False

    def _mark_failed(self, images: IntArray) -> None:
        self.failed[images] |= ~self.scored[images]

    def state(self) -> ImageScoresState:
        """Everything that came so far, to be sent to another rank."""
        images = np.flatnonzero(self.scored)
        pairs = np.flatnonzero(self.scored[self._owners])
        return {
            "images": images,
            "best": self.best[images],
            "shares": self.shares[images],
            "own": self._own[images],
            "pairs": pairs,
            "before": self._before[pairs],
            "failed": np.flatnonzero(self.failed),
            "duplicates": self.duplicates,
        }

    def merge(self, state: ImageScoresState) -> None:
        """Take over what another rank saw. An image that both have counts once, and adds to `duplicates`."""
        new = ~self.scored[state["images"]]
        images = state["images"][new]
        mine = ~self.scored[self._owners[state["pairs"]]]
        self._before[state["pairs"][mine]] = state["before"][mine]
        self._own[images], self.best[images] = state["own"][new], state["best"][new]
        self.shares[images] = state["shares"][new]
        self._has(images)
        self._mark_failed(state["failed"])
        self.duplicates += state["duplicates"] + int((~new).sum())

    def check_complete(self) -> None:
        """Raise ValueError if an image neither has scores nor has failed."""
        missing = np.flatnonzero(~(self.scored | self.failed))
        if len(missing):
            raise ValueError(
                f"{len(missing)} of {len(self.scored)} images were never scored, the first is "
                f"{self._paths[int(missing[0])]}: every image must be scored or marked as failed before results are "
                "reported"
            )

    def hits(self, k: int) -> BoolArray:
        """bool (images,): whether a right class is among the k best; an unreadable image is wrong."""
        found = np.zeros(len(self.scored), np.bool_)
        found[self._owners[self._before < k]] = True
        return found & self.scored

    def predictions(self) -> IntArray:
        """int64 (images,): the best class, the first of equal ones; -1 if the image could not be read."""
        return np.where(self.scored, self.best[:, 0], -1)

    def log_loss(self) -> float:
        """Mean over the images with scores of -log p(label), the cross entropy; NaN if there are none.

        A probability that is zero in float32 counts as the least normal one, 1.2e-38.
        """
        own = self._own[self.scored].astype(np.float64)
        return float(-np.log(np.maximum(own, LEAST_PROBABILITY)).mean()) if len(own) else math.nan

    def answers(self) -> Iterator[tuple[IntArray, npt.NDArray[np.floating]] | None]:
        """For each image its best classes and their probabilities; None for one that could not be read."""
        for scored, best, shares in zip(self.scored, self.best, self.shares, strict=True):
            yield (best, shares) if scored else None


def _before(probabilities: torch.Tensor, rows: IntArray, classes: IntArray) -> IntArray:
    """int64 (n,): how many classes come before the given one in a row of probabilities (B, C)."""
    device = probabilities.device
    places, wanted = torch.from_numpy(rows).to(device), torch.from_numpy(classes).to(device)
    found: IntArray = classes_before(probabilities[places], wanted).cpu().numpy()
    return found
