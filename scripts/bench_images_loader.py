"""The whole loader of images, as the ImageNet recipe configures it, beside timm's and torchvision's.

Every loader reads the same files in a process of its own with one thread, set up as its own workers are, and all take
turns, round by round; the process's CPU time counts. Two things are timed: the work of a loader's workers, and what it
takes until a batch is normalised and erased, on this CPU. torchvision's workers do all of that; timm's, with its
prefetcher, and ours leave it to the model's device.
"""

import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import timm.data.auto_augment
import torch
import torchvision.transforms as tv
from hydra import compose, initialize_config_dir
from PIL import Image
from timm.data import create_dataset, create_loader, rand_augment_transform
from timm.data.auto_augment import posterize
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from mvit_video.build.images import build_image_eval_dataset, build_image_loader
from mvit_video.config import Train, config_dir, register
from mvit_video.config.check import to_object
from mvit_video.data.augmentation.transforms import normalize_clips
from mvit_video.data.datasets.class_folders import from_folder
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.loading.loader import eval_loader
from mvit_video.data.loading.workers import keep_freed_memory
from mvit_video.distributed.process_group import World
from mvit_video.images import read_image

EXPERIMENT = "in1k_mvitv2_t"
EXACT, QUICK, TIMM = "mvit_video", "mvit_video, data.exact=false", "timm"
TORCHVISION, TORCHVISION_SAME = "torchvision", "torchvision, timm's RandAugment"
BICUBIC = tv.InterpolationMode.BICUBIC
WORLD = World(rank=0, size=1, device=torch.device("cpu"))

Epoch = Callable[[], object]


@dataclass(frozen=True)
class Job:
    """One loader up to one point: `epoch()` makes all batches of the files once.

    `prepare()` is what its workers do first.
    """

    part: str
    name: str
    epoch: Epoch
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Rates:
    """What a job reaches.

    Attributes:
        per_second: images a second of CPU time, the median of the rounds.
        over: how many times as fast as each other job of the part, the median over rounds.
    """

    per_second: float
    over: dict[str, float]


def write_folder(files: Sequence[bytes], folder: Path) -> Path:
    """The files as two classes."""
    for number, data in enumerate(files):
        place = folder / f"class{number % 2}" / f"{number:04}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return folder


def jobs(folder: Path, *, batch: int, crop: int | None = None) -> list[Job]:
    """All that is measured; `crop` pixels instead of the recipe's."""
    made: list[Job] = []
    paths = sorted(folder.glob("*/*.jpg"))
    alone = "decoding alone"
    made.append(Job(alone, EXACT, lambda: _through(read_image(path, orientation="ignore") for path in paths)))
    made.append(Job(alone, "Pillow", lambda: _through(Image.open(path).convert("RGB") for path in paths)))
    config = _recipe(folder, batch=batch, crop=crop)
    for name, exact in ((EXACT, True), (QUICK, False)):
        made += _ours(name, folder, _recipe(folder, batch=batch, crop=crop, exact=exact))
    # Before timm makes its policy of it.
    timm.data.auto_augment.NAME_TO_OP["PosterizeIncreasing"] = _posterize_most
    made += _timm(folder, config)
    made += _torchvision(folder, config)
    order = ("decoding alone", "training, loader", "training, ready", "evaluation, loader")
    return sorted(made, key=lambda job: order.index(job.part))


def _recipe(folder: Path, *, batch: int, crop: int | None, exact: bool = True) -> Train:
    """The options of the experiment on the files."""
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        changes = [
            *(f"+experiment={EXPERIMENT}", f"data.source.train={folder}", f"data.source.val={folder}"),
            *(f"trainer.batch_size={batch}", "trainer.global_batch=null", "trainer.num_workers=0"),
            *(f"trainer.eval_batch_size={batch}", f"data.exact={str(exact).lower()}"),
            *([] if crop is None else [f"data.crop_size={crop}"]),
        ]
        return to_object(compose("config", overrides=changes))


def _ours(name: str, folder: Path, config: Train) -> Iterator[Job]:
    manifest = from_folder(folder, kind=IMAGES)
    loader = build_image_loader(config, manifest, WORLD)
    batches = loader.batches(0)
    tests = build_image_eval_dataset(config, manifest)
    mean, std = config.data.mean, config.data.std

    def train(*, ready: bool) -> None:
        for _ in range(loader.steps_per_epoch):
            made = next(batches)
            if ready:
                normalize_clips(made.clips, mean=mean, std=std, erase=made.erase, noise_seeds=made.noise_seeds)

    def test() -> None:
        size = config.trainer.eval_batch_size
        _through(eval_loader(tests, clips_per_batch=size, rank=0, world_size=1, loading=loader.loading))

    yield Job("training, loader", name, lambda: train(ready=False), keep_freed_memory)
    yield Job("training, ready", name, lambda: train(ready=True), keep_freed_memory)
    yield Job("evaluation, loader", name, test, keep_freed_memory)


