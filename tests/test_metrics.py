"""Top-k, running means, and the scores of views."""

import json
import math

import numpy as np
import pytest
import torch

from mvit_video.metrics import (
    RunningMean,
    ViewScores,
    average_precision,
    best_classes,
    bootstrap_ci95,
    bootstrap_mean_ci95,
    macro_f1,
    mean_class_accuracy,
    topk_correct,
)

NAMES = ("a", "b", "c")
# Two views each of four videos with labels 0, 1, 2, 2. The last video could not be read at all; of the third, view 0.
LABELS = [0, 1, 2, 2]
KEYS = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)]
PROBABILITIES = [
    [0.9, 0.1, 0.0],  # right
    [0.4, 0.6, 0.0],  # wrong; summed with the view before: right
    [0.5, 0.4, 0.1],  # wrong, second
    [0.4, 0.45, 0.15],  # right; summed with the view before: wrong, second
    [0.0, 0.1, 0.9],  # right
]


def filled(order=range(5), *, views=2) -> ViewScores:
    scores = ViewScores(num_videos=4, num_views=views, num_classes=3)
    for i in order:
        scores.add([KEYS[i][0]], [KEYS[i][1]], [PROBABILITIES[i]])
    scores.mark_failed([2, 3, 3], [0, 0, 1])
    return scores


def test_topk_correct():
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.7, 0.2, 0.1]])
    assert topk_correct(scores, torch.tensor([2, 0]), 1).tolist() == [False, True]
    assert topk_correct(scores, torch.tensor([2, 2]), 2).tolist() == [True, False]
    assert topk_correct(scores, torch.tensor([2, 2]), 5).tolist() == [True, True]  # clamped to the 3 classes


def test_of_equal_scores_the_first_classes_are_best():
    """The best is always among the five best, and the class that `predictions` and the lines of an evaluation name."""
    labels = torch.arange(64)
    for k in (1, 5, 64, 70):
        assert topk_correct(torch.zeros(64, 64), labels, k).tolist() == [label < k for label in range(64)]
    rng = np.random.default_rng(0)
    tied = rng.integers(0, 4, (200, 9)).astype(np.float32)
    best = np.argsort(-tied, axis=1, kind="stable")
    truth = rng.integers(9, size=200)
    for k in (1, 3, 9):
        expected = (best[:, :k] == truth[:, None]).any(1)
        assert np.array_equal(topk_correct(torch.from_numpy(tied), torch.from_numpy(truth), k).numpy(), expected)
    scores = ViewScores(num_videos=200, num_views=1, num_classes=9)
    scores.add(np.arange(200), np.zeros(200, int), tied)
    assert np.array_equal(scores.predictions(), best[:, 0])
    assert np.array_equal(scores.predictions() == truth, scores.video_topk(truth, 1))
    broken = torch.tensor([[0.2, math.nan], [math.nan, 0.2]])
    assert topk_correct(broken, torch.tensor([1, 1]), 1).tolist() == [False, False]


@pytest.mark.parametrize("classes", [3, 5, 6, 400])
def test_best_classes_are_those_of_a_stable_sort(classes: int) -> None:
    """Few levels, so that many scores are equal: of these the first ones."""
    for scores in np.random.default_rng(0).integers(4, size=(50, classes)).astype(np.float32):
        assert best_classes(scores, 5).tolist() == np.argsort(-scores, kind="stable")[:5].tolist()


def test_scores_of_one_view_are_not_copied() -> None:
    """Those of 50,000 images and ImageNet-21k's classes are 3.8 GB."""
    scores = ViewScores(num_videos=3, num_views=1, num_classes=4)
    assert np.shares_memory(scores.video_scores(), scores.video_scores())


def test_topk_correct_refuses_bad_input():
    with pytest.raises(ValueError, match="k is 0"):
        topk_correct(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), 0)
    with pytest.raises(ValueError, match=r"scores are \(2, 3\) and labels \(3,\)"):
        topk_correct(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), 1)


def test_running_mean_is_weighted():
    mean = RunningMean()
    assert math.isnan(mean.mean)
    mean.update(1.0, weight=3)
    mean.update(5.0)
    assert (mean.mean, mean.weight) == (2.0, 4.0)
    mean.reset()
    assert math.isnan(mean.mean)
    with pytest.raises(ValueError, match="weight is -1"):
        mean.update(1.0, weight=-1)


