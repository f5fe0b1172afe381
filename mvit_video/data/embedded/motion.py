"""The embedded data set `motion`: eight classes of motion in four time-reversed pairs, as real H.264 MP4 files.

Every scene is rendered once and encoded twice, forward (label 2p) and with its frames reversed (label 2p + 1). The two
videos of a pair show the same pictures, so a model blind to the order of frames cannot pass 50 %, and no single frame
gives the class away. Train and test share no shape and no texture. The scenes are in `motion_scenes`; this module
encodes, writes and lists them, once:

    <root>/videos/{train,test}/00012_forward.mp4, 00012_reversed.mp4
    <root>/{train,test}.csv     lines `path label`, as PySlowFast reads them, paths relative to <root>
    <root>/classes.txt          one class name per line, in label order
    <root>/motion.json          the spec and what was written; last of all, so its presence means a complete set

    python -m mvit_video.data.embedded.motion OUT [--train-videos 2400 --test-videos 320 --seed 0 --difficulty 0.5]
"""

import argparse
import io
import json
import logging
import math
import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mvit_video.data.embedded.motion_scenes import CLASS_NAMES, KINDS, PAIRS, Split, render_scene, sample_scene
from mvit_video.data.embedded.set_on_disk import check_size, lacking, only_writer, write_bytes
from mvit_video.runtime.cores import usable_cores
from mvit_video.video import x264

logger = logging.getLogger(__name__)

# Raised by any change that alters a frame or a file: a set of another version is not taken for the one asked for.
GENERATOR_VERSION = 1

SPLITS: tuple[Split, ...] = ("train", "test")
DIRECTIONS = ("forward", "reversed")
RECORD_NAME = "motion.json"
LOCK_NAME = "motion.lock"


