"""Mixup and CutMix against hand-made batches, against PyTorchVideo with the same draws, and in distribution."""

import numpy as np
import pytest
import torch

from mvit_video.data.augmentation.mixing import MixDraw, Mixing, cutmix_box, smoothed_one_hot, soft_cross_entropy
from mvit_video.interop.pytorchvideo import import_pytorchvideo

NO_BOX = (0, 0, 0, 0)


def make_batch(size: int = 4, height: int = 6, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, 2, height, width, generator=generator), torch.arange(size)


def test_unmixed_batch_gets_smoothed_targets() -> None:
    clips, labels = make_batch(2)
    for mixing in (
        Mixing(num_classes=4, mixup_alpha=0.0, cutmix_alpha=0.0),
        Mixing(num_classes=4, prob=0.0),
    ):
        draw = mixing.draw(np.random.default_rng(0), 6, 8)
        assert draw == MixDraw(mode="none", lam=1.0, box=NO_BOX)
        mixed, targets = mixing.apply(clips, labels, draw)
        assert mixed is clips
        torch.testing.assert_close(targets, torch.tensor([[0.925, 0.025, 0.025, 0.025], [0.025, 0.925, 0.025, 0.025]]))


def test_mixup_takes_the_batch_in_reverse() -> None:
    clips, labels = make_batch(4)
    before = clips.clone()
    mixing = Mixing(num_classes=4, smoothing=0.0)
    mixed, targets = mixing.apply(clips, labels, MixDraw(mode="mixup", lam=0.7, box=NO_BOX))
    torch.testing.assert_close(mixed[0], 0.7 * before[0] + 0.3 * before[3])
    torch.testing.assert_close(mixed[2], 0.7 * before[2] + 0.3 * before[1])
    torch.testing.assert_close(targets[0], torch.tensor([0.7, 0.0, 0.0, 0.3]))
    assert torch.equal(clips, before)


def test_cutmix_box_is_shared_by_frames_and_clips() -> None:
    clips, labels = make_batch(4)
    before = clips.clone()
    mixing = Mixing(num_classes=4, smoothing=0.0)
    draw = MixDraw(mode="cutmix", lam=1 - 6 / 48, box=(1, 2, 2, 3))
    mixed, targets = mixing.apply(clips, labels, draw)
    expected = before.clone()
    for i in range(4):
        expected[i, :, :, 1:3, 2:5] = before[3 - i, :, :, 1:3, 2:5]
    assert torch.equal(mixed, expected)
    torch.testing.assert_close(targets[1], torch.tensor([0.0, 0.875, 0.125, 0.0]))
    assert torch.equal(clips, before)


def test_targets_of_equal_labels_do_not_change() -> None:
    clips, _ = make_batch(4)
    _, targets = Mixing(num_classes=3).apply(clips, torch.full((4,), 2), MixDraw(mode="mixup", lam=0.4, box=NO_BOX))
    torch.testing.assert_close(targets, smoothed_one_hot(torch.full((4,), 2), num_classes=3, smoothing=0.1))


@pytest.mark.parametrize(
    ("lam", "center", "box"),
    [
        (0.75, (50, 50), (25, 0, 50, 100)),  # sides half of 100 x 200, centred at column 50
        (0.75, (0, 199), (0, 149, 25, 51)),  # cut off at two borders
        (1.0, (50, 50), (50, 50, 0, 0)),
        (0.0, (50, 100), (0, 0, 100, 200)),
    ],
)
def test_cutmix_box_literals(lam: float, center: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    assert cutmix_box(100, 200, lam=lam, center=center) == box


def test_lambda_of_a_cutmix_draw_is_the_share_of_pixels_kept() -> None:
    mixing = Mixing(num_classes=5, mixup_alpha=0.0)
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        draw = mixing.draw(rng, 40, 60)
        top, left, height, width = draw.box
        assert draw.mode == "cutmix"
        assert 0 <= top <= top + height <= 40
        assert 0 <= left <= left + width <= 60
        assert draw.lam == 1 - height * width / 2400
        shares.append(draw.lam)
    assert min(shares) < 0.3  # the boxes do vary in size
    assert max(shares) > 0.9


def test_draws_follow_the_probabilities() -> None:
    rng = np.random.default_rng(1)
    mixing = Mixing(num_classes=5, prob=0.8, switch_prob=0.25)
    modes = [mixing.draw(rng, 16, 16).mode for _ in range(4000)]
    # Binomial standard errors are 0.006, 0.008 and 0.006.
    assert modes.count("none") / 4000 == pytest.approx(0.2, abs=0.03)
    assert modes.count("mixup") / 4000 == pytest.approx(0.6, abs=0.03)
    assert modes.count("cutmix") / 4000 == pytest.approx(0.2, abs=0.03)


def test_mixup_lambda_is_beta_distributed() -> None:
    rng = np.random.default_rng(2)
    mixing = Mixing(num_classes=5, cutmix_alpha=0.0)
    lams = np.array([mixing.draw(rng, 16, 16).lam for _ in range(4000)])
    assert lams.mean() == pytest.approx(0.5, abs=0.02)
    assert lams.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.006)  # variance of Beta(0.8, 0.8)


