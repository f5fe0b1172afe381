"""How often an epoch draws each video, where they are not all drawn once: uneven classes, and weights of a table."""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.manifest import Manifest

Balance = Literal["natural", "balanced", "square_root"]
_EXPONENTS: dict[str, float] = {"natural": 0.0, "balanced": 1.0, "square_root": 0.5}
_DRAW_VIDEOS = 1  # the last part of the key: no stream of another draw is shared


def draw_weights(manifest: Manifest, balance: Balance) -> npt.NDArray[np.float64] | None:
    """How often each video is drawn, relative to the others; None where all are drawn alike.

    A class of n videos weighs n^-1 ("balanced": classes are drawn equally often), n^-1/2 ("square_root", in between;
    for long tails, as in arXiv 1805.00932, section 2) or 1 ("natural") a video. A video of several classes has the
    weight of its rarest (the rule of arXiv 1908.03195, section 4.1, "repeat factor sampling"). The weights of the
    manifest multiply these.

    Returns:
        (videos,), or None.

    Raises:
        ValueError: an unknown balance.
    """
    if balance not in _EXPONENTS:
        raise ValueError(f"sampling_weights={balance!r}: must be one of {', '.join(get_args(Balance))}")
    if balance == "natural" and manifest.weights is None:
        return None
    by_class = np.maximum(np.asarray(manifest.counts(), np.float64), 1.0) ** -_EXPONENTS[balance]
    if manifest.label_sets is None:
        weights = by_class[np.asarray(manifest.labels)]
    else:
        weights = np.array([max((by_class[label] for label in labels), default=1.0) for labels in manifest.label_sets])
    if manifest.weights is not None:
        weights = weights * np.asarray(list(manifest.weights), np.float64)
    return weights


def drawn_videos(weights: npt.NDArray[np.float64], *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The videos of an epoch, as many as there are; a pure function of (weights, seed, epoch).

    Systematic sampling: a video that is to be drawn 2.3 times is drawn 2 or 3 times, never 0 or 5, so that classes come
    as often as they should in every epoch.

    Args:
        weights: (videos,), some of them positive.
        seed: of the run.
        epoch: number of the epoch.

    Returns:
        int64 (videos,), sorted: video + videos * k for the k-th draw of a video in the epoch, from 0. It is the key of
        the sample's own draws, so that a video that comes again gives another clip, augmented otherwise.
    """
    count = len(weights)
    rng = np.random.default_rng([seed, epoch, 0, 0, _DRAW_VIDEOS])
    mixed = rng.permutation(count)
    ends = np.cumsum(weights[mixed])
    places = (rng.random() + np.arange(count)) * (ends[-1] / count)
    last = int(np.flatnonzero(weights[mixed])[-1])  # rounding must not step beyond the last one with a weight
    picked = np.sort(mixed[np.minimum(np.searchsorted(ends, places, side="right"), last)])
    return picked + count * (np.arange(count) - np.searchsorted(picked, picked, side="left"))


def expected_draws(manifest: Manifest, weights: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
    """How often an epoch draws videos of each class, (classes,); a video of several classes counts for each."""
    each = np.ones(len(manifest)) if weights is None else weights * (len(manifest) / weights.sum())
    if manifest.label_sets is None:
        labels = np.asarray(manifest.labels, np.int64)
    else:
        labels, each = manifest.label_sets.values, np.repeat(each, manifest.label_sets.sizes)
    draws = np.zeros(manifest.num_classes, np.float64)
    np.add.at(draws, labels, each)
    return draws
