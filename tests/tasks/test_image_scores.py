"""What is kept of the scores of images gives what all of them give."""

import pickle

import numpy as np
import pytest
import torch

from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.metrics import ViewScores, topk_correct
from mvit_video.tasks.image_scores import ImageScores

COUNT, CLASSES = 40, 9
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, CLASSES, COUNT)


def manifest(sets: LabelSetArrayView | None = None) -> Manifest:
    labels = LABELS if sets is None else np.array([one[0] for one in sets])
    names = [f"{n}.jpg" for n in range(COUNT)]
    return Manifest(names, labels.tolist(), tuple("abcdefghi"), "set", kind=IMAGES, label_sets=sets)


def probabilities() -> torch.Tensor:
    """Of few digits, so that many are equal."""
    values = torch.from_numpy(RNG.integers(0, 4, (COUNT, CLASSES)).astype(np.float32))
    return values / values.sum(1, keepdim=True).clamp(min=1)


def test_the_numbers_are_those_of_all_probabilities() -> None:
    values, failed = probabilities(), np.zeros(COUNT, np.bool_)
    failed[[3, 17]] = True
    whole = ViewScores(num_videos=COUNT, num_views=1, num_classes=CLASSES)
    kept, other = ImageScores(manifest()), ImageScores(manifest())
    for rank, scores in enumerate((kept, other)):
        for start in range(rank, COUNT, 8):
            rows = np.arange(start, min(start + 12, COUNT), 2)  # some come more than once, on both ranks
            scores.add(rows, values[rows], failed=failed[rows])
            whole.add(rows, np.zeros(len(rows), int), values[rows].numpy(), failed=failed[rows])
    kept.merge(other.state())
    kept.check_complete()
    whole.check_complete()
    assert kept.duplicates == whole.duplicates > 0
    for k in range(1, CLASSES + 1):
        assert kept.hits(k).tolist() == whole.video_topk(LABELS, k).tolist()
    assert kept.predictions().tolist() == whole.predictions().tolist()
    assert kept.log_loss() == whole.log_loss(LABELS)
    assert kept.failed.tolist() == failed.tolist() and not kept.scored[failed].any()
    for answer, row, lost in zip(kept.answers(), values.numpy(), failed, strict=True):
        assert (answer is None) == lost
        if answer is not None:
            best = np.argsort(-row, kind="stable")[:5]
            assert answer[0].tolist() == best.tolist() and answer[1].tolist() == row[best].tolist()


def test_several_right_classes() -> None:
    sets = LabelSetArrayView([RNG.choice(CLASSES, RNG.integers(1, 4), replace=False).tolist() for _ in range(COUNT)])
    values, scores = probabilities(), ImageScores(manifest(sets))
    order = RNG.permutation(COUNT)
    for part in np.array_split(order, 3):
        scores.add(part, values[part], failed=np.zeros(len(part), np.bool_))
    for k in (1, 2, 5):
        of_all = torch.stack([topk_correct(values, torch.full((COUNT,), c), k) for c in range(CLASSES)], 1)
        assert scores.hits(k).tolist() == [bool(row[list(one)].any()) for row, one in zip(of_all, sets, strict=True)]


def test_what_is_kept_and_sent_does_not_grow_with_the_classes() -> None:
    names = [f"{n}.jpg" for n in range(100)]
    many = Manifest(names, [0] * 100, tuple(map(str, range(20_000))), "set", kind=IMAGES)
    scores = ImageScores(many)
    scores.add(np.arange(100), torch.softmax(torch.randn(100, 20_000), 1), failed=np.zeros(100, np.bool_))
    assert len(pickle.dumps(scores.state())) < 20_000  # all probabilities are 8 MB


def test_broken_probabilities_name_the_image() -> None:
    values = probabilities()
    values[7, 2] = torch.nan
    with pytest.raises(ValueError, match=r"for 7\.jpg are not finite"):
        ImageScores(manifest()).add(np.arange(10), values[:10], failed=np.zeros(10, np.bool_))