def test_results():
    results = filled().results(LABELS, NAMES, ks=(1, 2))
    intervals = [results.pop(name) for name in ("video_top1_ci95", "mean_class_top1_ci95")]
    assert all(0 <= low < 50.0 < high <= 100 for low, high in intervals)
    # F1 of a: one right, one false; b: none right; c: one right, one missed.
    assert results.pop("macro_f1") == pytest.approx(100 * (2 / 3 + 0 + 2 / 3) / 3)
    right = (0.9, 0.4, 0.4, 0.45, 0.9)
    assert results.pop("loss") == pytest.approx(-np.mean(np.log(right)), rel=1e-6)
    assert results == {
        "clip_top1": 37.5,
        "clip_top2": 62.5,
        "video_top1": 50.0,
        "video_top2": 75.0,
        "num_videos": 4,
        "num_views": 8,
        "views_per_video": 2,
        "num_failed": 1,
        "num_failed_views": 3,
        "per_class": {"a": 100.0, "b": 0.0, "c": 50.0},
        "per_class_count": {"a": 1, "b": 1, "c": 2},
        "mean_class_top1": 50.0,
    }
    json.dumps(results)


def test_failed_videos_are_wrong_even_where_all_zeros_would_win():
    scores = ViewScores(num_videos=1, num_views=1, num_classes=1)
    scores.mark_failed([0], [0])
    results = scores.results([0], ["only"])
    assert (results["clip_top1"], results["video_top1"], results["num_failed"]) == (0.0, 0.0, 1)
    assert scores.predictions().tolist() == [-1]


def test_failed_mask_of_add():
    scores = ViewScores(num_videos=2, num_views=1, num_classes=2)
    nan = math.nan
    scores.add([0, 1], [0, 0], [[nan, nan], [0.2, 0.8]], failed=[True, False])
    assert scores.failed_videos().tolist() == [True, False]
    assert scores.predictions().tolist() == [-1, 1]
    assert scores.missing().shape == (0, 2)


