"""How fast predictions are: videos a second beside bare decoding, the first answer, hours of video in windows.

    python scripts/bench_predict.py runs/quickstart [--rate] [--first] [--long] [--minutes 30]

Each part is run where it is asked for, all of them without a flag. Rates are processor time of one thread, and both
sides of a ratio take turns, so that other work on the machine moves neither. "At most" is what the ratio would be if
nothing but decoding and the model's forward passes took time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from resident_memory import peak_bytes

from mvit_video import Predictor
from mvit_video.build.prediction import FilePredictor
from mvit_video.data.loading.dataset import DecodeOptions

ROUNDS = 5
VIDEOS = 12
SIZE = (256, 340)  # height and width of videos as Kinetics copies have them
LARGE = ((720, 1280), (480, 854))
SECONDS = 10


def write_video(path: Path, *, seconds: float, size: tuple[int, int], fps: int = 30, seed: int = 0) -> None:
    """A textured picture that moves, H.264 as cameras and web sites write it: B-frames, a key frame every 8 seconds."""
    height, width = size
    rng = np.random.default_rng(seed)
    small = rng.integers(40, 216, (height // 8 + 40, width // 8 + 40, 3), dtype=np.uint8)
    texture = small.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=fps, options={"crf": "23", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(round(seconds * fps)):
            x, y = (int(150 + 140 * np.sin(number / rate)) for rate in (37, 53))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[y : y + height, x : x + width]), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def decode_frames(predictor: FilePredictor, files: Sequence[str]) -> Callable[[], None]:
    """Reads the very frames that the model sees of the files, and makes nothing of them."""
    manifest, _ = predictor.split(files)
    evaluation = predictor.builder.evaluation(predictor.config, manifest, predictor.world, frame_order="forward")
    dataset = evaluation.dataset  # type: ignore[attr-defined]
    decoding: DecodeOptions = dataset.decoding

    def decode() -> None:
        for index in range(len(manifest)):
            with decoding.open(manifest, index) as video:
                clips = dataset.frame_numbers(index, video)
                decoding.read(video, sorted({frame for clip in clips for frame in clip}))

    return decode


def processor_seconds(work: Callable[[], object]) -> float:
    """Of this process."""
    before = time.process_time()
    work()
    return time.process_time() - before


def forward_passes(predictor: FilePredictor, predict: Callable[[], object]) -> Callable[[], None]:
    """What the model computes while `predict` runs, and nothing else."""
    batches: list[torch.Tensor] = []
    handle = predictor.model.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0].clone()))
    predict()
    handle.remove()

    def forward() -> None:
        with torch.inference_mode():
            for batch in batches:
                predictor.model(batch)

    return forward


def rate(run: str, files: Sequence[str], name: str) -> None:
    """Videos a second of predictions and of decoding, and the share that decoding and the model alone would reach."""
    predictor = Predictor(run, {"trainer.num_workers": 0})._predictor
    decode = decode_frames(predictor, files)
    predict = lambda: list(predictor.predict(files))  # noqa: E731
    predict(), decode()  # caches of indexes, of the model's tables
    forward = forward_passes(predictor, predict)
    times = [tuple(map(processor_seconds, (decode, predict, forward))) for _ in range(ROUNDS)]
    decoding, predicting, _ = (len(files) / statistics.median(column) for column in zip(*times))
    ratio = statistics.median(before / after for before, after, _ in times)
    most = statistics.median(before / (before + model) for before, _, model in times)
    shares = f"{100 * ratio:.0f} % | {100 * most:.0f} %"
    print(f"| {name} | {len(files)} | {decoding:.1f} | {predicting:.1f} | {shares} |", flush=True)


def first_answer(run: str, file: str) -> None:
    """From the start of the process to its end, beside the import of torch alone."""
    words = [sys.executable, "-m", "mvit_video.predict", file, f"weights={run}"]
    alone = [sys.executable, "-c", "import torch"]
    rows = []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            rows.append((child_seconds(alone), child_seconds([*words, f"output={folder}/{number}"])))
    torch_alone, whole = ([statistics.median(side) for side in zip(*column)] for column in zip(*rows))
    print("| | elapsed s | processor s |\n|---|---|---|")
    print(f"| `import torch` alone | {torch_alone[0]:.2f} | {torch_alone[1]:.2f} |")
    print(f"| first answer, from the start of the process to its end | {whole[0]:.2f} | {whole[1]:.2f} |", flush=True)


def child_seconds(words: Sequence[str]) -> tuple[float, float]:
    """Elapsed and processor seconds of a command."""
    before, started = os.times(), time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - started, used


def resident_mb() -> float:
    """What is resident now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def long_video(run: str, path: str, minutes: float) -> None:
    """Windows a second, and the memory at times of the video."""
    options = {"windows": True, "trainer.num_workers": 0}
    predictor = Predictor(run, options)._predictor
    known: list[tuple[float, float, float]] = []
    begun = _Watch(lambda end: known.append((end, resident_mb(), time.process_time())))
    started, before = time.process_time(), resident_mb()
    (found,) = predictor.predict([path], begun=begun)  # type: ignore[arg-type]
    seconds = time.process_time() - started
    assert found.windows is not None, found.error
    print(
        f"{len(found.windows)} windows of {minutes:g} minutes, {len(found.windows) / seconds:.1f} a second; resident "
        f"{before:.0f} MB before, {peak_bytes() / 1e6:.0f} MB at most"
    )
    print("| minute of the video | resident MB |\n|---|---|")
    for share in (0.05, 0.25, 0.5, 0.75, 1.0):
        end, resident, _ = known[min(len(known) - 1, int(share * len(known)))]
        print(f"| {end / 60:.1f} | {resident:.0f} |", flush=True)


