"""An open video file: packets in, pictures out, through PyAV. No index and no choice of frames: see decode.py."""

import os
import stat
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.buffer import Buffer
from av.stream import Discard, Disposition
from av.video.reformatter import VideoReformatter

from mvit_video.data.video_index import (
    PLAIN,
    Orientation,
    PacketTable,
    VideoDecodeError,
    nal_length_bytes,
    orientation_from_matrix,
    packet_kind,
)

FileKey = tuple[str, int, int]
_local = threading.local()  # one conversion context per thread: setting it up costs as much as ten small pictures

# Opening a file normally decodes about a dozen frames to guess what the decoder will find out anyway; no codec has the
# name "none", so that this white list skips the guessing (0.3 ms instead of 2 to 40 ms).
_QUICK = {"codec_whitelist": "none", "protocol_whitelist": "file"}
_PROBED = {"protocol_whitelist": "file"}
_PARSED = ("h264", "hevc", "mpeg4", "vp8", "vp9", "libvpx", "libvpx-vp9")


def file_key(path: str) -> FileKey:
    """Identity of a file's content for caches: (path, size in bytes, modification time in ns).

    Raises:
        VideoDecodeError: there is no such file, or it is a directory, a device or empty.
    """
    try:
        facts = os.stat(path)
    except (OSError, ValueError) as error:
        raise VideoDecodeError(path, getattr(error, "strerror", None) or str(error)) from error
    if not stat.S_ISREG(facts.st_mode):
        what = "a directory" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
        raise VideoDecodeError(path, f"is {what}; give the path of a video file")
    if facts.st_size == 0:
        raise VideoDecodeError(path, "the file is empty (0 bytes)")
    return path, facts.st_size, facts.st_mtime_ns


def _reformatter() -> VideoReformatter:
    if not hasattr(_local, "reformatter"):
        _local.reformatter = VideoReformatter()
    return _local.reformatter


