"""The sound of a video that is written again: copied packet by packet where MP4 takes it, else encoded as AAC.

Sound must not cost the pictures: what its packets do not allow is left out, with a warning that says what and why.
"""

import logging
from fractions import Fraction
from typing import Any

import av

logger = logging.getLogger(__name__)

_COPIED = ("aac", "mp3", "mp2", "ac3", "eac3", "opus", "alac", "flac")  # codecs of sound that MP4 takes
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_RATE = 48000  # of sound that AAC cannot take as it is
_JUMP_S = 0.1  # gaps of the time stamps from which on the sound waits; smaller ones are rounding


class SoundTrack:
    """The sound of an MP4 file that is written.

    Args:
        writer: the file.
        sound: the stream that is read.
        name: of the video, for warnings.
    """

    def __init__(self, writer: Any, sound: Any, name: str) -> None:
        self._writer, self._sound, self._name = writer, sound, name
        # The decoder of mp3 is called mp3float.
        self._copies = sound.codec_context is not None and sound.codec_context.codec.canonical_name in _COPIED
        self._left_out = 0  # packets
        self._last: int | None = None  # decoding time of the last copied packet
        self._samples: int | None = None  # where the next encoded frame begins
        self._stream: Any = None
        self._resampler: Any = None
        try:
            self._stream = self._begin()
        except (av.error.FFmpegError, ValueError) as error:
            self._give_up(error)

    def _begin(self) -> Any:
        context = self._sound.codec_context
        if context is None:
            raise ValueError("no decoder for it is known here")
        if self._copies:
            return self._writer.add_stream_from_template(self._sound)
        rate = context.sample_rate if context.sample_rate in _AAC_RATES else _RATE
        layout = "mono" if context.layout.nb_channels == 1 else "stereo"
        stream = self._writer.add_stream("aac", rate=rate)
        # The header is written with the first picture, perhaps before any sound: the encoder must be complete then.
        stream.layout, stream.format = layout, "fltp"
        stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
        self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        return stream

    def add(self, packet: Any) -> None:
        """Take in a packet; an empty one ends the stream."""
        if self._stream is None:
            return
        try:
            if self._copies:
                self._copy(packet)
            else:
                for frame in packet.decode():
                    self._encode(frame)
        except av.error.InvalidDataError:
            self._left_out += 1
        except (av.error.FFmpegError, ValueError) as error:
            self._give_up(error)

    def end(self) -> None:
        """Write what the encoder still holds, and say what was left out."""
        if self._stream is not None and not self._copies:
            try:
                self._feed(self._resampler.resample(None))
                self._writer.mux(self._stream.encode(None))
            except (av.error.FFmpegError, ValueError) as error:
                self._give_up(error)
        if self._left_out:
            logger.warning(
                "%s: %d packets of its sound are damaged or out of order, and left out of the annotated video",
                self._name,
                self._left_out,
            )

    def _copy(self, packet: Any) -> None:
        if packet.dts is None:
            return  # the empty one at the end
        if self._last is not None and packet.dts <= self._last:
            self._left_out += 1
            return
        self._last = packet.dts
        packet.stream = self._stream
        self._writer.mux(packet)

    def _encode(self, frame: Any) -> None:
        """Samples follow each other; time stamps count at the start, and where they jump ahead."""
        rate = self._resampler.rate
        stated = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        if self._samples is None:
            self._samples = round((stated or 0.0) * rate)
        elif stated is not None and stated - self._samples / rate > _JUMP_S:
            self._samples = round(stated * rate)
        frame.pts = None  # what AVI states may run backwards, which an encoder refuses
        self._feed(self._resampler.resample(frame))

    def _feed(self, frames: Any) -> None:
        for frame in frames:
            assert self._samples is not None
            frame.pts, frame.sample_rate = self._samples, self._resampler.rate
            frame.time_base = Fraction(1, self._resampler.rate)
            self._samples += frame.samples
            self._writer.mux(self._stream.encode(frame))

    def _give_up(self, error: Exception) -> None:
        heard = "none of its sound"
        if self._stream is not None and (self._last is not None or self._samples is not None):
            heard = "its sound only up to there"
        self._stream = None
        reason = getattr(error, "strerror", None) or str(error)
        context = self._sound.codec_context
        codec = "of an unknown codec" if context is None else context.name
        logger.warning(
            "%s: the sound (%s) cannot be written on (%s): %s is in the annotated video",
            *(self._name, codec, reason, heard),
        )