def test_draw_depends_on_the_generator_alone() -> None:
    mixing = Mixing(num_classes=5)
    draws = [[mixing.draw(np.random.default_rng(seed), 32, 32) for seed in range(20)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len({draw.lam for draw in draws[0]}) > 15


def test_mixup_agrees_with_pytorchvideo(monkeypatch: pytest.MonkeyPatch) -> None:
    mix = import_pytorchvideo("transforms.mix")
    oracle = mix.MixUp(alpha=0.8, label_smoothing=0.1, num_classes=7)
    monkeypatch.setattr(oracle.mixup_beta_sampler, "sample", lambda: torch.tensor(0.37))
    clips, labels = make_batch(6)
    mixed, targets = Mixing(num_classes=7).apply(clips, labels, MixDraw(mode="mixup", lam=0.37, box=NO_BOX))
    expected, expected_targets = oracle(clips.clone(), labels)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(targets, expected_targets)


@pytest.mark.parametrize(("lam", "center"), [(0.4, (9, 3)), (0.9, (5, 11)), (0.05, (0, 0))])
def test_cutmix_agrees_with_pytorchvideo(monkeypatch: pytest.MonkeyPatch, lam: float, center: tuple[int, int]) -> None:
    mix = import_pytorchvideo("transforms.mix")
    oracle = mix.CutMix(alpha=1.0, label_smoothing=0.1, num_classes=7)
    monkeypatch.setattr(oracle.cutmix_beta_sampler, "sample", lambda: torch.tensor(lam))
    centers = iter(center)
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor([next(centers)]))
    clips, labels = make_batch(6, height=11, width=13)
    expected, expected_targets = oracle(clips.clone(), labels)
    box = cutmix_box(11, 13, lam=lam, center=center)
    draw = MixDraw(mode="cutmix", lam=1 - box[2] * box[3] / 143, box=box)
    mixed, targets = Mixing(num_classes=7).apply(clips, labels, draw)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=0)
    torch.testing.assert_close(targets, expected_targets)


def test_soft_cross_entropy() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    targets = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
    # Row 1: log-sum-exp 2.169846, minus 0.7 * 2 - 0.1; row 2: log 3.
    torch.testing.assert_close(soft_cross_entropy(logits, targets), torch.tensor((0.869846 + 1.098612) / 2))
    hard = smoothed_one_hot(torch.tensor([0, 2]), num_classes=3, smoothing=0.0)
    torch.testing.assert_close(
        soft_cross_entropy(logits, hard), torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]))
    )
    assert soft_cross_entropy(logits.bfloat16(), targets).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 0}, r"num_classes=0: must be at least 1"),
        ({"mixup_alpha": -0.1}, r"mixup_alpha=-0\.1: must be 0 \(off\) or a positive number"),
        ({"cutmix_alpha": float("nan")}, r"cutmix_alpha=nan: must be 0"),
        ({"prob": 1.5}, r"prob=1\.5: a probability lies in \[0, 1\]"),
        ({"switch_prob": -1.0}, r"switch_prob=-1\.0: a probability"),
        ({"smoothing": 1.0}, r"smoothing=1\.0: label smoothing lies in \[0, 1\)"),
    ],
)
def test_settings_are_checked(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixing(**({"num_classes": 4} | change))


def test_batches_that_do_not_fit_are_refused() -> None:
    mixing = Mixing(num_classes=4)
    clips, labels = make_batch(4)
    draw = MixDraw(mode="none", lam=1.0, box=NO_BOX)
    with pytest.raises(ValueError, match=r"one label per clip"):
        mixing.apply(clips, labels[:3], draw)
    with pytest.raises(ValueError, match=r"torch\.uint8: only normalised"):
        mixing.apply(clips.to(torch.uint8), labels, draw)
    with pytest.raises(ValueError, match=r"0 x 5 pixels cannot be mixed"):
        mixing.draw(np.random.default_rng(0), 0, 5)
    with pytest.raises(ValueError, match=r"logits \(2, 3\) with targets \(2, 4\)"):
        soft_cross_entropy(torch.zeros(2, 3), torch.zeros(2, 4))