def _timm(folder: Path, config: Train) -> Iterator[Job]:
    """timm's loader with its prefetcher, for its `--aa` as the recipe has it."""
    augment, data = config.augment, config.data
    common = {
        "input_size": (3, data.crop_size, data.crop_size),
        "batch_size": config.trainer.batch_size,
        "interpolation": "bicubic",
        "num_workers": 0,
        "persistent_workers": False,
        "device": torch.device("cpu"),
    }
    train = create_loader(
        create_dataset("", root=str(folder)),
        is_training=True,
        re_prob=augment.erase_prob,
        re_mode="pixel",
        color_jitter=0.0,
        auto_augment=augment.randaugment,
        **common,
    )
    test = create_loader(create_dataset("", root=str(folder)), crop_pct=data.crop_ratio, **common)
    yield Job("training, loader", TIMM, lambda: _through(train.loader))
    yield Job("training, ready", TIMM, lambda: _through(train))
    yield Job("evaluation, loader", TIMM, lambda: _through(test.loader))


def _torchvision(folder: Path, config: Train) -> Iterator[Job]:
    """The steps of torchvision's reference for classification, on Pillow's images, with the recipe's values."""
    data, augment = config.data, config.augment
    fill = [round(255 * value) for value in data.mean]
    finish = [tv.PILToTensor(), tv.ConvertImageDtype(torch.float), tv.Normalize(data.mean, data.std)]
    # As many operations as the recipe applies on average: each of its six with a probability of one half.
    own = tv.RandAugment(num_ops=3, magnitude=9, interpolation=BICUBIC, fill=fill)
    settings = {"img_mean": tuple(fill), "interpolation": Image.Resampling.BICUBIC}
    same = rand_augment_transform(augment.randaugment, settings)
    for name, policy in ((TORCHVISION, own), (TORCHVISION_SAME, same)):
        train = tv.Compose(
            [
                tv.RandomResizedCrop(data.crop_size, interpolation=BICUBIC, antialias=True),
                tv.RandomHorizontalFlip(augment.flip),
                policy,
                *finish,
                tv.RandomErasing(augment.erase_prob),
            ]
        )
        for part in ("training, loader", "training, ready"):
            yield _torch_job(part, name, folder, train, config)
    short_side = int(data.crop_size / data.crop_ratio)
    test = tv.Compose([tv.Resize(short_side, BICUBIC, antialias=True), tv.CenterCrop(data.crop_size), *finish])
    yield _torch_job("evaluation, loader", TORCHVISION, folder, test, config)


def _torch_job(
    part: str, name: str, folder: Path, transform: Callable[[Image.Image], torch.Tensor], config: Train
) -> Job:
    images = ImageFolder(str(folder), transform)
    loader = DataLoader(images, batch_size=config.trainer.batch_size, shuffle=part.startswith("training"))
    return Job(part, name, lambda: _through(loader))


def _through(loader: Iterable[object]) -> None:
    """One epoch; nothing is kept."""
    for _ in loader:
        pass


def _posterize_most(image: Image.Image, bits: int, **options: object) -> Image.Image:
    """timm's operation, but where none of the bits are to be kept, which Pillow refuses, it keeps one."""
    return posterize(image, max(bits, 1), **options)


def measure(work: Sequence[Job], *, images: int, rounds: int) -> dict[tuple[str, str], Rates]:
    """All jobs in turn, each in a process of its own, after one round that counts for nothing."""
    seconds: dict[tuple[str, str], list[float]] = {(job.part, job.name): [] for job in work}
    pipes = [_start(job) for job in work]
    for number in range(rounds + 1):
        for job, pipe in zip(work, pipes):
            pipe.send(number)
            spent = pipe.recv()
            if number:
                seconds[job.part, job.name].append(spent)
    for pipe in pipes:
        pipe.send(None)
        pipe.close()
    return {
        (part, name): Rates(
            images / statistics.median(own),
            {
                other: statistics.median(theirs / mine for theirs, mine in zip(times, own))
                for (of, other), times in seconds.items()
                if of == part
            },
        )
        for (part, name), own in seconds.items()
    }


def _start(job: Job) -> Connection:
    """A process for a job; it ends when None is sent, or with this process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(job, theirs), daemon=True).start()
    theirs.close()
    return ours


def _serve(job: Job, pipe: Connection) -> None:
    """One epoch for each number that comes: the seed of the peers, answered by the CPU seconds it took."""
    job.prepare()
    while (number := pipe.recv()) is not None:
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002 - timm draws from it
        torch.manual_seed(number)
        start = time.process_time()
        job.epoch()
        pipe.send(time.process_time() - start)


def table(results: dict[tuple[str, str], Rates], *, markdown: bool) -> str:
    """Rates, ratios of the medians' rounds, and shares of bare decoding."""
    bare = results["decoding alone", EXACT].per_second
    rows = [("part", "loader", "images/s and core", "mvit_video over it", "data.exact=false over it", "of decoding")]
    for (part, name), rates in results.items():
        ratios = []
        for ours in (EXACT, QUICK):
            one = results.get((part, ours))
            ratios.append("" if one is None or name == ours else f"{one.over[name]:.2f}x")
        rows.append((part, name, f"{rates.per_second:.0f}", *ratios, f"{rates.per_second / bare:.0%}"))
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows)
