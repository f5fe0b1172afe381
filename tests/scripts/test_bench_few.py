"""scripts/bench_few.py: a comparison at a tiny size, the draws of videos, and the table."""

import re
from pathlib import Path

import bench_few
import pytest

from mvit_video.engine.checkpoints import load_checkpoint
from tests.conftest import options
from tests.paths import ROOT

TINY = bench_few.Plan(
    videos=(4,),
    steps={4: 1},
    seeds=(0,),
    pretraining_videos=4,
    pretraining_steps=1,
    tuning_videos=4,
    tuning_steps=2,
    validation_videos=1,
    test_videos=2,
    size=("data.num_frames=4", "data.crop_size=16", "data.test_short_side=18", "augment.jitter=[17,20]"),
    ways=(
        bench_few.Way(name="from scratch", pretrained=False, rates=(1e-3,)),
        bench_few.Way(name="linear probe", options=("optim.frozen=backbone",), rates=(1e-5, 1e-2)),
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    bench_few.measure(folder, TINY)
    return folder


def test_every_way_is_tuned_and_compared_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = bench_few.results(folder)
    assert [(line["phase"], line.get("way"), line.get("lr")) for line in lines] == [
        ("pretraining", None, None),
        ("tuning", "linear probe", 1e-5),
        ("tuning", "linear probe", 1e-2),
        ("compared", "from scratch", 1e-3),
        ("compared", "linear probe", lines[-1]["lr"]),
    ]
    assert all(line["num_videos"] == (6 if line["phase"] == "pretraining" else 4) for line in lines[:3])
    assert (
        lines[-1]["num_videos"] == 8
        and lines[-1]["lr"] == max(lines[1:3], key=lambda one: (one["video_top1"], -one["loss"]))["lr"]
    )
    monkeypatch.setattr(bench_few, "train", lambda options: pytest.fail("trained again"))
    bench_few.measure(folder, TINY)
    assert bench_few.results(folder) == lines


def test_only_the_ways_that_say_so_start_from_the_pretrained_weights(folder: Path) -> None:
    def block(name: str) -> object:
        (path,) = (folder / "runs").glob(f"{name}/checkpoints/best.pt")
        return load_checkpoint(path)["model"]["blocks.0.attn.qkv.weight"]

    start = block("pretraining")
    assert (block("tuning-1-4-100-0.01") == start).all()
    assert not (block("compared-0-4-0-0.001") == start).all()


def test_target_and_source_share_no_look_and_half_of_the_motions() -> None:
    assert bench_few.SOURCE.looks != bench_few.TARGET.looks
    assert set(bench_few.SOURCE.classes) & set(bench_few.TARGET.classes) == {"grow", "shrink"}


def test_draws_are_nested_even_and_whole_scenes(folder: Path) -> None:
    target = folder / "target"
    few, more = (bench_few.draw_list(target, videos=n, seed=3).read_text().splitlines() for n in (2, 4))
    assert set(few) < set(more)
    assert [sum(line.endswith(f" {label}") for line in few) for label in range(4)] == [2, 2, 2, 2]
    assert {line.split("_forward")[0] for line in few[::2]} == {line.split("_reversed")[0] for line in few[1::2]}
    with pytest.raises(ValueError, match="5 videos a class were asked for"):
        bench_few.draw_list(target, videos=5, seed=3)


def test_the_table_has_mean_and_range() -> None:
    line = {"phase": "compared", "way": "all layers", "lr": 1e-3, "cpu_s": 10.0}
    lines = [
        {**line, "videos": n, "seed": s, "video_top1": top1}
        for n, s, top1 in ((20, 0, 50.0), (20, 1, 60.0), (100, 0, 80.0))
    ]
    table = bench_few.report([*lines, {"phase": "tuning", "way": "all layers", "video_top1": 1.0}]).splitlines()
    assert table[0] == "| trained | rate | 20 a class | 100 a class | CPU seconds |"
    assert table[2:] == ["| all layers | 0.001 | 55.0 (50.0 to 60.0) | 80.0 (80.0 to 80.0) | 10 |"]


def test_the_recipes_of_the_page_are_the_ways_that_were_compared() -> None:
    page = (ROOT / "docs/few.md").read_text(encoding="utf-8")
    section = page.partition("## Recipes for")[2].partition("options to add")[2].partition("\n\n")[0]
    rows = [re.findall(r"`([^`]+)`", line.split("|")[2]) for line in section.splitlines()[2:]]
    given = [codes[0].split() if "(none)" not in line else [] for codes, line in zip(rows, section.splitlines()[2:])]
    found = [
        options("+experiment=finetune_folder", "data.source.train=t", "weights=w.pt", *more).optim for more in given
    ]
    assert [(one.frozen, one.last_blocks > 0, one.lora_rank, one.layer_decay) for one in found] == [
        ("none", False, None, 0.75),
        ("backbone", True, None, 1.0),
        ("backbone", False, 8, 1.0),
        ("backbone", False, None, 1.0),
    ]
    # The rates have the ratios of those measured, counted from the way with layer decay.
    measured = {way.name: max(way.rates) for way in bench_few.WAYS}
    names = ("all layers, layer decay 0.75", "last 2 of 4 blocks", "LoRA, rank 8", "linear probe")
    for name, one in zip(names, found, strict=True):
        ratio = measured[name] / measured[names[0]]
        assert one.lr / found[0].lr == pytest.approx(ratio, rel=0.15)
