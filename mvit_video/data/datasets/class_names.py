"""Class names: their rules, and mapping labels from one list of names to another. Names decide, never positions."""

import difflib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.imagenet_names import IMAGENET_1K, wnid_of
from mvit_video.data.datasets.listing import read_json, read_text
from mvit_video.data.datasets.published_names import KINETICS_400, published_class_names

_SHOWN = 12
# Words of which a flip makes the other, as they stand in names: "from left to right", "turn_left", "TurnLeft".
_SIDES = re.compile(
    r"(?P<counter>(?:counter|anti)[-_ ]?clockwise)|(?P<clockwise>clockwise)"
    r"|(?<![a-z])(?:(?P<left>left)|(?P<right>right))(?![a-z])",
    re.IGNORECASE,
)
_OTHER_SIDE = {"left": "right", "right": "left", "clockwise": "counter", "counter": "clockwise"}


def checked_names(names: Sequence[str], source: str) -> tuple[str, ...]:
    """The names, at least one and each once. ValueError otherwise."""
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice or not names:
        reason = f"class name {twice[0]!r} occurs more than once" if twice else "no class names"
        raise ValueError(f"{source}: {reason}; give at least one name, and each once")
    return tuple(names)


def alike(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ in upper and lower case or in spaces around them alone: most likely one class."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_composed(name).strip().casefold(), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def mirrored(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names of which a horizontal flip makes the other: they differ in left and right, or in the way round."""
    sides = {name: _with_sides(name) for name in names}
    place = {with_sides: name for name, with_sides in sides.items()}
    pairs: dict[tuple[str, str], None] = {}
    for name, with_sides in sides.items():
        flipped = tuple((text, _OTHER_SIDE.get(side, side)) for text, side in with_sides)
        other = place.get(flipped)
        # What a flip leaves as it is has no mirror image: a name in other letters' case is not one.
        if other is not None and flipped != with_sides and (other, name) not in pairs:
            pairs[name, other] = None
    return list(pairs)


def _with_sides(name: str) -> tuple[tuple[str, str], ...]:
    """The texts between the words of _SIDES, each with which word follows it; "" at the end."""
    parts, start = [], 0
    # A capital begins a word, too.
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    for found in _SIDES.finditer(text):
        parts.append((text[start : found.start()].casefold(), found.lastgroup or ""))
        start = found.end()
    return (*parts, (text[start:].casefold(), ""))


def numbered_names(count: int) -> tuple[str, ...]:
    """What classes are called that have numbers alone."""
    return tuple(f"class {index}" for index in range(count))


def label_table(
    labels: npt.NDArray[np.integer], old: Sequence[str], new: Sequence[str], *, source: str
) -> npt.NDArray[np.int64]:
    """Which label of one list of classes stands for the same name in another.

    Args:
        labels: the labels that are used, indices into `old`. Classes that no label uses need not be in `new`.
        old: names of the classes of a split.
        new: the classes to map to, a model's or the training split's.
        source: of the split, for the error.

    Returns:
        int64 (len(old),): index into `new`; -1 where a class is not used.

    Raises:
        ValueError: a class that is used is not in `new`; the text has both lists and the nearest names.
    """
    names = checked_names(new, "class names")
    place = {identity(name): index for index, name in enumerate(names)}
    used = np.unique(labels).tolist()
    unknown = [old[label] for label in used if identity(old[label]) not in place]
    if unknown:
        raise ValueError(unknown_classes(source, unknown, [old[label] for label in used], names))
    table = np.full(len(old), -1, np.int64)
    for label in used:
        table[label] = place[identity(old[label])]
    return table


def identity(name: str) -> str:
    """What two names of one class have in common: of ImageNet's the wnid, of others all of it."""
    return wnid_of(name) or _composed(name)


def _composed(name: str) -> str:
    """The name as most systems write it: a copy from a Mac may have its accents apart from their letters."""
    return unicodedata.normalize("NFC", name)


def unknown_classes(source: str, unknown: Sequence[str], used: Sequence[str], known: Sequence[str]) -> str:
    """The text of the error for classes that the training, or the model, does not know."""
    hints = []
    for name in unknown[:_SHOWN]:
        near = difflib.get_close_matches(name, known, n=1)
        hints.append(f"{name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    numbers = ""
    if all(re.fullmatch(r"class \d+", name) for name in used):
        numbers = "; labels without names: say which number is which name, data.source.class_names_file=..."
    return (
        f"{source}: {len(unknown)} of its {len(used)} classes {'is' if len(unknown) == 1 else 'are'} not among the "
        f"{len(known)} known ones: {', '.join(hints)}{more}. Classes here: {listed(used)}. Known classes: "
        f"{listed(known)}. Labels are matched by name: rename the classes here, or add them to the training{numbers}"
    )


def listed(names: Sequence[str]) -> str:
    """Names for people, the first few of many."""
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")


def class_index(indices: "dict[str, int]", name: str, *, place: str) -> int:
    """The index of a class, however its accents are written. ValueError, with the nearest name, for an unknown one."""
    if name in indices:
        return indices[name]
    composed = _by_composed_name(tuple(indices)).get(_composed(name), ())
    if len(composed) == 1:
        return indices[composed[0]]
    near = difflib.get_close_matches(name, indices, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(
        f"{place}: unknown class {name!r}{hint}, not among the known ones: {listed([*indices])}; correct the name, or "
        "add it to the training split or the file of class names"
    )


@lru_cache(maxsize=4)
def _by_composed_name(names: tuple[str, ...]) -> dict[str, list[str]]:
    """The names by what they are when composed. Kept: a list may write each of its 600,000 labels otherwise."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_composed(name), []).append(name)
    return found


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names in the order of their indices: one name per line, a table of index and name, or a JSON object.

    A table has commas, semicolons or tabs, and may have a header. The JSON object leads from name to index.

    In the place of a path, the words "imagenet_1k" and "kinetics_400" give the classes of these data sets.
    """
    source = os.fspath(path)
    published = published_class_names(source) if source in (IMAGENET_1K, KINETICS_400) else None
    if published is not None:
        return published
    if not source.lower().endswith(".json"):
        lines = [line.strip() for line in read_text(source, "file of class names").splitlines() if line.strip()]
        return checked_names(_numbered(lines, source) or lines, source)
    content = read_json(source, "file of class names")
    if not isinstance(content, dict):
        raise ValueError(f"{source}: a JSON object from class name to index is expected; or write one name per line")
    pairs = []
    for name, value in content.items():
        if not re.fullmatch(r"\d+", str(value)):
            raise ValueError(f"{source}: class {name!r} has the index {value!r}; give it a whole number of 0 or more")
        # PySlowFast's Kinetics file carries quotation marks inside the names.
        pairs.append((int(value), name.replace('"', "").strip()))
    return checked_names(_in_order(pairs, source), source)


_NUMBERED = re.compile(r"(\d+)\s*[,;\t]\s*(.*\S)|(\d+) +(.*\S)")


def _numbered(lines: Sequence[str], source: str) -> list[str] | None:
    """The names of a table of index and name, in the order of the indices; None if the lines are names alone.

    Raises:
        ValueError: the indices do not count from 0, or the lines stand in another order than the numbers before them.
    """
    found = [_NUMBERED.fullmatch(line) for line in lines]
    if len(found) > 1 and found[0] is None and re.fullmatch(r"[^,;\t]+[,;\t][^,;\t]+", lines[0]):
        found = found[1:]  # a header
    pairs = [(int(match[1] or match[3]), match[2] or match[4]) for match in found if match]
    if not pairs or len(pairs) < len(found):
        return None
    if all(match[1] for match in found if match):
        return _in_order([(number, name.strip("\"'")) for number, name in pairs], source)
    numbers = [number for number, _ in pairs]
    if sorted(numbers) == [*range(len(numbers))] != numbers:
        raise ValueError(
            f"{source}: the lines stand in another order than the numbers before the names; write INDEX,NAME, or the "
            "names alone in the order of their indices"
        )
    return None  # such as "1 finger", "2 fingers"


def _in_order(pairs: Sequence[tuple[int, str]], source: str) -> list[str]:
    """Names in the order of their indices, which count from 0 without gaps; ValueError if they do not."""
    names: dict[int, str] = {}
    for index, name in pairs:
        if index in names:
            raise ValueError(f"{source}: classes {names[index]!r} and {name!r} share the index {index}; change one")
        names[index] = name
    gap = next((index for index in range(len(names)) if index not in names), None)
    if gap is not None:
        raise ValueError(f"{source}: no class has the index {gap}; number the {len(names)} classes from 0 without gaps")
    return [names[index] for index in range(len(names))]
