"""Videos and images as parts of a page: short silent MP4 clips and JPEG pictures in data URIs, of a bounded size."""

import base64
import io
import logging
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from mvit_video.images.decoding import read_image
from mvit_video.images.formats import ImageDecodeError
from mvit_video.reporting.answers import Entry
from mvit_video.video.index import VideoDecodeError
from mvit_video.video.location import VideoLocation, is_remote
from mvit_video.video.reader import VideoReader

logger = logging.getLogger(__name__)

Pictures = npt.NDArray[np.uint8]

HEIGHT, WIDTH = 176, 320  # pixels that a clip or picture has at most
SHEET_WIDTH = 1000  # pixels of a sheet at most
FRAME_RATE = 12.5  # pictures a second of a clip at most
SECONDS = 8.0  # of a clip; of a longer entry those in the middle
TIME_LIMIT_S = 30.0  # for reading one file
_QUALITY = {"crf": "27", "preset": "veryfast"}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An entry as the page shows it.

    Attributes:
        kind: "clip", "picture", or "nothing" with a `note` that says why.
        uri: of the clip or picture.
        poster: picture that stands for a clip until it plays.
        height, width: pixels.
        note: the stretch that is shown; or why nothing is.
    """

    kind: Literal["clip", "picture", "nothing"]
    uri: str = field(default="", repr=False)
    poster: str = field(default="", repr=False)
    height: int = 0
    width: int = 0
    note: str = ""


class Projector:
    """Makes what is shown, until the bytes of a page are spent.

    Args:
        folders: where relative paths may start from, the likeliest first; none: the current one.
        frame_rate: of videos that are folders of pictures; None where the options name none.
        max_bytes: of all clips and pictures together, as they stand in the page.

    Attributes:
        spent: bytes so far.
        unreadable: how many entries could not be shown because their file is gone or broken.
        left_out: how many were left out for want of bytes.
    """

    def __init__(self, *, folders: Sequence[Path], frame_rate: float | None, max_bytes: int) -> None:
        self.folders, self.frame_rate, self.max_bytes = list(folders) or [Path()], frame_rate, max_bytes
        self.spent = self.unreadable = self.left_out = 0

    def show(self, entry: Entry, item: str) -> Shown:
        """A clip of a video or a picture of an image; what cannot be shown says why, and ends nothing.

        Args:
            entry: what to show.
            item: "video" or "image".
        """
        if self.spent >= self.max_bytes:
            return self._no_room()
        try:
            taken = self._take(entry, item)
        except (VideoDecodeError, ImageDecodeError) as error:
            return self._nothing(entry, error.reason)
        except (OSError, RuntimeError, ValueError) as error:
            return self._nothing(entry, str(error))
        made = taken.shown()
        size = len(made.uri) + len(made.poster)
        if self.spent + size > self.max_bytes:
            return self._no_room()
        self.spent += size
        return made

    def sheet(self, path: Path) -> Shown:
        """A sheet of pictures that an evaluation drew, as large as it is, or as wide as a page."""
        with Image.open(path) as image:
            share = min(1.0, SHEET_WIDTH / image.width)
            size = (round(image.width * share), round(image.height * share))
            uri = _jpeg(np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS)))
        if self.spent + len(uri) > self.max_bytes:
            return self._no_room()
        self.spent += len(uri)
        return Shown(kind="picture", uri=uri, height=size[1], width=size[0])

    def _take(self, entry: Entry, item: str) -> "_Taken":
        location = self._locate(entry.path)
        return _picture(location) if item == "image" else _clip(location, entry)

    def _no_room(self) -> Shown:
        self.left_out += 1
        return Shown(kind="nothing", note=f"left out: the page holds {self.max_bytes / 1e6:g} MB of clips and pictures")

    def _nothing(self, entry: Entry, reason: str) -> Shown:
        self.unreadable += 1
        logger.warning("%s is not shown: %s", entry.path, reason)
        return Shown(kind="nothing", note=f"not shown: {reason}")

    def _locate(self, path: str) -> VideoLocation:
        """Where the bytes of an entry are: a file, a folder of pictures, or the member of a tar shard.

        Raises:
            FileNotFoundError: it is nowhere.
            ValueError: it is a folder of pictures of unknown frame rate.
        """
        if is_remote(path):
            return VideoLocation.of(path)
        for folder in self.folders:
            place = folder / path
            if place.is_dir() and self.frame_rate is None:
                raise ValueError("a folder of pictures, and the options of the run name no data.source.frame_rate")
            if place.exists():
                return VideoLocation(name=path, url=str(place), frame_rate=self.frame_rate)
            shard, found, member = str(place).partition(".tar/")
            if found and Path(f"{shard}.tar").is_file():
                return _member(path, f"{shard}.tar", member)
        absolute = Path(path).is_absolute()
        places = "" if absolute else f"; looked for in {', '.join(map(str, self.folders))}"
        raise FileNotFoundError(f"the file is gone{places}")


def _member(name: str, shard: str, member: str) -> VideoLocation:
    try:
        with tarfile.open(shard, "r:") as archive:
            held = archive.getmember(member)
    except (KeyError, tarfile.TarError) as error:
        raise FileNotFoundError(f"{shard} has no member {member}: {error}") from error
    return VideoLocation(name=name, url=shard, start=held.offset_data, size=held.size)


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """What was read of a file: uint8 (N, H, W, 3), pictures a second (0 for an image), and what part of it that is."""

    pictures: Pictures
    rate: Fraction = Fraction(0)
    note: str = ""

    def shown(self) -> Shown:
        """As the page has it."""
        height, width = self.pictures.shape[1:3]
        poster = _jpeg(self.pictures[len(self.pictures) // 2])
        if not self.rate:
            return Shown(kind="picture", uri=poster, height=height, width=width)
        clip = data_uri("video/mp4", encode(self.pictures, rate=self.rate))
        return Shown(kind="clip", uri=clip, poster=poster, height=height, width=width, note=self.note)


def _jpeg(picture: Pictures) -> str:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="JPEG", quality=82)
    return data_uri("image/jpeg", content.getvalue())


def data_uri(media_type: str, content: bytes) -> str:
    """Bytes as the address of a picture or clip."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


