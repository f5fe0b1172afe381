"""YUV pictures converted straight into memory of ours, by the very library that PyAV converts with.

PyAV's interface makes a new picture of each conversion, whose bytes then have to be copied to where they are wanted; at
the size of training videos the copy takes half as long as the conversion. FFmpeg's libswscale writes anywhere. PyAV
brings it, so its functions are there to be called; those used here have been the same for more than ten years.

What another build of it does nobody knows, so nothing is taken on trust: before a size and kind of picture is converted
this way for the first time in a process, noise of that size and kind is converted in both ways, between guard bytes. If
a byte differs or lies far outside, or a function is missing, PyAV's way is taken.
"""

import ctypes
import functools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import av
import av.video.reformatter
import numpy as np
import numpy.typing as npt
from av.video.plane import VideoPlane

_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_BILINEAR = 2  # SWS_BILINEAR; without scaling, what chooses between the library's ways of conversion
_ONE = 1 << 16  # contrast and saturation, 16.16 fixed point
_GUARD = 4096
_MOST_OVER = 64  # bytes that may be written behind a picture
_STEP = 16  # pixels that vector code makes at a time
_KEPT = 32  # conversions per thread, some 20 KB each
_local = threading.local()
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int
_SIGNATURES = {  # name: (result, arguments)
    "av_get_pix_fmt": (_INT, (ctypes.c_char_p,)),
    "sws_getContext": (_POINTER, (_INT,) * 7 + (_POINTER,) * 3),
    "sws_freeContext": (None, (_POINTER,)),
    "sws_getCoefficients": (_POINTER, (_INT,)),
    "sws_setColorspaceDetails": (_INT, (_POINTER, _POINTER, _INT, _POINTER) + (_INT,) * 4),
    "sws_scale": (_INT, (_POINTER, _POINTER, _POINTER, _INT, _INT, _POINTER, _POINTER)),
}

Clip = npt.NDArray[np.uint8]


class Kind(NamedTuple):
    """What a conversion to RGB without scaling depends on.

    Attributes:
        pixels: FFmpeg's name of the pixel format: 8 bit, three planes, a colour sample for 2x2 pixels.
        height, width: in pixels.
        space: AVColorSpace (ITU-T H.273, table 4), one that the conversion knows.
        range: AVColorRange; 2 is brightness from 0 to 255 rather than 16 to 235.
    """

    pixels: str
    height: int
    width: int
    space: int
    range: int

    @property
    def is_full(self) -> bool:
        return self.range == _FULL_RANGE or self.pixels.startswith("yuvj")


class Way(NamedTuple):
    """How a kind of picture comes out right.

    Vector code makes 8 or 16 pixels at a time. Where the next line follows at once, and lines are no multiple of that,
    it may go on into that line, which is made later, or leave the last pixels out. These it makes too if it is told
    that lines are longer than they are.

    Attributes:
        width: pixels to convert of each line; those beyond the picture's width must be there to be read.
        over: bytes behind the picture that change.
    """

    width: int
    over: int


class _Conversion:
    """libswscale's conversion of one kind of picture. RuntimeError if it does not take that kind."""

    def __init__(self, library: ctypes.CDLL, kind: Kind, way: Way) -> None:
        self._library = library
        self._way = way
        self._height = kind.height
        source, target = (library.av_get_pix_fmt(name) for name in (kind.pixels.encode(), b"rgb24"))
        size = way.width, kind.height
        self._pointer = library.sws_getContext(*size, source, *size, target, _BILINEAR, None, None, None)
        if not self._pointer:
            raise RuntimeError(f"no conversion of {kind}")
        weights = library.sws_getCoefficients(kind.space)
        library.sws_setColorspaceDetails(self._pointer, weights, int(kind.is_full), weights, 0, 0, _ONE, _ONE)
        self._from, self._from_pitch = (_POINTER * 4)(), (_INT * 4)()
        self._to, self._to_pitch = (_POINTER * 4)(), (_INT * 4)(3 * kind.width)

    def __del__(self) -> None:
        if getattr(self, "_pointer", None):
            self._library.sws_freeContext(self._pointer)

    def run(self, planes: Sequence[VideoPlane], address: int, behind: Clip) -> bool:
        """Write a picture to `address` and on.

        Args:
            planes: of the picture.
            address: where to.
            behind: what follows there, from the end of the picture on.

        Returns:
            False if this cannot be done.
        """
        width, over = self._way
        if len(behind) < over:
            return False
        for number, plane in enumerate(planes):
            pitch = plane.line_size
            if (2 * pitch if number else pitch) < width:  # too short, or below 0: upside down, from another pointer on
                return False
            self._from[number], self._from_pitch[number] = plane.buffer_ptr, pitch
        self._to[0] = address
        kept = behind[:over].copy() if over else None  # of the next picture, which may be there already
        height = self._height
        arguments = self._from, self._from_pitch, 0, height, self._to, self._to_pitch
        done = self._library.sws_scale(self._pointer, *arguments) == height
        if kept is not None:
            behind[:over] = kept
        return bool(done)


