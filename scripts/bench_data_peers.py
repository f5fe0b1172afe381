"""The decoders that bench_data.py measures: ours in its variants, and every other one that is installed.

Every peer is used the way its own documentation shows it: open the file, get the asked frames as RGB, close, with one
thread. None is asked for anything on a file it cannot do: what it returns is compared with a full linear decode.
"""

import importlib
import importlib.metadata
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import numpy.typing as npt

from mvit_video.interop.pytorchvideo import import_pytorchvideo
from mvit_video.video.backends import pyav_decoder
from mvit_video.video.location import VideoLocation
from mvit_video.video.reader import VideoInfo, VideoReader

Frames = npt.NDArray[np.uint8]
OTHER_CONVERSION = 2.5  # grey levels on average: the right pictures by another YUV to RGB conversion
CROP = 0.7  # side of the crop at decode time, as a share of the short side
CROP_SIZE = 224


@dataclass(frozen=True)
class Request:
    """Frames to decode, and the times between which they are shown, for those who ask by time."""

    frames: tuple[int, ...]
    start: float
    end: float


@dataclass(frozen=True)
class Reader:
    """A way to decode.

    Attributes:
        name: what the tables call it.
        read: (file, request) -> uint8 (N, H, W, 3), or anything else where `comparable` is False.
        ours: of this package.
        comparable: gives the frames as they are, so that it can be checked and compared.
        every: takes part in every so many clips: slow ones would take all the time.
    """

    name: str
    read: Callable[["File", Request], object]
    ours: bool = False
    comparable: bool = True
    every: int = 1


class Truth:
    """A file decoded from start to end: a digest and a thumbnail of every frame, and its times."""

    def __init__(self, path: Path) -> None:
        digests: list[bytes] = []
        thumbnails: list[npt.NDArray[np.int16]] = []
        times: list[float] = []
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_count, stream.thread_type = 1, "NONE"
            tick = float(stream.time_base or 0)
            for frame in container.decode(stream):
                picture = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)).astype(np.uint8)
                digests.append(_digest(picture))
                thumbnails.append(picture[::8, ::8].astype(np.int16))
                times.append(frame.pts * tick if frame.pts is not None else len(times) / 25.0)
        self.digests, self.thumbnails, self.times = digests, thumbnails, times
        self.height, self.width = picture.shape[:2]

    def __len__(self) -> int:
        return len(self.digests)

    def request(self, frames: Sequence[int]) -> Request:
        """A request for those frames; its end lies half a frame behind the last."""
        low, high = min(frames), max(frames)
        step = self.times[high] - self.times[high - 1] if high else 0.04
        return Request(tuple(frames), self.times[low], self.times[high] + step / 2)

    def wrong(self, frames: Sequence[int], clip: object) -> int:
        """How many pictures of `clip` are not those of `frames`, byte for byte.

        If all differ, but by so little that only the conversion to RGB can be another one, none is wrong.
        """
        pictures = np.asarray(clip)
        if pictures.shape != (len(frames), self.height, self.width, 3):
            return len(frames)
        wrong = sum(_digest(picture) != self.digests[frame] for frame, picture in zip(frames, pictures))
        if wrong == len(frames):
            apart = [np.abs(p[::8, ::8] - self.thumbnails[f]).mean() for f, p in zip(frames, pictures)]
            return 0 if max(apart) < OTHER_CONVERSION else wrong
        return wrong


def _digest(picture: Frames) -> bytes:
    return blake2b(picture.tobytes(), digest_size=16).digest()


class File:
    """A file to measure, with what the readers are given to know beforehand."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.name = path.name
        self.truth = Truth(path)
        file_stat = os.stat(path)
        with VideoReader(path) as video:
            index = video.frame_index
        self.location = VideoLocation(
            name=self.path, url=self.path, size=file_stat.st_size, mtime_ns=file_stat.st_mtime_ns, index=index
        )
        self.mappings = _frame_mappings(self.path)

    @property
    def has_b_frames(self) -> bool:
        """Pictures are stored in another order than they are shown in."""
        order = self.location.index.order if self.location.index else None
        return order is not None and bool((np.diff(order) < 0).any())


def _frame_mappings(path: str) -> str:
    """What torchcodec takes as custom_frame_mappings: the packets in the form that ffprobe prints."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
    frames = [{"pts": p.pts, "duration": p.duration or 1, "key_frame": int(p.is_keyframe)} for p in packets]
    return json.dumps({"frames": sorted(frames, key=lambda frame: frame["pts"] or 0)})


# ---- ours


def _ours_stored(file: File, request: Request) -> object:
    with VideoReader(file.location) as video:
        return video.read(request.frames)


def _ours_remembered(file: File, request: Request) -> object:
    with VideoReader(file.path) as video:
        return video.read(request.frames)


def _ours_cold(file: File, request: Request) -> object:
    pyav_decoder.clear_cache()
    return _ours_remembered(file, request)


def _ours_yuv(file: File, request: Request) -> object:
    with VideoReader(file.location) as video:
        return video.read_yuv(request.frames)


def centre_crop(info: VideoInfo) -> tuple[int, int, int, int]:
    """The square that is cut when cropping while decoding is measured: half the short side squared."""
    side = round(CROP * min(info.height, info.width))
    return (info.height - side) // 2, (info.width - side) // 2, side, side


