"""Run directories for reports, with the files that training and evaluation write, and without training anything."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segments
from mvit_video.runtime.journal import append_event
from mvit_video.tasks.classification import ViewScorer
from mvit_video.tasks.image_classification import ImageScorer
from mvit_video.tasks.multilabel import MultiLabelScorer
from tests.run_directories import HOST
from tests.video_library import CLOSED, Recipe, write_video

# Names that would do something in a page that took them for markup.
CLASSES = (
    "<script>window.hacked = 1</script>",
    "\" onmouseover='window.hacked = 1' x=\"",
    "</style><img src=x onerror=window.hacked=1>",
    "plain & " + 20 * "long",
)
FILES = (
    "<img src=x onerror=window.hacked=1>.mp4",
    "a 'b' \"c\".mp4",
    "{{ 7 * 7 }}.mp4",
    "gone.mp4",
    "broken.mp4",
    "x.mp4",
)
LABELS = (0, 1, 2, 3, 0, 1)
FRAMES = 40  # of a video, 25 a second


def write_videos(folder: Path) -> list[str]:
    """The files, one of which is gone and one broken; each shows its frame numbers."""
    folder.mkdir(parents=True)
    first = folder / FILES[0]
    write_video(first, Recipe("x.mp4", options=CLOSED), range(FRAMES))
    for name in (*FILES[1:3], FILES[5]):
        shutil.copy(first, folder / name)
    (folder / FILES[4]).write_bytes(b"no video")
    return [str(folder / name) for name in FILES]


def write_images(folder: Path) -> list[str]:
    """Three images of one colour each."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((400, 600, 3), 80 * number, np.uint8)).save(path)
    return [str(path) for path in paths]


def write_run(folder: Path, name: str, *, ended: str = "done", items: int = 6, **options: Any) -> Path:
    """A run of 40 steps with two validations; `options` have their dots as `__`."""
    run_dir = folder / name
    append_event(run_dir, "start", job="local", nodes=HOST, pid=os.getpid(), restart=0)
    append_event(run_dir, "steps", total=40)
    append_event(run_dir, "end", job="local", restart=0, status=ended, cause="the <b>disk</b> is full")
    lines: list[dict[str, Any]] = []
    for step in range(1, 41):
        at = {"step": step, "time": 1000.0 + step}
        lines.append({"kind": "train", **at, "loss": 2 - step / 40, "lr": 1e-3, "clips_per_s": 9.0, "top1": 50.0})
        if step % 20 == 0:
            lines.append({"kind": "eval", **at, "loss": 1.5, "video_top1": 20.0 + step, "num_videos": items})
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    held: dict[str, Any] = {"name": name, "output_dir": folder.name, "optim": {"lr": 0.001, "betas": [0.9, 0.999]}}
    for option, value in options.items():
        place = held
        *groups, last = option.split("__")
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    (run_dir / "config.yaml").write_text(json.dumps(held))  # JSON is YAML
    (run_dir / "environment.json").write_text(
        json.dumps({"torch": "2.15.0", "git_dirty": False, "command": "<i>x</i>"})
    )
    data = {split: {"source": f"{split}.csv", "items": items, "fingerprint": "f00"} for split in ("train", "val")}
    (run_dir / "run.json").write_text(json.dumps({"data": data}))
    return run_dir


def evaluate(
    run_dir: Path,
    manifest: Manifest,
    probabilities: Sequence[Sequence[float]],
    *,
    folder: str = "evaluation",
    failed: Sequence[int] = (),
    **about: Any,
) -> dict[str, Any]:
    """An evaluation with these probabilities, written as the scorers of the tasks do; the results."""
    kinds = {False: ViewScorer, True: MultiLabelScorer}
    scorer: Any = (
        ImageScorer(manifest)
        if manifest.kind == IMAGES
        else kinds[manifest.label_sets is not None](manifest, num_views=1)
    )
    count = len(manifest)
    lost = np.isin(np.arange(count), failed)
    if manifest.kind == IMAGES:
        scorer.scores.add(np.arange(count), torch.tensor(probabilities, dtype=torch.float32), failed=lost)
    else:
        scorer.scores.add(np.arange(count), np.zeros(count, np.int64), np.asarray(probabilities), failed=lost)
    known = {"data": {"fingerprint": "f00"}, "class_names": list(manifest.class_names), "crop_size": 32, "step": 40}
    if manifest.kind != IMAGES:
        known |= {"temporal_views": 1, "spatial_views": 1}
    results: dict[str, Any] = scorer.write(run_dir / folder, known | about)
    return results


def sure_of(*classes: int, score: float = 0.9, number: int = len(CLASSES)) -> list[list[float]]:
    """Probabilities of entries that are each taken for a class."""
    rest = (1 - score) / (number - 1)
    return [[score if place == one else rest for place in range(number)] for one in classes]


def video_manifest(paths: Sequence[str]) -> Manifest:
    return Manifest(paths, LABELS, CLASSES, "val.csv")


def segment_manifest(path: str) -> Manifest:
    """One video as two entries, of 0.6 s and of the rest."""
    return Manifest([path] * 2, [0, 3], CLASSES, "val.csv", segments=Segments([(0.0, 0.6), (0.6, float("inf"))]))


def label_set_manifest(paths: Sequence[str]) -> Manifest:
    sets = LabelSetArrayView([[0, 1], [2], [3]])
    return Manifest(paths[:3], [0, 2, 3], CLASSES, "val.csv", label_sets=sets)


def image_manifest(paths: Sequence[str], *, several: bool = False) -> Manifest:
    sets = LabelSetArrayView([[0, 1], [1], [2]]) if several else None
    return Manifest(paths, [0, 1, 2], CLASSES, "val", kind=IMAGES, label_sets=sets)
