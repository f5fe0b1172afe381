"""Compare ways to train on few videos: which part of a pretrained model, for 20, 100 and 1,000 videos a class.

    python scripts/bench_few.py FOLDER                       # all of it; the same command again goes on
    python scripts/bench_few.py FOLDER --seeds 0 1 2 --videos 20 100

Both data sets are variations of the embedded one. The small MViTv2 is pretrained on six of its eight motions (moving
and growing), and then trained on four: growing and shrinking, which it knows, and turning both ways, which it does not.
Shapes and textures are others than in pretraining, and the camera shakes twice as much. Every way of training takes
the same steps of the same videos. Its learning rate is the better of two on a draw of videos and a validation split
that the comparison does not use. A scene is in the set forwards and in reverse, so that n videos a class are n scenes
a kind.

Everything lies in the folder: videos, lists, runs, and `results.jsonl` with a line per training, which is not repeated.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from mvit_video.build import train
from mvit_video.config import Train, config_dir, register
from mvit_video.config.check import to_object
from mvit_video.data.embedded.motion import encode_h264, to_yuv
from mvit_video.data.embedded.motion_scenes import KINDS, PAIRS, Kind, Split, render_scene, sample_scene
from mvit_video.runtime.files import write_text

BATCH = 16
TUNING_SEED = 100
"""Of the draw on which learning rates are chosen; no seed of those compared."""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """A data set: which motions, how they look, how much the camera shakes (see motion_scenes)."""

    name: str
    kinds: tuple[Kind, ...]
    looks: Split
    difficulty: float
    seed: int

    @property
    def classes(self) -> tuple[str, ...]:
        """Two a kind: as rendered, and in reverse."""
        return tuple(name for kind in self.kinds for name in PAIRS[KINDS.index(kind)])


SOURCE = Variation(name="source", kinds=("move_right", "move_down", "grow"), looks="train", difficulty=0.5, seed=1)
TARGET = Variation(name="target", kinds=("rotate_cw", "grow"), looks="test", difficulty=1.0, seed=2)


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of training: the options that make it, and the learning rates that are tried."""

    name: str
    options: tuple[str, ...] = ()
    rates: tuple[float, ...]
    pretrained: bool = True


