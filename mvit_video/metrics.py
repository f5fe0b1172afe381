"""Accuracies: top-k, mean-class accuracy, F1, their confidence intervals, and scores of views combined as published."""

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch

from mvit_video.runtime.intervals import wilson_ci95

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

RESAMPLES = 1000
"""Resamples of a bootstrap: the ends of a 95 % interval are the 25th value from either side."""
_DRAWS_AT_ONCE = 2_000_000  # videos drawn before their counts are taken, which bounds the memory
_COMPARED_AT_ONCE = 50_000_000  # scores compared with those of their labels, which bounds the memory
LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)  # what a probability that is zero in float32 counts as in a loss


class ViewScoresState(TypedDict):
    """What `ViewScores.state` gives: plain arrays and numbers, of the views seen only, to be sent between ranks.

    Shapes: scored (n, 2) int64 of (video, view); probabilities (n, num_classes) float32; failed (m, 2) int64.
    """

    num_videos: int
    num_views: int
    num_classes: int
    scored: IntArray
    probabilities: FloatArray
    failed: IntArray
    duplicates: int


def topk_correct(scores: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
    """Whether the label is among the k highest scores; of classes with equal scores the first ones are.

    torch.topk takes others of them for every k, so that what it names first may not be among its five. Logits in bf16
    have so few digits that the two best of a clip are often equal.

    Args:
        scores: (N, C), any order-preserving score (logits or probabilities). A label whose score is NaN is not among
            them.
        labels: (N,) class indices.
        k: from 1; more than C counts as C.

    Returns:
        bool (N,), on the device of `scores`.

    Raises:
        ValueError: for k below 1 or shapes that do not belong together.
    """
    if k < 1:
        raise ValueError(f"k is {k}: top-k needs k of at least 1")
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"scores are {tuple(scores.shape)} and labels {tuple(labels.shape)}: they must be (N, C) and (N,)"
        )
    rows = max(1, _COMPARED_AT_ONCE // max(1, scores.shape[1]))
    parts = zip(scores.split(rows), labels.split(rows))
    return torch.cat([classes_before(part, those) < min(k, scores.shape[1]) for part, those in parts])


def classes_before(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """int64 (N,): how many classes come before the label in scores (N, C), of equal ones the first; all of them where
    its score is NaN.
    """
    own, places = scores.gather(1, labels[:, None]), torch.arange(scores.shape[1], device=scores.device)
    return (~(scores <= own) | ((scores == own) & (places < labels[:, None]))).sum(1)


def best_classes(scores: npt.ArrayLike, k: int) -> IntArray:
    """The k classes with the highest scores (C,), the highest first, of equal ones the first; int64 (min(k, C),).

    A full sort of 20,000 classes for each of 50,000 images takes minutes.
    """
    below = -np.asarray(scores)
    if k >= len(below):
        return np.argsort(below, kind="stable")
    near = np.flatnonzero(below <= np.partition(below, k - 1)[k - 1])
    return near[np.argsort(below[near], kind="stable")[:k]]


def mean_class_accuracy(right: npt.ArrayLike, total: npt.ArrayLike) -> float:
    """Mean over the classes of the share of their videos that are right, in per cent: every class counts the same.

    Args:
        right: (C,) videos of each class that were named rightly.
        total: (C,) videos of each class; classes without videos are left out of the mean.

    Returns:
        NaN if no class has a video.
    """
    rights, totals = np.asarray(right, np.float64), np.asarray(total, np.float64)
    known = totals > 0
    return 100.0 * float((rights[known] / totals[known]).mean()) if known.any() else math.nan


def macro_f1(labels: npt.ArrayLike, predictions: npt.ArrayLike, *, num_classes: int) -> float:
    """Mean over the classes of F1 = 2 TP / (2 TP + FP + FN), in per cent.

    Classes that have no video and that no video is taken for are left out of the mean.

    Args:
        labels: (N,) class indices.
        predictions: (N,) class indices, -1 for a video without prediction, which its class misses.
        num_classes: C.

    Returns:
        NaN if there is no video.
    """
    true, predicted = np.asarray(labels, np.int64), np.asarray(predictions, np.int64)
    both = np.bincount(true[true == predicted], minlength=num_classes)
    sums = np.bincount(true, minlength=num_classes) + np.bincount(predicted[predicted >= 0], minlength=num_classes)
    known = sums > 0
    return 100.0 * float((2 * both[known] / sums[known]).mean()) if known.any() else math.nan


def confusion_counts(labels: IntArray, predictions: IntArray, *, num_classes: int) -> IntArray:
    """(num_classes, num_classes) counts, rows true and columns predicted; predictions of -1 are left out."""
    known = predictions >= 0
    cells = np.bincount(labels[known] * num_classes + predictions[known], minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def average_precision(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Average precision of one class: sum over the ranks of (recall gained) * precision; NaN without a positive.

    Videos of equal score share a rank. Not interpolated: the definition of scikit-learn's
    `average_precision_score`.

    Args:
        scores: (N,), higher for what is more likely of the class; -inf for a video that could not be read.
        positive: bool (N,), whether each is of the class.

    Returns:
        From 0 to 1.
    """
    values, right = np.asarray(scores, np.float64), np.asarray(positive, np.bool_)
    if not right.any():
        return math.nan
    order = np.argsort(-values, kind="stable")
    values, right = values[order], right[order]
    ends = np.append(values[1:] != values[:-1], True)  # of each rank
    found = np.cumsum(right)[ends]
    precision = found / (np.flatnonzero(ends) + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / found[-1])


def bootstrap_ci95(correct: npt.ArrayLike, labels: npt.ArrayLike, *, seed: int = 0) -> dict[str, list[float]]:
    """95 % confidence intervals of accuracies: what they would be on other test videos of the same kind.

    The percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13): as many videos
    are drawn from the set with replacement, RESAMPLES times; the interval runs from the 2.5th to the 97.5th percentile
    of the accuracies. It supposes that videos are independent of one another, which takes of one recording are not, and
    it is too narrow for a few dozen videos. Where all videos are right or all are wrong, resampling gives no width: the
    interval is Wilson's then, of the share of the videos, for both accuracies.

    Args:
        correct: bool (N,), whether each video was named rightly.
        labels: (N,) class indices; a class that a resample lacks is left out of its mean over classes.
        seed: of the resamples, so that the same results give the same interval.

    Returns:
        [low, high] in per cent: "video_top1" over the videos, "mean_class_top1" see `mean_class_accuracy`.
    """
    right, classes = np.asarray(correct, np.bool_), np.unique(np.asarray(labels), return_inverse=True)[1]
    videos, num_classes = len(right), int(classes.max()) + 1
    if right.all() or not right.any():
        ends = wilson_ci95(int(right.sum()), videos)
        return {name: list(ends) for name in ("video_top1", "mean_class_top1")}
    rng = np.random.default_rng(seed)
    over_videos: list[npt.NDArray[np.float64]] = []
    over_classes: list[npt.NDArray[np.float64]] = []
    rows = max(1, _DRAWS_AT_ONCE // max(videos, num_classes))
    for first in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - first)
        drawn = rng.integers(videos, size=(count, videos))
        cells = classes[drawn] + num_classes * np.arange(count)[:, None]
        total = np.bincount(cells.ravel(), minlength=count * num_classes).reshape(count, num_classes)
        good = np.bincount(cells[right[drawn]], minlength=count * num_classes).reshape(count, num_classes)
        over_videos.append(good.sum(1) / videos)
        over_classes.append((good / np.maximum(total, 1)).sum(1) / (total > 0).sum(1))
    named = {"video_top1": np.concatenate(over_videos), "mean_class_top1": np.concatenate(over_classes)}
    return {name: [100.0 * float(end) for end in np.quantile(means, (0.025, 0.975))] for name, means in named.items()}


def bootstrap_mean_ci95(
    values: npt.ArrayLike, groups: npt.ArrayLike | None = None, *, seed: int = 0
) -> tuple[float, float]:
    """95 % confidence interval of a mean over videos, by the percentile bootstrap of `bootstrap_ci95`.

    Args:
        values: (N,) of each video: 1 for right and 0 for wrong, or the difference of two such.
        groups: (N,) equal for videos that belong together, takes of one recording. Whole groups are drawn then, as many
            as there are, so that videos which are no evidence apart from each other do not count as such. None: each
            video by itself.
        seed: of the resamples.

    Returns:
        (low, high), in the unit of the values.

    Raises:
        ValueError: no values.
    """
    numbers = np.asarray(values, np.float64)
    if not len(numbers):
        raise ValueError("no values: the interval of a mean needs at least one video")
    keys = np.arange(len(numbers)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    sums, counts = np.bincount(keys, weights=numbers), np.bincount(keys)
    rng = np.random.default_rng(seed)
    means: list[npt.NDArray[np.float64]] = []
    rows = max(1, _DRAWS_AT_ONCE // len(sums))
    for first in range(0, RESAMPLES, rows):
        drawn = rng.integers(len(sums), size=(min(rows, RESAMPLES - first), len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


class RunningMean:
    """Weighted mean of the values seen so far; NaN before the first."""

    def __init__(self) -> None:
        self.total = 0.0
        self.weight = 0.0

    def update(self, value: float, *, weight: float = 1.0) -> None:
        """Count `value` `weight` times, e.g. a batch's mean loss with the batch's size."""
        if weight < 0:
            raise ValueError(f"weight is {weight}: it must be at least 0")
        self.total += value * weight
        self.weight += weight

    @property
    def mean(self) -> float:
        return self.total / self.weight if self.weight else math.nan

    def reset(self) -> None:
        self.total = 0.0
        self.weight = 0.0


class ViewScores:
    """Class probabilities of each (video, view) of a test set, each counted exactly once.

    The video's score is the sum of its views' probabilities (PySlowFast utils/meters.py, DATA.ENSEMBLE_METHOD sum).
    Unlike there, a view that arrives again, as a distributed sampler's padding makes happen, does not count twice.
    A view either has scores, has failed (its video could not be read) or is missing (nothing came yet).

    Attributes:
        duplicates: number of views that arrived when they were already there, and were ignored.
    """

    def __init__(self, *, num_videos: int, num_views: int, num_classes: int) -> None:
        if min(num_videos, num_views, num_classes) < 1:
            raise ValueError(
                f"num_videos is {num_videos}, num_views {num_views}, num_classes {num_classes}: each must be at least 1"
            )
        self.num_videos = num_videos
        self.num_views = num_views
        self.num_classes = num_classes
        self.duplicates = 0
        # Zeros are not backed by memory until written, so a rank that sees a part of the set pays for that part.
        self._probabilities: FloatArray = np.zeros((num_videos, num_views, num_classes), np.float32)
        self._scored: BoolArray = np.zeros((num_videos, num_views), np.bool_)
        self._failed: BoolArray = np.zeros((num_videos, num_views), np.bool_)

    def add(
        self,
        videos: npt.ArrayLike,
        views: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        *,
        failed: npt.ArrayLike | None = None,
    ) -> None:
        """Record some views.

        Args:
            videos: (N,) index of the video in its manifest.
            views: (N,) number of the view in its video.
            probabilities: (N, num_classes) softmax of the logits.
            failed: bool (N,), views that could not be read: their probabilities are ignored. None = all were read.

        Raises:
            ValueError: for indices out of range, a wrong shape, or probabilities that are not finite.
        """
        videos, views = self._checked_keys(videos, views)
        rows = np.asarray(probabilities, dtype=np.float32)
        if rows.shape != (len(videos), self.num_classes):
            raise ValueError(
                f"probabilities have shape {rows.shape}: {len(videos)} views of {self.num_classes} classes need "
                f"({len(videos)}, {self.num_classes})"
            )
        if failed is not None:
            lost = np.asarray(failed, dtype=np.bool_)
            self.mark_failed(videos[lost], views[lost])
            videos, views, rows = videos[~lost], views[~lost], rows[~lost]
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"the model's probabilities for video {videos[~finite][0]} (view {views[~finite][0]}) are not finite: "
                "its weights or the precision it runs in are broken"
            )
        new = self._first_arrivals(videos, views)
        self._probabilities[videos[new], views[new]] = rows[new]
        self._scored[videos[new], views[new]] = True
        self._failed[videos[new], views[new]] = False

    def mark_failed(self, videos: npt.ArrayLike, views: npt.ArrayLike) -> None:
        """Record that views (N,) of videos (N,) could not be read; without effect on views that have scores."""
        videos, views = self._checked_keys(videos, views)
        self._failed[videos, views] |= ~self._scored[videos, views]

    def missing(self) -> IntArray:
        """(n, 2): the (video, view) keys that neither have scores nor failed, in order."""
        return np.argwhere(~(self._scored | self._failed)).astype(np.int64)

    def failed_videos(self) -> BoolArray:
        """(num_videos,): videos of which no view could be read."""
        return np.logical_and(self._failed.any(axis=1), ~self._scored.any(axis=1))

    def views_per_video(self) -> IntArray:
        """(num_videos,): number of views with scores, by which `video_scores` is divided to get a mean."""
        return self._scored.sum(axis=1, dtype=np.int64)

    def clip_topk(self, labels: npt.ArrayLike, k: int) -> BoolArray:
        """(num_videos, num_views): whether each view alone has the label among its k best; a failed view is wrong."""
        targets = np.repeat(self._checked_labels(labels), self.num_views)
        flat = self._probabilities.reshape(-1, self.num_classes)
        return _topk(flat, targets, k).reshape(self._scored.shape) & self._scored

    def video_scores(self) -> FloatArray:
        """(num_videos, num_classes): sum of the probabilities of the views present; zeros if there are none.

        Views are added in their order, whatever order they arrived in, so that any number of ranks gives equal sums.
        Not to be changed: of a single view they are what is kept here, for a copy may be gigabytes (many classes).
        """
        return self._probabilities[:, 0] if self.num_views == 1 else self._probabilities.sum(axis=1, dtype=np.float32)

    def video_topk(self, labels: npt.ArrayLike, k: int) -> BoolArray:
        """(num_videos,): whether the label is among the k best of the summed scores; a failed video is wrong."""
        return _topk(self.video_scores(), self._checked_labels(labels), k) & self._scored.any(axis=1)

    def predictions(self) -> IntArray:
        """(num_videos,): the best class of each video, the first of equal ones; -1 if no view has scores."""
        return np.where(self._scored.any(axis=1), self.video_scores().argmax(axis=1), -1)

    def confusion(self, labels: npt.ArrayLike) -> IntArray:
        """(num_classes, num_classes) counts of videos, rows true and columns predicted; failed videos are left out."""
        return confusion_counts(self._checked_labels(labels), self.predictions(), num_classes=self.num_classes)

    def log_loss(self, labels: npt.ArrayLike) -> float:
        """Mean over the views with scores of -log p(label), the cross entropy; NaN if no view has scores.

        A probability that is zero in float32 counts as the least normal one, 1.2e-38.
        """
        videos, views = np.nonzero(self._scored)
        targets = self._checked_labels(labels)[videos]
        probabilities = self._probabilities[videos, views, targets].astype(np.float64)
        return float(-np.log(np.maximum(probabilities, LEAST_PROBABILITY)).mean()) if len(videos) else math.nan

    def merge(self, other: "ViewScores") -> None:
        """Take over what another rank saw. A view both have counts once (this one's) and adds to `duplicates`."""
        mine = (self.num_videos, self.num_views, self.num_classes)
        theirs = (other.num_videos, other.num_views, other.num_classes)
        if mine != theirs:
            raise ValueError(
                f"cannot merge scores of (videos, views, classes) {theirs} into {mine}: they must be equal"
            )
        duplicates = self.duplicates + other.duplicates
        videos, views = np.nonzero(other._scored)
        self.duplicates = 0
        self.add(videos, views, other._probabilities[videos, views])
        self.duplicates += duplicates
        self.mark_failed(*np.nonzero(other._failed))

    def state(self) -> ViewScoresState:
        """Everything seen so far as plain arrays, to be sent to another rank or written down."""
        videos, views = np.nonzero(self._scored)
        return {
            "num_videos": self.num_videos,
            "num_views": self.num_views,
            "num_classes": self.num_classes,
            "scored": np.stack([videos, views], axis=1).astype(np.int64),
            "probabilities": self._probabilities[videos, views],
            "failed": np.argwhere(self._failed).astype(np.int64),
            "duplicates": self.duplicates,
        }

    @classmethod
    def from_state(cls, state: ViewScoresState) -> "ViewScores":
        """The scores that `state` was taken from."""
        scores = cls(num_videos=state["num_videos"], num_views=state["num_views"], num_classes=state["num_classes"])
        scores.add(state["scored"][:, 0], state["scored"][:, 1], state["probabilities"])
        scores.mark_failed(state["failed"][:, 0], state["failed"][:, 1])
        scores.duplicates = state["duplicates"]
        return scores

    def metrics(self, labels: npt.ArrayLike, *, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
        """The numbers of the whole set, one each.

        Accuracies are per cent of ALL videos and views: one that could not be read counts as wrong, so that a copy of
        the data set with broken files cannot look better than a whole one; num_failed says how many videos those are.

        Args:
            labels: (num_videos,) class indices.
            ks: the k of top-k.

        Returns:
            clip_top{k} (each view on its own) and video_top{k} (views summed) for k in `ks`; mean_class_top1 and
            macro_f1 of the videos (see the functions of these names); loss, the mean log loss of the views that could
            be read; num_videos; num_failed, videos without a readable view.

        Raises:
            ValueError: if views are missing.
        """
        labels = self._checked_labels(labels)
        self.check_complete()
        accuracies: dict[str, float] = {}
        for k in ks:
            accuracies[f"clip_top{k}"] = 100.0 * float(self.clip_topk(labels, k).mean())
            accuracies[f"video_top{k}"] = 100.0 * float(self.video_topk(labels, k).mean())
        right, total = self._counts(labels)
        return {
            **accuracies,
            "mean_class_top1": mean_class_accuracy(right, total),
            "macro_f1": macro_f1(labels, self.predictions(), num_classes=self.num_classes),
            "loss": self.log_loss(labels),
            "num_videos": self.num_videos,
            "num_failed": int(self.failed_videos().sum()),
        }

    def results(
        self, labels: npt.ArrayLike, class_names: Sequence[str], *, ks: Sequence[int] = (1, 5)
    ) -> dict[str, float | int | list[float] | Mapping[str, float | None] | None]:
        """The numbers of the whole set and of each class, ready for JSON.

        Args:
            labels: (num_videos,) class indices.
            class_names: one name per class, all different.
            ks: the k of top-k.

        Returns:
            What `metrics` gives, loss None instead of NaN; video_top1_ci95 and mean_class_top1_ci95, [low, high] (see
            `bootstrap_ci95`); num_views, the views counted in all, = num_videos * views_per_video; num_failed_views;
            per_class, class name -> video-level top-1, None for a class without videos; per_class_count, class name ->
            number of videos.

        Raises:
            ValueError: if views are missing, or the names do not fit.
        """
        labels = self._checked_labels(labels)
        check_class_names(class_names, self.num_classes)
        numbers = self.metrics(labels, ks=ks)
        intervals = bootstrap_ci95(self.video_topk(labels, 1), labels)
        counts = np.bincount(labels, minlength=self.num_classes)
        return {
            **{name: None if math.isnan(value) else value for name, value in numbers.items()},
            **{f"{name}_ci95": interval for name, interval in intervals.items()},
            "num_views": self._scored.size,
            "views_per_video": self.num_views,
            "num_failed_views": int(self._failed.sum()),
            "per_class": self._per_class(labels, class_names),
            "per_class_count": {name: int(count) for name, count in zip(class_names, counts, strict=True)},
        }

    def scored_views(self) -> tuple[IntArray, FloatArray]:
        """(n,) video of each view that has scores, and its probabilities (n, num_classes)."""
        videos, views = np.nonzero(self._scored)
        return videos.astype(np.int64), self._probabilities[videos, views]

    def check_complete(self) -> None:
        """Raise ValueError if a view neither has scores nor has failed."""
        missing = self.missing()
        if len(missing):
            raise ValueError(
                f"{len(missing)} of {self._scored.size} views were never scored, the first is video {missing[0, 0]}, "
                f"view {missing[0, 1]}: every view must be scored or marked as failed before results are reported"
            )

    def _per_class(self, labels: IntArray, class_names: Sequence[str]) -> dict[str, float | None]:
        right, total = self._counts(labels)
        return {
            name: 100.0 * float(right[i]) / float(total[i]) if total[i] else None for i, name in enumerate(class_names)
        }

    def _counts(self, labels: IntArray) -> tuple[IntArray, IntArray]:
        """(num_classes,) videos of each class that are right, and all of them."""
        right = np.bincount(labels[self.video_topk(labels, 1)], minlength=self.num_classes)
        return right, np.bincount(labels, minlength=self.num_classes)

    def _first_arrivals(self, videos: IntArray, views: IntArray) -> BoolArray:
        """(N,) which of the keys are new, to this object and within the call; counts the others as duplicates."""
        _, first = np.unique(videos * self.num_views + views, return_index=True)
        new = np.zeros(len(videos), np.bool_)
        new[first] = True
        new &= ~self._scored[videos, views]
        self.duplicates += int((~new).sum())
        return new

    def _checked_keys(self, videos: npt.ArrayLike, views: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        checked_videos = _indices(videos, size=self.num_videos, what="video")
        checked_views = _indices(views, size=self.num_views, what="view")
        if checked_videos.shape != checked_views.shape:
            raise ValueError(
                f"{len(checked_videos)} videos and {len(checked_views)} views given: one view per video is needed"
            )
        return checked_videos, checked_views

    def _checked_labels(self, labels: npt.ArrayLike) -> IntArray:
        checked = _indices(labels, size=self.num_classes, what="label")
        if len(checked) != self.num_videos:
            raise ValueError(f"{len(checked)} labels given for {self.num_videos} videos: one label per video is needed")
        return checked


def check_class_names(class_names: Sequence[str], num_classes: int) -> None:
    """Raise ValueError unless there is one name per class, all different."""
    if len(set(class_names)) != num_classes or len(class_names) != num_classes:
        raise ValueError(
            f"{len(class_names)} class names, {len(set(class_names))} of them different: "
            f"{num_classes} classes need as many different names"
        )


def _indices(values: npt.ArrayLike, *, size: int, what: str) -> IntArray:
    """`values` as int64 (N,), each checked to lie in [0, size)."""
    indices = np.asarray(values)
    if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
        raise ValueError(f"{what} indices are {indices.dtype} of shape {indices.shape}: they must be integers (N,)")
    outside = (indices < 0) | (indices >= size)
    if outside.any():
        raise ValueError(f"{what} index {indices[outside][0]} is out of range: there are {size}, counted from 0")
    return indices.astype(np.int64)


def _topk(scores: FloatArray, labels: IntArray, k: int) -> BoolArray:
    return topk_correct(torch.from_numpy(scores), torch.from_numpy(labels), k).numpy()
