"""Measure the data path: our decoder beside every other one that is installed, then the whole training loader.

    python scripts/bench_data.py                            # generated files, all readers, the loader: 20 minutes
    python scripts/bench_data.py --quick                    # three files, few clips: under a minute
    python scripts/bench_data.py my_clips/*.mp4 --markdown --json result.json
    python scripts/bench_data.py --gpu-clips-per-second 400   # cores that keep such a GPU busy

Per file and pattern of frames, every reader decodes the same random clips in one process and takes turns in a random
order, so that a slow moment of a shared machine hits all. Time is process CPU time with one thread, the least of the
repetitions of each clip, summed over the clips; wall time goes to the JSON file as well. What a reader returns is
compared byte for byte with a full linear decode: one wrong frame makes it inexact on that file, and only readers that
are exact on a file count as "best other". Optional peers (torchcodec, opencv) are measured where they can be imported.
Everything is printed; the exit code is 0 whatever the figures are.
"""

import argparse
import dataclasses
import gc
import itertools
import json
import math
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import torch
from bench_data_files import QUICK, RECIPES, make_files
from bench_data_loader import DEVICE, LoaderResult, measure_loader
from bench_data_peers import COLD, OURS, File, Reader, Request, all_readers
from bench_data_split import Split, split_of
from bench_model import table

from mvit_video.data.loading.workers import keep_freed_memory

PATTERNS = ("16x4", "32x3", "16 segments")
QUICK_PATTERNS = ("16x4", "16 segments")
TARGET_ALWAYS, TARGET_B_FRAMES, TARGET_MEAN, TARGET_LOADER = 1.0, 1.15, 1.4, 0.7


@dataclass
class Result:
    """One reader on one file and pattern: seconds of the clips it took part in, least of the repetitions."""

    cpu: dict[int, float] = field(default_factory=dict)
    wall: dict[int, float] = field(default_factory=dict)
    asked: int = 0
    wrong: int = 0
    error: str = ""

    @property
    def exact(self) -> bool:
        return bool(self.cpu) and not self.wrong and not self.error

    @property
    def clips_per_second(self) -> float:
        return len(self.cpu) / sum(self.cpu.values()) if self.cpu else 0.0


@dataclass
class FileResult:
    """Everything measured on one file; results[pattern][reader]."""

    name: str
    properties: str
    b_frames: bool
    results: dict[str, dict[str, Result]]
    split: Split | None = None
    ffmpeg_us: float | None = None

    def ratio(self, pattern: str, reader: str, *, to: str = OURS) -> float:
        """Speed of reader `to` over that of `reader`, on the clips both took part in."""
        ours, other = self.results[pattern][to].cpu, self.results[pattern][reader].cpu
        shared = ours.keys() & other.keys()
        return sum(other[i] for i in shared) / sum(ours[i] for i in shared) if shared else 0.0

    def best_other(self, pattern: str, names: Iterable[str]) -> str | None:
        """The fastest of the readers `names` that is exact on this file, in every pattern."""
        exact = [n for n in names if all(results[n].exact for results in self.results.values())]
        return min(exact, key=lambda name: self.ratio(pattern, name), default=None)


def draw(pattern: str, count: int, rng: np.random.Generator) -> list[int]:
    """Frames of a random clip of a video of `count` frames, as training draws them."""
    if pattern == "16 segments":
        edges = np.linspace(0, count, 17).astype(int).tolist()
        return [int(rng.integers(a, max(a + 1, b))) for a, b in itertools.pairwise(edges)]
    length, stride = (int(part) for part in pattern.split("x"))
    start = int(rng.integers(0, max(1, count - (length - 1) * stride)))
    return [min(count - 1, start + stride * i) for i in range(length)]


def measure_file(
    file: File, readers: Sequence[Reader], patterns: Sequence[str], *, seconds: float, reps: int, clips: int
) -> FileResult:
    """Time every reader on random clips of every pattern until the time is over (at least two clips)."""
    results: dict[str, dict[str, Result]] = {}
    for pattern in patterns:
        rng = np.random.default_rng(len(pattern))
        results[pattern] = {reader.name: Result() for reader in readers}
        deadline = time.monotonic() + seconds / len(patterns)
        warm_up = file.truth.request(draw(pattern, len(file.truth), rng))
        for reader in readers:
            time_one(reader, file, warm_up, Result(), 0)
        for clip in range(clips):
            request = file.truth.request(draw(pattern, len(file.truth), rng))
            for _ in range(reps):
                for place in rng.permutation(len(readers)).tolist():  # nobody always follows the same other
                    reader = readers[place]
                    if clip % reader.every == 0 and not results[pattern][reader.name].error:
                        time_one(reader, file, request, results[pattern][reader.name], clip)
            if clip > 0 and time.monotonic() > deadline:
                break
    truth = file.truth
    properties = f"{truth.width}x{truth.height}, {len(truth)} frames, {Path(file.path).stat().st_size // 1000} KB"
    return FileResult(file.name, properties, file.has_b_frames, results)


