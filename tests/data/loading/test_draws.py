"""How often an epoch draws each video: a pure function of seed and epoch, right in every epoch."""

import numpy as np
import pytest

from mvit_video.data.datasets.array_views import FloatArrayView
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.draws import draw_weights, drawn_videos, expected_draws
from mvit_video.data.loading.loader import epoch_order

LABELS = [0] * 16 + [1] * 4


def manifest(**more: object) -> Manifest:
    return Manifest([f"{i}.mp4" for i in range(20)], LABELS, ("often", "rare"), "here", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("balance", "rare"), [("balanced", 10), ("square_root", 20 / 3)])
def test_classes_are_drawn_as_often_as_they_should_be_in_every_epoch(balance: str, rare: float) -> None:
    weights = draw_weights(manifest(), balance)  # type: ignore[arg-type]
    assert weights is not None
    assert expected_draws(manifest(), weights) == pytest.approx([20 - rare, rare])
    share = rare / 4
    for epoch in range(20):
        videos = drawn_videos(weights, seed=1, epoch=epoch) % 20
        counts = np.bincount(videos, minlength=20)
        assert len(videos) == 20
        assert set(counts[16:]) <= {int(share), int(share) + 1}  # a rare video: so often, or once more
        assert set(counts[:16]) <= {0, 1}


def test_in_the_long_run_every_video_is_drawn() -> None:
    weights = draw_weights(manifest(), "balanced")
    assert weights is not None
    counts = sum(np.bincount(drawn_videos(weights, seed=0, epoch=e) % 20, minlength=20) for e in range(200))
    assert np.asarray(counts[:16]) / 200 == pytest.approx(np.full(16, 10 / 16), abs=0.12)


def test_a_video_that_comes_again_has_a_key_of_its_own() -> None:
    weights = draw_weights(manifest(), "balanced")
    assert weights is not None
    drawn = drawn_videos(weights, seed=0, epoch=0)
    assert len(set(drawn.tolist())) == 20
    assert {int(key) // 20 for key in drawn if key % 20 == 17} == set(range(int((drawn % 20 == 17).sum())))


def test_the_weights_of_a_table_multiply() -> None:
    weighted = manifest(weights=FloatArrayView([0.0] * 10 + [1.0] * 10))
    weights = draw_weights(weighted, "natural")
    assert weights is not None
    for epoch in range(10):
        assert (
            np.bincount(drawn_videos(weights, seed=0, epoch=epoch) % 20, minlength=20).tolist() == [0] * 10 + [2] * 10
        )
    both = draw_weights(weighted, "balanced")
    assert both is not None and both.tolist() == [0.0] * 10 + [1 / 16] * 6 + [1 / 4] * 4
    assert draw_weights(manifest(), "natural") is None


def test_a_video_of_several_classes_has_the_weight_of_its_rarest() -> None:
    sets = LabelSetArrayView([[0]] * 16 + [[0, 1]] * 4)
    weights = draw_weights(manifest(label_sets=sets), "balanced")
    assert weights is not None
    assert weights[0] == 1 / 20 and weights[-1] == 1 / 4
    assert expected_draws(manifest(label_sets=sets), None).tolist() == [20.0, 4.0]


def test_the_order_is_a_function_of_seed_and_epoch_and_keeps_shards_together() -> None:
    weights = draw_weights(manifest(), "square_root")
    orders = [epoch_order(20, seed=s, epoch=e, weights=weights).tolist() for s, e in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    shard_of = np.arange(20, dtype=np.int32) // 5
    visited = shard_of[epoch_order(20, seed=0, epoch=0, shard_of=shard_of, shard_window=1, weights=weights) % 20]
    assert (np.diff(visited) != 0).sum() == len(set(visited.tolist())) - 1  # one shard after the other


def test_an_unknown_balance_is_refused() -> None:
    with pytest.raises(ValueError, match="sampling_weights='even': must be one of natural, balanced, square_root"):
        draw_weights(manifest(), "even")  # type: ignore[arg-type]
