"""The source `table`: rows with a path and a label, and optionally split, start, end, group and weight.

Columns are found by name: the options name them, or one of the usual names is taken. Columns that are not used are
named in the log. A row with start or end is a segment of a longer video.
"""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

from mvit_video.data.datasets.class_names import read_class_names
from mvit_video.data.datasets.extensions import IMAGES, VIDEOS, FileKind
from mvit_video.data.datasets.left_out import examples
from mvit_video.data.datasets.manifest import Manifest, Missing
from mvit_video.data.datasets.rows import Beyond, Label, Row, check_groups, manifest_of_rows, names_of_labels
from mvit_video.data.datasets.segments import Segment, parse_seconds
from mvit_video.data.datasets.sources import Split, logged
from mvit_video.data.datasets.table_file import Table, TableRow, read_table
from mvit_video.video.location import join_location, same_place

logger = logging.getLogger(__name__)

NONE = "none"  # as the name of a column: do not read one
# What pandas, R and databases write where a number is missing; never a label, a path or a group.
_NO_NUMBER = frozenset({"nan", "na", "<na>", "n/a", "null", "none", "nat"})
_USUAL = {
    "path": ("path", "video", "filename", "filepath", "file", "file_name", "video_path"),
    "label": ("label", "labels", "class", "class_name", "action"),
    "split": ("split", "subset", "partition"),
    "start": ("start", "start_time", "time_start", "start_s", "start_timestamp"),
    "end": ("end", "end_time", "time_end", "end_s", "stop", "stop_timestamp"),
    "group": ("group", "scene", "site"),
    "weight": ("weight",),
}
_USUAL_OF_IMAGES = {
    **_USUAL,
    "path": ("path", "image", "filename", "filepath", "file", "file_name", "image_path", "img_path"),
    "start": (),
    "end": (),
}
_SPLITS: dict[str, Split] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(kw_only=True)
class TableSource:
    """Tables (CSV, TSV, JSON lines) with a row per video or segment.

    Attributes:
        table: one table with a column that says each row's split; or one whose rows are all for training.
        train, val, test: or a table per split. Where such a table has a column of splits, only the rows of the asked
            one are taken.
        root: folder or URL that relative paths start from.
        separator: see table_file.read_table.
        path_column, label_column, split_column, start_column, end_column, group_column, weight_column: names of the
            columns, in any case; null takes one of the usual names, "none" reads none.
        labels: "auto" takes labels for numbers if all of them are whole numbers; "names" never.
        label_separator: between the labels of a row, which makes the data multi-label; a JSON list does so, too.
        class_names_file: see manifest.from_list; numbers are then places in it.
        num_classes: number of classes of numbered labels; by default the largest of the training + 1.
        missing: whether a file that does not exist is an error, or its rows are left out ("skip").
        beyond: whether a segment beyond the end of its video is an error, or is cut there ("cut").
        frame_rate: frames per second of videos that are folders of pictures.
    """

    table: str | None = None
    train: str | None = None
    val: str | None = None
    test: str | None = None
    root: str | None = None
    separator: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    start_column: str | None = None
    end_column: str | None = None
    group_column: str | None = None
    weight_column: str | None = None
    labels: Literal["auto", "names"] = "auto"
    label_separator: str | None = None
    class_names_file: str | None = None
    num_classes: int | None = None
    missing: Missing = "error"
    beyond: Beyond = "error"
    frame_rate: float | None = None
    kind: ClassVar[FileKind] = VIDEOS
    _read: dict[str, "ReadTable"] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.table is not None and (self.train, self.val, self.test) != (None, None, None):
            raise ValueError("data.source.table and data.source.train, val or test are both given; give one of them")
        if self.labels not in ("auto", "names"):
            raise ValueError(f"labels={self.labels!r} must be 'auto' or 'names'")

    def prepare(self) -> None:
        """Nothing to make: the files are the user's."""

    def has(self, split: Split) -> bool:
        """See sources.Source."""
        return self._split_read(split) is not None

    def manifest(self, split: Split) -> Manifest:
        """See sources.Source. Raises ValueError when the split is empty or the table is not as it should be."""
        actual = self._split_read(split)
        if actual is None:
            raise ValueError(self._no_split(split))
        rows = self._rows(actual)
        for other in ("train", "val", "test"):
            if other != actual and self._place(other) is not None:
                check_groups(self._rows(other), rows, splits=(other, actual))
        if actual != "train":
            self._say_what_is_shared(rows, actual)
        names, numbered = self._classes(rows)
        read = self._table(actual)
        manifest = manifest_of_rows(
            rows,
            class_names=names,
            source=read.table.source if self.table is None else f"{read.table.source} ({actual})",
            root=self.root,
            missing=self.missing,
            beyond=self.beyond,
            multi_label=self._is_multi_label(),
            frame_rate=self.frame_rate,
            numbered=numbered,
            kind=self.kind,
        )
        return logged(manifest, split)

    def _say_what_is_shared(self, rows: Sequence[Row], split: Split) -> None:
        """Name the videos that the training has, too: segments of one recording may look much the same."""
        trained = {same_place(join_location(self.root or "", row.path)) for row in self._rows("train")}
        shared = sorted({row.path for row in rows if same_place(join_location(self.root or "", row.path)) in trained})
        if shared:
            texts = (split, len(shared), examples(shared))
            logger.warning(f"%s split: %d of its {self.kind.plural} are in the training split, too: %s", *texts)

    def _place(self, split: str) -> str | None:
        return self.table if self.table is not None else getattr(self, split)

    def _split_read(self, split: Split) -> Split | None:
        """The split whose rows are read for this one: those of the validation where there is no test."""
        for candidate in (split, "val") if split == "test" else (split,):
            place = self._place(candidate)
            if place is None or (self.table is not None and not self._rows(candidate)):
                continue
            return candidate
        return None

    def _no_split(self, split: Split) -> str:
        if self.table is None:
            return f"data.source.{split} is not set: give the table of the {split} split, data.source.{split}=..."
        read = self._table("train")
        if read.columns["split"] is None:
            return (
                f"{self.table}: no column says which rows are {split!r}, so that all are for training; add a column "
                f"split (train, val, test), name it with data.source.split_column, or cut a part off: data.holdout=0.2"
            )
        counts = {name: sum(1 for row in read.rows if row[0] == name) for name in ("train", "val", "test")}
        held = ", ".join(f"{name}: {count}" for name, count in counts.items())
        return (
            f"{self.table}: split {split!r} has no row (column {read.columns['split']!r} has {held}); mark rows of "
            "it, or cut a part off the training: data.holdout=0.2"
        )

    def _table(self, split: str) -> "ReadTable":
        place = self._place(split)
        assert place is not None
        if place not in self._read:
            self._read[place] = ReadTable.of(read_table(place, separator=self.separator), self)
        return self._read[place]

    def _rows(self, split: str) -> list[Row]:
        if self._place(split) is None:
            return []
        read = self._table(split)
        # A table of one split needs no column of splits; a table of all has one, or is for training.
        default = "train" if self.table is not None else split
        rows = [row for name, row in read.rows if (name or default) == split]
        if not rows and self.table is None:
            raise ValueError(
                f"{read.table.source}: none of its {len(read.rows)} rows is of the split {split!r}, by the column "
                f"{read.columns['split']!r}; correct the column, or give data.source.split_column=none"
            )
        return rows

    def _classes(self, rows: Sequence[Row]) -> tuple[tuple[str, ...], bool]:
        """The classes of all splits, and whether labels may be their numbers."""
        training = self._rows("train") or list(rows)
        given = None if self.class_names_file is None else read_class_names(self.class_names_file)
        source = self.class_names_file or training[0].place.rpartition(":")[0]
        names = names_of_labels(
            training, class_names=given, num_classes=self.num_classes, source=source, labels=self.labels
        )
        numbered = self.labels == "auto" and (given is not None or names[0] == "class 0")
        return names, numbered

    def _is_multi_label(self) -> bool:
        splits = [split for split in ("train", "val", "test") if self._place(split) is not None]
        return self.label_separator is not None or any(self._table(split).multi_label for split in splits)


