"""Takes of one recording on both sides of the split: what was found, and which videos of the split are touched."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvit_video.auditing.entries import Entries
from mvit_video.auditing.fingerprints import Fingerprints
from mvit_video.auditing.recordings import Comparison, Groups
from mvit_video.auditing.verdict import Verdict, counted


@dataclass(frozen=True, kw_only=True)
class FoundPair:
    """A training video and an audited one that look like takes of one recording.

    Attributes:
        train, audited: their paths.
        train_class, audited_class: their classes.
        similarity: from 0 to 1.
        places: of the two among all entries.
    """

    train: str
    audited: str
    train_class: str
    audited_class: str
    similarity: float
    places: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class TakeFindings:
    """Attributes:
    pairs: named ones, nearest first.
    num_pairs: all of them.
    touched: audited videos whose recording is trained on, by looks, bytes, file or stated group.
    audited: all audited videos.
    recordings: groups of videos over both splits.
    largest: videos in the largest of them.
    one_recording: classes with several videos, all of one recording.
    plain: videos without structure, which cannot be compared.
    unreadable: (path, reason) of the videos that could not be read.
    threshold: similarity from which two videos count as takes of one recording.
    frames: looked at in each video.
    """

    pairs: tuple[FoundPair, ...]
    num_pairs: int
    touched: int
    audited: int
    recordings: int
    largest: int
    one_recording: tuple[str, ...]
    plain: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    threshold: float
    frames: int


def join_recordings(entries: Entries, comparison: Comparison | None, file_keys: Sequence[str]) -> npt.NDArray[np.int64]:
    """Which entries belong to one recording: by looks, by bytes, by file, by the groups that the data set states.

    Returns:
        int64 (entries,): the smallest place in the group of each.
    """
    groups = Groups(len(entries))
    if comparison is not None:
        groups.join_equal([str(group) for group in comparison.groups])
    groups.join_equal(file_keys)
    groups.join_equal([entries.group(place) for place in range(len(entries))])
    return groups.of


def trained_on(entries: Entries, recordings: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(audited,): whether the recording of each audited video has a take in the training."""
    return np.isin(entries.audited_rows(recordings), recordings[: len(entries.train)])


def take_findings(
    entries: Entries,
    comparison: Comparison,
    prints: Fingerprints,
    recordings: npt.NDArray[np.int64],
    *,
    threshold: float,
) -> TakeFindings:
    """Put names to what the comparison found."""
    sizes = Counter(recordings.tolist())
    return TakeFindings(
        pairs=tuple(
            FoundPair(
                train=entries.shown(pair.first),
                audited=entries.shown(pair.second),
                train_class=" | ".join(entries.classes(pair.first)),
                audited_class=" | ".join(entries.classes(pair.second)),
                similarity=round(pair.similarity, 3),
                places=(pair.first, pair.second),
            )
            for pair in comparison.pairs
        ),
        num_pairs=comparison.num_pairs,
        touched=int(trained_on(entries, recordings).sum()),
        audited=len(entries.audited),
        recordings=len(sizes),
        largest=max(sizes.values()),
        one_recording=_one_recording(entries, recordings),
        plain=tuple(entries.shown(int(place)) for place in np.flatnonzero(prints.plain)),
        unreadable=tuple((entries.path(place), reason) for place, reason in prints.failures.items()),
        threshold=threshold,
        frames=prints.numbers.shape[1],
    )


def _one_recording(entries: Entries, recordings: npt.NDArray[np.int64]) -> tuple[str, ...]:
    """The classes with several videos, all of one recording."""
    videos: Counter[str] = Counter()
    of: dict[str, set[int]] = {}
    for place, recording in enumerate(recordings.tolist()):
        for name in entries.classes(place):
            videos[name] += 1
            of.setdefault(name, set()).add(recording)
    return tuple(name for name in entries.train.class_names if videos[name] > 1 and len(of[name]) == 1)


def take_verdict(found: TakeFindings, *, split: str, videos: int) -> Verdict:
    """What the takes come to.

    Args:
        found: the findings.
        split: name of the audited split.
        videos: of both splits.
    """
    blind = ""
    if found.plain or found.unreadable:
        count = len(found.plain) + len(found.unreadable)
        blind = f" {counted(count, 'video')} could not be compared: too little structure, or not readable."
    if not found.touched:
        text = f"No video of {split} looks like a take of a recording that is in the training."
        return Verdict(level="look" if blind else "fine", text=text + blind)
    share = 100 * found.touched / found.audited
    text = (
        f"{found.touched} of the {found.audited} videos of {split} ({share:.0f} %) look like takes of recordings that "
        f"are in the training ({counted(found.num_pairs, 'pair')}). The model has seen their scenes: what it gets "
        "right there says little about new recordings."
    )
    if found.largest > 0.5 * videos:
        text += (
            f" {found.largest} of all {videos} videos hang together: a fixed camera, or a picture that all of them "
            "show, would do that too, and then no split by recording is possible."
        )
    return Verdict(
        level="bad",
        text=text + blind,
        next_step="look at the pairs; if they are takes of one recording, split again by the groups found",
    )
