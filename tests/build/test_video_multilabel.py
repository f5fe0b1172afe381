"""Videos with two classes each, from a table to average precisions."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mvit_video import build
from mvit_video.build.common import build_source, build_task_builder
from mvit_video.config import Preview
from mvit_video.data.augmentation.mixing import Mixing
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.batch import Batch
from mvit_video.distributed.process_group import World
from mvit_video.engine.tracking import read_metrics
from mvit_video.tasks.classification import Normalization
from mvit_video.tasks.multilabel import MultiLabel, MultiLabelScorer, balanced_pos_weight
from tests.conftest import evaluate_options, motion_overrides, options

CPU = torch.device("cpu")
NAMES = ("run", "jump", "swim")
SETS = [[0, 1], [2], [0]]


def manifest(names: tuple[str, ...] = NAMES) -> Manifest:
    return Manifest(["a", "b", "c"], [0, 2, 0], names, "here", label_sets=LabelSetArrayView(SETS))


def batch(videos: list[int], views: list[int] | None = None, failed: list[bool] | None = None) -> Batch:
    count = len(videos)
    return Batch(
        clips=torch.zeros(count, 1, 2, 2, 3, dtype=torch.uint8),
        labels=torch.zeros(count, dtype=torch.long),
        videos=torch.tensor(videos),
        views=torch.tensor(views or [0] * count),
        erase=torch.zeros(count, 4, dtype=torch.int32),
        noise_seeds=torch.zeros(count, dtype=torch.long),
        failed=torch.tensor(failed or [False] * count),
        paths=["x"] * count,
        failures=[],
    )


def task(**mixing: float) -> MultiLabel:
    plain = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "smoothing": 0.0} | mixing
    normalization = Normalization(mean=[0.5] * 3, std=[0.5] * 3)
    return MultiLabel(manifest(), normalization=normalization, mixing=Mixing(num_classes=3, **plain))


def test_targets_are_those_of_the_videos_smoothed_and_mixed_with_the_clips() -> None:
    assert task().train_inputs(batch([1, 0]), seed=0).targets.tolist() == [[0, 0, 1], [1, 1, 0]]
    smoothed = task(smoothing=0.2).train_inputs(batch([1]), seed=0).targets
    torch.testing.assert_close(smoothed, torch.tensor([[0.1, 0.1, 0.9]]))
    mixed = task(mixup_alpha=1.0).train_inputs(batch([1, 0]), seed=0).targets
    share = float(mixed[0, 2])
    assert 0 < share < 1
    torch.testing.assert_close(mixed, torch.tensor([[1 - share, 1 - share, share], [share, share, 1 - share]]))


def test_the_loss_is_binary_cross_entropy() -> None:
    logits, targets = torch.randn(4, 3), torch.rand(4, 3)
    expected = -(targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits)).mean()
    torch.testing.assert_close(task().loss(logits, targets).loss, expected)


def test_scores_by_hand(tmp_path: Path) -> None:
    scorer = MultiLabelScorer(manifest(), num_views=2)
    # run: a 0.8, c not read, b 0.9; jump: a first; swim: b first.
    logits = torch.logit(torch.tensor([[0.9, 0.6, 0.1], [0.7, 0.6, 0.1], [0.9, 0.5, 0.8], [0.9, 0.5, 0.8]]))
    scorer.add(batch([0, 0, 1, 1], [0, 1, 0, 1]), logits)
    with pytest.raises(ValueError, match="2 of 6 views were never scored"):
        scorer.metrics()
    scorer.add(batch([2, 2], [0, 1], [True, True]), torch.zeros(2, 3))
    # run: b is false, a right (1/2), c last (2/3).
    run = 100 * (1 / 2 + 2 / 3) / 2
    metrics = scorer.metrics()
    assert metrics["map"] == pytest.approx((run + 100 + 100) / 3)
    targets = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1]]).float()
    assert metrics["loss"] == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, targets)), rel=1e-5)
    assert (metrics["num_videos"], metrics["num_failed"]) == (3, 1)
    results = scorer.write(tmp_path, {"split": "val"})
    assert results["per_class"] == pytest.approx({"run": run, "jump": 100.0, "swim": 100.0})
    assert results["per_class_count"] == {"run": 2, "jump": 1, "swim": 1}
    assert json.loads((tmp_path / "results.json").read_text()) == results
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert lines[0]["labels"] == ["run", "jump"] and lines[0]["top5"]["run"] == pytest.approx(0.8, abs=1e-6)
    assert lines[2]["failed"]
    assert "mAP" in scorer.summary(results) and "3 of 3 classes; 1 unreadable" in scorer.summary(results)


def test_a_class_without_videos_is_not_in_the_mean_and_ranks_add_up(tmp_path: Path) -> None:
    whole = MultiLabelScorer(manifest((*NAMES, "fly")), num_views=1)
    parts = [MultiLabelScorer(manifest((*NAMES, "fly")), num_views=1) for _ in range(2)]
    logits = torch.randn(3, 4)
    whole.add(batch([0, 1, 2]), logits)
    parts[0].add(batch([0, 2]), logits[[0, 2]])
    parts[1].add(batch([1]), logits[[1]])
    parts[0].merge(parts[1].state())
    assert parts[0].metrics() == whole.metrics()
    assert whole.write(tmp_path, {})["per_class"]["fly"] is None
    certain = MultiLabelScorer(manifest(), num_views=1)
    certain.add(batch([0, 1, 2]), torch.full((3, 3), 99.0))
    assert np.isfinite(certain.metrics()["loss"])


def table(motion_root: Path, tmp_path: Path, *more: str) -> list[str]:
    """Eight motion clips with their motion and its axis as labels."""
    lines = (motion_root / "train.csv").read_text().splitlines()[:8]
    classes = (motion_root / "classes.txt").read_text().split()
    rows = ["path,labels,split"]
    for split in ("train", "val"):
        for line in lines:
            path, label = line.split()
            rows.append(f"{path},{classes[int(label)]}|group {int(label) // 4},{split}")
    tmp_path.mkdir(parents=True, exist_ok=True)
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    plain = [o for o in motion_overrides(motion_root, tmp_path) if not o.startswith("data.source.")]
    return [
        *plain,
        "data/source=table",
        f"data.source.table={tmp_path / 'table.csv'}",
        f"data.source.root={motion_root}",
        "data.source.label_separator='|'",
        "data.num_classes=null",
        "task=video_multilabel",
        *more,
    ]


def test_a_table_of_clips_with_two_labels_a_row_trains_and_is_evaluated(motion_root: Path, tmp_path: Path) -> None:
    more = ["data.sampling_weights=balanced", "augment.mixup_alpha=0.8", "trainer.max_steps=2"]
    metrics = build.train(options(*table(motion_root, tmp_path, *more)))
    assert set(metrics) == {"map", "loss", "num_videos", "num_failed"}
    assert 0 < metrics["map"] <= 100 and metrics["num_videos"] == 8
    lines = read_metrics(tmp_path / "tiny/metrics.jsonl")
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[0] == pytest.approx(0.69, abs=0.15)  # log 2: nothing is known yet
    assert (tmp_path / "tiny/checkpoints/best.pt").exists()
    evaluation = table(motion_root, tmp_path, "split=val", "data.test_temporal_views=1")
    results = build.evaluate(evaluate_options(*evaluation))
    assert results["map"] == pytest.approx(max(line["map"] for line in lines if line["kind"] == "eval"), abs=1e-3)
    assert {"group 0", "group 1"} <= set(results["per_class"]) and sum(results["per_class_count"].values()) == 16


def test_batches_of_a_table_have_the_targets_of_their_rows(motion_root: Path, tmp_path: Path) -> None:
    config = options(*table(motion_root, tmp_path))
    builder = build_task_builder(config)
    split = builder.read_split(config, build_source(config.data, World(rank=0, size=1, device=CPU)), "train")
    loop_task = builder.task(config, split)
    made = next(iter(builder.train_loader(config, split, World(rank=0, size=1, device=CPU)).batches(0)))
    targets = loop_task.train_inputs(made, seed=0).targets
    assert targets.sum(1).tolist() == [2.0] * 8
    expected = torch.zeros(8, split.num_classes)
    for row, video in enumerate(made.videos):
        expected[row, list(split.label_sets[int(video)])] = 1
    assert torch.equal(targets, expected)


def test_several_labels_with_the_task_of_one_are_refused_with_the_way_out(motion_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"several labels a video.*or train with task=video_multilabel"):
        build.train(options(*table(motion_root, tmp_path, "task=video_classification")))


def test_a_preview_names_all_classes_and_the_frames_of_each_draw(motion_root: Path, tmp_path: Path) -> None:
    more = [*table(motion_root, tmp_path), "clips=8", "videos=1", "split=val"]
    rows = (tmp_path / "table.csv").read_text().splitlines()
    weights = ["weight", "8", *["1"] * (len(rows) - 2)]
    (tmp_path / "table.csv").write_text("".join(f"{row},{weight}\n" for row, weight in zip(rows, weights)))
    config = options(*more, config_name="preview")
    assert isinstance(config, Preview)
    builder, world = build_task_builder(config), World(rank=0, size=1, device=CPU)
    source = build_source(config.data, world)
    training, test = builder.preview(config, source)
    assert all("group" in item.title and "," in item.title for item in (*training.items, *test.items))
    split = builder.read_split(config, source, "train")
    loader = builder.train_loader(config, split, world)
    draws = [int(draw) for draw in loader.order(0)]
    assert [item.path for item in training.items] == [split.paths[draw % 8] for draw in draws]
    again = [item.frames for item, draw in zip(training.items, draws) if draw % 8 == 0]
    assert len(again) in (4, 5) and len(set(again)) > 1  # drawn 8 / 15 of the time, each time another clip
    dataset = loader.dataset
    for item, draw in zip(training.items, draws):
        with dataset.decoding.open(split, draw % 8) as video:
            assert list(item.frames) == dataset.frame_numbers(0, draw, video)


def test_classes_weigh_as_their_absence_does_when_balanced() -> None:
    assert balanced_pos_weight([2, 1, 0, 4], videos=4) == [1, 3, 1, 1]
    weighted = MultiLabel(
        manifest(),
        normalization=Normalization(mean=[0.5] * 3, std=[0.5] * 3),
        mixing=Mixing(num_classes=3, mixup_alpha=0.0, cutmix_alpha=0.0, smoothing=0.0),
        pos_weight=[2.0, 1.0, 1.0],
    )
    logits, targets = torch.randn(4, 3), torch.rand(4, 3)
    weight = torch.tensor([2.0, 1.0, 1.0])
    expected = -(weight * targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits)).mean()
    torch.testing.assert_close(weighted.loss(logits, targets).loss, expected)


@pytest.mark.parametrize("value", ["balanced", "{group 0:3}"])
def test_pos_weight_of_the_options(
    motion_root: Path, tmp_path: Path, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = options(*table(motion_root, tmp_path, f"task.pos_weight={value}"))
    builder = build_task_builder(config)
    world = World(rank=0, size=1, device=CPU)
    split = builder.read_split(config, build_source(config.data, world), "train")
    with caplog.at_level(logging.INFO):
        builder.train_loader(config, split, world)
    place = split.class_names.index("group 0")
    count = split.counts()[place]
    expected = (len(split) - count) / count if value == "balanced" else 3
    assert f"group 0 {expected:.3g} ({count} videos)" in caplog.text
    assert float(builder.task(config, split).pos_weight[place]) == pytest.approx(expected)


def test_pos_weight_for_no_class_is_refused(motion_root: Path, tmp_path: Path) -> None:
    config = options(*table(motion_root, tmp_path, "task.pos_weight={group 9:3}"))
    builder = build_task_builder(config)
    split = builder.read_split(config, build_source(config.data, World(rank=0, size=1, device=CPU)), "train")
    with pytest.raises(ValueError, match=r"task\.pos_weight: no class is called 'group 9'; did you mean 'group "):
        builder.task(config, split)