WAYS = (
    Way(name="from scratch", pretrained=False, rates=(1e-3,)),  # that of the embedded set's own recipe
    Way(name="all layers", rates=(3e-4, 1e-3)),
    Way(name="all layers, layer decay 0.75", options=("optim.layer_decay=0.75",), rates=(1e-3, 3e-3)),
    Way(name="last 2 of 4 blocks", options=("optim.frozen=backbone", "optim.last_blocks=2"), rates=(1e-3, 3e-3)),
    Way(name="linear probe", options=("optim.frozen=backbone",), rates=(1e-2, 3e-2)),
    Way(name="LoRA, rank 8", options=("optim.frozen=backbone", "optim.lora_rank=8"), rates=(3e-3, 1e-2)),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is trained and on how many videos. The defaults are what the documentation reports."""

    videos: tuple[int, ...] = (20, 100, 1000)
    steps: dict[int, int] = field(default_factory=lambda: {20: 100, 100: 200, 1000: 300})
    seeds: tuple[int, ...] = (0, 1)
    pretraining_videos: int = 300
    pretraining_steps: int = 1000
    tuning_videos: int = 100
    tuning_steps: int = 100
    validation_videos: int = 50
    test_videos: int = 100
    size: tuple[str, ...] = ("data.crop_size=32", "data.test_short_side=35", "augment.jitter=[33,40]")
    ways: tuple[Way, ...] = WAYS

    def steps_for(self, videos: int) -> int:
        """Optimizer steps on so many videos a class."""
        known = sorted(self.steps)
        return self.steps[min(known, key=lambda count: abs(count - videos))]


# --- videos ---


def write_set(folder: Path, variation: Variation, counts: dict[str, int], *, workers: int) -> None:
    """The videos of each split and a list `<split>.csv` of them, unless they are there; `counts` are scenes a kind."""
    if (folder / "complete").exists():
        return
    jobs = [
        (number, split, kind, scene)
        for number, (split, scenes) in enumerate(counts.items())
        for scene in range(scenes)
        for kind in variation.kinds
    ]
    for split in counts:
        (folder / split).mkdir(parents=True, exist_ok=True)
    write = partial(_write_scene, folder, variation)
    if workers == 1:
        names = [write(job) for job in jobs]
    else:
        with ProcessPoolExecutor(workers) as pool:
            names = list(pool.map(write, jobs, chunksize=16))
    for split in counts:
        lines = [
            f"{name} {2 * variation.kinds.index(kind) + order}\n"
            for (_, of, kind, _), pair in zip(jobs, names, strict=True)
            for order, name in enumerate(pair)
            if of == split
        ]
        write_text(folder / f"{split}.csv", "".join(lines))
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in variation.classes))
    write_text(folder / "complete", "")


def _write_scene(folder: Path, variation: Variation, job: tuple[int, str, Kind, int]) -> tuple[str, str]:
    """The two files of a scene, forwards and in reverse."""
    number, split, kind, scene = job
    rng = np.random.default_rng([variation.seed, number, KINDS.index(kind), scene])
    drawn = sample_scene(rng, kind=kind, split=variation.looks, difficulty=variation.difficulty)
    pictures = to_yuv(render_scene(drawn))
    names = (f"{split}/{kind}_{scene:05d}_forward.mp4", f"{split}/{kind}_{scene:05d}_reversed.mp4")
    for name, order in zip(names, (1, -1), strict=True):
        (folder / name).write_bytes(encode_h264(pictures[::order], fps=drawn.fps, crf=20))
    return names


def draw_list(folder: Path, *, videos: int, seed: int) -> Path:
    """A list of so many videos of each class, drawn by scene from `train.csv`. Larger draws hold the smaller ones."""
    lines = (folder / "train.csv").read_text(encoding="utf-8").splitlines()
    scenes: dict[str, list[str]] = {}
    for forward, backward in zip(lines[::2], lines[1::2], strict=True):
        kind = forward.split("/")[-1].rpartition("_forward")[0].rpartition("_")[0]
        scenes.setdefault(kind, []).append(f"{forward}\n{backward}\n")
    drawn = []
    for number, (kind, pairs) in enumerate(sorted(scenes.items())):
        if videos > len(pairs):
            raise ValueError(f"{videos} videos a class were asked for, and {folder} has {len(pairs)} of {kind}")
        order = np.random.default_rng([seed, number]).permutation(len(pairs))[:videos]
        drawn += [pairs[index] for index in order]
    path = folder / f"train-{videos}-{seed}.csv"
    write_text(path, "".join(drawn))
    return path


# --- one training ---


def train_once(folder: Path, name: str, *, data: Path, train_list: Path, val: str, options: Sequence[str]) -> dict:
    """Train and validate once; the metrics of the last step, and the seconds of CPU time it took."""
    classes = len((data / "classes.txt").read_text(encoding="utf-8").split())
    words = [
        "+experiment=motion_mvitv2",
        "data/source=list",
        f"data.source.train={train_list}",
        f"data.source.val={data / f'{val}.csv'}",
        f"data.source.root={data}",
        f"data.source.class_names_file={data / 'classes.txt'}",
        f"data.num_classes={classes}",
        f"output_dir={folder / 'runs'}",
        f"name={name}",
        "schedule.warmup_start_lr=1e-6",
        "schedule.end_lr=1e-6",
        "trainer.threads=1",
        "trainer.num_workers=0",
        "trainer.device=cpu",
        "trainer.eval_every=100000",
        "trainer.checkpoint_every=100000",
        "trainer.keep_last=1",
        "trainer.log_every=50",
        *options,
    ]
    started = time.process_time()
    metrics = train(compose_options(words))
    return {**metrics, "cpu_s": round(time.process_time() - started, 1)}


def compose_options(words: Sequence[str]) -> Train:
    """The checked options of `python -m mvit_video.train` with these words."""
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return to_object(compose("config", overrides=list(words)))


def lengths(*, steps: int, videos: int) -> list[str]:
    """So many steps over so many videos, a tenth of them warm-up."""
    epochs = steps / (videos // BATCH)
    return [f"schedule.epochs={epochs}", f"schedule.warmup_epochs={epochs / 10}"]


def pretrain(folder: Path, plan: Plan) -> Path:
    """The weights that fine-tuning starts from; trained once."""
    data = folder / "source"
    last = folder / "runs/pretraining/checkpoints/best.pt"
    if not last.exists():
        videos = plan.pretraining_videos * len(SOURCE.classes)
        long = lengths(steps=plan.pretraining_steps, videos=videos)
        options = [*long, *plan.size]
        train_list = data / "train.csv"
        found = train_once(folder, "pretraining", data=data, train_list=train_list, val="val", options=options)
        keep(folder, {"phase": "pretraining", **found})
    return last


def fine_tune(
    folder: Path, plan: Plan, way: Way, *, phase: str, videos: int, seed: int, lr: float, weights: Path
) -> dict:
    """Train one way on one draw of videos; its line of the results, from the file if it is there."""
    key = {"phase": phase, "way": way.name, "videos": videos, "seed": seed, "lr": lr}
    for line in results(folder):
        if line.items() >= key.items():
            return line
    data = folder / "target"
    steps = plan.tuning_steps if phase == "tuning" else plan.steps_for(videos)
    options = [
        f"seed={seed}",
        f"optim.lr={lr}",
        *lengths(steps=steps, videos=videos * len(TARGET.classes)),
        *way.options,
        *([f"weights={weights}"] if way.pretrained else []),
        *plan.size,
    ]
    name = "-".join([phase, str([way.name for way in plan.ways].index(way.name)), str(videos), str(seed), f"{lr:g}"])
    val = "val" if phase == "tuning" else "test"
    drawn = draw_list(data, videos=videos, seed=seed)
    found = train_once(folder, name, data=data, train_list=drawn, val=val, options=options)
    return keep(folder, {**key, "steps": steps, **found})


# --- all of them ---


def results(folder: Path) -> list[dict]:
    """The trainings so far."""
    path = folder / "results.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def keep(folder: Path, line: dict) -> dict:
    """Add a line to the results, and print it."""
    with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps({name: value for name, value in line.items() if not isinstance(value, dict | list)}), flush=True)
    return line


def measure(folder: Path, plan: Plan, *, workers: int = 1) -> None:
    """Write the sets, pretrain, choose rates, compare; whatever is in the folder already is not done again."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    source = {"train": plan.pretraining_videos, "val": plan.validation_videos}
    target = {"train": max(*plan.videos, plan.tuning_videos), "val": plan.validation_videos, "test": plan.test_videos}
    write_set(folder / "source", SOURCE, source, workers=workers)
    write_set(folder / "target", TARGET, target, workers=workers)
    weights = pretrain(folder, plan)
    chosen = {way.name: choose_rate(folder, plan, way, weights) for way in plan.ways}
    for seed in plan.seeds:
        for videos in plan.videos:
            for way in plan.ways:
                lr = chosen[way.name]
                fine_tune(folder, plan, way, phase="compared", videos=videos, seed=seed, lr=lr, weights=weights)


def choose_rate(folder: Path, plan: Plan, way: Way, weights: Path) -> float:
    """The rate with the best accuracy on the validation split; of equals the lowest loss."""
    if len(way.rates) == 1:
        return way.rates[0]
    tried = [
        fine_tune(
            folder, plan, way, phase="tuning", videos=plan.tuning_videos, seed=TUNING_SEED, lr=lr, weights=weights
        )
        for lr in way.rates
    ]
    return max(tried, key=lambda line: (line["video_top1"], -line["loss"]))["lr"]


def report(lines: Sequence[dict]) -> str:
    """Accuracy by way and videos a class, in Markdown: the mean over the seeds, and the lowest and highest."""
    compared = [line for line in lines if line["phase"] == "compared"]
    counts = sorted({line["videos"] for line in compared})
    heads = ["trained", "rate", *(f"{count} a class" for count in counts), "CPU seconds"]
    return "\n".join([_row(heads), _row(["---"] * len(heads)), *_rows(compared, counts)])


def _rows(compared: Sequence[dict], counts: Sequence[int]) -> Iterator[str]:
    for name in dict.fromkeys(line["way"] for line in compared):
        mine = [line for line in compared if line["way"] == name]
        cells = [name, ", ".join(f"{rate:g}" for rate in sorted({line["lr"] for line in mine}))]
        for count in counts:
            seen = [line["video_top1"] for line in mine if line["videos"] == count]
            cells.append(f"{statistics.mean(seen):.1f} ({min(seen):.1f} to {max(seen):.1f})" if seen else "")
        largest = [line["cpu_s"] for line in mine if line["videos"] == counts[-1]]
        cells.append(f"{statistics.mean(largest):.0f}" if largest else "")
        yield _row(cells)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Parse the command line, measure, print."""
    plan = Plan()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where videos, runs and results lie")
    parser.add_argument("--videos", type=int, nargs="+", default=list(plan.videos), help="videos a class")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(plan.seeds))
    parser.add_argument("--workers", type=int, default=1, help="processes that write the videos")
    parser.add_argument("--report", action="store_true", help="measure nothing, show the results in the folder")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if not options.report:
        plan = Plan(videos=tuple(options.videos), seeds=tuple(options.seeds))
        measure(options.folder, plan, workers=options.workers)
    print(report(results(options.folder)))


if __name__ == "__main__":
    main()
