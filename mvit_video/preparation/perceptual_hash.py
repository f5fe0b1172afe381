"""A few bytes that tell what a video looks like, nearly the same for copies of other sizes, codecs and qualities.

Each of eight frames, at fixed places of the video's length, becomes a difference hash: the picture's luma is averaged
over 8 x 9 fields, and a bit says whether a field is clearly brighter than its left neighbour. 64 bytes per video.
"""

from collections.abc import Sequence

import av
import numpy as np
import numpy.typing as npt

from mvit_video.video.index import Orientation

FRAMES = 8
ROWS, COLUMNS = 8, 9
_MARGIN = 2.0  # grey levels: what coding noise changes in a flat area is not a feature


def signature_frames(num_frames: int) -> list[int]:
    """The frames that are hashed: in the middle of each of eight equal parts."""
    return [(2 * place + 1) * num_frames // (2 * FRAMES) for place in range(FRAMES)]


def luma(frame: av.VideoFrame, orientation: Orientation) -> npt.NDArray[np.uint8]:
    """The presented picture in grey: uint8 (H, W)."""
    grey = np.asarray(frame.reformat(format="gray", threads=1).to_ndarray(), np.uint8)
    return orientation.apply(grey[..., None])[..., 0]


def difference_hash(grey: npt.NDArray[np.uint8]) -> int:
    """The 64 bits of a picture (H, W)."""
    fields = field_means(grey)
    bits = fields[:, 1:] - fields[:, :-1] > _MARGIN
    return int.from_bytes(np.packbits(bits.ravel()).tobytes(), "big")


def field_means(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Means over 8 x 9 fields of a picture (H, W) of any size: float64 (8, 9)."""
    rows = _edges(grey.shape[0], ROWS)
    columns = _edges(grey.shape[1], COLUMNS)
    sums = np.add.reduceat(grey, rows[0], axis=0, dtype=np.float64)
    sums = np.add.reduceat(sums, columns[0], axis=1)
    return sums / np.outer(rows[1], columns[1])


def _edges(size: int, parts: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """First line of each part and the number of its lines; a picture with fewer lines repeats them."""
    first = np.arange(parts) * size // parts
    ends = np.append(first[1:], size)
    # reduceat takes the one line at `first` where a part has none.
    return first, np.maximum(ends - first, 1)


def to_text(hashes: Sequence[int]) -> str:
    """Eight hashes as hexadecimal text."""
    assert len(hashes) == FRAMES
    return "".join(f"{value:016x}" for value in hashes)


def from_texts(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Signatures as numbers: uint64 (videos, 8)."""
    raw = bytes.fromhex("".join(texts))
    return np.frombuffer(raw, ">u8").reshape(-1, FRAMES).astype(np.uint64)
