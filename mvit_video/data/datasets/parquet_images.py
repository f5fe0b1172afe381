"""Images in Parquet files as the Hugging Face Hub distributes data sets: a column of images, a column of labels.

The column of images is a struct {bytes, path} or plain binary. Parquet is read by row groups (some hundred rows); a
process keeps the last few of them in memory, so that an epoch that visits few groups at a time reads each once. Needs
pyarrow (the extra "parquet").
"""

import glob
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.array_views import IntArrayView
from mvit_video.data.datasets.class_names import checked_names, numbered_names, read_class_names
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.shards import file_system
from mvit_video.data.datasets.sources import Split, Splits
from mvit_video.images.formats import ImageDecodeError
from mvit_video.video.location import VideoLocation, is_remote

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

logger = logging.getLogger(__name__)

_THREADS = 8
_MB = 2**20


@dataclass(kw_only=True)
class ImageParquetSource(Splits):
    """Parquet files, local or behind any fsspec URL.

    Attributes:
        train, val, test: the files of each split: a folder of them, a pattern with * or ?, or one file.
        image_column, label_column: names of the columns.
        class_names_file: see manifest.from_list; labels are places in it. By default the names that the files carry
            (ClassLabel), else "class 0", "class 1", ... "imagenet_1k" stands for the classes of ImageNet-1k.
        num_classes: number of classes where nothing names them; by default the largest label + 1.
        memory_mb: MiB of row groups that a process keeps.
    """

    image_column: str = "image"
    label_column: str = "label"
    class_names_file: str | None = None
    num_classes: int | None = None
    memory_mb: int = 256

    def _read(self, place: str, split: Split) -> Manifest:
        given = None if self.class_names_file is None else read_class_names(self.class_names_file)
        return from_parquet(
            place,
            image_column=self.image_column,
            label_column=self.label_column,
            class_names=given,
            num_classes=self.num_classes,
            memory_mb=self.memory_mb,
        )


class RowGroups:
    """The images of some Parquet files by row group, the last ones used kept in memory; each process has its own.

    Args:
        files: paths or URLs.
        column: of the images.
        groups: (file, row group in it) of each group.
        memory_mb: MiB to keep at most; the group in use is kept whatever its size.
    """

    def __init__(self, files: Sequence[str], column: str, groups: npt.NDArray[np.int32], *, memory_mb: int) -> None:
        self._files = tuple(files)
        self._column = column
        self._groups = groups
        self._memory = memory_mb * _MB
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_open", "_kept", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._open: dict[int, pq.ParquetFile] = {}
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def read(self, group: int, row: int) -> bytes | None:
        """The content of an image; None where the file holds none.

        Raises:
            OSError, ValueError: the file cannot be read (pyarrow's errors are such).
        """
        if self._process != os.getpid():  # a forked worker does not share what its parent has open
            self._forget()
        if group not in self._kept:
            self._kept[group] = self._load(group)
            while len(self._kept) > 1 and sum(column.nbytes for column in self._kept.values()) > self._memory:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        value = self._kept[group][row].as_py()
        return value["bytes"] if isinstance(value, dict) else value

    def _load(self, group: int) -> "pa.ChunkedArray":
        file, number = self._groups[group].tolist()
        if file not in self._open:
            self._open[file] = open_parquet(self._files[file])
        # Of a struct the bytes alone.
        opened = self._open[file]
        leaves = [opened.schema.column(place).path for place in range(len(opened.schema))]
        wanted = f"{self._column}.bytes"
        table = opened.read_row_group(number, columns=[wanted if wanted in leaves else self._column], use_threads=False)
        return table.column(self._column)


