import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mvit_video.build.common import build_source
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segments
from mvit_video.data.datasets.sources import FolderSource
from mvit_video.data.datasets.splits import SplitOptions, SplitSource, describe, divide, split_groups, split_names
from mvit_video.data.datasets.table import TableSource
from mvit_video.distributed.process_group import World
from tests.conftest import evaluate_options, options
from tests.data.datasets.files import touch, write


def manifest(counts: dict[str, int], root: str = "/data", **columns: object) -> Manifest:
    names = tuple(counts)
    paths = [f"{root}/{name}/{number:03}.mp4" for name in names for number in range(counts[name])]
    labels = [label for label, name in enumerate(names) for _ in range(counts[name])]
    return Manifest(paths, labels, names, "folder", **columns)  # type: ignore[arg-type]


def held_out(whole: Manifest, **options: object) -> set[str]:
    _, val = divide(whole, SplitOptions(**options))  # type: ignore[arg-type]
    return {split_names(whole)[row] for row in val}


def counts_of(whole: Manifest, rows: np.ndarray) -> tuple[int, ...]:
    return whole.subset(rows).counts()


def test_every_class_gives_its_share() -> None:
    whole = manifest({"a": 50, "b": 10, "c": 5, "d": 3, "e": 2, "f": 1})
    train, val = divide(whole, SplitOptions(holdout=0.2))
    assert counts_of(whole, val) == (10, 2, 1, 1, 1, 0)
    assert sorted([*train, *val]) == list(range(len(whole)))


def test_the_split_depends_on_seed_and_names_alone() -> None:
    whole = manifest({"a": 20, "b": 20})
    chosen = held_out(whole, holdout=0.2, seed=3)
    shuffled = whole.subset(np.random.default_rng(0).permutation(len(whole)))
    assert held_out(shuffled, holdout=0.2, seed=3) == chosen
    assert held_out(manifest({"a": 20, "b": 20}, root="/elsewhere/videos"), holdout=0.2, seed=3) == chosen
    assert held_out(manifest({"b": 20, "a": 20}), holdout=0.2, seed=3) == chosen
    assert held_out(whole, holdout=0.2, seed=4) != chosen
    assert sorted(held_out(manifest({"a": 5, "b": 5}), holdout=0.2)) == ["a/000.mp4", "b/004.mp4"]  # on every machine


def test_folds_are_each_validation_once() -> None:
    whole = manifest({"a": 23, "b": 11, "c": 4})
    rows = [divide(whole, SplitOptions(folds=5, fold=fold))[1] for fold in range(5)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(whole)))
    for label, total in enumerate((23, 11, 4)):
        shares = [counts_of(whole, part)[label] for part in rows]
        assert max(shares) - min(shares) <= 1
        assert sum(shares) == total
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


@pytest.mark.parametrize("values", [{"holdout": 0.25}, {"folds": 4, "fold": 1}])
def test_groups_stay_together(values: dict[str, object]) -> None:
    whole = manifest({"a": 40, "b": 40}, groups=[f"scene {number // 5}" for number in range(80)])
    train, val = divide(whole, SplitOptions(**values))  # type: ignore[arg-type]
    groups = np.array(whole.groups)
    assert not set(groups[train]) & set(groups[val])
    assert counts_of(whole, val) == (10, 10)


def test_segments_of_a_file_stay_together() -> None:
    paths = [f"/data/{number % 4}.mp4" for number in range(16)]
    segments = Segments([(float(number), number + 1.0) for number in range(16)])
    whole = Manifest(paths, [number % 2 for number in range(16)], ("a", "b"), "t", segments=segments)
    train, val = divide(whole, SplitOptions(holdout=0.5))
    assert not {paths[row] for row in train} & {paths[row] for row in val}
    assert counts_of(whole, val) == (4, 4)
    assert whole.subset(val).segments == tuple(segments[row] for row in val)


