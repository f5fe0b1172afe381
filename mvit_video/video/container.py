"""An open video file: packets in, pictures out, through PyAV. No index and no choice of frames: see reader.py."""

import os
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Literal, cast

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.buffer import Buffer
from av.stream import Discard

from mvit_video.video.byte_source import ByteSource, Deadline, locate
from mvit_video.video.codec_headers import PacketScanner
from mvit_video.video.index import Orientation, PacketTable, VideoDecodeError, orientation_from_matrix
from mvit_video.video.location import VideoLocation
from mvit_video.video.opening import open_input, video_stream

# Opening a file normally decodes about a dozen frames to guess what the decoder will find out anyway; no codec has the
# name "none", so that this white list skips the guessing (0.3 ms instead of 2 to 40 ms).
_QUICK = {"codec_whitelist": "none"}
# A file's name is taken at its word about the demuxer, which saves asking every one of FFmpeg's (0.1 ms). Those named
# here refuse a file that is none of theirs by its first bytes; it is then opened the normal way, which asks them all.
_DEMUXERS = {".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}
# Without a codec FFmpeg reads packets up to the probe limit to learn what these containers' headers do not say (frame
# rates, mostly); nobody asks for that here, and it takes as long as decoding three frames.
_SHORT_PROBE = ("matroska", "avi")
# By demuxer, the codec whose packets FFmpeg's parsers need not look into once the stream is indexed: the container
# divides them and states what is asked of their times. Saves a third of demuxing, and up to 0.1 ms of opening MP4. Not
# Matroska, in whose AVI-like tracks the parser finds the times; other codecs in these two have nothing to save.
_UNPARSED = {"mov": "h264", "avi": "mpeg4"}


def explain(error: BaseException) -> str:
    """FFmpeg's words for an error, without numbers and paths."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def too_large(name: str, height: int, width: int, max_pixels: int) -> VideoDecodeError:
    """The error for pictures of more than `max_pixels`."""
    return VideoDecodeError(name, f"pictures of {width}x{height} exceed max_pixels={max_pixels}; raise it to read them")


class VideoFile:
    """One video stream of an open file, with its decoder.

    The stream is the first video stream that has a decoder and is no attached picture (cover art). One thread decodes:
    parallelism comes from loader workers.

    Args:
        source: what to open, once it is located; or a path or a `VideoLocation`, which then is.
        max_pixels: pictures with more pixels are refused by the decoder before memory is taken.
        deadline: when to give up, by default never: checked between packets, and by FFmpeg while it opens and reads.
        mode: "quick" opens without looking into the stream; "probed" is FFmpeg's normal, slower way.
        strict: refuse packets with errors that a player would cover up with what it has.
        indexed: the codec, if the packets were indexed before; what parsing tells of them may then be left out.

    Attributes:
        codec: the decoder's name.
        container: the demuxer's name, such as "avi" or "matroska,webm".

    Raises:
        VideoDecodeError: the file cannot be opened, has no such stream, or opening takes too long.
    """

    def __init__(
        self,
        source: ByteSource | VideoLocation | str,
        *,
        max_pixels: int,
        deadline: Deadline | None = None,
        mode: Literal["quick", "probed"] = "quick",
        strict: bool = True,
        indexed: str = "",
    ) -> None:
        if not isinstance(source, ByteSource):
            source = locate(VideoLocation.of(source))
        self.name = source.name
        self._max_pixels = max_pixels
        self._deadline = deadline = deadline or Deadline(source.name, None)
        target, protocols = source.target()
        options = {"protocol_whitelist": protocols}
        options |= _QUICK if mode == "quick" else {"max_pixels": str(max_pixels)}
        demuxer = _DEMUXERS.get(os.path.splitext(self.name)[1].lower()) if mode == "quick" else None
        if demuxer in _SHORT_PROBE:
            options["probesize"] = "32"
        if indexed and indexed == _UNPARSED.get(demuxer or ""):
            options["fflags"] = "noparse"
        try:
            self._container = open_input(target, format=demuxer, options=options, timeout=deadline.limit_s)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            deadline.check()
            raise VideoDecodeError(self.name, f"cannot be opened: {explain(error)}") from error
        try:
            self._stream = self._choose_stream()
            self._open_decoder(strict=strict)
        except BaseException:
            self._container.close()
            raise
        self.codec = str(self._decoder.name)
        self.container = str(self._container.format.input.name)
        self._scanner = PacketScanner(self.codec, self._decoder.extradata)
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
        stream: av.VideoStream | None = video_stream(self._container)
        if stream is None:
            kinds = ", ".join(sorted({stream.type for stream in self._container.streams})) or "none"
            raise VideoDecodeError(self.name, f"has no video stream that can be decoded (streams: {kinds})")
        for other in self._container.streams:
            if other is not stream:
                other.discard = Discard.all
        return stream

    def _open_decoder(self, *, strict: bool) -> None:
        self._decoder = self._stream.codec_context
        self._lenient: av.VideoCodecContext | None = None
        self._tolerant = False
        codec = self._decoder.name  # not to be asked again if it does not open: FFmpeg 9 crashes
        height, width = self.header_size
        try:
            if height * width <= self._max_pixels:
                # Invalid extras in a header are no damage.
                strict = strict and (self._opens(codec, strict=True) or not self._opens(codec, strict=False))
                self._prepare(self._decoder, codec, strict=strict)
                height, width = self.header_size  # now from the bitstream where it has a header
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoDecodeError(self.name, f"the {codec} decoder refuses it: {explain(error)}") from error
        if height * width > self._max_pixels:
            raise too_large(self.name, height, width, self._max_pixels)

    def _opens(self, codec: str, *, strict: bool) -> bool:
        """Whether such a decoder opens, tried on another one: FFmpeg 9 crashes when one is opened after a refusal."""
        trial = self._another(codec)
        trial.width, trial.height = self._decoder.width, self._decoder.height
        trial.codec_tag = self._decoder.codec_tag
        try:
            self._prepare(trial, codec, strict=strict)
        except av.error.FFmpegError:
            return False
        return True

    def _another(self, codec: str) -> av.VideoCodecContext:
        """A decoder of its own for the header of the file."""
        decoder = av.CodecContext.create(codec, "r")
        assert isinstance(decoder, av.VideoCodecContext)
        decoder.extradata = self._decoder.extradata
        return decoder

    def _prepare(self, decoder: av.VideoCodecContext, codec: str, *, strict: bool) -> None:
        decoder.thread_count = 1
        decoder.thread_type = "NONE"
        options = {"max_pixels": str(self._max_pixels)}
        if strict:
            options["err_detect"] = "explode"
        if codec == "h264":
            # A stream that does not state its reorder depth makes the decoder guess and drop what comes late;
            # strict takes the largest depth instead.
            options["strict"] = "strict"
        decoder.options = options
        decoder.open(strict=False)

    def begin(self, packet: av.Packet, *, looks_back: bool) -> None:
        """Get ready to decode a run of packets that begins with `packet`, with nothing fed so far.

        H.264 marks pictures as no longer needed that may have come before a seek; refusing all errors would then refuse
        the pictures that carry such marks. So errors are tolerated unless the run begins afresh: with an IDR picture,
        and no packet of it `looks_back` past that. Other codecs need no tolerance.
        """
        self._tolerant = self._decoder.name == "h264" and (
            looks_back or not self._scanner.kind(memoryview(packet)).clean_start
        )
        if self._tolerant and self._lenient is None:
            lenient = self._another("h264")
            self._prepare(lenient, "h264", strict=False)
            self._lenient = lenient

    @property
    def _active(self) -> av.VideoCodecContext:
        return self._lenient if self._tolerant and self._lenient is not None else self._decoder

    @property
    def header_size(self) -> tuple[int, int]:
        """(height, width) before rotation that the headers state; (0, 0) if they do not."""
        return self._decoder.height, self._decoder.width

    @property
    def stream_index(self) -> int:
        return int(self._stream.index)

    @property
    def tick(self) -> float:
        """Seconds per unit of a packet's presentation time."""
        return float(self._stream.time_base or 0)

    @property
    def time_base(self) -> tuple[int, int]:
        """Numerator and denominator of that unit, (0, 1) if there is none."""
        base = self._stream.time_base
        return (0, 1) if base is None else (base.numerator, base.denominator)

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
        stated = self._stated_places() if self.container == "avi" else []
        scanner = PacketScanner(self.codec, self._decoder.extradata)
        self._untouched = False
        try:
            for packet in self._demux():
                data = memoryview(packet)
                kind = scanner.kind(data)
                gap = scanner.follows_a_gap(data)
                if packet.is_corrupt or (gap and not packet.is_keyframe):
                    table.corrupt.append(len(table))
                places.append(packet.pos)
                table.pts.append(packet.pts)
                table.dts.append(packet.dts)
                table.durations.append(packet.duration or 0)
                table.key.append(packet.is_keyframe)
                table.shown.append(not (packet.is_discard or kind.hidden))
                table.kinds.append(kind)
                total += packet.size
                kept = kept if total <= keep_bytes else None
                if kept is not None:
                    kept.append(packet)
        except av.error.FFmpegError as error:
            self._deadline.check()
            table.damage = f"reading stopped after {len(table)} packets: {explain(error)}"
        if not table.damage:
            self._find_gap(table, places)
        if stated and not table.damage:  # the list that was there before reading, for reading may add to it
            table.numbered = stated == places and table.dts == list(range(len(table)))
        return table, kept

    def _stated_places(self) -> list[int]:
        """Where in the file the packets are according to its index, as far as that is known by now."""
        header = 8 if self.container == "avi" else 0  # an AVI's index points at the chunk's header
        return [entry.pos + header for entry in self._stream.index_entries if entry.size]

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
        stated = self._stated_places()
        if len(stated) > len(places):
            gap = next((i for i, (a, b) in enumerate(zip(stated, places)) if a != b), len(places))
            table.cut(gap, f"packet {gap} of {len(stated)} is missing")

    def _demux(self) -> Iterator[av.Packet]:
        """Non-empty packets of the stream."""
        check = self._deadline.check
        while True:
            packets = cast(Generator[av.Packet, None, None], self._container.demux(self._stream))
            try:
                for packet in packets:
                    check()
                    if packet.size:
                        yield packet
                return
            except IndexError:  # PyAV does not know streams that appear on the way, as in MPEG-TS; here nobody asks
                self._deadline.check()
            finally:
                packets.close()  # else PyAV keeps a packet for ever

    def packets(self) -> Iterator[av.Packet]:
        """Non-empty packets from the current position on: the start, or where `seek` went.

        Raises:
            av.error.FFmpegError: the file is damaged here.
            VideoDecodeError: the time is over.
        """
        self._untouched = False
        return self._demux()

    def unpacked(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """MPEG-4 packets with one picture each, as many as there are `packets`; those are emptied."""
        unpack = BitStreamFilterContext("mpeg4_unpack_bframes", self._stream)
        for packet in packets:
            yield from unpack.filter(packet)

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
        return self._active.decode(packet)

    def drain(self) -> list[av.VideoFrame]:
        """The pictures the decoder still holds; it then starts afresh."""
        try:
            return self._active.decode(None)
        finally:
            self._active.flush_buffers()

    def reset(self) -> None:
        """Forget the packets fed so far."""
        self._active.flush_buffers()


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Orientation of a decoded picture, from the display matrix attached to it."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(side, Buffer):
        return Orientation()
    return orientation_from_matrix(np.frombuffer(memoryview(side), np.int32)[:9].tolist())