@dataclass(frozen=True)
class ParquetManifest(Manifest):
    """Images that are rows of Parquet files. `read` gives their bytes; they have no location.

    Attributes:
        row_groups: the files.
        group: number of each image's row group, counted over all files, (images,).
        row: its place in the group.
    """

    row_groups: RowGroups = field(kw_only=True, repr=False, compare=False)
    group: IntArrayView = field(kw_only=True, repr=False)
    row: IntArrayView = field(kw_only=True, repr=False)

    @property
    def shard_of(self) -> npt.NDArray[np.int32] | None:
        """Number of the row group of each image: an epoch visits a few of them at a time, as it does tar shards."""
        return np.asarray(self.group, np.int32)

    def mean_size(self, most: int = 200) -> float | None:
        """None: the sizes of images are known when their rows are read."""
        return None

    def location(self, index: int) -> VideoLocation:
        """ValueError: a row of a Parquet file has no place of its own."""
        raise ValueError(
            f"{self.paths[index]}: is a row of a Parquet file, which `read` gives; it is no file of its own"
        )

    def read(self, index: int) -> bytes:
        """See Manifest."""
        try:
            content = self.row_groups.read(self.group[index], self.row[index])
        except (OSError, ValueError) as error:
            raise ImageDecodeError(self.paths[index], f"the Parquet file cannot be read: {error}") from error
        if not content:
            raise ImageDecodeError(self.paths[index], "the row holds no bytes of an image")
        return content

    def _chosen(self, rows: npt.NDArray[np.integer]) -> dict[str, Any]:
        columns = {name: IntArrayView(np.asarray(getattr(self, name))[rows]) for name in ("group", "row")}
        return {**super()._chosen(rows), **columns}


def from_parquet(
    place: str,
    *,
    image_column: str = "image",
    label_column: str = "label",
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    memory_mb: int = 256,
) -> ParquetManifest:
    """List the images of Parquet files, in the order of the files' names and of their rows.

    Raises:
        ValueError: no files, a column that is missing or of another type, a label that is none or out of range.
        RuntimeError: pyarrow, or a package that fsspec needs for a URL, is not installed.
    """
    if memory_mb < 1:
        raise ValueError(f"memory_mb={memory_mb}: must be 1 or more")
    files = parquet_names(place)
    with ThreadPoolExecutor(_THREADS) as pool:
        held = list(pool.map(lambda file: _read_file(file, image_column, label_column), files))
    carried = {listing.class_names for listing in held}
    if len(carried) > 1 and class_names is None:
        raise ValueError(f"{place}: the files carry different lists of class names; give class_names_file")
    labels = np.concatenate([listing.labels for listing in held])
    if not len(labels):
        raise ValueError(f"{place}: {len(files)} files without a row; give files that hold images")
    names = _names(labels, class_names or next(iter(carried)), num_classes, place)
    sizes = [size for listing in held for size in listing.group_sizes]
    groups = [(file, number) for file, listing in enumerate(held) for number in range(len(listing.group_sizes))]
    largest = max(listing.group_bytes for listing in held) / _MB
    kept = max(1, int(memory_mb / max(largest, 1e-6)))
    if kept < len(groups):
        logger.info(
            "%s: %d row groups of up to %.1f MiB; data.source.memory_mb=%d keeps %d of them at a time, and "
            "data.shard_window should be no more",
            place,
            len(groups),
            largest,
            memory_mb,
            kept,
        )
    return ParquetManifest(
        [name for listing in held for name in listing.names],
        IntArrayView(labels),
        names,
        place,
        kind=IMAGES,
        row_groups=RowGroups(files, image_column, np.array(groups, np.int32), memory_mb=memory_mb),
        group=IntArrayView(np.repeat(np.arange(len(sizes)), sizes)),
        row=IntArrayView(np.concatenate([np.arange(size) for size in sizes])),
    )


@dataclass(frozen=True)
class _Listing:
    """What a file holds beside its images.

    Attributes:
        names, labels: of the rows.
        group_sizes: rows of each row group.
        group_bytes: of the largest of them.
        class_names: those that its metadata carries.
    """

    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    group_sizes: tuple[int, ...]
    group_bytes: int
    class_names: tuple[str, ...] | None


