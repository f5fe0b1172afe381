"""Validation splits made of a training split: a part held out, or one of several folds.

Which part a video falls into is a pure function of the seed and the names of the videos, their classes and groups; the
order of files, the machine and the folder above them have no say. What belongs together (takes of one scene, segments
of one file) falls into one part. Every class is divided as nearly as that allows.
"""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.class_names import listed
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Source, Split
from mvit_video.runtime.formatting import count_text
from mvit_video.video.location import is_remote, same_place

logger = logging.getLogger(__name__)
_MOST_LINES = 30  # of counts per class in the log
_TRAIN, _VAL = 0, 1


def assign_parts(
    names: Sequence[str], labels: Sequence[Sequence[int]], groups: Sequence[str], *, shares: Sequence[float], seed: int
) -> npt.NDArray[np.int64]:
    """Divide videos among parts.

    The groups, largest first and those of equal size in the order of a hash of (seed, name), go one by one to the part
    that is then nearest to its share of the group's classes.

    Args:
        names: of each video, all different.
        labels: classes of each video, at least one.
        groups: of each video; videos of equal group stay together.
        shares: of the parts, adding up to 1. Of a class with at least as many groups as there are parts, each part is
            meant to have one.
        seed: another seed gives another division.

    Returns:
        int64 (videos,): part of each video.
    """
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    classes = {group: Counter(label for row in rows for label in labels[row]) for group, rows in members.items()}
    targets = _targets(classes, shares)
    held: list[Counter[int]] = [Counter() for _ in shares]
    sizes = [0.0 for _ in shares]
    parts = np.zeros(len(names), np.int64)
    # The first name by hash stands for a group, so that what a group is called does not matter.
    keys = {group: min(_hash(seed, names[row]) for row in rows) for group, rows in members.items()}
    for group in sorted(members, key=lambda group: (-len(members[group]), keys[group])):
        counts = classes[group]
        costs = [
            (_cost(part, counts, held, targets), sizes[part] / share, part)
            for part, share in enumerate(shares)
            if share
        ]
        part = min(costs)[2]
        held[part].update(counts)
        sizes[part] += len(members[group])
        parts[members[group]] = part
    return parts


def _targets(classes: dict[str, Counter[int]], shares: Sequence[float]) -> dict[int, list[float]]:
    """How many videos of each class each part should have: its share, but one where there are enough groups."""
    totals: Counter[int] = Counter()
    groups: Counter[int] = Counter()
    for counts in classes.values():
        totals.update(counts)
        groups.update(counts.keys())
    targets = {}
    for label, total in totals.items():
        wanted = [share * total for share in shares]
        if groups[label] >= len(shares):
            wanted = [max(1.0, count) for count in wanted]
            wanted = [count * total / sum(wanted) for count in wanted]
        targets[label] = wanted
    return targets


def _cost(part: int, counts: Counter[int], held: Sequence[Counter[int]], targets: dict[int, list[float]]) -> float:
    """How far the classes of a group are from their targets if it goes to a part, less what that is now."""
    total = 0.0
    for label, count in counts.items():
        missing = targets[label][part] - held[part][label]
        total += ((missing - count) ** 2 - missing**2) / sum(targets[label])
    return round(total, 9)


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{name}".encode("utf-8", "surrogatepass")).digest()


def split_names(manifest: Manifest) -> list[str]:
    """Names of a manifest's entries that are the same on every machine: paths below the folder they share."""
    paths = list(manifest.paths)
    if not any(is_remote(path) for path in paths):
        folders = {os.path.dirname(os.path.abspath(path)) for path in paths}
        base = os.path.commonpath(folders)
        paths = [os.path.relpath(os.path.abspath(path), base) for path in paths]
    if manifest.segments is not None:
        paths = [f"{path} [{segment}]" for path, segment in zip(paths, manifest.segments)]
    seen: Counter[str] = Counter()
    names = []
    for path in paths:  # a video that is listed twice is two entries
        seen[path] += 1
        names.append(path if seen[path] == 1 else f"{path} #{seen[path]}")
    return names


def split_groups(manifest: Manifest, pattern: str | None) -> list[str]:
    """What each entry belongs to: its group, what `pattern` finds in its path, or its file.

    Args:
        pattern: a regular expression; the first of its brackets that finds something (without brackets all of it) is
            the group. None takes the manifest's groups.

    Raises:
        ValueError: it is no regular expression, or finds nothing in a path.
    """
    if pattern is None:
        groups = [""] * len(manifest) if manifest.groups is None else list(manifest.groups)
        return [
            f"group {group}" if group else f"file {same_place(path)}" for group, path in zip(groups, manifest.paths)
        ]
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"data.group_pattern={pattern!r} is no regular expression ({error}); correct it") from error
    found = [_found_group(expression, path) for path in manifest.paths]
    unmatched = [path for path, group in zip(manifest.paths, found) if not group]
    if unmatched:
        raise ValueError(
            f"data.group_pattern={pattern!r}: it finds nothing in {len(unmatched)} of {len(manifest)} paths, the first "
            f"{unmatched[0]}; it must find the group in every path"
        )
    return found


