"""The loop, on real clips of the tiny motion set: it learns, resumes exactly, and stops for the right reasons."""

import json
from pathlib import Path

import pytest
import torch

from mvit_video import build
from mvit_video.build import common
from mvit_video.engine.checkpoints import load_latest
from mvit_video.engine.loss_monitor import LossMonitor, NonFiniteLossError
from mvit_video.engine.tracking import read_metrics
from mvit_video.engine.trainer import TooManyFailuresError, Trainer
from mvit_video.runtime.determinism import NotDeterministicError
from mvit_video.runtime.interruption import Interrupted, vote_span
from mvit_video.tasks.classification import VALIDATION_METRICS
from tests.conftest import (
    SMALL_CLIPS,
    drawn_pictures,
    evaluate_options,
    few_videos,
    motion_overrides,
    options,
    small_overrides,
)


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = load_latest(run / "checkpoints")
    assert state is not None
    return state["model"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_leaves_what_the_design_promises(motion_root: Path, tmp_path: Path) -> None:
    with drawn_pictures():
        metrics = build.train(options(*small_overrides(motion_root, tmp_path)))
    run = tmp_path / "tiny"
    assert set(metrics) == set(VALIDATION_METRICS)
    assert metrics["loss"] == pytest.approx(2.08, abs=0.2)  # log 8: nothing is learnt in eight steps
    assert metrics["num_videos"] == 16
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "curves.png", "checkpoints/best.pt"):
        assert (run / name).stat().st_size > 0, name
    assert list((run / "tensorboard").iterdir())
    lines = read_metrics(run / "metrics.jsonl")
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [4, 8]
    assert {"loss", "top1", "lr", "clips_per_s", "data_wait", "epoch"} <= set(lines[0])


@pytest.mark.parametrize("more", [[], ["trainer.accumulate=2", "trainer.ema_decay=0.9", "augment.mixup_alpha=0.8"]])
def test_resuming_in_the_middle_of_an_epoch_changes_no_bit(motion_root: Path, tmp_path: Path, more: list[str]) -> None:
    common = [*SMALL_CLIPS, "trainer.checkpoint_every=1", "model.drop_path=0.2", "augment.erase_prob=0.5", *more]
    build.train(options(*motion_overrides(motion_root, tmp_path / "whole", *common)))
    broken = motion_overrides(motion_root, tmp_path / "broken", *common)
    build.train(options(*broken, "trainer.max_steps=1"))
    build.train(options(*broken, "trainer.num_workers=1"))
    assert equal(weights(tmp_path / "whole/tiny"), weights(tmp_path / "broken/tiny"))
    losses = [
        [(line["step"], line["loss"]) for line in read_metrics(run / "tiny/metrics.jsonl") if line["kind"] == "train"]
        for run in (tmp_path / "whole", tmp_path / "broken")
    ]
    assert losses[0] == losses[1]


def test_deterministic_algorithms_are_in_force_on_record_and_resume_exactly(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    step = Trainer.train_step
    monkeypatch.setattr(
        Trainer, "train_step", lambda *a: seen.append(torch.are_deterministic_algorithms_enabled()) or step(*a)
    )
    common = ["trainer.deterministic=true", "trainer.checkpoint_every=1", "model.drop_path=0.2", "trainer.eval_every=9"]
    whole, broken = (small_overrides(motion_root, tmp_path / name, *common) for name in ("whole", "broken"))
    build.train(options(*whole, "trainer.max_steps=2"))
    build.train(options(*broken, "trainer.max_steps=1"))
    build.train(options(*broken, "trainer.max_steps=2"))
    assert seen == [True] * 4 and not torch.are_deterministic_algorithms_enabled()
    assert equal(weights(tmp_path / "whole/tiny"), weights(tmp_path / "broken/tiny"))
    record = json.loads((tmp_path / "whole/tiny/environment.json").read_text())["determinism"]
    assert record["deterministic_algorithms"] and record["NCCL_ALGO"] == "Ring"


def test_an_operation_that_does_not_repeat_ends_a_deterministic_run(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scatter(*_: object) -> None:
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2))

    monkeypatch.setattr(Trainer, "train_step", scatter)
    with pytest.raises(NotDeterministicError, match=r"^put_ has no .*takes no other\. Ways out"):
        build.train(options(*small_overrides(motion_root, tmp_path, "trainer.deterministic=true")))


