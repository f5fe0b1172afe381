"""Try to break the decoder: thousands of damaged video files, and thousands of opens.

    python scripts/fuzz_decode.py --files 5000 --opens 10000

Small videos are made in many containers and codecs, and copies of them are damaged at random: bytes changed, ends cut
off, pieces moved, blanked or swapped with another file's. Each copy is opened and read in a worker process with a time
limit. Allowed are frames and VideoDecodeError. Any other exception, a worker that dies or hangs, a worker that takes
more than --memory-mib, a file merely cut short that yields a picture which the whole one has not, and one that yields
another picture than the right one before when it is opened again, are problems: the file is kept in --keep and the exit
status is 1.

Damage may leave a valid stream of other pictures, which no decoder can know; such pictures are counted, not blamed.

The second part opens and reads the same few files again and again, sound ones and broken ones, and fails if memory or
open files grow.
"""

import argparse
import gc
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

import av
import numpy as np
import resident_memory

from mvit_video.video.location import VideoLocation
from mvit_video.video.reader import VideoDecodeError, VideoReader

logger = logging.getLogger("fuzz_decode")

FRAMES, HEIGHT, WIDTH = 30, 48, 64
READ_LIMIT_S = 20.0  # the reader's own limit; a worker gets a little more before it counts as hung
_X264 = {"preset": "veryfast", "crf": "30", "x264-params": "keyint=10:min-keyint=10:bframes=2:b-adapt=0:scenecut=0"}
_X265 = {"preset": "ultrafast", "x265-params": "keyint=10:bframes=2:log-level=none:pools=none:frame-threads=1"}
KINDS: dict[str, tuple[str, dict[str, str], str, dict[str, str]]] = {  # name: (codec, options, pixel format, muxing)
    "h264.mp4": ("libx264", _X264, "yuv420p", {}),
    "faststart.mp4": ("libx264", _X264, "yuv420p", {"movflags": "faststart"}),
    "fragmented.mp4": ("libx264", _X264, "yuv420p", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "h264.mkv": ("libx264", _X264, "yuv420p", {}),
    "h264.ts": ("libx264", _X264, "yuv420p", {}),
    "h264.avi": ("libx264", _X264, "yuv420p", {}),
    "h264.flv": ("libx264", _X264, "yuv420p", {}),
    "raw.h264": ("libx264", _X264, "yuv420p", {}),
    "ten_bit.mp4": ("libx264", _X264, "yuv420p10le", {}),
    "hevc.mp4": ("libx265", _X265, "yuv420p", {"movflags": "faststart"}),
    "vp8.webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "g": "10"}, "yuv420p", {}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "10"}, "yuv420p", {}),
    "av1.mp4": ("libsvtav1", {"preset": "12", "crf": "45", "g": "10", "svtav1-params": "lp=1"}, "yuv420p", {}),
    "mpeg4.avi": ("mpeg4", {"bf": "2", "g": "10", "qscale": "5"}, "yuv420p", {}),
    "mpeg4.mp4": ("mpeg4", {"bf": "2", "g": "10", "qscale": "5"}, "yuv420p", {"movflags": "faststart"}),
    "mpeg2.mpg": ("mpeg2video", {"bf": "2", "g": "10", "qscale": "5"}, "yuv420p", {}),
    "mjpeg.avi": ("mjpeg", {}, "yuvj420p", {}),
}


_WITHOUT_LENGTHS = ("raw.h264", "h264.ts", "mpeg2.mpg")  # nothing tells where the last picture of a cut file should end


def write_video(path: Path, kind: str) -> None:
    """A short moving pattern in the container and codec of `kind`."""
    codec, options, pix_fmt, mux = KINDS[kind]
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    with av.open(str(path), "w", options=mux) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.codec_context.thread_count = 1
        for number in range(FRAMES):
            wave = np.sin((columns + 3 * number) / 5) + np.cos((rows - 2 * number) / 4)
            picture = np.stack([128 + 50 * wave, 128 + 40 * np.roll(wave, 9, 1), 128 - 50 * wave], -1)
            picture[:8, : 2 * number] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), "rgb24")))
        container.mux(stream.encode())