@dataclass(kw_only=True)
class ImageTableSource(TableSource):
    """Tables of images: as TableSource, without segments."""

    kind: ClassVar[FileKind] = IMAGES


@dataclass(frozen=True)
class ReadTable:
    """A table with its columns understood.

    Attributes:
        table: as it was read.
        columns: the name of the column for each use, None where there is none.
        rows: (split, row); the split is empty where the table does not say.
        multi_label: a row has a list of labels.
    """

    table: Table
    columns: dict[str, str | None]
    rows: tuple[tuple[str, Row], ...]
    multi_label: bool

    @classmethod
    def of(cls, table: Table, options: TableSource) -> "ReadTable":
        """Understand a table. ValueError for a column that is not there, or a value that breaks its rule."""
        usual = _USUAL if options.kind is VIDEOS else _USUAL_OF_IMAGES
        columns = {use: _column(table, use, getattr(options, f"{use}_column"), usual[use]) for use in usual}
        for use in ("path", "label"):
            if columns[use] is None:
                raise ValueError(
                    f"{table.source}: no column of the {use} (one of {', '.join(usual[use])}); its columns are "
                    f"{', '.join(table.columns)}: name it with data.source.{use}_column=..., and give the table a "
                    "first line that names its columns if it has none"
                )
        unused = [name for name in table.columns if name not in columns.values()]
        if unused:
            logger.info("%s: columns that are not used: %s", table.source, ", ".join(unused))
            segments = [name for name in unused if re.search(r"start|end|begin|stop|frame", name.casefold())]
            if segments and options.kind is VIDEOS and columns["start"] is None and columns["end"] is None:
                logger.warning(
                    "%s: %s looks like a part of a video, and whole videos are taken: times in seconds are read from "
                    "the columns data.source.start_column=... and data.source.end_column=...; frame numbers are not "
                    "read",
                    table.source,
                    " and ".join(segments),
                )
        parser = _RowParser(columns, options.label_separator, options.kind)
        rows = tuple(parser.parsed(row) for row in table.rows)
        return cls(table, columns, rows, parser.multi_label)