def test_groups_found_in_the_paths() -> None:
    paths = [f"/data/v_Dive_g{number // 3:02}_c{number % 3:02}.avi" for number in range(30)]
    whole = Manifest(paths, [0] * 30, ("Dive",), "t")
    _, val = divide(whole, SplitOptions(holdout=0.2, group_pattern=r"_g(\d\d)_"))
    assert sorted(Counter(paths[row][13:16] for row in val).values()) == [3, 3]
    with pytest.raises(ValueError, match=r"data\.group_pattern='_x': it finds nothing in 30 of 30 paths, the first /"):
        divide(whole, SplitOptions(holdout=0.2, group_pattern="_x"))
    with pytest.raises(ValueError, match=r"data\.group_pattern='\(' is no regular expression"):
        divide(whole, SplitOptions(holdout=0.2, group_pattern="("))


def test_a_pattern_of_several_brackets_takes_the_one_that_finds_something() -> None:
    paths = [f"/data/x_g{number // 2}_c{number % 2}.avi" for number in range(8)]
    paths += [f"/data/scene{number // 2}-{number % 2}.avi" for number in range(8)]
    whole = Manifest(paths, [0] * 16, ("Dive",), "t")
    groups = split_groups(whole, r"x_(g\d)_|(scene\d)-")
    assert groups == [f"g{number // 2}" for number in range(8)] + [f"scene{number // 2}" for number in range(8)]
    with pytest.raises(ValueError, match=r"finds nothing in 1 of 3 paths, the first /data/x_g_c2\.avi"):
        split_groups(Manifest([*paths[:2], "/data/x_g_c2.avi"], [0] * 3, ("Dive",), "t"), r"_g(\d)?_")


def test_a_pattern_in_the_place_of_the_groups_of_a_table_is_said(caplog: pytest.LogCaptureFixture) -> None:
    whole = manifest({"a": 4}, groups=["x", "x", "y", "y"])

    class Only(FolderSource):
        def manifest(self, split: str) -> Manifest:
            return whole

    SplitSource(Only(train="folder"), SplitOptions(holdout=0.5, group_pattern=r"(\d+)\.mp4")).manifest("val")
    assert "takes the place of the groups of folder: its groups are not kept together" in caplog.text


def test_one_file_written_in_several_ways_stays_together() -> None:
    paths = [f"{prefix}{number}.mp4" for number in range(6) for prefix in ("", "./", f"{Path.cwd()}/", ".//")]
    whole = Manifest(paths, [0] * 24, ("a",), "t")
    train, val = divide(whole, SplitOptions(holdout=0.34))
    assert not {Path(paths[row]).absolute() for row in train} & {Path(paths[row]).absolute() for row in val}
    assert whole.num_duplicates() == 18


def test_several_labels_are_stratified() -> None:
    sets = LabelSetArrayView([(0, 1) if number % 2 else (2,) for number in range(40)])
    whole = Manifest([f"/d/{n}.mp4" for n in range(40)], [s[0] for s in sets], ("a", "b", "c"), "t", label_sets=sets)
    _, val = divide(whole, SplitOptions(holdout=0.2))
    assert counts_of(whole, val) == (4, 4, 4)


def test_a_source_with_a_part_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, *(f"{name}/{number}.mp4" for name in ("cat", "dog") for number in range(10)))
    source = SplitSource(FolderSource(train=str(tmp_path)), SplitOptions(holdout=0.2))
    with caplog.at_level(logging.INFO):
        train, val = source.manifest("train"), source.manifest("val")
    assert (train.counts(), val.counts(), train.class_names) == ((8, 8), (2, 2), val.class_names)
    assert source.has("val") and source.manifest("test") is val
    assert "holdout=0.2 (data.split_seed=0): 16 videos for training, 4 for validation; 16 and 4 groups" in caplog.text
    assert "cat: 8 for training, 2 for validation" in caplog.text
    assert train.source == f"{tmp_path} (train part, holdout=0.2, seed 0)"


