"""A training on own tables, from the command line's options to the last validation."""

import logging
from pathlib import Path

import pytest
import torch

from mvit_video import build
from mvit_video.build.clips import build_train_loader
from mvit_video.build.common import build_source
from mvit_video.build.samples import read_manifest
from mvit_video.data.datasets.sources import MotionSource
from mvit_video.distributed.process_group import World
from tests.conftest import motion_overrides, options
from tests.data.datasets.files import write

MOTION_ONLY = ("data.source.root", "data.source.train_videos", "data.source.test_videos")


def overrides(motion_root: Path, tmp_path: Path, *more: str) -> list[str]:
    plain = [each for each in motion_overrides(motion_root, tmp_path / "runs") if not each.startswith(MOTION_ONLY)]
    return [*plain, "data/source=table", f"data.source.table={tmp_path}/table.csv", *more]


def rows(motion_root: Path) -> list[tuple[str, str]]:
    manifest = MotionSource(root=str(motion_root), train_videos=32, test_videos=16).manifest("train")
    return [(path, manifest.class_names[label]) for path, label in zip(manifest.paths, manifest.labels)]


def test_a_run_trains_on_segments_and_validates_on_a_part_held_out(motion_root: Path, tmp_path: Path) -> None:
    lines = ["video,class,start,end"]
    for path, name in rows(motion_root):
        lines += [f"{path},{name},0,0.4", f"{path},{name},00:00:00.4,"]
    write(tmp_path / "table.csv", "\n".join(lines) + "\n")
    metrics = build.train(options(*overrides(motion_root, tmp_path, "data.holdout=0.25", "trainer.max_steps=1")))
    assert metrics["num_videos"] == 16  # both segments of 8 of the 32 videos
    assert metrics["num_failed"] == 0


def test_the_weights_of_a_table_are_used_and_several_labels_need_their_task(
    motion_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(rank=0, size=1, device=torch.device("cpu"))
    lines = "\n".join(f"{path},{name},{number % 2}" for number, (path, name) in enumerate(rows(motion_root)))
    write(tmp_path / "table.csv", f"path,label,weight\n{lines}\n")
    config = options(*overrides(motion_root, tmp_path))
    manifest = read_manifest(config, build_source(config.data, world), "train")
    with caplog.at_level(logging.INFO):
        loader = build_train_loader(config, manifest, world)
    assert "data.sampling_weights=natural, times the table's weights" in caplog.text
    drawn = [draw % 32 for _ in range(loader.steps_per_epoch) for _, _, draw in next(loader._keys(0))]
    assert all(manifest.weights[video] == 1 for video in drawn)
    config = options(*overrides(motion_root, tmp_path, "data.source.label_separator='|'"))
    with pytest.raises(ValueError, match=r"has several labels a video.*task=video_multilabel"):
        read_manifest(config, build_source(config.data, world), "train")
