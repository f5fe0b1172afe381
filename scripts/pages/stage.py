"""The folder in which the commands of the pages are run: miniature data under the very names that the pages have.

Videos, images and labels come from the generators of the tests and of the embedded sets. Data sets whose number of
classes a recipe states have all of them, with one file each; files that show the same are links to one.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvit_video.data.datasets.imagenet_names import imagenet_wnids
from mvit_video.data.datasets.published_names import COCO_2017, KINETICS_400, published_class_names
from mvit_video.data.embedded.motion import MotionSpec, encode_h264, generate_motion, to_yuv
from mvit_video.data.embedded.scenes import ScenesSpec, generate_scenes
from tests.data.detection.test_yolo import write_yolo
from tests.image_library import images, jpeg, write_folders, write_list, write_parquet, write_shards
from tests.paths import ROOT
from tests.video_library import RECIPES, write_video

BIRDS = ("blackbird", "robin", "wren")
OTHER_CONTAINERS = ("clock.mkv", "h264.avi", "vp9.webm")
TRAIN_SHARDS = 1024  # as many as the published pattern names
_TEMPLATES = ("Putting [something] on a surface", "Moving [something] up", "Covering [something] with [something]")


def write_stage(stage: Path) -> None:
    """All data that the pages name, in a new folder; examples, scripts and settings are links to the checkout's."""
    stage.mkdir(parents=True)
    for name in ("examples", "scripts", "conf", "constraints.txt"):
        (stage / name).symlink_to(ROOT / name)
    videos = _videos(stage / ".videos")
    _birds(stage, videos)
    _single_files(stage, videos)
    _kinetics(stage / "k400", videos["gop12.mp4"])
    _something(stage / "ssv2", videos["vp9.webm"])
    _flowers(stage)
    _imagenet(stage)
    _objects(stage)


def flat_validation(stage: Path, *, flat: bool) -> None:
    """Give imagenet/val the form that LOC_val_solution.csv is for, or class folders."""
    place, folders, single = (stage / "imagenet" / name for name in ("val", ".val_folders", ".val_flat"))
    place.unlink(missing_ok=True)
    place.symlink_to((single if flat else folders).name)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, target)


def _videos(folder: Path) -> dict[str, Path]:
    """A video of 60 frames in each of several containers, and longer ones with larger pictures."""
    folder.mkdir()
    for recipe in RECIPES:
        if recipe.name in (*OTHER_CONTAINERS, "gop12.mp4", "stream.ts"):
            write_video(folder / recipe.name, recipe)
    for name, frames, (height, width) in (("scene.mp4", 120, (96, 128)), ("clip.mp4", 300, (240, 320))):
        coarse = np.random.default_rng(0).integers(0, 255, (5, 6, 3), np.uint8)
        wide = np.asarray(Image.fromarray(coarse).resize((width + 2 * frames, height), Image.Resampling.BICUBIC))
        moving = np.stack([wide[:, 2 * number : 2 * number + width] for number in range(frames)])
        (folder / name).write_bytes(encode_h264(to_yuv(moving), fps=30, crf=28))
    return {path.name: path for path in folder.iterdir()}


def _birds(stage: Path, videos: Mapping[str, Path]) -> None:
    """Videos of the embedded set, each of them once, and one of another container in each class."""
    root = stage / ".motion"
    generate_motion(root, MotionSpec(train_videos=40, test_videos=16), workers=1, progress=False)
    scenes = {split: iter(sorted((root / "videos" / split).glob("*.mp4"))) for split in ("train", "test")}
    counts = {"birds/train": 5, "birds/val": 3, "more_birds": 1, "videos/train": 4, "videos/val": 1}
    for place, count in counts.items():
        split = "train" if place.endswith("train") else "test"
        for name in BIRDS:
            for number in range(count):
                _link(next(scenes[split]), stage / place / name / f"{name}_{number}.mp4")
    for name, container in zip(BIRDS, OTHER_CONTAINERS):
        _link(videos[container], stage / "birds" / "train" / name / f"{name}{Path(container).suffix}")
    # A take of what is in the training, so that an audit has something to find.
    _link(videos["gop12.mp4"], stage / "birds" / "val" / "wren" / "wren_again.mp4")
    for name in BIRDS:
        for number in range(4):
            _link(next(scenes["train"]), stage / "all_birds" / f"{name}_{number}.mp4")


def _single_files(stage: Path, videos: Mapping[str, Path]) -> None:
    for name in ("garden.mp4", "more/garden.mp4", "match.mp4", "more_videos/pond.mp4", "clips/hedge.mp4"):
        _link(videos["scene.mp4"], stage / name)
    _link(videos["clip.mp4"], stage / "clip.mp4")
    _link(videos["stream.ts"], stage / "growing.ts")
    for number, name in enumerate(("garden.jpg", "photo.jpg", "photos/yard.jpg", "more_photos/lawn.jpg")):
        (stage / name).parent.mkdir(exist_ok=True)
        (stage / name).write_bytes(jpeg(number, side=96))
    (stage / "k400.txt").write_text("\n".join(_names(KINETICS_400)) + "\n")