def _found_group(expression: re.Pattern[str], path: str) -> str:
    """The group of a path; empty if nothing is found: the paths without one would be a group of their own."""
    match = expression.search(path)
    if match is None:
        return ""
    return next(filter(None, match.groups()), "") if expression.groups else match[0]


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How a validation split is cut off the training split.

    Attributes:
        holdout: share of the training videos; None for folds.
        folds, fold: number of folds, and which of them (from 0) is the validation.
        seed: of the division; runs that differ in the seed of the training alone share it.
        group_pattern: see `split_groups`.

    Raises:
        ValueError: numbers out of range, or holdout and folds together.
    """

    holdout: float | None = None
    folds: int | None = None
    fold: int | None = None
    seed: int = 0
    group_pattern: str | None = None

    def __post_init__(self) -> None:
        if self.holdout is not None and self.folds is not None:
            raise ValueError("data.holdout and data.folds are both given; give one of them")
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise ValueError(f"data.holdout={self.holdout}: a share of the training split, above 0 and below 1")
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"data.folds={self.folds}: at least 2 folds; 5 is usual")
        if self.folds is not None and (self.fold is None or not 0 <= self.fold < self.folds):
            raise ValueError(f"data.fold={self.fold}: with data.folds={self.folds} it runs from 0 to {self.folds - 1}")
        if self.folds is None and self.fold is not None:
            raise ValueError(f"data.fold={self.fold} without data.folds; give the number of folds, data.folds=5")

    @property
    def enabled(self) -> bool:
        """Whether anything is cut off."""
        return self.holdout is not None or self.folds is not None

    def __str__(self) -> str:
        return f"holdout={self.holdout:g}" if self.holdout is not None else f"fold {self.fold} of {self.folds}"


def divide(manifest: Manifest, options: SplitOptions) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of the training and of the validation, in the manifest's order.

    Raises:
        ValueError: a part would be empty.
    """
    names, groups = split_names(manifest), split_groups(manifest, options.group_pattern)
    if len(set(groups)) < (options.folds or 2):
        raise ValueError(
            f"{manifest.source}: {count_text(len(set(groups)), 'group')} of {manifest.kind.plural} cannot be divided "
            f"into {options.folds or 2} parts ({options}); what belongs together stays together: give finer groups, "
            f"more {manifest.kind.plural}, or fewer folds"
        )
    sets = manifest.label_sets
    labels = [(label,) for label in manifest.labels] if sets is None else list(sets)
    if options.holdout is not None:
        shares = [1 - options.holdout, options.holdout]
        held_out = assign_parts(names, labels, groups, shares=shares, seed=options.seed) == _VAL
    else:
        assert options.folds is not None
        shares = [1 / options.folds] * options.folds
        held_out = assign_parts(names, labels, groups, shares=shares, seed=options.seed) == options.fold
    train, val = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if not len(train) or not len(val):
        raise ValueError(
            f"{manifest.source}: {options} leaves {count_text(len(train), manifest.kind.noun)} for training and "
            f"{len(val)} for validation; give another share, or more {manifest.kind.plural}"
        )
    return train, val


class SplitSource:
    """A source whose validation split is cut off its training split.

    Args:
        source: must have no validation split of its own; its test split stays as it is.
        options: how to cut.

    Raises:
        ValueError: the source has a validation split.
    """

    def __init__(self, source: Source, options: SplitOptions) -> None:
        self._source = source
        self._options = options
        self._parts: dict[str, Manifest] = {}

    def prepare(self) -> None:
        """See Source."""
        self._source.prepare()

    def has(self, split: Split) -> bool:
        """See Source."""
        return self._source.has("train") if self.cuts_off(split) else True

    def manifest(self, split: Split) -> Manifest:
        """See Source. Raises ValueError if a part would be empty, or the source has a validation split already."""
        if not self.cuts_off(split):
            return self._source.manifest(split)
        if not self._parts:
            self._divide()
        return self._parts["train" if split == "train" else "val"]

    def cuts_off(self, split: Split) -> bool:
        """Whether a split is a part of the training split of the source; a test split of its own is not."""
        return split != "test" or not self._has_test()

    def _has_test(self) -> bool:
        return self._source.has("test")

    def _divide(self) -> None:
        if self._source.has("val"):
            raise ValueError(
                f"{self._options} cuts a validation split off the training, but data.source has one already; leave one "
                "of them out (data.source.val=null, or data.holdout=null data.folds=null)"
            )
        whole = self._source.manifest("train")
        if self._options.group_pattern is not None and whole.groups is not None:
            logger.warning(
                "data.group_pattern=%r takes the place of the groups of %s: its groups are not kept together",
                self._options.group_pattern,
                whole.source,
            )
        train, val = divide(whole, self._options)
        for name, rows in (("train", train), ("val", val)):
            source = f"{whole.source} ({name} part, {self._options}, seed {self._options.seed})"
            self._parts[name] = whole.subset(rows, source=source)
        for line in describe(self._parts["train"], self._parts["val"], self._options):
            logger.info("%s", line)


def describe(train: Manifest, val: Manifest, options: SplitOptions) -> list[str]:
    """What fell where, as lines: counts per class, and the classes that a part lacks."""
    groups = [len(set(split_groups(part, options.group_pattern))) for part in (train, val)]
    noun = train.kind.noun
    lines = [
        f"{options} (data.split_seed={options.seed}): {count_text(len(train), noun)} for training, {len(val)} for "
        f"validation; {groups[0]} and {count_text(groups[1], 'group')} that stay together"
    ]
    rows = list(zip(train.class_names, train.counts(), val.counts()))
    for name, ours, theirs in rows[:_MOST_LINES]:
        lines.append(f"  {name}: {ours} for training, {theirs} for validation")
    if len(rows) > _MOST_LINES:
        rest = np.array([pair[1:] for pair in rows[_MOST_LINES:]])
        (a, b), (c, d) = rest.min(0), rest.max(0)
        lines.append(f"  {len(rest)} more classes: {a} to {c} for training, {b} to {d} for validation")
    for part, place in ((train, "training"), (val, "validation")):
        if part.empty_classes():
            empty = part.empty_classes()
            without = f"without {train.kind.one} for {place}"
            lines.append(f"  {without}: {count_text(len(empty), 'class')} ({listed(empty)})")
    return lines