def time_one(reader: Reader, file: File, request: Request, result: Result, clip: int) -> None:
    """Decode once, note the times if they are the least of this clip, and check the frames the first time."""
    gc.collect(0)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        frames = reader.read(file, request)
    except Exception as error:  # whatever a peer raises on a file it cannot do
        if reader.ours:
            raise
        result.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:120]
        result.wrong, result.asked = result.wrong + len(request.frames), result.asked + len(request.frames)
        return
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if reader.comparable and clip not in result.cpu:
        result.asked += len(request.frames)
        result.wrong += file.truth.wrong(request.frames, frames)
    result.cpu[clip] = min(cpu, result.cpu.get(clip, math.inf))
    result.wall[clip] = min(wall, result.wall.get(clip, math.inf))


def ffmpeg_us_per_frame(path: str, frames: int, *, reps: int) -> float | None:
    """CPU time of `ffmpeg -threads 1 -i FILE -f null -` per frame in us, start-up left out; None without ffmpeg.

    Least time over four rounds through the file less the least over one, divided by three times its frames.
    """
    binary = shutil.which("ffmpeg")
    if binary is None:
        return None

    def seconds(loops: int) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        source = ["-threads", "1", "-stream_loop", str(loops), "-i", path]
        command = [binary, "-v", "quiet", "-nostdin", *source, "-map", "0:v:0", "-fps_mode", "passthrough"]
        subprocess.run([*command, "-f", "null", "-"], check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return 1e6 * (min(seconds(3) for _ in range(reps)) - min(seconds(0) for _ in range(reps))) / (3 * frames)


# ---- tables


def file_table(file: FileResult, *, markdown: bool) -> str:
    """A row per reader: clips/s per core and our speed over it, by pattern; wrong frames of those asked for."""
    rows = []
    for name in next(iter(file.results.values())):
        cells = [name]
        for pattern in file.results:
            result = file.results[pattern][name]
            slower = f" ({file.ratio(pattern, name):.2f}x)" if name != OURS else ""
            cells.append(f"{result.clips_per_second:.1f}{slower}" if result.cpu else "fails")
        asked = sum(results[name].asked for results in file.results.values())
        wrong = sum(results[name].wrong for results in file.results.values())
        error = next((results[name].error for results in file.results.values() if results[name].error), "")
        rows.append([*cells, f"{wrong} of {asked}" if asked else "-", error])
    header = [f"{file.name}: {file.properties}", *file.results, "wrong frames", "error"]
    return table(header, rows, markdown=markdown)


def summary(files: Sequence[FileResult], peers: Sequence[str], *, markdown: bool) -> tuple[str, dict[str, object]]:
    """The table of our speed over the best exact peer, and whether the targets hold."""
    rows, everything, missed = [], [], []
    for file in files:
        cells = [file.name, "yes" if file.b_frames else "no", f"{file.results['16x4'][OURS].clips_per_second:.1f}"]
        for pattern in file.results:
            best = file.best_other(pattern, peers)
            if best is None:
                cells.append("no other is exact")
                continue
            ratio = file.ratio(pattern, best)
            everything.append(ratio)
            cells.append(f"{ratio:.2f}x {best}")
            floor = TARGET_B_FRAMES if file.b_frames else TARGET_ALWAYS
            if ratio < floor:
                missed.append(f"{file.name} {pattern}: {ratio:.2f}x {best}, target {floor:.2f}x")
        cells.append(f"{file.ratio('16x4', COLD):.2f}x")
        rows.append(cells)
    mean = math.exp(sum(map(math.log, everything)) / len(everything)) if everything else 0.0
    header = [
        "file",
        "B-frames",
        "ours, clips/s (16x4)",
        *(f"{p}: over best exact" for p in files[0].results),
        "known/cold",
    ]
    verdicts = [
        f"geometric mean over files and patterns {mean:.2f}x (target {TARGET_MEAN:.2f}x): "
        + ("holds" if mean >= TARGET_MEAN else "missed"),
        f"each at least {TARGET_ALWAYS:.2f}x, {TARGET_B_FRAMES:.2f}x with B-frames: "
        + ("holds" if not missed else "missed by " + "; ".join(missed)),
    ]
    text = table(header, rows, markdown=markdown) + "\n\n" + "\n".join(verdicts)
    return text, {"geometric_mean": mean, "missed": missed}


def split_table(files: Sequence[FileResult], *, markdown: bool) -> str:
    """Where our time of a 16x4 clip goes, and what ffmpeg takes to decode the same run of packets."""
    rows = []
    for file in files:
        split = file.split
        if split is None:
            continue
        limit = "no ffmpeg"
        if file.ffmpeg_us is not None:
            limit = f"{file.ffmpeg_us * split.packets / 1e3:.1f}"
        stages = [f"{1e3 * split.seconds.get(stage, 0.0):.2f}" for stage in Split.STAGES]
        rows.append([file.name, f"{1e3 * split.total:.1f}", *stages, f"{split.packets:.0f}, {split.fed:.0f}", limit])
    header = ["16x4, ms/clip", "all", *Split.STAGES, "packets, decoded", "ffmpeg, all packets"]
    return table(header, rows, markdown=markdown)


def loader_table(loader: LoaderResult, gpu_rate: float | None, *, markdown: bool) -> str:
    """The whole training loader against bare decoding of the same frames, one clip per video."""
    rows = []
    for run in loader.runs:
        rates = [f"{run.clips_per_core_second:.1f}", f"{run.clips_per_second:.1f}"]
        cells = [run.name, *rates, f"{100 * run.share:.0f} %", f"{100 * run.share * run.repeats:.0f} %"]
        if gpu_rate is not None:
            cells.append(f"{gpu_rate / run.clips_per_core_second:.0f}")
        rows.append(cells)
    header = ["loader", "clips/s per core", "clips/s", "videos over bare decode", "clips over bare decode"]
    if gpu_rate is not None:
        header.append(f"cores for {gpu_rate:g} clips/s")
    alone = {run.place: run for run in reversed(loader.runs)}  # the first of each place, beside bare decoding
    single = [run for run in alone.values() if run.repeats == 1]
    conclusion = (
        f"{loader.experiment}, {loader.videos} videos, decoding alone {1 / loader.bare_seconds:.1f} clips/s per core; "
        f"target {100 * TARGET_LOADER:.0f} % of it: "
        + "".join(f"{100 * run.share:.0f} % with one clip of each video made in the worker, " for run in single)
        + f"{100 * alone[DEVICE].share:.0f} % with clips made on the device"
    )
    return table(header, rows, markdown=markdown) + "\n\n" + conclusion


def machine(notes: Sequence[str]) -> str:
    name = platform.machine()
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    return (
        f"{date.today()}: {name}, {torch.backends.cpu.get_cpu_capability()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, one thread; {', '.join(notes)}"
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="video files to measure beside the generated ones")
    parser.add_argument("--quick", action="store_true", help="three generated files, few clips, under a minute")
    parser.add_argument("--no-generated", action="store_true", help="only the files given")
    parser.add_argument("--frames", type=int, help="length of the generated files (default 300, quick 120)")
    parser.add_argument("--cache", type=Path, default=Path("data/bench"), help="folder of the generated files")
    parser.add_argument("--seconds", type=float, help="time per file after which no clip is begun (default 90)")
    parser.add_argument(
        "--reps", type=int, help="repetitions of a clip, of which the least counts (default 5, quick 2)"
    )
    parser.add_argument("--clips", type=int, help="most clips per file and pattern (default 12, quick 2)")
    parser.add_argument("--peers", nargs="*", metavar="NAME", help="only these packages beside PyAV; none: PyAV alone")
    parser.add_argument(
        "--loader-batches", type=int, help="batches of a loader measurement (default 40, quick 4; 0: none)"
    )
    parser.add_argument("--gpu-clips-per-second", type=float, metavar="N", help="print the cores that feed such a GPU")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    if options.no_generated and not options.files:
        parser.error("--no-generated leaves nothing to measure: give files")
    quick = {"frames": 120, "seconds": 90.0, "reps": 2, "clips": 2, "loader_batches": 2}
    full = {"frames": 300, "seconds": 90.0, "reps": 5, "clips": 12, "loader_batches": 40}
    for name, value in (quick if options.quick else full).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()  # as the loader's workers do; it serves every reader here
    readers, notes = all_readers(options.peers)
    print(machine(notes), end="\n\n", flush=True)
    names = QUICK if options.quick else tuple(recipe.name for recipe in RECIPES)
    paths = [] if options.no_generated else make_files(options.cache, names, frames=options.frames)
    files = []
    for path in [*paths, *options.files]:
        file = File(path)
        patterns = QUICK_PATTERNS if options.quick else PATTERNS
        result = measure_file(file, readers, patterns, seconds=options.seconds, reps=options.reps, clips=options.clips)
        requests = [draw("16x4", len(file.truth), np.random.default_rng(i)) for i in range(4 if options.quick else 16)]
        result.split = split_of(file, requests)
        result.ffmpeg_us = ffmpeg_us_per_frame(file.path, len(file.truth), reps=1 if options.quick else 3)
        files.append(result)
        print(file_table(result, markdown=options.markdown), end="\n\n", flush=True)
    text, conclusion = summary(files, [r.name for r in readers if not r.ours], markdown=options.markdown)
    print(text, end="\n\n")
    print(split_table(files, markdown=options.markdown), end="\n\n", flush=True)
    loader = None
    if options.loader_batches:
        loader = measure_loader([*paths, *options.files], batches=options.loader_batches, quick=options.quick)
        print(loader_table(loader, options.gpu_clips_per_second, markdown=options.markdown))
    if options.json is not None:
        everything = {
            "machine": machine(notes),
            "conclusion": conclusion,
            "files": [dataclasses.asdict(file) for file in files],
            "loader": None if loader is None else dataclasses.asdict(loader),
        }
        options.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