def test_video_scores_are_sums_over_the_views_present():
    scores = filled()
    expected = [[1.3, 0.7, 0.0], [0.9, 0.85, 0.25], [0.0, 0.1, 0.9], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(scores.video_scores(), expected, atol=1e-6)
    assert scores.views_per_video().tolist() == [2, 2, 1, 0]
    assert scores.clip_topk(LABELS, 2).tolist() == [[True, True], [True, True], [False, True], [False, False]]


def test_confusion_leaves_failed_videos_out():
    assert filled().confusion(LABELS).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert filled().predictions().tolist() == [0, 0, 2, -1]


def test_each_view_counts_once():
    scores = filled()
    before = scores.video_scores().copy()
    scores.add([0, 0, 1], [0, 0, 1], [[0.0, 0.0, 1.0]] * 3)
    assert scores.duplicates == 3
    np.testing.assert_array_equal(scores.video_scores(), before)
    twice_at_once = ViewScores(num_videos=1, num_views=1, num_classes=3)
    twice_at_once.add([0, 0], [0, 0], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert twice_at_once.duplicates == 1
    assert twice_at_once.video_scores().tolist() == [[1.0, 0.0, 0.0]]


def test_a_readable_view_beats_a_failed_one_in_any_order():
    scores = ViewScores(num_videos=1, num_views=1, num_classes=2)
    scores.mark_failed([0], [0])
    scores.add([0], [0], [[0.0, 1.0]])
    scores.mark_failed([0], [0])
    assert scores.failed_videos().tolist() == [False]
    assert scores.duplicates == 0


def test_missing_views_are_known_and_stop_the_report():
    scores = ViewScores(num_videos=2, num_views=2, num_classes=3)
    scores.add([0, 1], [0, 1], PROBABILITIES[:2])
    assert scores.missing().tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match="2 of 4 views were never scored, the first is video 0, view 1"):
        scores.results([0, 1], NAMES)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_merging_ranks_gives_the_same_numbers_bit_for_bit(ranks):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(7), size=(11, 3)).astype(np.float32)
    labels = rng.integers(0, 7, 11)
    videos, views = np.divmod(rng.permutation(33), 3)
    whole = ViewScores(num_videos=11, num_views=3, num_classes=7)
    whole.add(videos, views, probabilities[videos, views])
    merged = ViewScores(num_videos=11, num_views=3, num_classes=7)
    for rank in range(ranks):
        part = ViewScores(num_videos=11, num_views=3, num_classes=7)
        share = np.arange(rank, rank + -(-33 // ranks) * ranks, ranks) % 33  # padded, as a distributed sampler does
        part.add(videos[share], views[share], probabilities[videos[share], views[share]])
        merged.merge(ViewScores.from_state(part.state()))
    names = [str(i) for i in range(7)]
    assert merged.results(labels, names) == whole.results(labels, names)
    np.testing.assert_array_equal(merged.video_scores(), whole.video_scores())
    assert merged.duplicates == (-(-33 // ranks) * ranks - 33)


def test_state_round_trip_and_merge_keep_failures():
    scores = filled()
    scores.add([0], [0], [[0.0, 0.0, 1.0]])
    again = ViewScores.from_state(scores.state())
    assert again.results(LABELS, NAMES) == scores.results(LABELS, NAMES)
    assert again.duplicates == 1
    empty = ViewScores(num_videos=4, num_views=2, num_classes=3)
    empty.merge(again)
    assert empty.results(LABELS, NAMES) == scores.results(LABELS, NAMES)
    assert empty.duplicates == 1
    with pytest.raises(ValueError, match=r"cannot merge .*\(4, 1, 3\) into \(4, 2, 3\)"):
        empty.merge(ViewScores(num_videos=4, num_views=1, num_classes=3))


def test_per_class_of_a_class_without_videos_is_none():
    scores = ViewScores(num_videos=1, num_views=1, num_classes=2)
    scores.add([0], [0], [[0.0, 1.0]])
    assert scores.results([1], ["x", "y"])["per_class"] == {"x": None, "y": 100.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([4], [0], [[1, 0, 0]]), "video index 4 is out of range: there are 4"),
        (([0], [2], [[1, 0, 0]]), "view index 2 is out of range: there are 2"),
        (([-1], [0], [[1, 0, 0]]), "video index -1 is out of range"),
        (([0.5], [0], [[1, 0, 0]]), "video indices are float64"),
        (([0, 1], [0], [[1, 0, 0]]), "2 videos and 1 views given"),
        (([0], [0], [[1, 0]]), r"probabilities have shape \(1, 2\)"),
        (([3], [1], [[math.nan, 0, 0]]), r"video 3 \(view 1\) are not finite"),
    ],
)
def test_bad_views_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ViewScores(num_videos=4, num_views=2, num_classes=3).add(*arguments)


def test_bad_labels_and_names_are_refused():
    with pytest.raises(ValueError, match="label index 3 is out of range: there are 3"):
        filled().results([0, 1, 2, 3], NAMES)
    with pytest.raises(ValueError, match="3 labels given for 4 videos"):
        filled().results([0, 1, 2], NAMES)
    with pytest.raises(ValueError, match="3 class names, 2 of them different: 3 classes"):
        filled().results(LABELS, ("a", "b", "b"))
    with pytest.raises(ValueError, match="num_views 0"):
        ViewScores(num_videos=1, num_views=0, num_classes=1)


def test_every_class_counts_the_same_in_the_mean_over_classes() -> None:
    """Nine videos of one class and one of another: always answering the first is no better than chance."""
    scores = ViewScores(num_videos=10, num_views=1, num_classes=3)
    scores.add(np.arange(10), np.zeros(10, int), np.tile([0.8, 0.1, 0.1], (10, 1)))
    labels = [0] * 9 + [1]
    numbers = scores.metrics(labels)
    assert (numbers["video_top1"], numbers["mean_class_top1"]) == (90.0, 50.0)  # no video of class 2: not in the mean
    assert numbers["macro_f1"] == pytest.approx(100 * (18 / 19 + 0) / 2)
    assert scores.results(labels, NAMES)["per_class_count"] == {"a": 9, "b": 1, "c": 0}


def test_f1_and_mean_class_accuracy_against_literals() -> None:
    """By hand: F1 of 4/8, 2/5, 4/6 and 0 of 1; a fifth class that nothing is of or taken for does not count."""
    labels, predictions = [0, 0, 0, 0, 1, 1, 2, 2, 2, 3], [0, 0, 1, 2, 1, 0, 2, 2, 1, 0]
    assert macro_f1(labels, predictions, num_classes=5) == pytest.approx(100 * (1 / 2 + 2 / 5 + 2 / 3 + 0) / 4)
    assert mean_class_accuracy([2, 1, 2, 0, 0], [4, 2, 3, 1, 0]) == pytest.approx(100 * (1 / 2 + 1 / 2 + 2 / 3 + 0) / 4)
    assert macro_f1([0, 1], [-1, 1], num_classes=2) == 50.0  # a video without prediction is missed by its class


def test_the_bootstrap_interval_is_that_of_the_binomial() -> None:
    """400 videos, 320 right: 80 % with a standard error of 2."""
    correct = np.arange(400) % 5 != 0
    intervals = bootstrap_ci95(correct, np.arange(400) % 2)
    assert intervals["video_top1"] == pytest.approx([80 - 1.96 * 2, 80 + 1.96 * 2], abs=0.6)
    assert intervals["mean_class_top1"] == pytest.approx([80 - 1.96 * 2, 80 + 1.96 * 2], abs=0.6)
    assert bootstrap_ci95(correct, np.arange(400) % 2) == intervals
    assert bootstrap_ci95(correct, np.arange(400) % 2, seed=1) != intervals


def test_an_interval_has_a_width_where_all_videos_are_right_or_none() -> None:
    """All of 30 are right in more than half of the tests of a model that is right in 98 % of the cases."""
    every, none = np.ones(30, bool), np.zeros(30, bool)
    assert bootstrap_ci95(every, np.arange(30) % 3)["video_top1"] == pytest.approx([88.65, 100], abs=0.01)
    assert bootstrap_ci95(none, np.arange(30) % 3)["mean_class_top1"] == pytest.approx([0, 11.35], abs=0.01)


def test_the_interval_of_the_mean_over_classes_is_wide_where_a_class_is_small() -> None:
    labels = np.array([0] * 396 + [1] * 4)
    correct = np.array([True] * 396 + [True, True, False, False])
    intervals = bootstrap_ci95(correct, labels)
    assert intervals["video_top1"][1] - intervals["video_top1"][0] < 2
    low, high = intervals["mean_class_top1"]
    assert low < 62 and high > 88


def test_the_interval_of_a_mean_counts_groups_as_one() -> None:
    right = np.arange(400) < 300
    apart = bootstrap_mean_ci95(100 * right)
    assert apart == pytest.approx(bootstrap_ci95(right, np.zeros(400, int))["video_top1"], abs=1)
    assert bootstrap_mean_ci95(100 * right, np.arange(400)) == apart
    pairs = bootstrap_mean_ci95(100 * right, np.arange(400) // 2)  # both of a pair are right, or both wrong
    assert (pairs[1] - pairs[0]) / (apart[1] - apart[0]) == pytest.approx(2**0.5, rel=0.1)
    assert bootstrap_mean_ci95(100 * right, ["one recording"] * 400) == (75, 75)


def test_the_interval_of_a_difference_may_lie_below_zero() -> None:
    low, high = bootstrap_mean_ci95([-1.0] * 30 + [0.0] * 60 + [1.0] * 10)
    assert low < -0.2 < high < 0
    with pytest.raises(ValueError, match="needs at least one video"):
        bootstrap_mean_ci95([])


def test_a_bootstrap_in_parts_is_that_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    correct, labels = np.arange(30) % 3 > 0, np.arange(30) % 4
    whole = bootstrap_ci95(correct, labels)
    monkeypatch.setattr("mvit_video.metrics._DRAWS_AT_ONCE", 70)
    assert bootstrap_ci95(correct, labels) == whole


def test_the_loss_without_readable_views_is_null_in_results() -> None:
    scores = ViewScores(num_videos=1, num_views=1, num_classes=2)
    scores.mark_failed([0], [0])
    assert math.isnan(scores.metrics([0])["loss"])
    assert scores.results([0], ["x", "y"])["loss"] is None
    certain = ViewScores(num_videos=1, num_views=1, num_classes=2)
    certain.add([0], [0], [[1.0, 0.0]])
    assert certain.metrics([1])["loss"] == pytest.approx(87.3365, abs=1e-3)  # finite


def test_average_precision_by_hand() -> None:
    # Found at ranks 1, 3 and 4 of 5.
    ranked = [True, False, True, True, False]
    assert average_precision([0.9, 0.8, 0.7, 0.6, 0.5], ranked) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert average_precision([5, 3, 4], [True, False, True]) == 1.0
    # Equal scores share a rank, in whatever order they come.
    assert average_precision([1, 1, 1, 1], [True, False, False, False]) == 0.25
    assert average_precision([1, 1, 0], [False, True, True]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert average_precision([-math.inf, 1.0], [True, False]) == 0.5
    assert math.isnan(average_precision([1.0, 2.0], [False, False]))
