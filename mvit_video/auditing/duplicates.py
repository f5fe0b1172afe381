"""The same video twice, byte for byte: on both sides of the split, under two classes, or once too often."""

from collections.abc import Sequence
from dataclasses import dataclass

from mvit_video.auditing.entries import Entries
from mvit_video.auditing.verdict import Verdict, counted

SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """One content that several entries have.

    Attributes:
        videos: (split, path) of each.
        classes: all of their classes.
        across: some are trained on and some audited.
        conflicting: they have different classes.
    """

    videos: tuple[tuple[str, str], ...]
    classes: tuple[str, ...]
    across: bool
    conflicting: bool


@dataclass(frozen=True, kw_only=True)
class DuplicateFindings:
    """Attributes:
    duplicates: those across the splits first, then the conflicting ones.
    not_compared: paths of videos behind URLs, folders of pictures and files that cannot be read.
    """

    duplicates: tuple[Duplicate, ...]
    not_compared: tuple[str, ...]

    @property
    def across(self) -> int:
        """How many contents are on both sides of the split."""
        return sum(one.across for one in self.duplicates)

    @property
    def conflicting(self) -> int:
        """How many contents have several classes."""
        return sum(one.conflicting for one in self.duplicates)


def duplicate_findings(entries: Entries, file_keys: Sequence[str], not_compared: Sequence[int]) -> DuplicateFindings:
    """Group the entries of equal content.

    Args:
        entries: both splits.
        file_keys: of each entry's file, equal for equal bytes; see `file_keys_of`.
        not_compared: places of the entries whose bytes are not known.
    """
    members: dict[tuple[str, str], list[int]] = {}
    for place, key in enumerate(file_keys):
        members.setdefault((key, str(entries.segment(place))), []).append(place)
    found = []
    for places in members.values():
        if len(places) < 2:
            continue
        classes = [entries.classes(place) for place in places]
        found.append(
            Duplicate(
                videos=tuple((entries.split_of(place), entries.shown(place)) for place in places),
                classes=tuple(sorted({name for names in classes for name in names})),
                across=len({entries.in_training(place) for place in places}) == 2,
                conflicting=len(set(classes)) > 1,
            )
        )
    found.sort(key=lambda one: (not one.across, not one.conflicting))
    return DuplicateFindings(
        duplicates=tuple(found), not_compared=tuple(sorted({entries.path(place) for place in not_compared}))
    )


def file_keys_of(entries: Entries, digests: Sequence[str]) -> list[str]:
    """A key for each entry's file: of its bytes where another file has the same size, else its path."""
    return [digest or f"path {entries.path(place)}" for place, digest in enumerate(digests)]


def duplicate_verdict(found: DuplicateFindings, *, split: str) -> Verdict:
    """What the duplicates come to."""
    total, steps, parts = len(found.duplicates), [], []
    if found.across:
        parts.append(
            f"{counted(found.across, 'video is', 'videos are')} in the training and in {split}, byte for byte."
        )
        steps.append("remove these videos from one of the splits")
    if found.conflicting:
        parts.append(f"{counted(found.conflicting, 'video is', 'videos are')} there under several classes.")
        steps.append("correct the labels, or give a video all of its classes (task=video_multilabel)")
    rest = sum(not one.across and not one.conflicting for one in found.duplicates)
    if rest:
        parts.append(f"{counted(rest, 'video is', 'videos are')} several times in one split, under one class.")
        steps.append("keep one of each, unless they are meant to count more")
    if not total:
        parts.append("No video is there twice.")
    if found.not_compared:
        parts.append(
            f"{counted(len(found.not_compared), 'video')} could not be compared: behind URLs, folders of pictures, or "
            "not readable."
        )
    level = "bad" if found.across or found.conflicting else "look" if total else "fine"
    return Verdict(level=level, text=" ".join(parts), next_step="; ".join(steps))  # type: ignore[arg-type]