def test_a_vote_of_several_steps_ends_with_the_epoch(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked at step 0 for three steps, at step 3 for the one that is left of the epoch, and so on."""
    monkeypatch.setattr("mvit_video.distributed.process_group.vote_span", lambda ranks: 3)
    answers = iter([None, None, None, "SIGTERM", "SIGTERM"])
    monkeypatch.setattr("mvit_video.runtime.interruption.received", lambda: next(answers))
    overrides = small_overrides(motion_root, tmp_path, "trainer.eval_every=9", "schedule.epochs=9")
    with pytest.raises(Interrupted, match="after step 8 of 36, which is saved"):
        build.train(options(*overrides))
    state = load_latest(tmp_path / "tiny" / "checkpoints")
    assert state is not None and state["step"] == 8


def test_a_vote_goes_around_in_more_steps_among_more_ranks() -> None:
    assert [vote_span(ranks) for ranks in (1, 64, 65, 1024)] == [1, 1, 2, 16]


def test_augmenting_on_the_models_device_changes_no_bit(motion_root: Path, tmp_path: Path) -> None:
    """Training and validation, from clips that a worker makes, and from frames, made on the model's device."""
    augment = ["augment.randaugment=rand-m7-n4-mstd0.5-inc1", "augment.repeats=2", "augment.erase_prob=0.5"]
    common = [*augment, *SMALL_CLIPS, "trainer.batch_size=4", "trainer.max_steps=3", "trainer.num_workers=1"]
    lines = []
    for where in ("worker", "model"):
        build.train(options(*motion_overrides(motion_root, tmp_path / where, *common, f"augment.device={where}")))
        metrics = read_metrics(tmp_path / where / "tiny/metrics.jsonl")
        assert [line["kind"] for line in metrics] == ["train", "train", "train", "eval"]
        lines.append([[line.get(key) for key in ("step", "loss", "top1", "video_top1")] for line in metrics])
    assert len(lines[0]) == 4
    assert lines[0] == lines[1]
    more = [*common, "data.layout=yuv420", "augment.device=model"]
    build.train(options(*motion_overrides(motion_root, tmp_path / "yuv420", *more)))
    losses = [line["loss"] for line in read_metrics(tmp_path / "yuv420/tiny/metrics.jsonl") if line["kind"] == "train"]
    assert losses == pytest.approx([line[1] for line in lines[0][:3]], abs=0.1)


def test_a_complete_run_is_left_alone(motion_root: Path, tmp_path: Path) -> None:
    command = small_overrides(motion_root, tmp_path)
    build.train(options(*command))
    before = weights(tmp_path / "tiny")
    assert build.train(options(*command)) == {}
    assert equal(before, weights(tmp_path / "tiny"))


def test_eight_videos_are_learnt_by_heart(motion_root: Path, tmp_path: Path) -> None:
    """The gradients, the optimizer and the schedule do their work together."""
    overrides = _with_broken_videos(motion_root, tmp_path, count=0, kept=8)
    more = ["schedule.epochs=40", "trainer.eval_every=99", "trainer.checkpoint_every=99", "optim.lr=3e-3"]
    build.train(options(*overrides, *SMALL_CLIPS, *more, "augment.jitter=[32,32]", "data.test_temporal_views=1"))
    losses = [line["loss"] for line in read_metrics(tmp_path / "runs/tiny/metrics.jsonl") if line["kind"] == "train"]
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_a_step_that_ends_an_epoch_is_saved_where_it_is_due(motion_root: Path, tmp_path: Path) -> None:
    """It was not, unless that epoch was validated."""
    overrides = _with_broken_videos(motion_root, tmp_path, count=0, kept=8)  # a step an epoch
    more = ["schedule.epochs=5", "trainer.eval_every=99", "trainer.checkpoint_every=2", "trainer.keep_last=9"]
    build.train(options(*overrides, *SMALL_CLIPS, *more))
    saved = sorted(path.name for path in (tmp_path / "runs/tiny/checkpoints").glob("step_*.pt"))
    assert saved == [f"step_{step:08d}.pt" for step in (2, 4, 5)]


def test_learning_rate_follows_the_global_batch(motion_root: Path, tmp_path: Path) -> None:
    build.train(options(*small_overrides(motion_root, tmp_path, "trainer.max_steps=5", "trainer.batch_size=4")))
    lines = [line for line in read_metrics(tmp_path / "tiny/metrics.jsonl") if line["kind"] == "train"]
    # 8 steps an epoch, warm-up of one epoch from 1e-6 to 1e-3, both for 16 videos; this step takes 4.
    expected = [(1e-6 + step / 8 * (1e-3 - 1e-6)) * 4 / 16 for step in range(5)]
    assert [line["lr"] for line in lines] == pytest.approx(expected)


def test_accumulation_equals_the_larger_batch(motion_root: Path, tmp_path: Path) -> None:
    for name, more in (("one", ["trainer.batch_size=8"]), ("two", ["trainer.batch_size=4", "trainer.accumulate=2"])):
        overrides = small_overrides(motion_root, tmp_path / name, *more, "trainer.max_steps=2")
        build.train(options(*overrides))
    one, two = (weights(tmp_path / name / "tiny") for name in ("one", "two"))
    # AdamW divides by the root of tiny second moments, so equal gradients to 1e-6 give steps equal to about 1e-4 of lr.
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-5


def test_one_broken_training_video_does_not_end_a_run(motion_root: Path, tmp_path: Path) -> None:
    """Nor does it when the set is small and the video comes round again and again."""
    overrides = _with_broken_videos(motion_root, tmp_path, count=1, kept=4)
    more = ["trainer.batch_size=4", "schedule.epochs=12", "trainer.checkpoint_every=99", "trainer.eval_every=99"]
    build.train(options(*overrides, *SMALL_CLIPS, *more))
    lines = (tmp_path / "runs/tiny/failed_videos.0.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [Path(row["path"]).name for row in rows] == ["broken_0.mp4"]
    assert all(row["reason"] for row in rows)


def test_too_many_broken_training_videos_end_a_run_with_the_list(motion_root: Path, tmp_path: Path) -> None:
    overrides = _with_broken_videos(motion_root, tmp_path, count=16)
    with pytest.raises(
        TooManyFailuresError, match=r"could not be decoded, more than trainer.max_failed=0.01.*listed in"
    ):
        build.train(options(*overrides))


def test_broken_training_videos_of_all_ranks_count(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {"first.mp4"}
    monkeypatch.setattr("mvit_video.engine.trainer.gather_to_all", lambda value, world: [value, elsewhere])
    overrides = _with_broken_videos(motion_root, tmp_path, count=1, kept=8)
    more = [*SMALL_CLIPS, "trainer.batch_size=8", "schedule.epochs=2", "trainer.eval_every=99"]
    build.train(options(*overrides, *more, "trainer.max_steps=1"))
    train, *_ = read_metrics(tmp_path / "runs/tiny/metrics.jsonl")
    assert train["failed_videos"] == 2
    elsewhere |= {"second.mp4", "third.mp4"}
    with pytest.raises(TooManyFailuresError, match="4 of the 8 training videos could not be decoded"):
        build.train(options(*overrides, *more, "name=other"))


def test_a_loss_that_is_not_finite_names_its_videos() -> None:
    monitor = LossMonitor()
    monitor.push(1, torch.tensor(1.0), ["a.mp4"])
    monitor.push(2, torch.tensor(float("nan")), ["b.mp4", "b.mp4", "c.mp4"])
    with pytest.raises(NonFiniteLossError, match=r"loss of step 2 is nan. Its files: b\.mp4, c\.mp4\."):
        monitor.push(3, torch.tensor(1.0), ["d.mp4"])


def test_a_run_whose_loss_explodes_stops(motion_root: Path, tmp_path: Path) -> None:
    overrides = small_overrides(motion_root, tmp_path, "optim.lr=1e30", "optim.clip_grad_norm=null")
    with pytest.raises(NonFiniteLossError, match=r"Its files: .*\.mp4"):
        build.train(options(*overrides))


def test_weights_of_another_class_count_start_a_training_with_a_new_head(motion_root: Path, tmp_path: Path) -> None:
    build.train(options(*small_overrides(motion_root, tmp_path, "trainer.max_steps=1")))
    start = tmp_path / "tiny/checkpoints/step_00000001.pt"
    config = options(*small_overrides(motion_root, tmp_path), f"weights={start}", "data.num_classes=5")
    model = common.build_model(config)
    common.load_weights(model, str(start), new_head=True)
    state = model.state_dict()
    assert torch.equal(state["blocks.0.attn.qkv.weight"], weights(tmp_path / "tiny")["blocks.0.attn.qkv.weight"])
    assert state["head.projection.weight"].shape[0] == 5
    with pytest.raises(ValueError, match=r"head.projection.weight: \(8, 192\) in the file, \(5, 192\) in the model.*"):
        common.load_weights(model, str(start), new_head=False)


def _with_broken_videos(motion_root: Path, tmp_path: Path, *, count: int, kept: int | None = None) -> list[str]:
    """Overrides for a list of the motion set, `kept` videos long, in which the first `count` are empty files."""
    lines = (motion_root / "train.csv").read_text().splitlines()[:kept]
    for index in range(count):
        broken = tmp_path / f"broken_{index}.mp4"
        broken.write_bytes(b"")
        lines[index] = f"{broken} {lines[index].split()[1]}"
    listing = tmp_path / "train.csv"
    listing.write_text("\n".join(lines) + "\n")
    plain = [o for o in motion_overrides(motion_root, tmp_path / "runs") if not o.startswith("data.source.")]
    return [
        *plain,
        "data/source=list",
        f"data.source.train={listing}",
        f"data.source.val={motion_root / 'test.csv'}",
        f"data.source.root={motion_root}",
        f"data.source.class_names_file={motion_root / 'classes.txt'}",
    ]


def test_a_baseline_trains_and_evaluates_in_the_same_pipeline(motion_root: Path, tmp_path: Path) -> None:
    more = ("model=x3d_s", "optim.no_decay=[]", "data.test_temporal_views=2")
    overrides = few_videos(motion_root, tmp_path, *SMALL_CLIPS, *more)
    build.train(options(*overrides, "trainer.max_steps=1"))
    results = build.evaluate(evaluate_options(*overrides, "split=val"))
    assert results["num_views"] == 8


def test_another_validation_split_begins_the_best_anew(
    motion_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was best on other videos says nothing about these."""
    words = [*small_overrides(motion_root, tmp_path), "data/source=list", "schedule.epochs=2", "trainer.batch_size=16"]
    words = [word for word in words if not word.startswith("data.source.")]
    lines = (motion_root / "test.csv").read_text().splitlines(keepends=True)
    words += [f"data.source.train={motion_root}/train.csv", f"data.source.val={tmp_path}/val.csv"]
    words += [f"data.source.root={motion_root}", f"data.source.class_names_file={motion_root}/classes.txt"]
    (tmp_path / "val.csv").write_text("".join(lines))
    build.train(options(*words, "trainer.max_steps=2"))
    best = tmp_path / "tiny" / "checkpoints" / "best.json"
    assert json.loads(best.read_text())["step"] == 2
    (tmp_path / "val.csv").write_text("".join(lines[:3]))
    build.train(options(*words, "resume=force"))
    assert "the validation split is another one than before: best.pt is chosen anew" in caplog.text
    assert json.loads(best.read_text())["step"] == 4