def _column(table: Table, use: str, asked: str | None, usual: Sequence[str]) -> str | None:
    """The column for a use: the one that was asked for, or the one with a usual name."""
    folded = {name.casefold(): name for name in table.columns}
    if asked is not None and asked.casefold() == NONE:
        return None
    if asked is not None:
        if asked.casefold() not in folded:
            near = get_close_matches(asked, table.columns, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"{table.source}: no column {asked!r}{hint}; its columns are {', '.join(table.columns)}: correct "
                f"data.source.{use}_column"
            )
        return folded[asked.casefold()]
    found = [folded[name] for name in usual if name in folded]
    if len(found) > 1:
        raise ValueError(
            f"{table.source}: columns {found[0]!r} and {found[1]!r} could both be the {use}; say which with "
            f"data.source.{use}_column={found[0]}"
        )
    return found[0] if found else None


def _is_label(value: object) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class _RowParser:
    """Turns rows of text into entries.

    Args:
        columns: the name of the column for each use.
        separator: between the labels of a row; None for one label a row.
        kind: what the rows are.
    """

    def __init__(self, columns: dict[str, str | None], separator: str | None, kind: FileKind) -> None:
        self._columns = columns
        self._kind = kind
        self._separator = separator
        self.multi_label = False

    def parsed(self, row: TableRow) -> tuple[str, Row]:
        """The split of a row ("" where there is no such column) and its entry."""
        path = self._value(row, "path")
        if not isinstance(path, str) or not path:
            raise ValueError(
                f"{row.place}: path {path!r}; each row needs the path of {self._kind.one}: fill it in or remove the row"
            )
        return self._split(row), Row(
            place=row.place,
            path=path,
            labels=self._labels(row),
            segment=self._segment(row),
            group=str(self._value(row, "group")),
            weight=self._weight(row),
        )

    def _value(self, row: TableRow, use: str) -> Any:
        column = self._columns[use]
        return "" if column is None else row.values.get(column, "")

    def _number(self, row: TableRow, use: str) -> Any:
        """The value of a column of numbers; empty text for what programs write where there is none."""
        value = self._value(row, use)
        return "" if isinstance(value, str) and value.casefold() in _NO_NUMBER else value

    def _split(self, row: TableRow) -> str:
        if self._columns["split"] is None:
            return ""
        value = str(self._value(row, "split"))
        if value.casefold() not in _SPLITS:
            raise ValueError(
                f"{row.place}: split {value!r}; must be one of {', '.join(_SPLITS)}: correct it, or give "
                "data.source.split_column=none to read no splits"
            )
        return _SPLITS[value.casefold()]

    def _labels(self, row: TableRow) -> tuple[Label, ...]:
        value = self._value(row, "label")
        if isinstance(value, list):
            self.multi_label = True
            parts = value
        elif self._separator is not None and isinstance(value, str):
            # A separator behind the last label, as programs write it that put one behind each.
            parts = [part.strip() for part in value.removesuffix(self._separator).split(self._separator)]
        else:
            parts = [value]
        labels: list[Label] = []
        for part in parts:
            if not _is_label(part):
                raise ValueError(
                    f"{row.place}: label {value!r}; a label is a name or a whole number of 0 or more: fill it in, or "
                    "remove the row"
                )
            labels.append(part)
        if not labels:
            raise ValueError(
                f"{row.place}: label {value!r}; each row needs at least one: fill it in, or remove the row"
            )
        return tuple(labels)

    def _segment(self, row: TableRow) -> Segment:
        times = {}
        for use, default in (("start", 0.0), ("end", math.inf)):
            value = self._number(row, use)
            try:
                times[use] = default if value == "" else parse_seconds(value)
            except ValueError as error:
                raise ValueError(f"{row.place}: {use} {error}; correct it") from error
        segment = Segment(times["start"], times["end"])
        if not segment.start < segment.end:
            raise ValueError(
                f"{row.place}: start {self._value(row, 'start')!r} and end {self._value(row, 'end')!r}; a segment must "
                "end after its start: correct the times"
            )
        return segment

    def _weight(self, row: TableRow) -> float | None:
        value = self._number(row, "weight")
        if value == "":
            return None
        try:
            weight = float(value)
        except (TypeError, ValueError):
            weight = math.nan
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"{row.place}: weight {value!r}; must be a number of 0 or more: correct it")
        return weight
