"""The whole training loader, as the Kinetics recipe configures it, against bare decoding of the same frames."""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
from hydra import compose, initialize_config_dir

from mvit_video.build.clips import build_train_loader
from mvit_video.config import Train, config_dir, register
from mvit_video.config.check import to_object
from mvit_video.data.datasets.index_file import IndexedVideo, write_index
from mvit_video.data.datasets.indexed_manifest import IndexedManifest, from_index
from mvit_video.data.loading.collation import collate
from mvit_video.data.loading.loader import TrainLoader
from mvit_video.distributed.process_group import World
from mvit_video.video.location import VideoLocation
from mvit_video.video.reader import VideoReader, probe

MOST_LINES = 480  # larger videos than those of the Kinetics copies people train on are left out
EXPERIMENT = "k400_mvitv2_s"
WORKER, DEVICE = "clips made in the worker", "clips made on the device"
PLACES: dict[str, tuple[str, ...]] = {
    WORKER: (),
    f"{WORKER}, one of each video": ("augment.repeats=1",),
    DEVICE: ("augment.device=model",),
    f"{DEVICE}, yuv420": ("augment.device=model", "data.layout=yuv420"),
}
QUICK_PLACES = (WORKER, DEVICE)
WORLD = World(rank=0, size=1, device=torch.device("cpu"))


@dataclass
class LoaderRun:
    """One way to make training batches.

    Attributes:
        place: where clips are made, and of what.
        name: what the table calls it.
        clips_per_core_second: clips per second of CPU time.
        clips_per_second: clips per second of wall time.
        share: videos per CPU second, over those of decoding the same frames alone.
        repeats: clips made of each decoded one.
    """

    place: str
    name: str
    clips_per_core_second: float
    clips_per_second: float
    share: float
    repeats: int


@dataclass
class LoaderResult:
    """What the loader gives.

    Attributes:
        experiment: the recipe.
        videos: files in the set.
        bare_seconds: CPU time per video of decoding alone, on average.
        runs: the ways to make batches.
    """

    experiment: str
    videos: int
    bare_seconds: float
    runs: list[LoaderRun] = field(default_factory=list)