# ---- images


def _picture(location: VideoLocation) -> _Taken:
    """An image, scaled down to the page."""
    if location.size is None:
        pixels = read_image(location.url, orientation="apply", name=location.name).numpy()
    else:
        with open(location.url, "rb") as file:
            file.seek(location.start)
            pixels = read_image(file.read(location.size), orientation="apply", name=location.name).numpy()
    height, width = fitted(*pixels.shape[:2])
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return _Taken(pictures=np.asarray(image)[None])


def fitted(height: int, width: int) -> tuple[int, int]:
    """The size of a picture on the page, even numbers: not larger than it is, and than HEIGHT x WIDTH."""
    factor = min(1.0, HEIGHT / height, WIDTH / width)
    return max(2, round(height * factor / 2) * 2), max(2, round(width * factor / 2) * 2)


# ---- videos


def _clip(location: VideoLocation, entry: Entry) -> _Taken:
    """The entry at its own pace, or what lies in the middle of a long one."""
    with VideoReader(location, time_limit_s=TIME_LIMIT_S) as video:
        fps = video.info.fps
        end = float("inf") if entry.end is None else entry.end
        frames = range(video.info.num_frames) if entry.whole else video.frames_between(entry.start, end)
        chosen = frames_shown(frames, fps)
        height, width = fitted(video.info.height, video.info.width)
        pictures = video.read(chosen, size=(height, width)).numpy()
    step = chosen[1] - chosen[0] if len(chosen) > 1 else 1
    rate = Fraction(fps / step).limit_denominator(1001)
    return _Taken(pictures=pictures, rate=rate, note=_stretch(frames, chosen, fps))


def frames_shown(frames: range, fps: float) -> list[int]:
    """Evenly spaced frames, FRAME_RATE of them a second at most, of the SECONDS in the middle of a longer entry."""
    most = max(1, round(SECONDS * fps))
    first = frames.start + max(0, len(frames) - most) // 2
    step = max(1, round(fps / FRAME_RATE))
    return list(range(first, min(frames.stop, first + most), step))


def _stretch(frames: range, chosen: Sequence[int], fps: float) -> str:
    """What part of the entry is shown, in words."""
    seconds = len(frames) / fps
    if len(frames) <= round(SECONDS * fps):
        return f"{seconds:.1f} s"
    start = (chosen[0] - frames.start) / fps
    return f"{start:.1f} s to {start + SECONDS:.1f} s of {seconds:.1f} s"


def encode(pictures: Pictures, *, rate: Fraction) -> bytes:
    """Pictures as an MP4 file: H.264, without sound.

    Args:
        pictures: uint8 (N, H, W, 3), H and W even.
        rate: pictures a second.
    """
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=dict(_QUALITY))
        stream.codec_context.thread_count = 1  # pictures this small gain nothing from more
        stream.height, stream.width, stream.pix_fmt = pictures.shape[1], pictures.shape[2], "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return content.getvalue()
