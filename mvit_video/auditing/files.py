"""The files beside the page: groups to train with, all pairs that were found, and pictures of some of them."""

import io
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from mvit_video.auditing.entries import Entries
from mvit_video.auditing.fingerprints import read_places
from mvit_video.auditing.takes import FoundPair
from mvit_video.data.loading.dataset import DecodeOptions
from mvit_video.engine.contact_sheet import Row, Sheet, save_picture, shorten
from mvit_video.runtime.csv_rows import CsvRows
from mvit_video.runtime.files import write_text
from mvit_video.runtime.formatting import option_text

LABEL_SEPARATOR = "|"
_HEIGHT, _WIDTH = 135, 240  # pixels of a picture on the sheet
_SHOWN = 8  # pairs on the sheet
# Words of the training's command that the groups replace.
_REPLACED = re.compile(
    r"\+{0,2}(data\.source\.|data/source=|data\.holdout=|data\.folds?=|data\.group_pattern=|name=|resume=)"
)


def group_names(recordings: npt.NDArray[np.int64]) -> list[str]:
    """A name for the recording of every entry, by the order in which they come."""
    numbers: dict[int, int] = {}
    for recording in recordings.tolist():
        numbers.setdefault(recording, len(numbers) + 1)
    digits = max(4, len(str(len(numbers))))
    return [f"r{numbers[recording]:0{digits}d}" for recording in recordings.tolist()]


def write_groups(path: Path, entries: Entries, recordings: npt.NDArray[np.int64]) -> None:
    """A table of all videos of both splits with their recordings, as the source `table` reads it.

    The column `was_in` names the split that a video was in; the source does not read it.
    """
    segments = any(not entries.segment(place).whole for place in range(len(entries)))
    weighed = entries.train.weights is not None or entries.audited.weights is not None
    head = [
        "path",
        "label",
        *(["start", "end"] if segments else []),
        "group",
        *(["weight"] if weighed else []),
        "was_in",
    ]
    text = io.StringIO()
    writer = CsvRows(text)
    writer.writerow(head)
    for place, group in enumerate(group_names(recordings)):
        start, end = entries.segment(place)
        times = [f"{start:.6f}", "" if math.isinf(end) else f"{end:.6f}"] if segments else []
        manifest, index = entries.where(place)
        weight = [1.0 if manifest.weights is None else manifest.weights[index]] if weighed else []
        label = LABEL_SEPARATOR.join(entries.classes(place))
        writer.writerow([entries.path(place), label, *times, group, *weight, entries.split_of(place)])
    write_text(path, text.getvalue())


def write_pairs(path: Path, pairs: Sequence[FoundPair], *, split: str) -> None:
    """A table of the pairs, nearest first."""
    text = io.StringIO()
    writer = CsvRows(text)
    writer.writerow(["similarity", "train", "train_class", split, f"{split}_class"])
    for pair in pairs:
        writer.writerow([f"{pair.similarity:.3f}", pair.train, pair.train_class, pair.audited, pair.audited_class])
    write_text(path, text.getvalue())


def regroup_options(entries: Entries, table: Path) -> list[str] | None:
    """The options that train and validate on the groups of a table; None where a table cannot list the videos."""
    if entries.train.shard_of is not None or entries.audited.shard_of is not None:
        return None
    share = len(entries.audited) / len(entries)
    words = [
        "data/source=table",
        option_text("data.source.table", str(table)),
        f"data.holdout={min(0.5, max(0.05, share)):.2g}",
    ]
    if entries.train.frame_rate is not None:
        words.append(f"data.source.frame_rate={entries.train.frame_rate:g}")
    if entries.train.label_sets is not None:
        words.append(f"data.source.label_separator='{LABEL_SEPARATOR}'")
    if all(re.fullmatch(r"[0-9]{1,9}", name) for name in entries.train.class_names):
        words.append("data.source.labels=names")
    return words


def regroup_command(options: Sequence[str], *, trained_with: str, name: str) -> str:
    """The command that trains again on another split.

    Args:
        options: that say so.
        trained_with: the command of the run; empty, or of a sweep, where it is not known what belongs to this run.
        name: of the run.
    """
    own = [option_text("name", f"{name}-by-recording"), *options]
    words = shlex.split(trained_with) if trained_with else []
    start = next((place + 1 for place, word in enumerate(words) if word == "mvit_video.train"), None)
    if start is None or {"--multirun", "-m"} & set(words[start:]):
        return shlex.join(["python", "-m", "mvit_video.train", *own]) + "   # and the other options of the training"
    kept = [word for word in words[start:] if not _REPLACED.match(word)]
    return shlex.join(["python", "-m", "mvit_video.train", *kept, *own])


def pairs_shown(pairs: Sequence[FoundPair]) -> list[FoundPair]:
    """Some pairs of different audited videos: the nearest, and the farthest, which are the doubtful ones."""
    nearest: dict[str, FoundPair] = {}
    for pair in pairs:
        nearest.setdefault(pair.audited, pair)
    every = list(nearest.values())
    return every if len(every) <= _SHOWN else [*every[: _SHOWN // 2], *every[-(_SHOWN // 2) :]]


def write_sheet(
    path: Path, entries: Entries, pairs: Sequence[FoundPair], *, frames: int, decoding: DecodeOptions
) -> None:
    """Pictures of some pairs, the frames that were compared: the audited video above the one of the training."""
    rows = []
    for number, pair in enumerate(pairs_shown(pairs), start=1):
        for place, name, path_shown in (
            (pair.places[1], pair.audited_class, pair.audited),
            (pair.places[0], pair.train_class, pair.train),
        ):
            title = f"{number}. {entries.split_of(place)}: {name}"
            caption = (title, f"{shorten(path_shown, 100)}  ·  similarity {pair.similarity:.3f}")
            manifest, index = entries.where(place)
            _, pictures = read_places(manifest, index, frames=frames, decoding=decoding, size=None)
            rows.append(Row(caption, _fitted(pictures)))
    heading = f"Pairs that look like takes of one recording: {entries.split} above, train below"
    save_picture(Sheet(heading=heading, rows=rows, columns=frames).draw(), path)


def _fitted(pictures: torch.Tensor) -> npt.NDArray[np.uint8]:
    """uint8 (N, H, W, 3) scaled into one size, with white beside or above."""
    height, width = pictures.shape[1:3]
    factor = min(_HEIGHT / height, _WIDTH / width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    small = F.interpolate(pictures.permute(0, 3, 1, 2).float(), size, mode="bilinear", antialias=True)
    canvas = torch.full((len(pictures), _HEIGHT, _WIDTH, 3), 255, dtype=torch.uint8)
    canvas[:, : size[0], : size[1]] = small.round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)
    return np.asarray(canvas.numpy())
