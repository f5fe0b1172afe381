"""COCO's compressed run lengths, read without its code: that trusts them, and draws what memory holds where they end.

A number is written in groups of five bits, lowest first, each a character from 48 on; bit 6 says that another group
follows, and the highest bit of the last one is the sign. From the fourth number on, a number is the difference to the
last but one (pycocotools common/maskApi.c, rleToString).
"""

import numpy as np
import numpy.typing as npt


def runs_problem(text: bytes, size: tuple[int, int]) -> str:
    """What is wrong with the run lengths of a bitmap (height, width); empty if nothing is."""
    try:
        runs = parsed_runs(text)
    except ValueError as error:
        return str(error)
    return lengths_problem(runs, size)


def lengths_problem(runs: npt.NDArray[np.int64], size: tuple[int, int]) -> str:
    """Likewise of the plain numbers."""
    if (runs < 0).any():
        return f"a run of {runs.min()} pixels"
    if runs.sum() != size[0] * size[1]:
        return f"runs of {runs.sum()} pixels in all for {size[0] * size[1]} of {size[1]}x{size[0]}"
    return ""


def parsed_runs(text: bytes) -> npt.NDArray[np.int64]:
    """The lengths of the runs, background first. ValueError for what no such text can be."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if ((codes < 0) | (codes >= 64)).any():
        raise ValueError("run lengths with a character that they do not have")
    last = (codes & 32) == 0
    if not len(codes) or not last[-1]:
        raise ValueError("run lengths that are cut off" if len(codes) else "run lengths without a character")
    begins = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    groups = np.diff(np.concatenate([begins, [len(codes)]]))
    if groups.max() > 7:
        raise ValueError("a run length of more than 35 bits")
    place = np.arange(len(codes)) - np.repeat(begins, groups)
    numbers = np.add.reduceat((codes & 31) << (5 * place), begins)
    numbers -= np.where(codes[last] & 16, np.int64(1) << (5 * groups), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
