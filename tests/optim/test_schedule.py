"""The learning rate schedule on literal values."""

import math

import pytest

from mvit_video.optim.schedule import WarmupCosine, scale_lr

# K400 MViTv2-S at the published batch: values of the published formula, worked out by hand.
PUBLISHED = {
    "base_lr": 1e-4,
    "epochs": 200,
    "warmup_epochs": 30,
    "warmup_start_lr": 1e-6,
    "end_lr": 1e-6,
    "steps_per_epoch": 10,
}


def test_warm_up_ends_on_the_cosine_below_the_peak():
    lr = WarmupCosine(**PUBLISHED)
    at_30 = 1e-6 + 9.9e-5 * 0.5 * (1 + math.cos(math.pi * 0.15))
    assert at_30 == pytest.approx(9.460482e-05, rel=1e-6)
    assert lr(0) == 1e-6
    assert lr(150) == pytest.approx((1e-6 + at_30) / 2, rel=1e-12)
    assert lr(300) == pytest.approx(at_30, rel=1e-12)
    assert lr(299) < lr(300) > lr(301)


def test_cosine_middle_and_end():
    lr = WarmupCosine(**PUBLISHED)
    assert lr(1000) == pytest.approx(5.05e-5, rel=1e-12)
    assert lr(2000) == pytest.approx(1e-6, rel=1e-12)
    assert lr(5000) == lr(2000)  # constant past the end, where a cosine would rise again
    assert lr.total_steps == 2000


def test_every_step_has_its_own_rate():
    lr = WarmupCosine(**PUBLISHED)
    assert lr(1) - lr(0) == pytest.approx((lr(300) - 1e-6) / 300, rel=1e-9)


def test_cosine_after_warm_up_reaches_the_peak():
    lr = WarmupCosine(**PUBLISHED, cosine_after_warmup=True)
    assert lr(150) == pytest.approx(5.05e-5, rel=1e-12)
    assert lr(300) == pytest.approx(1e-4, rel=1e-12)
    assert lr(300 + 850) == pytest.approx(5.05e-5, rel=1e-12)
    assert lr(2000) == pytest.approx(1e-6, rel=1e-12)


def test_without_warm_up_it_starts_at_the_peak():
    lr = WarmupCosine(base_lr=0.4, epochs=4, warmup_epochs=0, warmup_start_lr=0.1, end_lr=0.0, steps_per_epoch=2)
    assert [lr(step) for step in (0, 4, 8)] == pytest.approx([0.4, 0.2, 0.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0: it must be above 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch is 0: .*is the global batch larger than the training set"),
        ({"warmup_epochs": 200}, r"warmup_epochs is 200: it must be at least 0 and below epochs \(200\)"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1"),
        ({"end_lr": 1e-3}, r"end_lr is 0.001: it must lie between 0 and base_lr \(0.0001\)"),
        ({"warmup_start_lr": -1e-6}, "warmup_start_lr is -1e-06"),
    ],
)
def test_impossible_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        WarmupCosine(**{**PUBLISHED, **change})


def test_negative_step_is_refused():
    with pytest.raises(ValueError, match="step is -1"):
        WarmupCosine(**PUBLISHED)(-1)


def test_scale_lr():
    assert scale_lr(1e-4, reference_batch=16, global_batch=256) == pytest.approx(1.6e-3, rel=1e-12)
    assert scale_lr(1e-4, reference_batch=16, global_batch=8) == pytest.approx(5e-5, rel=1e-12)
    with pytest.raises(ValueError, match="reference_batch is 0"):
        scale_lr(1e-4, reference_batch=0, global_batch=8)
