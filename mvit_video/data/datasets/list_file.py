"""Lists with one `path label` per line, as PySlowFast writes them: the lines taken apart, no file looked for."""

import logging
import re

from mvit_video.data.datasets.extensions import VIDEOS, FileKind
from mvit_video.data.datasets.listing import read_text

logger = logging.getLogger(__name__)

EMPTY_LIST = "{}: the list is empty; write one `path label` per line"
_NUMBER = re.compile("[0-9]{1,9}")
_ANY_NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", re.IGNORECASE)


def parse_list(source: str, separator: str, kind: FileKind = VIDEOS) -> list[tuple[int, str, str | int]]:
    """(line number, path, label) of every line; labels all numbers or all names, 0 throughout if the list has none."""
    rows: list[tuple[int, str, str]] = []
    unlabelled: list[tuple[int, str]] = []
    for number, line in enumerate(read_text(source, "list").split("\n"), start=1):
        text = line.strip()
        if not text:
            continue
        fields = _list_fields(text, separator)
        if len(fields) == 1:
            unlabelled.append((number, text))
            continue
        name, label = fields
        if not name or _is_no_label(label, kind):
            raise ValueError(bad_line(f"{source}:{number}", text, f"has the label {label!r}", separator))
        rows.append((number, name, label))
    if unlabelled:
        number, text = unlabelled[0]
        if rows or re.search(r"[\s,;|]\s*-?\d+$", text):
            raise ValueError(bad_line(f"{source}:{number}", text, "has no label", separator))
        logger.warning("%s: no labels in the list, so every %s gets label 0", source, kind.noun)
        return [(number, text, 0) for number, text in unlabelled]
    if not rows:
        raise ValueError(EMPTY_LIST.format(source))
    if not any(_NUMBER.fullmatch(label) for _, _, label in rows):
        return list(rows)
    for number, name, label in rows:
        if _NUMBER.fullmatch(label) is None:
            text = f"{name}{separator}{label}"
            reason = f"has the label {label!r} where other lines have numbers"
            raise ValueError(bad_line(f"{source}:{number}", text, reason, separator))
    return [(number, name, int(label)) for number, name, label in rows]


def _list_fields(text: str, separator: str) -> list[str]:
    """Path and label of a line, or the line alone if it has no separator outside of double quotes.

    A whole number between the two is dropped. Behind a path in quotes all the rest is the label.
    """
    between = r"\s+" if separator == " " else re.escape(separator)
    quoted = re.fullmatch(rf'"([^"]+)"\s*(?:{between})\s*(?:\d+\s*(?:{between})\s*)?(.+)', text)
    if quoted:
        return [quoted[1].strip(), quoted[2].strip().strip('"')]
    named = re.fullmatch(rf'(.*?)\s*(?:{between})\s*(?:\d+\s*(?:{between})\s*)?"([^"]+)"', text)
    if named:
        return [named[1].strip(), named[2].strip()]
    split_at = None if separator == " " else separator
    fields = text.rsplit(split_at, 2)
    if len(fields) == 3 and not fields[1].strip().isdecimal():
        fields = text.rsplit(split_at, 1)
    return [fields[0].strip(), fields[-1].strip()] if len(fields) > 1 else fields


def _is_no_label(label: str, kind: FileKind) -> bool:
    """Whether a field is neither the number of a class nor a name: -1, 1.0, part of a path."""
    if _NUMBER.fullmatch(label):
        return False
    return not label or _ANY_NUMBER.fullmatch(label) is not None or kind.has(label)


def bad_line(place: str, text: str, reason: str, separator: str) -> str:
    """The text of the error for a line."""
    return (
        f"{place}: {text!r} {reason}; a line is `path label` with a whole number of 0 or more as the label (or all "
        f"lines with a name), separated by {separator!r}: correct the line, put a path or name that holds the "
        "separator in double quotes, or pass another separator"
    )
