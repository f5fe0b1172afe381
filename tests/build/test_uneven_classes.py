"""Uneven classes, from options to batches and the loss."""

import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mvit_video.build.class_weights import weights_by_name
from mvit_video.build.clips import build_train_loader
from mvit_video.build.common import build_source, build_task_builder
from mvit_video.data.augmentation.mixing import soft_cross_entropy
from mvit_video.distributed.process_group import World
from mvit_video.tasks.classification import balanced_class_weights
from tests.conftest import few_videos, options


def uneven(motion_root: Path, output: Path, *more: str) -> list[str]:
    """Seven videos of one class and one of another."""
    overrides = few_videos(motion_root, output, *more, "trainer.batch_size=2")
    lines = (motion_root / "train.csv").read_text().splitlines()
    often = [line for line in lines if line.endswith(" 0")]
    rare = next(line for line in lines if line.endswith(" 1"))
    (output / "few.csv").write_text("\n".join([*(often * 7)[:7], rare]) + "\n")
    return list(overrides)


@pytest.mark.parametrize("ranks", [1, 2])
def test_balanced_batches_are_the_same_for_any_number_of_ranks_and_restarts(
    motion_root: Path, tmp_path: Path, ranks: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = options(
        *uneven(motion_root, tmp_path, "data.sampling_weights=balanced", f"trainer.accumulate={2 // ranks}")
    )
    builder = build_task_builder(config)
    cpu = torch.device("cpu")
    split = builder.read_split(config, build_source(config.data, World(rank=0, size=1, device=cpu)), "train")
    with caplog.at_level(logging.INFO):
        loaders = [build_train_loader(config, split, World(rank=r, size=ranks, device=cpu)) for r in range(ranks)]
    assert "an epoch draws videos of each class so often (data.sampling_weights=balanced)" in caplog.text
    assert "4.0 of 7" in caplog.text and "4.0 of 1" in caplog.text
    iterators = [loader.batches(1) for loader in loaders]  # from the middle of the first epoch
    batches = [next(iterators[turn % ranks]) for turn in range(2)]
    labels = torch.cat([batch.labels for batch in batches])
    whole = build_train_loader(config, split, World(rank=0, size=1, device=cpu))._keys(0)
    keys = [key for _ in range(4) for key in next(whole)]
    drawn = [split.labels[draw % len(split)] for _, _, draw in keys]
    assert sorted(drawn) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert labels.tolist() == drawn[4:]
    clips = [clip for batch in batches for clip, label in zip(batch.clips, batch.labels) if label == 1]
    assert all(not torch.equal(clips[0], clip) for clip in clips[1:])  # one video, other clips


def test_class_weights_are_counted_and_enter_the_loss(
    motion_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = options(*uneven(motion_root, tmp_path, "task.class_weights=balanced"))
    builder = build_task_builder(config)
    world = World(rank=0, size=1, device=torch.device("cpu"))
    split = builder.read_split(config, build_source(config.data, world), "train")
    with caplog.at_level(logging.INFO):
        builder.train_loader(config, split, world)
    assert "0.571 (7 videos)" in caplog.text and "4 (1 videos)" in caplog.text
    task = builder.task(config, split)
    logits, labels = torch.randn(3, 8), torch.tensor([0, 0, 1])
    weights = torch.tensor([8 / 14, 4.0, 0, 0, 0, 0, 0, 0])
    expected = (F.cross_entropy(logits, labels, reduction="none") * weights[labels]).mean()
    loss = task.loss(logits, F.one_hot(labels, 8).float()).loss
    torch.testing.assert_close(loss, expected)


def test_balanced_weights_have_the_mean_one_over_the_videos() -> None:
    assert balanced_class_weights([6, 2, 0]) == pytest.approx([8 / 12, 8 / 4, 0])
    assert sum(count * weight for count, weight in zip([6, 2], balanced_class_weights([6, 2]))) == pytest.approx(8)


def test_the_weighted_loss_of_mixed_targets() -> None:
    logits, targets = torch.zeros(1, 2), torch.tensor([[0.25, 0.75]])
    loss = soft_cross_entropy(logits, targets, class_weights=torch.tensor([2.0, 4.0]))
    assert float(loss) == pytest.approx((2 * 0.25 + 4 * 0.75) * 0.693147, rel=1e-5)


def test_class_weights_by_name(motion_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (motion_root / "classes.txt").read_text().split()[:2]
    names = f"data.source.class_names_file={motion_root}/classes.txt"
    config = options(*uneven(motion_root, tmp_path, names, f"task.class_weights={{{second}:2.5}}"))
    builder = build_task_builder(config)
    world = World(rank=0, size=1, device=torch.device("cpu"))
    split = builder.read_split(config, build_source(config.data, world), "train")
    with caplog.at_level(logging.INFO):
        builder.train_loader(config, split, world)
    assert f"{first} 1 (7 videos), {second} 2.5 (1 videos)" in caplog.text
    assert builder.task(config, split).class_weights.tolist() == [1, 2.5, 1, 1, 1, 1, 1, 1]


def test_a_weight_for_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task\.class_weights: no class is called 'jmp'; did you mean 'jump'"):
        weights_by_name({"jmp": 2}, ["run", "jump"], option="task.class_weights")
    assert weights_by_name({7: 2}, ["5", "7"], option="x") == [1, 2]  # a command line reads numbers
    with pytest.raises(ValueError, match=r"no class is called 'True'; .* in two pairs of quotes: 'x=\"\{true: 2\}\"'"):
        weights_by_name({True: 2}, ["true", "false"], option="x")


def test_weights_of_classes_whose_names_a_command_line_cannot_have() -> None:
    names = ["null", "true", "1e5", "A,B", "Blaumeise ü", "rest"]
    given = r"task.class_weights='{null: 2, true: 3, 1e5: 4, \"A,B\": 5, Blaumeise ü: 6.5}'".replace("\\", "")
    weighting = options("+experiment=motion_mvitv2", given).task.class_weights
    assert weights_by_name(weighting, names, option="x") == [2, 3, 4, 5, 6.5, 1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("balance", "task.class_weights=balance: must be none, balanced, or weights by class"),
        ("{run:0}", "the weight of 'run' is 0; it must be a number above 0"),
        ("{run:much}", "the weight of 'run' is much; it must be a number above 0"),
        ("{}", "names no class"),
        ("'{A,B: 2}'", "the weight of 'A' is ; it must be a number above 0; names with commas stand in double quotes"),
        ("'{A: 2'", "{A: 2: must be none, balanced, or weights by class"),
        ("null", "task.class_weights=None: must be"),
    ],
)
def test_impossible_weights_are_refused_before_any_data_is_read(value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options("+experiment=motion_mvitv2", f"task.class_weights={value}")