@dataclass(frozen=True)
class Case:
    """One damaged file.

    Attributes:
        kind: the sound file's kind.
        damage: what was done to it.
        data: its bytes.
    """

    kind: str
    damage: str
    data: bytes = field(repr=False)


def make_case(corpus: Sequence[tuple[str, bytes]], seed: int, number: int) -> Case:
    """Case `number`: the same for the same seed."""
    rng = np.random.default_rng((seed, number))
    kind, sound = corpus[int(rng.integers(len(corpus)))]
    damage = ("flip", "flip", "cut", "blank", "move", "insert", "splice", "header")[int(rng.integers(8))]
    data = bytearray(sound)
    size = len(data)
    at, length = int(rng.integers(size)), int(rng.integers(1, max(2, size // 4)))
    if damage == "flip":
        for place in rng.integers(0, size, int(rng.choice([1, 2, 8, 64]))):
            data[place] ^= int(rng.integers(1, 256))
    elif damage == "cut":
        del data[max(1, at) :]
    elif damage == "blank":
        data[at : at + length] = bytes(min(length, size - at))
    elif damage == "move":
        piece = data[at : at + length]
        del data[at : at + length]
        to = int(rng.integers(len(data) + 1))
        data[to:to] = piece
    elif damage == "insert":
        data[at:at] = rng.integers(0, 256, min(length, 4096), dtype=np.uint8).tobytes()
    elif damage == "splice":
        other = corpus[int(rng.integers(len(corpus)))][1]
        data[at : at + length] = other[at % len(other) : at % len(other) + length]
    else:  # numbers in the head, where sizes, counts and offsets are
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(0, min(size, 1024) - 4))
            value = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 16000, 65535 << 16]))
            data[place : place + 4] = value.to_bytes(4, "big")
    return Case(kind, damage, bytes(data))


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        result: "frames", "refused" or "problem".
        detail: the problem, for people.
        frames: frames that were returned.
        other: those of them that the sound file does not have.
        peak_mib: most memory that the worker has taken so far.
    """

    result: str
    detail: str = ""
    frames: int = 0
    other: int = 0
    peak_mib: int = 0


def run_case(case: Case, truth: frozenset[bytes], path: Path, seed: int) -> Outcome:
    """Open and read a damaged file in all the ways there are."""
    path.write_bytes(case.data)
    rng = np.random.default_rng(seed)
    place: str | VideoLocation = str(path)
    if rng.random() < 0.3:  # as a stretch of a larger file
        path.write_bytes(b"head" + case.data + b"tail")
        place = VideoLocation(case.kind, str(path), 4, len(case.data))
    frames = other = differing = 0
    clips: list[tuple[Sequence[int], np.ndarray]] = []
    try:
        with VideoReader(place, time_limit_s=READ_LIMIT_S) as video:
            count = video.info.num_frames
            for indices in (range(count) if count <= 4 * FRAMES else [0], [count - 1, count // 2], [count // 3]):
                try:
                    clip = video.read(indices).numpy()
                except VideoDecodeError:
                    continue
                clips.append((indices, clip))
                frames += len(clip)
                other += sum(picture.tobytes() not in truth for picture in clip)
            video.read_yuv([0])
            video.read([0], crop=(0, 0, 2, 2), size=(3, 3))
        differing = count_differing(place, clips, truth)
    except VideoDecodeError:
        pass
    except ValueError as error:
        if "is not inside the picture" not in str(error):  # a picture of one pixel has no such part
            return Outcome("problem", traceback.format_exc())
    except Exception:
        return Outcome("problem", traceback.format_exc())
    peak = resident_memory.peak_bytes() // 2**20
    if case.damage == "cut" and case.kind not in _WITHOUT_LENGTHS and other:
        return Outcome(
            "problem", f"{other} of {frames} pictures of a file cut short are not in the whole one", frames, other, peak
        )
    if differing:
        detail = f"{differing} of {frames} pictures are wrong when the file is opened again"
        return Outcome("problem", detail, frames, other, peak)
    return Outcome("frames" if clips else "refused", "", frames, other, peak)


def count_differing(
    place: str | VideoLocation, clips: Sequence[tuple[Sequence[int], np.ndarray]], truth: frozenset[bytes]
) -> int:
    """Pictures that were right in `clips` and are not in a second reader, which works from the remembered index.

    It opens the file and finds the packets in another way. To refuse a picture is no difference; and pictures that the
    sound file does not have may be others every time, even from one reader (seen of VP8).
    """
    differing = 0
    with VideoReader(place, time_limit_s=READ_LIMIT_S) as video:
        for indices, clip in clips:
            try:
                again = video.read(indices).numpy()
            except VideoDecodeError:
                continue
            pairs = zip(clip, again, strict=True)
            differing += sum(not np.array_equal(one, other) and one.tobytes() in truth for one, other in pairs)
    return differing


Truths = dict[str, frozenset[bytes]]
Corpus = list[tuple[str, bytes]]


def make_corpus(folder: Path, kinds: Sequence[str]) -> tuple[Corpus, Truths]:
    """Sound files, and their pictures by plain decoding."""
    corpus, truths = [], {}
    for kind in kinds:
        path = folder / kind
        write_video(path, kind)
        corpus.append((kind, path.read_bytes()))
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        truths[kind] = frozenset(frame.tobytes() for frame in frames)
    return corpus, truths


def _work(pipe: Connection, corpus: Corpus, truths: Truths, seed: int) -> None:
    """A worker: case numbers in, outcomes out."""
    with tempfile.TemporaryDirectory() as folder:
        while (number := pipe.recv()) is not None:
            case = make_case(corpus, seed, number)
            path = Path(folder) / f"{number}-{case.kind}"
            pipe.send((number, run_case(case, truths[case.kind], path, number)))
            path.unlink()


class Worker:
    """A process that can be lost without loss."""

    def __init__(self, corpus: Corpus, truths: Truths, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, corpus, truths, seed), daemon=True)
        self._process.start()
        theirs.close()
        self.number = -1
        self.until = float("inf")

    def give(self, number: int) -> None:
        self.number, self.until = number, time.monotonic() + 4 * READ_LIMIT_S
        self.pipe.send(number)

    def take(self) -> Outcome | None:
        """The outcome, if the process lives to tell it."""
        try:
            number, outcome = self.pipe.recv()
        except (EOFError, OSError):
            return None
        assert number == self.number
        return outcome

    def stop(self) -> str:
        """End the process. Returns how it ended if it did so by itself."""
        self._process.join(0.2)
        code = self._process.exitcode
        self._process.kill()
        self._process.join()
        self.pipe.close()
        return "" if code is None else f"exit code {code}"


def fuzz(corpus: Corpus, truths: Truths, *, files: int, seed: int, workers: int, memory_mib: int) -> dict[int, Outcome]:
    """Run cases 0..files-1 in worker processes. Returns the outcome of each."""
    outcomes: dict[int, Outcome] = {}
    waiting = iter(range(files))
    pool: list[Worker] = []

    def start(number: int | None) -> None:
        if number is not None:
            pool.append(Worker(corpus, truths, seed))
            pool[-1].give(number)

    for _ in range(workers):
        start(next(waiting, None))
    while pool:
        ready = wait([worker.pipe for worker in pool], timeout=1)
        for worker in list(pool):
            late = time.monotonic() > worker.until
            if worker.pipe not in ready and not late:
                continue
            outcome = worker.take() if worker.pipe in ready else Outcome("problem", "hangs")
            if outcome is not None and outcome.detail != "hangs":
                if outcome.peak_mib > memory_mib:
                    outcome = Outcome("problem", f"takes {outcome.peak_mib} MiB", peak_mib=outcome.peak_mib)
                outcomes[worker.number] = outcome
                number = next(waiting, None)
                if number is not None and outcome.peak_mib <= memory_mib:
                    worker.give(number)
                    continue
                worker.pipe.send(None)
                worker.stop()
            else:
                ended = worker.stop()
                outcomes[worker.number] = outcome or Outcome("problem", f"kills its process ({ended})")
                number = next(waiting, None)
            pool.remove(worker)
            start(number)
            if len(outcomes) % 500 == 0:
                logger.info("%d of %d files", len(outcomes), files)
    return outcomes


def report(corpus: Corpus, outcomes: dict[int, Outcome], *, seed: int, keep: Path) -> int:
    """Log what became of the cases and keep the files of problems. Returns the number of problems."""
    results: Counter[tuple[str, str]] = Counter()
    frames: Counter[str] = Counter()
    other: Counter[str] = Counter()
    problems = 0
    for number, outcome in sorted(outcomes.items()):
        case = make_case(corpus, seed, number)
        results[case.damage, outcome.result] += 1
        frames[case.damage] += outcome.frames
        other[case.damage] += outcome.other
        if outcome.result == "problem":
            problems += 1
            keep.mkdir(parents=True, exist_ok=True)
            path = keep / f"{seed}-{number}-{case.damage}-{case.kind}"
            path.write_bytes(case.data)
            logger.error("%s: %s", path, outcome.detail)
    for damage in sorted({damage for damage, _ in results}):
        logger.info(
            "%-6s %5d gave frames, %5d refused, %d problems; %d of %d pictures are not in the sound file",
            damage,
            *(results[damage, result] for result in ("frames", "refused", "problem")),
            other[damage],
            frames[damage],
        )
    peak = max((outcome.peak_mib for outcome in outcomes.values()), default=0)
    logger.info("%d files, %d problems, at most %d MiB in a worker", len(outcomes), problems, peak)
    return problems


@dataclass(frozen=True)
class Growth:
    """What many opens have cost.

    Attributes:
        opens: after a tenth of as many to warm up.
        rss_mib: memory that was not given back.
        files: open files that were not closed.
    """

    opens: int
    rss_mib: float
    files: int


def leak(corpus: Corpus, folder: Path, *, opens: int, seed: int) -> Growth:
    """Open and read sound and broken files `opens` times over, in this process."""
    paths = []
    for number, (kind, data) in enumerate(corpus):
        paths.append(folder / kind)
        paths[-1].write_bytes(data)
        paths.append(folder / f"broken-{kind}")
        paths[-1].write_bytes(make_case(corpus, seed, number).data)
    rng = np.random.default_rng(seed)
    before = (0.0, 0)
    warm_up = opens // 10
    for number in range(warm_up + opens):
        if number == warm_up:
            before = _held()
        place = VideoLocation.of(str(paths[number % len(paths)]))
        if number % 3 == 0:
            place = VideoLocation(place.name, f"file://{place.url}")
        try:
            with VideoReader(place, time_limit_s=READ_LIMIT_S) as video:
                video.read(rng.integers(0, video.info.num_frames, 2).tolist())
        except VideoDecodeError:
            continue
    rss, files = _held()
    return Growth(opens, rss - before[0], files - before[1])


def _held() -> tuple[float, int]:
    """Resident memory of this process in MiB, and its open files."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20, len(os.listdir("/proc/self/fd"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000, help="damaged files (default %(default)s)")
    parser.add_argument("--opens", type=int, default=10_000, help="opens of the leak check (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another number, other files")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    parser.add_argument("--memory-mib", type=int, default=2048, help="most memory of a worker (default %(default)s)")
    parser.add_argument("--leak-mib", type=float, default=32.0, help="most growth of memory (default %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=" ".join(KINDS))
    parser.add_argument("--keep", type=Path, default=Path("fuzz_problems"), help="folder for files of problems")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    av.logging.set_level(None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, truths = make_corpus(folder, options.kinds)
        outcomes = fuzz(
            corpus,
            truths,
            files=options.files,
            seed=options.seed,
            workers=options.workers,
            memory_mib=options.memory_mib,
        )
        problems = report(corpus, outcomes, seed=options.seed, keep=options.keep)
        if options.opens:
            growth = leak(corpus, folder, opens=options.opens, seed=options.seed)
            logger.info("%d opens: memory %+.1f MiB, open files %+d", growth.opens, growth.rss_mib, growth.files)
            problems += growth.rss_mib > options.leak_mib or growth.files > 0
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
