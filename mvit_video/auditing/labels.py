"""Classes as the two splits have them: names that look like one class, classes without videos, too few, uneven."""

from dataclasses import dataclass

import numpy as np

from mvit_video.auditing.entries import Entries
from mvit_video.auditing.verdict import Verdict, counted
from mvit_video.data.datasets.class_names import alike, listed

FEW_TRAIN = 10  # training videos of a class
FEW_AUDITED = 5  # audited videos of a class: one of them more or less is 20 points of its accuracy
UNEVEN = 10.0  # largest class by smallest, of the training


@dataclass(frozen=True, kw_only=True)
class LabelFindings:
    """Attributes:
    counts: class name -> videos for training and in the audited split.
    alike: names that differ in upper and lower case or in spaces alone.
    never_trained: classes that the audited split has videos of, and the training none.
    empty_in_training, empty_in_split: classes without a video there.
    few_in_training, few_in_split: classes with a few.
    ratio: training videos of the largest class by those of the smallest that has any.
    largest: the class with most training videos.
    always_largest: per cent of the audited videos that are of that class; None where videos have several classes.
    """

    counts: dict[str, tuple[int, int]]
    alike: tuple[tuple[str, ...], ...]
    never_trained: tuple[str, ...]
    empty_in_training: tuple[str, ...]
    empty_in_split: tuple[str, ...]
    few_in_training: tuple[str, ...]
    few_in_split: tuple[str, ...]
    ratio: float
    largest: str
    always_largest: float | None


def label_findings(entries: Entries) -> LabelFindings:
    """Look at the classes of both splits; the audited split has those of the training."""
    names, ours, theirs = entries.train.class_names, entries.train.counts(), entries.audited.counts()
    rows = list(zip(names, ours, theirs))
    largest = int(np.argmax(ours))
    several = entries.audited.label_sets is not None
    return LabelFindings(
        counts={name: (a, b) for name, a, b in rows},
        alike=tuple(alike(names)),
        never_trained=tuple(name for name, a, b in rows if b and not a),
        empty_in_training=tuple(name for name, a, _ in rows if not a),
        empty_in_split=tuple(name for name, _, b in rows if not b),
        few_in_training=tuple(name for name, a, _ in rows if 0 < a < FEW_TRAIN),
        few_in_split=tuple(name for name, _, b in rows if 0 < b < FEW_AUDITED),
        ratio=max(ours) / min(count for count in ours if count),
        largest=names[largest],
        always_largest=None if several else 100.0 * theirs[largest] / len(entries.audited),
    )


def label_verdict(found: LabelFindings, *, split: str) -> Verdict:
    """What the classes come to."""
    problems, steps = [], []
    if found.never_trained:
        classes = counted(len(found.never_trained), "class", "classes")
        problems.append(f"{split} has videos of {classes} without a training video: {listed(found.never_trained)}.")
        steps.append("add training videos of these classes, or leave the classes out")
    if found.alike:
        pairs = "; ".join(" and ".join(map(repr, names)) for names in found.alike)
        problems.append(f"Names that most likely mean one class: {pairs}.")
        steps.append("give them one name, and train again")
    bad = bool(problems)
    if found.few_in_split:
        problems.append(
            f"{counted(len(found.few_in_split), 'class has', 'classes have')} fewer than {FEW_AUDITED} videos in "
            f"{split}: their own accuracies say little."
        )
    if found.few_in_training:
        few = counted(len(found.few_in_training), "class has", "classes have")
        problems.append(f"{few} fewer than {FEW_TRAIN} training videos.")
        steps.append("collect more videos of these classes, or train a part of the model (docs/few.md)")
    unused = [name for name in found.empty_in_training if name not in found.never_trained]
    if unused:
        problems.append(f"{counted(len(unused), 'class has', 'classes have')} no video at all: {listed(unused)}.")
    if found.ratio >= UNEVEN:
        problems.append(f"The largest class has {found.ratio:.0f} times the training videos of the smallest.")
        steps.append("look at the mean over classes, and try data.sampling_weights=square_root (docs/few.md)")
    if not problems:
        return Verdict(level="fine", text="Every class has videos enough in both splits, and no two names look alike.")
    return Verdict(level="bad" if bad else "look", text=" ".join(problems), next_step="; ".join(steps))