def explain(error: BaseException) -> str:
    """FFmpeg's words for an error, without numbers and paths."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def too_large(path: str, height: int, width: int, max_pixels: int) -> VideoDecodeError:
    """The error for pictures of more than `max_pixels`."""
    return VideoDecodeError(path, f"pictures of {width}x{height} exceed max_pixels={max_pixels}; raise it to read them")


class VideoFile:
    """One video stream of an open file, with its decoder.

    The stream is the first video stream that has a decoder and is no attached picture (cover art). One thread decodes:
    parallelism comes from loader workers.

    Args:
        path: the file.
        max_pixels: pictures with more pixels are refused by the decoder before memory is taken.
        mode: "quick" opens without looking into the stream; "probed" is FFmpeg's normal, slower way.

    Raises:
        VideoDecodeError: the file cannot be opened or has no such stream.
    """

    def __init__(self, path: str, *, max_pixels: int, mode: Literal["quick", "probed"] = "quick") -> None:
        self.path = path
        try:
            # The prefix keeps a colon in a name from being read as a protocol.
            options = _QUICK if mode == "quick" else {**_PROBED, "max_pixels": str(max_pixels)}
            self._container = av.open("file:" + path, options=dict(options))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise VideoDecodeError(path, f"cannot be opened: {explain(error)}") from error
        try:
            self._stream = self._choose_stream()
            self._open_decoder(max_pixels)
        except BaseException:
            self._container.close()
            raise
        self._untouched = True

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file and the decoder."""
        self._container.close()

    def _choose_stream(self) -> av.VideoStream:
        for stream in self._container.streams.video:
            if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic:
                break
        else:
            kinds = ", ".join(sorted({stream.type for stream in self._container.streams})) or "none"
            raise VideoDecodeError(self.path, f"has no video stream that can be decoded (streams: {kinds})")
        for other in self._container.streams:
            if other is not stream:
                other.discard = Discard.all
        return stream

    def _open_decoder(self, max_pixels: int) -> None:
        self._decoder = self._stream.codec_context
        self._decoder.thread_count = 1
        self._decoder.thread_type = "NONE"
        self._decoder.options = {"max_pixels": str(max_pixels)}
        if self._decoder.name == "h264":
            # A stream that does not state its reorder depth makes the decoder guess and drop what comes late;
            # strict takes the largest depth instead.
            self._decoder.options["strict"] = "strict"
        height, width = self.header_size
        try:
            if height * width <= max_pixels:
                self._decoder.open(strict=False)
                height, width = self.header_size  # now from the bitstream where it has a header
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoDecodeError(self.path, f"the {self.codec} decoder refuses it: {explain(error)}") from error
        if height * width > max_pixels:
            raise too_large(self.path, height, width, max_pixels)

    @property
    def header_size(self) -> tuple[int, int]:
        """(height, width) before rotation that the headers state; (0, 0) if they do not."""
        return self._decoder.height, self._decoder.width

    @property
    def stream_index(self) -> int:
        return int(self._stream.index)

    @property
    def codec(self) -> str:
        """The decoder's name."""
        return str(self._decoder.name)

    @property
    def container(self) -> str:
        """The demuxer's name, such as "avi" or "matroska,webm"."""
        return str(self._container.format.name)

    @property
    def tick(self) -> float:
        """Seconds per unit of a packet's presentation time."""
        return float(self._stream.time_base or 0)

    @property
    def declared_fps(self) -> float:
        """Average frame rate according to the header, 0 if it has none."""
        return float(self._stream.average_rate or self._stream.guessed_rate or 0)

    def scan(self, keep_bytes: int) -> tuple[PacketTable, list[av.Packet] | None]:
        """Demux the whole stream without decoding.

        Returns:
            A row per packet, and the packets themselves if they have at most `keep_bytes` bytes in all.
        """
        table = PacketTable()
        kept: list[av.Packet] | None = []
        total = 0
        places: list[int | None] = []
        codec = self.codec
        parsed = codec in _PARSED
        length_bytes = nal_length_bytes(codec, self._decoder.extradata)
        self._untouched = False
        try:
            for packet in self._container.demux(self._stream):
                size = packet.size
                if not size:
                    continue
                kind = packet_kind(codec, memoryview(packet), length_bytes) if parsed else PLAIN
                if packet.is_corrupt:
                    table.corrupt.append(len(table))
                places.append(packet.pos)
                table.pts.append(packet.pts)
                table.dts.append(packet.dts)
                table.key.append(packet.is_keyframe)
                table.shown.append(not (packet.is_discard or kind.hidden))
                table.kinds.append(kind)
                total += size
                kept = kept if total <= keep_bytes else None
                if kept is not None:
                    kept.append(packet)
        except av.error.FFmpegError as error:
            table.damage = f"reading stopped after {len(table)} packets: {explain(error)}"
        if not table.damage:
            self._find_gap(table, places)
        return table, kept

    def _find_gap(self, table: PacketTable, places: list[int | None]) -> None:
        """Cut the table where packets are missing although demuxing went on to the end of the file without complaint.

        FFmpeg hands out what is left of a packet that the end of the file cuts short, and looks for the next sound
        chunk after damage in an AVI. MP4 and AVI have an index of their own that tells how many packets there were.
        """
        if table.corrupt and table.corrupt[-1] == len(table) - 1:
            table.cut(len(table) - 1, f"the file ends in the middle of packet {len(table) - 1}")
            return
        if len(self._stream.index_entries) <= len(places):
            return
        stated = [entry.pos for entry in self._stream.index_entries if entry.size]
        if len(stated) > len(places):
            header = 8 if self.container == "avi" else 0  # an AVI's index points at the chunk's header
            gap = next((i for i, (a, b) in enumerate(zip(stated, places)) if a + header != b), len(places))
            table.cut(gap, f"packet {gap} of {len(stated)} is missing")

    def packets(self) -> Iterator[av.Packet]:
        """Non-empty packets from the current place on: the start, or where `seek` went.

        Raises:
            av.error.FFmpegError: the file is damaged here.
        """
        self._untouched = False
        for packet in self._container.demux(self._stream):
            if packet.size:
                yield packet

    @property
    def at_start(self) -> bool:
        """No packet was read yet."""
        return self._untouched

    def seek(self, stamp: int) -> None:
        """Go to the last key frame shown at or before `stamp` (in the stream's time base), if the demuxer can."""
        self._untouched = False
        self._container.seek(stamp, stream=self._stream, backward=True, any_frame=False)

    def feed(self, packet: av.Packet) -> list[av.VideoFrame]:
        """Decode a packet; the pictures that come out carry the `pts` that was set on theirs."""
        return self._decoder.decode(packet)

    def drain(self) -> list[av.VideoFrame]:
        """The pictures the decoder still holds; it then starts afresh."""
        try:
            return self._decoder.decode(None)
        finally:
            self._decoder.flush_buffers()

    def write_rgb(
        self,
        frame: av.VideoFrame,
        out: npt.NDArray[np.uint8],
        *,
        size: tuple[int, int],
        orientation: Orientation,
    ) -> None:
        """Convert a picture to RGB into out (H, W, 3), with FFmpeg's default conversion (that of `frame.to_ndarray`).

        Pictures of another size than `size` (height, width) are scaled to it: streams may change their size on the way.
        """
        height, width = size
        same = frame.width == width and frame.height == height
        rgb = _reformatter().reformat(
            frame, width=None if same else width, height=None if same else height, format="rgb24", threads=1
        )
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)[:, : 3 * width]
        out[...] = orientation.apply(rows.reshape(height, width, 3))


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Orientation of a decoded picture, from the display matrix attached to it."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(side, Buffer):
        return Orientation()
    return orientation_from_matrix(np.frombuffer(memoryview(side), np.int32)[:9].tolist())