@dataclass(frozen=True)
class MotionSpec:
    """What determines the data set to the last frame; see `motion_scenes.sample_scene` for `difficulty`.

    difficulty: factor on everything that disturbs the motion: camera shake (0.15-0.6 px at 1), wobble of the sprite
        (0-0.6 px) and swing of the distractors (0-1.5 px). At 0 the scenes stand still but for the motion itself.
    crf: x264's constant rate factor; larger is smaller and worse.
    """

    train_videos: int = 2400
    test_videos: int = 320
    seed: int = 0
    difficulty: float = 0.5
    crf: int = 20

    def __post_init__(self) -> None:
        why = f"for {len(PAIRS)} pairs of classes with equally many videos"
        check_size(self, ("train_videos", "test_videos"), step=len(CLASS_NAMES), why=why)
        if not (math.isfinite(self.difficulty) and self.difficulty >= 0):
            raise ValueError(f"difficulty={self.difficulty} must be a finite number, 0 or more; 1 is the default")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf={self.crf} must lie in 0..51 (x264's range); 20 is the default")

    def videos(self, split: Split) -> int:
        """Number of videos of a split, two per scene."""
        return self.train_videos if split == "train" else self.test_videos


@dataclass(frozen=True)
class MotionSet:
    """A complete set on disk. The lists hold `path label` lines with paths relative to `root`."""

    root: Path
    train_list: Path
    test_list: Path
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class VideoRecord:
    """What motion.json says about one video; `path` is relative to the root and uses forward slashes."""

    path: str
    label: int
    frames: int
    fps: int
    width: int
    height: int
    bytes: int


@dataclass(frozen=True)
class SceneJob:
    """One scene to render and write: the unit of work of a worker process."""

    root: Path
    split: Split
    scene: int
    seed: int
    difficulty: float
    crf: int

    @property
    def pair(self) -> int:
        return self.scene % len(PAIRS)


# --- one scene ---


def to_yuv(frames: NDArray[np.uint8]) -> list[av.VideoFrame]:
    """RGB frames (T, H, W, 3) as yuv420p pictures, one after the other with the same scaler."""
    scaler = VideoReformatter()
    pictures = (av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames)
    return [scaler.reformat(picture, format="yuv420p", threads=1) for picture in pictures]


def encode_h264(pictures: Sequence[av.VideoFrame], *, fps: int, crf: int) -> bytes:
    """An MP4 file with the pictures (yuv420p) in the order given; overwrites their time stamps.

    Without B-frames, CABAC and deblocking (tune=fastdecode) a clip of eight frames decodes in two thirds of the time
    that the preset alone takes, for a seventh more bytes. The same pictures give the same bytes anywhere, see `x264`.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = pictures[0].width, pictures[0].height, "yuv420p"
        options = {"crf": str(crf), "preset": "veryfast", "tune": "fastdecode", "bf": "0"}
        stream.options = {**options, **x264.reproducible()}
        for index, picture in enumerate(pictures):
            picture.pts, picture.time_base = index, 1 / stream.codec_context.framerate
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_scene(job: SceneJob) -> list[VideoRecord]:
    """Render one scene and write its two videos, forward then reversed. Depends on nothing but the job."""
    rng = np.random.default_rng([job.seed, SPLITS.index(job.split), job.scene])
    scene = sample_scene(rng, kind=KINDS[job.pair], split=job.split, difficulty=job.difficulty)
    pictures = to_yuv(render_scene(scene))
    records = []
    for order, direction in enumerate(DIRECTIONS):
        content = encode_h264(pictures if order == 0 else pictures[::-1], fps=scene.fps, crf=job.crf)
        relative = f"videos/{job.split}/{job.scene:05d}_{direction}.mp4"
        write_bytes(job.root / relative, content)
        records.append(
            VideoRecord(
                path=relative,
                label=2 * job.pair + order,
                frames=scene.frames,
                fps=scene.fps,
                width=scene.width,
                height=scene.height,
                bytes=len(content),
            )
        )
    return records


# --- all scenes ---


def _exit_with_parent() -> None:
    """Let a worker end when the main process is killed; a pool's workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in worker processes only"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


_GUARD = (
    "For each such process Python runs the program's file again: a script calls what writes the set under "
    '`if __name__ == "__main__":`, or once before with `python -m mvit_video.data.embedded.motion FOLDER`.'
)


def _run_jobs(jobs: Sequence[SceneJob], workers: int) -> Iterator[tuple[int, list[VideoRecord]]]:
    """Index and records of every job, in the order in which they finish."""
    if workers == 1:
        for index, job in enumerate(jobs):
            yield index, write_scene(job)
        return
    # Spawn, not fork: the caller may hold threads (torch, a progress bar) that do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_exit_with_parent)
    try:
        futures = {pool.submit(write_scene, job): index for index, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"a process that writes motion videos has ended; its own message, if it had one, is above. {_GUARD}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class _RateColumn(ProgressColumn):
    """Finished units per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.0f}/s")


def _progress_bar(*, enabled: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, disable=not enabled)


def _write_videos(root: Path, spec: MotionSpec, *, workers: int, progress: bool) -> list[VideoRecord]:
    """Write every video; records in the order of split, scene, direction, whatever the number of workers."""
    jobs = [
        SceneJob(root=root, split=split, scene=scene, seed=spec.seed, difficulty=spec.difficulty, crf=spec.crf)
        for split in SPLITS
        for scene in range(spec.videos(split) // 2)
    ]
    for split in SPLITS:
        folder = root / "videos" / split
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.mp4.*"):  # of a killed writer; the lock says that none is at work
            leftover.unlink()
    done: dict[int, list[VideoRecord]] = {}
    with _progress_bar(enabled=progress) as bar:
        task = bar.add_task("motion videos", total=2 * len(jobs))
        for index, records in _run_jobs(jobs, workers):
            done[index] = records
            bar.advance(task, len(records))
    return [record for index in range(len(jobs)) for record in done[index]]


# --- the set on disk ---


def _motion_set(root: Path) -> MotionSet:
    return MotionSet(root=root, train_list=root / "train.csv", test_list=root / "test.csv", class_names=CLASS_NAMES)


def _write_lists(root: Path, spec: MotionSpec, records: Sequence[VideoRecord]) -> None:
    """Lists and class names, then the record of the set, last."""
    for split in SPLITS:
        lines = [f"{record.path} {record.label}\n" for record in records if record.path.startswith(f"videos/{split}/")]
        write_bytes(root / f"{split}.csv", "".join(lines).encode())
    write_bytes(root / "classes.txt", "".join(f"{name}\n" for name in CLASS_NAMES).encode())
    # A row per video, without keys: a set is recognised in milliseconds.
    columns = [field.name for field in fields(VideoRecord)]
    rows = [[getattr(record, column) for column in columns] for record in records]
    content = {"version": GENERATOR_VERSION, "spec": asdict(spec), "columns": columns, "videos": rows}
    write_bytes(root / RECORD_NAME, json.dumps(content).replace("], [", "],\n[").encode())


def _missing_file(root: Path, content: Mapping[str, Any]) -> str | None:
    """First file of a recorded set that is absent or has another size than was written, or None."""
    sizes: dict[str, int] = {}
    for split in SPLITS:
        folder = root / "videos" / split
        if folder.is_dir():
            with os.scandir(folder) as entries:
                sizes.update({f"videos/{split}/{entry.name}": entry.stat().st_size for entry in entries})
    path, size = content["columns"].index("path"), content["columns"].index("bytes")
    for row in content["videos"]:
        if sizes.get(row[path]) != row[size]:
            return str(row[path])
    return next((name for name in ("train.csv", "test.csv", "classes.txt") if not (root / name).is_file()), None)


def _lacking(root: Path, spec: MotionSpec) -> str | None:
    """What keeps `root` from holding this very set, whole, or None. Raises ValueError if it holds another one."""
    return lacking(
        root, "motion", version=GENERATOR_VERSION, spec=spec, missing=lambda found: _missing_file(root, found)
    )


def generate_motion(
    root: str | Path, spec: MotionSpec, *, workers: int | None = None, progress: bool = True
) -> MotionSet:
    """Write the data set `motion` under `root`, unless it is already there; the frames depend on `spec` alone.

    A set that is there is recognised by its record and by the size of every file, without writing anything. One that
    was interrupted or damaged is written again; a second process that asks for the same set waits for the first.

    root: directory of the set, made if absent.
    workers: processes that render and encode, by default one per core that this process may use. With more than one,
        the calling script needs the usual `if __name__ == "__main__"` guard.
    progress: whether to show a progress bar.
    Raises ValueError if `root` holds a complete set of another spec or generator version, or `workers` is below 1;
    RuntimeError if a worker ends, as it does without the guard.
    """
    root = Path(root)
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be 1 or more; leave it out to use every core")
    if _lacking(root, spec) is None:
        return _motion_set(root)
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # Run again for a process of the set's writer, which holds the lock and waits for that process.
        raise RuntimeError(f"the motion videos are being written by this program already. {_GUARD}")
    root.mkdir(parents=True, exist_ok=True)
    with only_writer(root / LOCK_NAME):
        lacking = _lacking(root, spec)
        if lacking is not None:
            logger.info("writing the motion videos to %s: %s", root, lacking)
            # From here to the end the set is incomplete, whatever was there before.
            (root / RECORD_NAME).unlink(missing_ok=True)
            records = _write_videos(root, spec, workers=workers or usable_cores(), progress=progress)
            _write_lists(root, spec, records)
            logger.info("%d videos, %.1f MB, in %s", len(records), sum(r.bytes for r in records) / 1e6, root)
    return _motion_set(root)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: generate the set into a directory."""
    default = MotionSpec()
    parser = argparse.ArgumentParser(
        prog="python -m mvit_video.data.embedded.motion", description="Write the embedded data set `motion`."
    )
    parser.add_argument("out", type=Path, help="directory of the set")
    parser.add_argument("--train-videos", type=int, default=default.train_videos, help="default %(default)s")
    parser.add_argument("--test-videos", type=int, default=default.test_videos, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=default.seed, help="default %(default)s")
    parser.add_argument(
        "--difficulty", type=float, default=default.difficulty, help="factor on shake, wobble and distractor motion"
    )
    parser.add_argument("--crf", type=int, default=default.crf, help="x264 quality, default %(default)s")
    parser.add_argument("--workers", type=int, default=None, help="processes, default all cores")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        spec = MotionSpec(
            train_videos=args.train_videos,
            test_videos=args.test_videos,
            seed=args.seed,
            difficulty=args.difficulty,
            crf=args.crf,
        )
        generate_motion(args.out, spec, workers=args.workers)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