def _names(classes: str) -> Sequence[str]:
    names = published_class_names(classes)
    assert names is not None
    return names


def _kinetics(folder: Path, video: Path) -> None:
    """The annotation CSV files over folders of videos, and the lists of PySlowFast: a video of each class."""
    lists: dict[str, list[str]] = {}
    for split, names in (("train", _names(KINETICS_400)), ("val", _names(KINETICS_400)[:6])):
        rows = ["label,youtube_id,time_start,time_end,split"]
        for number, name in enumerate(names):
            identity = f"{split}{number:06d}"
            _link(video, folder / split / f"{identity}_000010_000020.mp4")
            rows.append(f'"{name}",{identity},10,20,{split}')
            lists.setdefault(split, []).append(f"{split}/{identity}_000010_000020.mp4 {number}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
        (folder / "lists").mkdir(exist_ok=True)
        (folder / "lists" / f"{split}.csv").write_text("\n".join(lists[split]) + "\n")


def _something(folder: Path, video: Path) -> None:
    templates = [*_TEMPLATES, *(f"Pretending to do [something] in way {number}" for number in range(171))]
    names = {template.replace("[", "").replace("]", ""): str(index) for index, template in enumerate(templates)}
    (folder / "videos").mkdir(parents=True)
    (folder / "something-something-v2-labels.json").write_text(json.dumps(names))
    for split, first, count in (("train", 1, 9), ("validation", 100, 3)):
        entries = []
        for number in range(first, first + count):
            _link(video, folder / "videos" / f"{number}.webm")
            template = _TEMPLATES[number % 3]
            entries.append({"id": str(number), "label": template.replace("[something]", "a cup"), "template": template})
        (folder / f"something-something-v2-{split}.json").write_text(json.dumps(entries))


def _flowers(stage: Path) -> None:
    for split, first, count in (("train", 0, 24), ("val", 50, 3)):  # `plan` knows the batch of the recipe, 64
        write_folders(stage / "flowers" / split, images(count, first=first), names=("daisy", "rose", "tulip"))


def _imagenet(stage: Path) -> None:
    """Class folders, tar shards, Parquet files, and a flat validation split with Kaggle's file."""
    folder, wnids = stage / "imagenet", imagenet_wnids()
    files = [jpeg(number) for number in range(8)]
    every = {f"{wnid}_{1}": (files[label % 8], label) for label, wnid in enumerate(wnids)}
    few = {f"ILSVRC2012_val_{number:08d}": (files[number], 111 * number) for number in range(1, 7)}
    write_folders(folder / "train", every, names=wnids)
    write_folders(folder / ".val_folders", few, names=wnids)
    solution = "".join(f"{name},{wnids[label]} 1 2 30 40 \n" for name, (_, label) in few.items())
    (stage / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{solution}")
    write_list(folder / ".val_flat.txt", few)
    flat_validation(stage, flat=False)
    write_shards(folder / "whole", every, per_shard=1)
    shards = sorted((folder / "whole").glob("*.tar"))
    for number in range(TRAIN_SHARDS):
        _link(shards[number % len(shards)], folder / f"train-{number:04d}.tar")
    shutil.rmtree(folder / "whole")
    write_shards(folder, few, prefix="validation", per_shard=3)
    write_parquet(folder / "data", every, names=None, rows=64)
    write_parquet(folder / "data", few, prefix="validation", names=None)


def _objects(stage: Path) -> None:
    """`parts` in the forms of COCO and YOLO, `bolts`, and a COCO of all 80 classes, of the embedded scenes."""
    scenes = generate_scenes(stage / ".scenes", ScenesSpec(train_images=8, test_images=4))
    for split, ours, theirs in (("train", "train", "train2017"), ("test", "val", "val2017")):
        content = json.loads((scenes / "annotations" / f"{split}.json").read_text())
        for picture in content["images"]:
            source = scenes / split / picture["file_name"]
            for place in (stage / "parts" / ours, stage / "bolts" / ours, stage / "coco" / theirs):
                _link(source, place / picture["file_name"])
        for place in ("parts", "bolts"):
            (stage / place / f"{ours}.json").write_text(json.dumps(content))
        (stage / "coco" / "annotations").mkdir(exist_ok=True)
        (stage / "coco" / "annotations" / f"instances_{theirs}.json").write_text(json.dumps(_as_coco(content)))
        write_yolo(stage / "parts", {"a": "0 0.5 0.5 0.5 0.5", "b": "1 0.4 0.5 0.3 0.5", "c": None}, split=ours)
    (stage / "parts" / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [bolt, nut]\n")


def _as_coco(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same annotations as of COCO's classes, with COCO's numbers."""
    from mvit_video.data.datasets.published_names import coco_category_numbers

    numbers = coco_category_numbers(_names(COCO_2017))
    ordered = list(numbers.values())
    annotations = [{**one, "category_id": ordered[one["category_id"]]} for one in content["annotations"]]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {**content, "annotations": annotations, "categories": categories}


def copy_of(base: Path, stage: Path) -> None:
    """A fresh stage: the folder as it was written, file for file a link."""
    shutil.copytree(base, stage, symlinks=True, copy_function=os.link)