def test_a_test_split_stays(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.mp4" for number in range(8)))
    text = "path,label,split\n" + "".join(f"{n}.mp4,x,{'test' if n > 5 else 'train'}\n" for n in range(8))
    table = TableSource(table=str(write(tmp_path / "t.csv", text)), root=str(tmp_path))
    source = SplitSource(table, SplitOptions(folds=3, fold=2))
    assert [len(source.manifest(split)) for split in ("train", "val", "test")] == [4, 2, 2]


def test_two_validation_splits_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "train/a/2.mp4", "val/a/1.mp4")
    source = FolderSource(train=str(tmp_path / "train"), val=str(tmp_path / "val"))
    with pytest.raises(ValueError, match=r"cuts a validation split off the training, but data\.source has one already"):
        SplitSource(source, SplitOptions(holdout=0.2)).manifest("train")


def test_classes_that_a_part_lacks_are_named() -> None:
    whole = manifest({"a": 10, "rare": 1})
    cut = SplitOptions(holdout=0.2)
    train, val = (whole.subset(rows) for rows in divide(whole, cut))
    assert describe(train, val, cut)[-1] == "  without a video for validation: 1 class ('rare')"
    images = [replace(part, kind=IMAGES) for part in (train, val)]
    lines = describe(*images, cut)
    assert lines[-1] == "  without an image for validation: 1 class ('rare')"
    assert f"{len(train)} images for training, {len(val)} for validation" in lines[0]
    many = manifest({f"class {n}": 5 for n in range(40)})
    train, val = (many.subset(rows) for rows in divide(many, cut))
    assert describe(train, val, cut)[-1] == "  10 more classes: 4 to 4 for training, 1 to 1 for validation"


def test_the_options_cut_the_source_of_a_run(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{number}.mp4" for name in ("cat", "dog") for number in range(10)))
    overrides = ("+experiment=finetune_folder", f"data.source.train={tmp_path}", "weights=w.pt", "name=x")
    cut = ("data.folds=5", "data.fold=1", "data.split_seed=7", r"data.group_pattern='(\w+/\d+)\.mp4'")
    world = World(rank=0, size=1, device=torch.device("cpu"))
    source = build_source(evaluate_options(*overrides, *cut).data, world)
    assert source.manifest("val").counts() == (2, 2)
    assert source.manifest("val").source.endswith("(val part, fold 1 of 5, seed 7)")
    with pytest.raises(ValueError, match=r"data\.fold=null: with data\.folds=5 it runs from 0 to 4"):
        options(*overrides, "data.folds=5")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"holdout": 1.0}, r"data\.holdout=1\.0: a share of the training split, above 0 and below 1"),
        ({"holdout": 0.2, "folds": 5}, r"data\.holdout and data\.folds are both given"),
        ({"folds": 1, "fold": 0}, r"data\.folds=1: at least 2 folds"),
        ({"folds": 5}, r"data\.fold=None: with data\.folds=5 it runs from 0 to 4"),
        ({"folds": 5, "fold": 5}, r"data\.fold=5: with data\.folds=5 it runs from 0 to 4"),
        ({"fold": 1}, r"data\.fold=1 without data\.folds"),
    ],
)
def test_impossible_splits(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitOptions(**values)  # type: ignore[arg-type]


def test_too_few_groups_are_refused() -> None:
    whole = manifest({"a": 6}, groups=["one scene"] * 6)
    with pytest.raises(ValueError, match=r"1 group of videos cannot be divided into 2 parts \(holdout=0\.2\)"):
        divide(whole, SplitOptions(holdout=0.2))
    with pytest.raises(ValueError, match=r"6 groups of videos cannot be divided into 8 parts \(fold 0 of 8\)"):
        divide(manifest({"a": 6}), SplitOptions(folds=8, fold=0))
