"""Look at every video of both splits: bytes, frames, and which of them are takes of one recording."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mvit_video.auditing.duplicates import DuplicateFindings, duplicate_findings, file_keys_of
from mvit_video.auditing.entries import Entries
from mvit_video.auditing.fingerprints import Fingerprints, default_threads, fingerprints
from mvit_video.auditing.identical import content_keys
from mvit_video.auditing.recordings import Comparison, compare, num_blocks
from mvit_video.auditing.takes import TakeFindings, join_recordings, take_findings, trained_on


@dataclass(frozen=True, kw_only=True)
class SurveyOptions:
    """How to look.

    Attributes:
        takes: look for takes of one recording.
        frames: of each video that are compared.
        similarity: from which two videos count as takes of one recording.
        time_limit_s: seconds after which a video counts as unreadable; None for no limit.
    """

    takes: bool = True
    frames: int = 5
    similarity: float = 0.75
    time_limit_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was seen.

    Attributes:
        duplicates: videos of the same bytes.
        takes: takes of one recording; None where they were not looked for.
        recordings: int64 (entries,), equal for videos of one recording, as far as was found.
        seen: bool (audited,), whether the recording of each audited video is in the training.
    """

    duplicates: DuplicateFindings
    takes: TakeFindings | None
    recordings: npt.NDArray[np.int64]
    seen: npt.NDArray[np.bool_]


def survey(entries: Entries, options: SurveyOptions, *, device: torch.device) -> Survey:
    """Look at the videos; bars show how far it is.

    Args:
        entries: both splits.
        options: how to look.
        device: to compare on.
    """
    locations = [manifest.location(index) for manifest, index in map(entries.where, range(len(entries)))]
    with _bar("comparing bytes", len(entries)) as done:
        digests, unknown = content_keys(locations, threads=default_threads(), on_progress=done)
    keys = file_keys_of(entries, digests)
    twice = duplicate_findings(entries, keys, unknown)
    if not options.takes:
        recordings = join_recordings(entries, None, keys)
        return Survey(duplicates=twice, takes=None, recordings=recordings, seen=trained_on(entries, recordings))
    prints, comparison = _compared(entries, options, device)
    recordings = join_recordings(entries, comparison, keys)
    found = take_findings(entries, comparison, prints, recordings, threshold=options.similarity)
    return Survey(duplicates=twice, takes=found, recordings=recordings, seen=trained_on(entries, recordings))


def _compared(entries: Entries, options: SurveyOptions, device: torch.device) -> tuple[Fingerprints, Comparison]:
    """Look at frames of every video, and compare every video with every other."""
    with _bar("looking at frames", len(entries)) as done:
        prints = fingerprints(
            (entries.train, entries.audited),
            frames=options.frames,
            time_limit_s=options.time_limit_s,
            threads=default_threads(),
            on_progress=done,
        )
    with _bar("comparing videos", num_blocks(len(entries))) as done:
        comparison = compare(
            prints, first_part=len(entries.train), threshold=options.similarity, device=device, on_progress=done
        )
    return prints, comparison


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda done: progress.advance(bar, done)
        progress.update(bar, completed=total)