def _ours_crop(file: File, request: Request) -> object:
    with VideoReader(file.location) as video:
        return video.read(request.frames, crop=centre_crop(video.info), size=(CROP_SIZE, CROP_SIZE))


OURS = "ours"
COLD = "ours, not indexed before"
OUR_READERS = (
    Reader(OURS, _ours_stored, ours=True),
    Reader("ours, index remembered", _ours_remembered, ours=True),
    Reader(COLD, _ours_cold, ours=True),
    Reader("ours, yuv420", _ours_yuv, ours=True, comparable=False),
    Reader("ours, crop and resize to 224", _ours_crop, ours=True, comparable=False),
)


# ---- PyAV by hand


def _pyav_linear(file: File, request: Request) -> object:
    """From the start of the file to the last frame asked for, converting those asked for: always right."""
    with av.open(file.path) as container:
        stream = container.streams.video[0]
        stream.thread_count, stream.thread_type = 1, "NONE"
        wanted, last = set(request.frames), max(request.frames)
        found = {}
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if number == last:
                break
    return np.stack([found[number] for number in request.frames])


def _pyav_seek(file: File, request: Request) -> object:
    """Seek to the first frame's time, number the frames by (time - start) * average rate: right at a constant rate."""
    with av.open(file.path) as container:
        stream = container.streams.video[0]
        stream.thread_count, stream.thread_type = 1, "NONE"
        rate, base = Fraction(stream.average_rate or 25), Fraction(stream.time_base or 1)
        start = stream.start_time or 0
        wanted, last = set(request.frames), max(request.frames)
        found = {}
        container.seek(start + round(min(wanted) / rate / base), stream=stream, backward=True)
        for frame in container.decode(stream):
            number = round(((frame.pts or 0) - start) * base * rate)
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if number >= last:
                break
    return np.stack([found[number] for number in request.frames])


# ---- libraries


def _decord(decord: ModuleType) -> Reader:
    decord.logging.set_level(decord.logging.QUIET)

    def read(file: File, request: Request) -> object:
        video = decord.VideoReader(file.path, ctx=decord.cpu(0), num_threads=1)
        frames = video.get_batch(list(request.frames))
        return frames.asnumpy() if hasattr(frames, "asnumpy") else frames  # pytorchvideo makes it return tensors

    return Reader("decord", read)


def _torchcodec(decoders: ModuleType, mode: str) -> Reader:
    def read(file: File, request: Request) -> object:
        mapping = file.mappings if mode == "frame map" else None
        seek = "approximate" if mode == "approximate" else "exact"
        video = decoders.VideoDecoder(
            file.path,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode=seek,
            custom_frame_mappings=io.BytesIO(mapping.encode()) if mapping else None,
        )
        return video.get_frames_at(list(request.frames)).data

    return Reader(f"torchcodec {mode}", read)


def _opencv(cv2: ModuleType) -> Reader:
    cv2.setNumThreads(1)

    def read(file: File, request: Request) -> object:
        video = cv2.VideoCapture(file.path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        wanted, first, last = set(request.frames), min(request.frames), max(request.frames)
        video.set(cv2.CAP_PROP_POS_FRAMES, first)
        found = {}
        for number in range(first, last + 1):
            if not video.grab():
                break
            if number in wanted:
                found[number] = cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB)
        video.release()
        return np.stack([found[number] for number in request.frames])

    return Reader("opencv", read)


def _pytorchvideo(module: ModuleType, decoder: str) -> Reader:
    """EncodedVideo.get_clip by time, then the wanted frames of what it returns."""

    def read(file: File, request: Request) -> object:
        options = {"decode_audio": False, "decoder": decoder}
        video = module.EncodedVideo.from_path(file.path, **options)
        clip = video.get_clip(request.start, request.end)["video"]
        places = [frame - min(request.frames) for frame in request.frames]
        out = clip[:, places].permute(1, 2, 3, 0).byte().numpy()
        video.close()
        return out

    return Reader(f"pytorchvideo {decoder}", read, every=4)


def all_readers(parts: Sequence[str] | None = None) -> tuple[list[Reader], list[str]]:
    """Ours and those peers that can be imported; and a line about each one: its version, or why it is not there.

    With `parts`, only packages whose names contain one of them are imported.
    """
    readers = [*OUR_READERS, Reader("PyAV by hand, seek", _pyav_seek), Reader("PyAV by hand, linear", _pyav_linear)]
    notes = [f"av {av.__version__}"]
    peers: list[tuple[str, str, Callable[[ModuleType], list[Reader]]]] = [
        ("decord", "decord", lambda m: [_decord(m)]),
        (
            "torchcodec",
            "torchcodec.decoders",
            lambda m: [_torchcodec(m, mode) for mode in ("exact", "approximate", "frame map")],
        ),
        ("opencv-python-headless", "cv2", lambda m: [_opencv(m)]),
        (
            "pytorchvideo",
            "pytorchvideo.data.encoded_video",
            lambda m: [_pytorchvideo(m, "pyav"), _pytorchvideo(m, "decord")],
        ),
    ]
    for package, module, make in peers:
        if parts is not None and not any(part in package for part in parts):
            continue
        try:
            loaded = import_pytorchvideo(module) if package == "pytorchvideo" else importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as error:
            notes.append(f"{package} left out ({str(error).splitlines()[0][:80]})")
            continue
        readers += make(loaded)
        notes.append(f"{package} {_version(package)}")
    return readers, notes


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