def indexed_set(paths: Sequence[Path], folder: Path, *, least: int) -> IndexedManifest:
    """The videos, repeated until there are `least`, behind an index file as `mvit_video.prepare` writes it."""
    videos = []
    for path in paths:
        file_stat = path.stat()
        with VideoReader(path) as video:
            frames = video.frame_index
        place = str(path.resolve())
        videos.append(IndexedVideo(place, 0, file_stat.st_size, file_stat.st_mtime_ns, frames, bytes(16)))
    write_index(folder / "train.index", videos * -(-least // len(videos)), class_names=["any"], root=None)
    return from_index(folder / "train.index")


def recipe(index: Path, *changes: str) -> Train:
    """The options of the Kinetics experiment on an indexed set, with the changes given."""
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        places = ["data/source=index", f"data.source.train={index}", f"data.source.val={index}"]
        return to_object(compose("config", overrides=[f"+experiment={EXPERIMENT}", *places, *changes]))


class Decoded:
    """Remembers which frames of which video were read while it is entered."""

    def __init__(self) -> None:
        self.requests: list[tuple[VideoLocation | str, list[int]]] = []

    def __enter__(self) -> "Decoded":
        made, read, read_yuv = VideoReader.__init__, VideoReader.read, VideoReader.read_yuv
        videos: dict[int, VideoLocation] = {}
        requests = self.requests

        def init(reader: VideoReader, video: VideoLocation, **options: object) -> None:
            videos[id(reader)] = video
            made(reader, video, **options)  # type: ignore[arg-type]

        def note(reader: VideoReader, indices: Sequence[int], **options: object) -> torch.Tensor:
            requests.append((videos[id(reader)], list(indices)))
            return read(reader, indices, **options)  # type: ignore[arg-type]

        def note_yuv(reader: VideoReader, indices: Sequence[int]) -> object:
            requests.append((videos[id(reader)], list(indices)))
            return read_yuv(reader, indices)

        self._patches = ExitStack()
        for name, function in (("__init__", init), ("read", note), ("read_yuv", note_yuv)):
            self._patches.enter_context(mock.patch.object(VideoReader, name, function))
        return self

    def __exit__(self, *error: object) -> None:
        self._patches.close()


def measure_loader(paths: Sequence[Path], *, batches: int, quick: bool = False) -> LoaderResult:
    """Measure the loader in this process, with one worker and with one per core; `quick` leaves some ways out."""
    kept = [path for path in paths if probe(path).height <= MOST_LINES]
    if not kept:
        raise ValueError(f"the loader is measured on videos of at most {MOST_LINES} lines, and there are none: add one")
    result = LoaderResult(EXPERIMENT, len(kept), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        manifest = indexed_set(kept, Path(folder), least=8)
        for place, changes in PLACES.items():
            if quick and place not in QUICK_PLACES:
                continue
            config = recipe(Path(manifest.source), *changes)
            alone, result.bare_seconds = _in_this_process(place, config, manifest, batches=batches)
            result.runs.append(alone)
            for workers in sorted({os.cpu_count() or 1} if quick else {1, os.cpu_count() or 1}):
                config.trainer.num_workers = workers
                loader = build_train_loader(config, manifest, WORLD)
                result.runs.append(_with_workers(place, loader, batches=batches, bare=result.bare_seconds))
    return result


def _in_this_process(place: str, config: Train, manifest: IndexedManifest, *, batches: int) -> tuple[LoaderRun, float]:
    """Batch by batch, twice: once whole, once decoding alone, the lesser of the two times.

    Besides, the mean CPU seconds of the latter per video, which workers, who do everything once, are compared with.
    """
    config.trainer.num_workers = 0
    loader = build_train_loader(config, manifest, WORLD)
    whole = bare = wall = mean = 0.0
    for number, keys in zip(range(batches + 1), loader_keys(loader)):
        with Decoded() as decoded:
            samples = [loader.dataset[key] for key in keys]
        times = [_once(loader, keys, decoded.requests) for _ in range(2)]
        if number:  # the first batch warms up
            whole, bare, wall = (sum + min(t) for sum, t in zip((whole, bare, wall), zip(*times)))
            mean += statistics.fmean(alone for _, alone, _ in times)
    clips = batches * sum(len(sample.views) for sample in samples)
    run = LoaderRun(
        place, f"{place}, in this process", clips / whole, clips / wall, bare / whole, config.augment.repeats
    )
    return run, mean / (batches * len(samples))


def _once(
    loader: TrainLoader, keys: Sequence[tuple[int, int, int]], requests: Sequence[tuple[VideoLocation | str, list[int]]]
) -> tuple[float, float, float]:
    """CPU seconds of making a batch and of decoding its frames alone, and wall seconds of making it."""
    wall, start = time.perf_counter(), time.process_time()
    collate([loader.dataset[key] for key in keys])
    between, wall = time.process_time(), time.perf_counter() - wall
    for video, frames in requests:
        with VideoReader(video) as reader:
            reader.read(frames)
    return between - start, time.process_time() - between, wall


def loader_keys(loader: TrainLoader) -> Iterator[list[tuple[int, int, int]]]:
    """The keys of the loader's batches, epoch by epoch, in order."""
    size, epoch = loader.batch_size, 0
    while True:
        videos = range(len(loader.dataset))
        for first in range(0, len(videos) - size + 1, size):
            yield [(epoch, index, index) for index in videos[first : first + size]]
        epoch += 1


def _with_workers(place: str, loader: TrainLoader, *, batches: int, bare: float) -> LoaderRun:
    """Rate of a loader whose workers are kept busy, between its first batches and the last."""
    made = loader.batches(0)
    workers = loader.loading.num_workers
    warm_up = workers * loader.loading.prefetch + 1
    clips = 0
    for number, batch in zip(range(warm_up + batches * workers), made):
        if number + 1 == warm_up:
            cpu, wall = _cpu_seconds(), time.perf_counter()
        elif number >= warm_up:
            clips += len(batch.labels)
    cpu, wall = _cpu_seconds() - cpu, time.perf_counter() - wall
    made.close()  # type: ignore[attr-defined]
    repeats = loader.dataset.repeats
    name = f"{place}, {workers} worker{'s' if workers > 1 else ''}"
    return LoaderRun(place, name, clips / cpu, clips / wall, clips / repeats * bare / cpu, repeats)


def _cpu_seconds() -> float:
    """CPU time of this process and its living children so far (Linux; elsewhere that of this process)."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total
