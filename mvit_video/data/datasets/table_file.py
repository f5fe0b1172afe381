"""Tables as people have them: CSV, TSV and JSON lines, as rows with the place of each; no column has a meaning here."""

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvit_video.data.datasets.listing import read_text
from mvit_video.data.datasets.manifest import PathLike

_SEPARATORS = (",", "\t", ";", "|")
_JSON = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class TableRow:
    """A row of a table: where it is ("table.csv:12"), and its values by column; empty text where there is none."""

    place: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        source: its file.
        columns: their names, in order.
        rows: at least one.
    """

    source: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


def read_table(path: PathLike, *, separator: str | None = None) -> Table:
    """Read a table by the extension of its file: .jsonl, .ndjson and .json are JSON, any other is text with a header.

    Args:
        path: the file, UTF-8, with or without a byte order mark, with any line endings. A .json file may hold a list of
            objects, too.
        separator: between the values of a text; by default a tab in .tsv files, else whichever of comma, tab, semicolon
            and bar the header has most of. Values that hold it stand in double quotes.

    Raises:
        ValueError: no such file, no rows, or a row that does not fit the header, with its line.
    """
    source = os.fspath(path)
    text = read_text(source, "table")
    if source.lower().endswith(_JSON):
        return _from_json(source, text)
    if separator is not None and len(separator) != 1:
        raise ValueError(f"separator={separator!r}: must be one character, such as ',' or ';'")
    return _from_text(source, text, separator)


def _from_text(source: str, text: str, separator: str | None) -> Table:
    first = next((line for line in text.splitlines() if line.strip()), "")
    if separator is None:
        separator = "\t" if source.lower().endswith(".tsv") else max(_SEPARATORS, key=first.count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t", strict=True
    )
    lines: list[tuple[int, list[str]]] = []
    at = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                lines.append((at, [field.strip() for field in fields]))
            at = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{source}:{at}: not a row of a table ({error}); put values that hold the separator {separator!r} or line "
            'breaks in double quotes, and write a double quote inside of them twice ("")'
        ) from error
    if not lines:
        raise ValueError(f"{source}: the table is empty; its first line names the columns, such as path,label")
    columns = _checked_columns(source, lines[0][1])
    rows = []
    for number, fields in lines[1:]:
        if len(fields) != len(columns):
            raise ValueError(
                f"{source}:{number}: {len(fields)} values ({separator.join(fields)[:80]!r}) under {len(columns)} "
                f"columns ({', '.join(columns)}); correct the row, put values that hold the separator {separator!r} "
                "in double quotes, or give another separator"
            )
        rows.append(TableRow(f"{source}:{number}", dict(zip(columns, fields))))
    return _checked(source, columns, rows)


def _from_json(source: str, text: str) -> Table:
    objects: list[tuple[str, Any]] = []
    if text.lstrip().startswith("["):
        values = _parsed(source, text, 1)
        objects = [(f"{source}: entry {number}", value) for number, value in enumerate(values, start=1)]
    else:
        # Not splitlines: a text in JSON may hold other characters that end lines, such as U+2028.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                objects.append((f"{source}:{number}", _parsed(source, line, number)))
    columns: dict[str, None] = {}
    rows = []
    for place, value in objects:
        if not isinstance(value, dict):
            raise ValueError(f'{place}: {str(value)[:80]!r} is no JSON object; a row is {{"path": ..., "label": ...}}')
        columns.update(dict.fromkeys(value))
        rows.append(TableRow(place, {key: _plain(item) for key, item in value.items()}))
    return _checked(source, tuple(columns), rows)


def _parsed(source: str, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{source}:{line + error.lineno - 1}: not JSON ({error.msg}); write one object per line, or a list of them"
        ) from error


def _plain(value: Any) -> Any:
    """A JSON value with text stripped; null, and the NaN that programs write for no value, as no text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value.strip() if isinstance(value, str) else value


def _checked_columns(source: str, columns: Sequence[str]) -> tuple[str, ...]:
    twice = [name for name, count in Counter(columns).items() if count > 1 and name]
    if twice:
        raise ValueError(f"{source}: the column {twice[0]!r} is there twice; rename one")
    # Excel leaves columns without a name behind, and pandas writes its row numbers under one.
    return tuple(name or f"column {number}" for number, name in enumerate(columns, start=1))


def _checked(source: str, columns: tuple[str, ...], rows: Sequence[TableRow]) -> Table:
    if not rows:
        raise ValueError(f"{source}: no rows below the header ({', '.join(columns)}); add a row per video")
    return Table(source, columns, tuple(rows))
