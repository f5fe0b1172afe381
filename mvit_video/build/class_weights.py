"""Weights of classes that options give by name."""

from collections.abc import Mapping, Sequence

from mvit_video.config.nearest import did_you_mean
from mvit_video.config.task import WEIGHTINGS, quoted_names, read_weighting
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.tasks.classification import balanced_class_weights

Weighting = str | Mapping[str, float]  # none, balanced, or weights by name, also as text
_CLASSES_SHOWN = 50


def weights_by_name(given: Weighting, class_names: Sequence[str], *, option: str) -> list[float] | None:
    """One weight per class, 1 for those that are not given; None where no weights are given by name.

    Args:
        given: the option's value, names as a mapping or as text of one.
        class_names: of the training.
        option: what it is called on the command line.

    Raises:
        ValueError: a name is no class.
    """
    if given in WEIGHTINGS:
        return None
    mapping = read_weighting(given)
    by_name = {str(name): float(weight) for name, weight in mapping.items()}  # a command line reads 7 as a number
    for name in by_name:
        if name not in class_names:
            hint = "" if all(isinstance(key, str) for key in mapping) else f"; {quoted_names(option)}"
            raise ValueError(
                f"{option}: no class is called {name!r}; {did_you_mean(name, class_names, kind='classes')}{hint}"
            )
    return [by_name.get(name, 1.0) for name in class_names]


def loss_weights(given: Weighting, split: Manifest) -> Sequence[float] | None:
    """The option task.class_weights as one weight per class; None for 1 each.

    Raises:
        ValueError: a name is no class.
    """
    if given == "balanced":
        return balanced_class_weights(split.counts())
    return weights_by_name(given, split.class_names, option="task.class_weights")


def weights_text(manifest: Manifest, weights: Sequence[float]) -> str:
    """The weight of each class, and how many files it has."""
    counts, files = manifest.counts(), manifest.kind.plural
    rows = [f"{name} {weights[i]:.3g} ({counts[i]} {files})" for i, name in enumerate(manifest.class_names)]
    return shortened(rows)


def shortened(rows: Sequence[str]) -> str:
    """Some of many classes, in a line."""
    shown = rows[:_CLASSES_SHOWN]
    return ", ".join(shown) + (f" and {len(rows) - len(shown)} more classes" if len(rows) > len(shown) else "")