class ClipWriter:
    """Writes pictures into a clip, as the bytes that `VideoReformatter` would make of them.

    Args:
        clip: uint8 (N, H, W, 3).
    """

    def __init__(self, clip: Clip) -> None:
        self._size = clip.shape[1:3]
        self._step = int(np.prod(clip.shape[1:]))
        self._flat = clip.reshape(-1) if clip.flags.c_contiguous else None
        self._start = clip.ctypes.data
        self._kind: Kind | None = None
        self._conversion: _Conversion | None = None

    def write(self, frame: av.VideoFrame, row: int) -> bool:
        """Write a picture (8 bit, three planes, a colour space that the conversion knows) to a row.

        Returns:
            False if it has to be converted the other way; its place in the clip may hold anything then.
        """
        height, width = frame.height, frame.width
        if self._flat is None or (height, width) != self._size or frame.interlaced_frame:  # its fields are apart
            return False
        kind = Kind(frame.format.name, height, width, frame.colorspace, frame.color_range)
        if kind != self._kind:
            self._kind, self._conversion = kind, _conversion(kind)
        if self._conversion is None:
            return False
        start = row * self._step
        return self._conversion.run(frame.planes, self._start + start, self._flat[start + self._step :])


def _conversion(kind: Kind) -> _Conversion | None:
    """This thread's conversion of a kind; None if there is none to be trusted."""
    known: OrderedDict[Kind, _Conversion | None] | None = getattr(_local, "conversions", None)
    if known is None:
        known = _local.conversions = OrderedDict()
    if kind in known:
        known.move_to_end(kind)
    else:
        library, way = _library(), way_of(kind)
        known[kind] = None if library is None or way is None else _Conversion(library, kind, way)
        if len(known) > _KEPT:
            known.popitem(last=False)
    return known[kind]


@functools.cache
def way_of(kind: Kind) -> Way | None:
    """How to convert a kind, found by trying; None if no way makes what PyAV makes of it.

    Pictures of odd height are none of these: their colour is interpolated, which depends on where between the pixels a
    picture says that it belongs.
    """
    library = _library()
    if library is None or kind.height % 2:
        return None
    frame = noise(kind)
    reformatter = av.video.reformatter.VideoReformatter()
    converted = reformatter.reformat(frame, format="rgb24", interpolation=_BILINEAR, threads=1)
    expected = np.asarray(converted.to_ndarray(), np.uint8)
    for width in (kind.width, -(-kind.width // _STEP) * _STEP):
        try:
            over = _bytes_behind(_Conversion(library, kind, Way(width, 0)), frame, expected)
        except RuntimeError:
            return None
        if over is not None:
            return Way(width, over)
    return None


def _bytes_behind(conversion: _Conversion, frame: av.VideoFrame, expected: Clip) -> int | None:
    """How many bytes behind it a picture may change; None if it is not as expected, or others change."""
    memory = np.full(_GUARD + expected.size + _GUARD, 0xA5, np.uint8)
    before, picture, behind = np.split(memory, [_GUARD, _GUARD + expected.size])
    if not conversion.run(frame.planes, picture.ctypes.data, behind):
        return None
    if not np.array_equal(picture, expected.reshape(-1)):
        return None
    if (before != 0xA5).any() or (behind[_MOST_OVER:] != 0xA5).any():
        return None
    return _MOST_OVER if (behind != 0xA5).any() else 0


def noise(kind: Kind) -> av.VideoFrame:
    """A picture of a kind, the same every time, in which everything that the kind says matters."""
    frame = av.VideoFrame(kind.width, kind.height, kind.pixels)
    generator = np.random.default_rng(0)
    for plane in frame.planes:
        plane.update(generator.bytes(plane.buffer_size))
    frame.colorspace, frame.color_range = kind.space, kind.range
    return frame


@functools.cache
def _library() -> ctypes.CDLL | None:
    """libswscale and libavutil as PyAV loaded them: a look-up in its module goes on to what the module is linked to."""
    try:
        library = ctypes.CDLL(av.video.reformatter.__file__)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return library