class _Watch:
    """In the place of the file of windows that are done: sees them come."""

    path = Path("windows")

    def __init__(self, seen: Callable[[float], None]) -> None:
        self._seen = seen

    def of(self, files: Iterable[str]) -> dict[str, object]:
        return {}

    def add(self, path: str, first: int, windows: Sequence, total: object) -> None:
        self._seen(windows[-1].end)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="name or folder of a run on the embedded motion set")
    parser.add_argument("--rate", action="store_true", help="videos a second beside bare decoding")
    parser.add_argument("--first", action="store_true", help="the first answer, from the start of the process")
    parser.add_argument("--long", action="store_true", help="windows a second and memory of a long video")
    parser.add_argument("--files", nargs="*", default=[], help="videos of your own, for a row of the rates")
    parser.add_argument("--minutes", type=float, default=30, help="of the long video; default %(default)g")
    parser.add_argument("--motion", default="data/motion", help="folder of the embedded set; default %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    every = not (args.rate or args.first or args.long)
    small = sorted(map(str, Path(args.motion).glob("videos/test/*.mp4")))[: 4 * VIDEOS]
    if not small and (args.rate or args.first or every):
        parser.error(f"--motion {args.motion}: holds no videos/test/*.mp4; `bash scripts/quickstart.sh` makes the set")
    with tempfile.TemporaryDirectory() as folder:
        if args.rate or every:
            usual = [f"{folder}/{number}.mp4" for number in range(VIDEOS)]
            for number, path in enumerate(usual):
                write_video(Path(path), seconds=SECONDS, size=SIZE, seed=number)
            print("| videos | how many | decoding alone, videos/s | predict, videos/s | predict / decoding | at most |")
            print("|---|---|---|---|---|---|")
            if args.files:
                rate(args.run, args.files, "the given ones")
            for height, width in LARGE:
                large = [f"{folder}/{width}_{number}.mp4" for number in range(3)]
                for number, path in enumerate(large):
                    write_video(Path(path), seconds=SECONDS, size=(height, width), seed=number)
                rate(args.run, large, f"{width}x{height}, {SECONDS} s")
            rate(args.run, usual, f"{SIZE[1]}x{SIZE[0]}, {SECONDS} s")
            rate(args.run, small, "embedded set, 80 to 96 pixels, 1.3 to 2.2 s")
        if args.first or every:
            first_answer(args.run, small[0])
        if args.long or every:
            path = f"{folder}/long.mp4"
            write_video(Path(path), seconds=60 * args.minutes, size=(120, 160))
            long_video(args.run, path, args.minutes)


if __name__ == "__main__":
    main()
