"""The pictures that `ffmpeg -i VIDEO -r RATE %06d.jpg` extracts: which frame of the video each of them shows.

The published Something-Something v2 pipeline (PySlowFast datasets/DATASET.md) works on pictures extracted like this,
30 a second, and draws its frames from their numbers. With `-r` on the output, FFmpeg repeats and leaves out frames
while it writes (fftools/ffmpeg.c, do_video_out, of releases 4 and 5); its fps filter does it by another rule.

For each frame in turn, with time and duration counted in pictures and `next` the number of the next picture:

* a duration that the container states counts as the nearest whole number of pictures (halves to the even one); one that
  rounds to none, or is not stated, as that of the average rate, at most one picture;
* `ahead` = time - next is how late the frame is; a frame that begins before `next` and ends after it is not late;
* the frame is written once, unless it ends more than 1.1 pictures before `next` (then not at all) or more than 1.1
  after it: then round(time + duration - next) pictures are written, and where `ahead` is more than 1.1, the first
  round(ahead - 0.6) of them show the frame before once more;
* after the last frame come as many more pictures of it as the median of those repeats of the last three frames.

Times count from the first frame. Releases 7 and later do not round durations, and give other frames at 12 a second.
"""

import math
from fractions import Fraction

import numpy as np

from mvit_video.video.index import FrameTimes

# FFmpeg keeps times in fractions of a picture and moves them off the midpoints between two pictures by this much.
_OFF_MIDPOINT = 1.0 / (1 << 17)
_TOLERANCE = 1.1
_LARGEST_TERM = 1_000_000


def even_times(*, num_frames: int, fps: float) -> FrameTimes:
    """Times of frames that follow one another at exactly `fps` frames per second."""
    unit = 1 / _fraction(fps)
    return FrameTimes(unit, np.arange(num_frames, dtype=np.int64), np.ones(num_frames, np.int64))


def extracted_frames(times: FrameTimes, *, fps: float, rate: float) -> list[int]:
    """The frame that each extracted picture shows, by its number in the video.

    Args:
        times: when the video's frames are shown.
        fps: average frames per second of the video; for durations that are shorter than a picture or not stated.
        rate: pictures per second.

    Raises:
        ValueError: no frames, or a rate that is not positive.
    """
    count = len(times.stamps)
    if count < 1:
        raise ValueError("a video of 0 frames: there is nothing to extract; check the file")
    for name, value in (("fps", fps), ("rate", rate)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value}: must be a positive number; check the video's header or data.target_fps")
    places = _places(times, _fraction(rate))
    lengths = _lengths(times, _fraction(rate), fps=fps)
    shown: list[int] = []
    repeats = [0, 0, 0]
    for frame, (place, length) in enumerate(zip(places, lengths)):
        ahead = place - len(shown)
        end = ahead + length
        if ahead < 0 < end:
            ahead = 0.0
        written, before = 1, 0
        if end < -_TOLERANCE:
            written = 0
        elif end > _TOLERANCE:
            written = _round(end)
            if ahead > _TOLERANCE:
                before = min(_round(ahead - 0.6), written)
        shown += [max(frame - 1, 0)] * before + [frame] * (written - before)
        repeats = [*repeats[1:], before]
    return shown + [count - 1] * sorted(repeats)[1]


def _places(times: FrameTimes, rate: Fraction) -> list[float]:
    """Time of each frame after the first, in pictures, in FFmpeg's fixed point."""
    bits = min(max(29 - (rate.numerator.bit_length() - 1), 0), 16)
    scale = times.unit * rate * (1 << bits)
    places = []
    for stamp in (times.stamps - times.stamps[0]).tolist():
        steps = (2 * stamp * scale.numerator + scale.denominator) // (2 * scale.denominator)
        places.append(steps / (1 << bits) + (_OFF_MIDPOINT if steps > 0 else -_OFF_MIDPOINT))
    return places


def _lengths(times: FrameTimes, rate: Fraction, *, fps: float) -> list[float]:
    """Duration of each frame in pictures."""
    average = min(float(rate) / fps, 1.0)
    picture = 1.0 / float(rate)
    stated = [_round(ticks * float(times.unit) / picture) for ticks in times.durations.tolist()]
    return [float(length) if length > 0 else average for length in stated]


def _round(value: float) -> int:
    """To the nearest whole number, of two the even one, in the float32 that C's lrintf takes."""
    return round(float(np.float32(value)))


def _fraction(rate: float) -> Fraction:
    """The rate as FFmpeg has it: 29.97... from a header is 30000/1001."""
    return Fraction(rate).limit_denominator(_LARGEST_TERM)