def _read_file(file: str, image_column: str, label_column: str) -> _Listing:
    try:
        opened = open_parquet(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read as Parquet ({error}); copy or download it again") from error
    schema = opened.schema_arrow
    has_paths = _check_columns(file, schema, image_column, label_column)
    columns = [label_column] + ([f"{image_column}.path"] if has_paths else [])
    try:
        table = opened.read(columns=columns, use_threads=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: its labels cannot be read ({error}); copy or download it again") from error
    labels = table.column(label_column)
    if labels.null_count:
        raise ValueError(f"{file}: {labels.null_count} rows have no label; leave them out, or fill them in")
    paths: list[str | None] = [None] * len(labels)
    if has_paths:
        paths = [(value or {}).get("path") for value in table.column(image_column).to_pylist()]
    names = tuple(f"{file}/{path or f'row {row}'}" for row, path in enumerate(paths))
    sizes = tuple(opened.metadata.row_group(number).num_rows for number in range(opened.num_row_groups))
    largest = max((opened.metadata.row_group(number).total_byte_size for number in range(len(sizes))), default=0)
    names_of_labels = _class_label(schema, label_column, file)
    return _Listing(names, labels.to_numpy().astype(np.int64), sizes, largest, names_of_labels)


def _check_columns(file: str, schema: "pa.Schema", image_column: str, label_column: str) -> bool:
    """Whether the images have paths. ValueError for a column that is missing or of another type."""
    import pyarrow as pa

    for option, column in (("image_column", image_column), ("label_column", label_column)):
        if column not in schema.names:
            raise ValueError(
                f"{file}: has no column {column!r}; its columns are {', '.join(schema.names)}: name it with "
                f"data.source.{option}=..."
            )
    kind = schema.field(image_column).type
    parts = {part.name: part.type for part in kind} if pa.types.is_struct(kind) else {}
    content = parts.get("bytes", kind)
    if not (pa.types.is_binary(content) or pa.types.is_large_binary(content)):
        raise ValueError(
            f"{file}: column {image_column!r} is {kind}; images are binary, or a struct with the field bytes"
        )
    if not pa.types.is_integer(schema.field(label_column).type):
        raise ValueError(
            f"{file}: column {label_column!r} is {schema.field(label_column).type}; labels are whole numbers"
        )
    return "path" in parts


def _class_label(schema: "pa.Schema", column: str, file: str) -> tuple[str, ...] | None:
    """The names that the Hub's metadata gives the labels."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return None
    feature = json.loads(raw).get("info", {}).get("features", {}).get(column, {})
    names = feature.get("names") if isinstance(feature, dict) else None
    return None if names is None else checked_names([str(name) for name in names], f"{file}, column {column}")


def _names(
    labels: npt.NDArray[np.int64], class_names: Sequence[str] | None, num_classes: int | None, source: str
) -> tuple[str, ...]:
    if labels.min() < 0:
        raise ValueError(f"{source}: label {labels.min()}; a label is 0 or more. Is it a test split, without labels?")
    names = tuple(class_names) if class_names is not None else numbered_names(num_classes or int(labels.max()) + 1)
    if labels.max() >= len(names):
        raise ValueError(
            f"{source}: label {labels.max()} is out of range: with {len(names)} classes, labels run from 0 to "
            f"{len(names) - 1}; give the names of all classes, or more of them (num_classes)"
        )
    return names


def parquet_names(place: str) -> list[str]:
    """The files that a place means, in the order of their names. ValueError if there are none."""
    patterned = any(sign in place for sign in "*?[")
    if is_remote(place):
        found = [place]
        if patterned or not place.endswith(".parquet"):
            system, path = file_system(place)
            pattern = path if patterned else path.rstrip("/") + "/*.parquet"
            found = sorted(system.unstrip_protocol(name) for name in system.glob(pattern))
    elif os.path.isdir(place):
        found = sorted(glob.glob(os.path.join(glob.escape(place), "*.parquet")))
    else:
        found = sorted(glob.glob(place)) if patterned else [place] if os.path.isfile(place) else []
    if not found:
        raise ValueError(
            f"{place}: no Parquet files there; give a folder of them, one of them, or a pattern (train-*.parquet)"
        )
    return found


def open_parquet(file: str) -> "pq.ParquetFile":
    """An open file. RuntimeError if pyarrow is not installed."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        _no_pyarrow(error)
    if not is_remote(file):
        return pq.ParquetFile(file, memory_map=True)
    system, path = file_system(file)
    return pq.ParquetFile(system.open(path, "rb"))


def _no_pyarrow(error: ImportError) -> NoReturn:
    raise RuntimeError(f"Parquet files need pyarrow: pip install 'mvit_video[parquet]' ({error})") from error
