"""The index of a prepared split: paths, labels and frames of every video in one file that is mapped, not read.

Opening it takes the same few milliseconds for ten videos as for a million, apart from one pass over the columns'
checksums, and all processes of a machine share its pages. What belongs to one video is decoded when it is asked for.

    head (64 bytes)   magic, format version, length of the file, place, length and checksum of the header
    frames            a frame index per file (index_encoding), each with its own checksum; segments of a file share it
    paths             UTF-8, a checksum for each in the columns
    columns           one array per field, little endian; some are there only where a data set has what they hold
    left out          JSON: [path, reason] of the videos that the split lists and the index does not hold
    header            JSON: classes, root, shards; place, type and checksum of each column

Paths are kept relative to the root, shards relative to the folder of the index, so that both may move as a whole.

A data set of whole files with one label each is written as version 1. One with segments, several labels a video,
groups, weights or folders of pictures is version 2: programs that would take it for whole files refuse it.
"""

import json
import mmap
import operator
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, NoReturn, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.array_views import TEXT_ERRORS, ArrayView, FloatArrayView, TextArrayView
from mvit_video.data.datasets.extensions import IMAGES, VIDEOS, FileKind
from mvit_video.data.datasets.label_sets import LabelSetArrayView
from mvit_video.data.datasets.segments import Segment, Segments
from mvit_video.runtime.files import replacing
from mvit_video.video.index import FrameIndex, VideoInfo
from mvit_video.video.index_encoding import decode_frame_index, encode_frame_index
from mvit_video.video.location import VideoLocation, is_remote, join_location

PLAIN_VERSION: Final = 1  # whole files with one label each
VERSION: Final = 2
NO_SHARD: Final = -1
DIGEST_BYTES: Final = 16
_MAGIC = b"\x89mvitidx"  # the first byte keeps it from passing for text
_HEAD = struct.Struct("<8sII")  # magic, version, CRC-32 of what follows
_HEAD_REST = struct.Struct("<QQQI")  # length of the file; place, length and CRC-32 of the header
_HEAD_BYTES = 64
_NO_MTIME = -(2**63)
# One row per video, but for the places, which have one more: where the last one ends.
_COLUMNS: dict[str, str] = {
    "label": "<i4",
    "size": "<i8",
    "mtime_ns": "<i8",
    "shard": "<i4",
    "start": "<i8",
    "frames_at": "<i8",
    "path_at": "<i8",
    "path_crc": "<u4",
    "digest": f"V{DIGEST_BYTES}",
}
# Of a data set that has them.
_MORE_COLUMNS: dict[str, str] = {
    "frames_end": "<i8",  # where segments of one file share its frame index
    "segment": "<f8",  # two values a row: start and end
    "labels_at": "<i8",
    "group_at": "<i8",
    "weight": "<f8",
}


@dataclass(frozen=True)
class IndexedVideo:
    """What an index keeps of one video.

    Attributes:
        path: its file, absolute, a URL, or relative to the root; its name in the shard if it is in one.
        label: class index.
        size: bytes of the video.
        mtime_ns: modification time of a local file; None for a remote one or a member of a shard.
        frames: its frame index, or what encode_frame_index made of it (in another process, say); no bytes for an image.
        digest: 16 bytes that equal contents share.
        shard: number of its shard, NO_SHARD for a file of its own.
        start: its first byte in the shard.
        segment: the stretch of the file that it is; all rows with one path and place have one frame index.
        labels: all its classes, where videos may have several.
        group: what it belongs to, where that is known.
        weight: how often it is drawn, where that is stated.
    """

    path: str
    label: int
    size: int
    mtime_ns: int | None
    frames: FrameIndex | bytes
    digest: bytes
    shard: int = NO_SHARD
    start: int = 0
    segment: Segment | None = None
    labels: Sequence[int] | None = None
    group: str | None = None
    weight: float | None = None


class _Section(TypedDict):
    at: int
    bytes: int
    crc: int


class _Header(TypedDict):
    videos: int
    class_names: list[str]
    root: str | None
    shards: list[str]
    columns: dict[str, _Section]
    paths_at: int
    left_out: _Section
    frame_rate: NotRequired[float | None]
    label_sets: NotRequired[_Section]  # all labels, one set behind the other
    groups: NotRequired[_Section]
    kind: NotRequired[str]  # noun of the files; videos where it is absent


def write_index(
    path: str | os.PathLike[str],
    videos: Iterable[IndexedVideo],
    *,
    class_names: Sequence[str],
    root: str | None,
    shards: Sequence[str] = (),
    left_out: Sequence[tuple[str, str]] = (),
    frame_rate: float | None = None,
    kind: FileKind = VIDEOS,
) -> None:
    """Write an index; a file that is there already is replaced once the new one is complete.

    Args:
        path: the file to write.
        videos: taken one by one; `left_out` is looked at after the last one, so it may grow meanwhile.
        class_names: name of each class.
        root: folder or URL that the videos lie under; paths below it are kept relative. A relative root starts from the
            index's folder; None stands for that folder.
        shards: the tar files, relative to the index's folder, or absolute paths or URLs.
        left_out: (path, reason) of videos that the split lists and the index does not hold.
        frame_rate: of videos that are folders of pictures, frames per second; None where there are none.
        kind: what is indexed: VIDEOS or IMAGES.

    Raises:
        ValueError: no videos, a label or shard out of range, or some videos in shards and some not; segments, several
            labels, groups or weights of some videos only.
    """
    with replacing(path) as beside, open(beside, "wb") as file:
        writer = _Writer(file, os.fspath(path), num_classes=len(class_names), num_shards=len(shards), root=root)
        for video in videos:
            writer.add(video)
        writer.finish(class_names=class_names, shards=shards, left_out=left_out, frame_rate=frame_rate, kind=kind)


class _Writer:
    """Frame indexes go to the file at once; the columns and paths, some 150 bytes per video, wait in memory."""

    def __init__(self, file: BinaryIO, name: str, *, num_classes: int, num_shards: int, root: str | None) -> None:
        self._file = file
        self._name = name
        self._limits = {"label": (num_classes, "classes"), "shard": (num_shards, "shards")}
        self._root = root
        self._paths = bytearray()
        kinds = {"<i4": "i", "<u4": "I", "<f8": "d"}
        self._columns: dict[str, array[Any]] = {
            key: array(kinds.get(kind, "q")) for key, kind in {**_COLUMNS, **_MORE_COLUMNS}.items()
        }
        self._digests = bytearray()
        self._label_sets, self._groups = array("i"), bytearray()
        self._placed: dict[tuple[str, int, int], tuple[int, int]] = {}  # frame indexes of files that have segments
        self._shared = False
        file.write(bytes(_HEAD_BYTES))

    def add(self, video: IndexedVideo) -> None:
        """Append a video. ValueError if it cannot be indexed."""
        self._check(video)
        raw = self._relative(video.path).encode("utf-8", TEXT_ERRORS)
        first, end = self._place_frames(video)
        row = {
            "label": video.label,
            "size": video.size,
            "mtime_ns": _NO_MTIME if video.mtime_ns is None else video.mtime_ns,
            "shard": video.shard,
            "start": video.start,
            "frames_at": first,
            "frames_end": end,
            "path_at": len(self._paths),
            "path_crc": zlib.crc32(raw),
        }
        for key, value in row.items():
            self._columns[key].append(value)
        self._paths += raw
        self._digests += video.digest
        self._add_more(video)

    def _place_frames(self, video: IndexedVideo) -> tuple[int, int]:
        """Where the frame index of a video begins and ends; that of a file with segments is written once."""
        key = (video.path, video.shard, video.start)
        if key in self._placed:
            self._shared = True
            return self._placed[key]
        first = self._file.tell()
        self._file.write(video.frames if isinstance(video.frames, bytes) else encode_frame_index(video.frames))
        place = first, self._file.tell()
        if video.segment is not None:
            self._placed[key] = place
        return place

    def _add_more(self, video: IndexedVideo) -> None:
        if video.segment is not None:
            self._columns["segment"].extend(video.segment)
        if video.labels is not None:
            self._columns["labels_at"].append(len(self._label_sets))
            self._label_sets.extend(video.labels)
        if video.group is not None:
            self._columns["group_at"].append(len(self._groups))
            self._groups += video.group.encode("utf-8", TEXT_ERRORS)
        if video.weight is not None:
            self._columns["weight"].append(video.weight)

    def _relative(self, path: str) -> str:
        return path.removeprefix(os.path.join(self._root, "")) if self._root else path

    def _check(self, video: IndexedVideo) -> None:
        for key, (limit, what) in self._limits.items():
            values = [getattr(video, key), *((video.labels or ()) if key == "label" else ())]
            for value in values:
                if not 0 <= value < limit and (key, value) != ("shard", NO_SHARD):
                    raise ValueError(f"{video.path}: {key} {value} is out of range: the index has {limit} {what}")
        if video.shard == NO_SHARD and self._limits["shard"][0]:
            raise ValueError(f"{video.path}: is in no shard; the videos of an index are all in shards, or none is")
        assert len(video.digest) == DIGEST_BYTES, f"{video.path}: digest of {len(video.digest)} bytes"

    def finish(
        self,
        *,
        class_names: Sequence[str],
        shards: Sequence[str],
        left_out: Sequence[tuple[str, str]],
        frame_rate: float | None,
        kind: FileKind,
    ) -> None:
        """Write what follows the videos, and the head. ValueError if there are none."""
        count = len(self._columns["label"])
        if not count:
            raise ValueError(f"{self._name}: no videos to index; {len(left_out)} were left out")
        more = self._more_columns(count)
        self._columns["frames_at"].append(self._file.tell())
        self._columns["path_at"].append(len(self._paths))
        paths_at = self._put(self._paths)["at"]
        columns = {}
        for key, form in {**_COLUMNS, **more}.items():
            raw = self._digests if key == "digest" else np.asarray(self._columns[key]).astype(form).tobytes()
            columns[key] = self._put(raw)
        header = _Header(
            videos=count,
            class_names=list(class_names),
            root=self._root,
            shards=list(shards),
            columns=columns,
            paths_at=paths_at,
            left_out=self._put(_to_json([list(pair) for pair in left_out])),
            kind=kind.noun,
        )
        if more or frame_rate is not None:
            header["frame_rate"] = frame_rate
            header["label_sets"] = self._put(np.asarray(self._label_sets).astype("<i4").tobytes())
            header["groups"] = self._put(self._groups)
        section = self._put(_to_json(header))
        rest = _HEAD_REST.pack(self._file.tell(), section["at"], section["bytes"], section["crc"])
        version = VERSION if "frame_rate" in header else PLAIN_VERSION
        self._file.seek(0)
        self._file.write(_HEAD.pack(_MAGIC, version, zlib.crc32(rest)) + rest)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _more_columns(self, count: int) -> dict[str, str]:
        """Those that this data set has, ended where they need an end. ValueError if some videos alone have one."""
        held = {key: len(self._columns[key]) // (2 if key == "segment" else 1) for key in _MORE_COLUMNS}
        held["frames_end"] = count * self._shared
        for key, number in held.items():
            if number not in (0, count):
                what = {"labels_at": "list of labels", "group_at": "group"}.get(key, key)
                raise ValueError(
                    f"{self._name}: {number} of {count} videos have a {what}; give all of them one, or none"
                )
        if held["labels_at"]:
            self._columns["labels_at"].append(len(self._label_sets))
        if held["group_at"]:
            self._columns["group_at"].append(len(self._groups))
        return {key: kind for key, kind in _MORE_COLUMNS.items() if held[key]}

    def _put(self, raw: bytes | bytearray) -> _Section:
        self._file.write(bytes(-self._file.tell() % 8))  # arrays in place
        at = self._file.tell()
        self._file.write(raw)
        return _Section(at=at, bytes=len(raw), crc=zlib.crc32(raw))


def _to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


class IndexFile:
    """A mapped index. Every process that has it shares its pages; pickled, it is its path, and opens anew.

    Args:
        path: the file.
        root: folder or URL where the videos (or, for shards, the shards) are now, if not where the index says.
        expected: checksum of the header that the file must have, if it must be a certain one.

    Attributes:
        path: as given.
        class_names: name of each class.
        kind: of the files.
        root: folder or URL that the videos, or the shards, lay under when the index was written.
        labels: int32 (videos,), class index of each video.
        shard_of: int32 (videos,), number of each video's shard; None if the videos are files of their own.
        shards: places of the shards.
        digests: uint8 (videos, 16); equal rows stand for equal contents.
        paths: what to call each video to people: its path, or "shard.tar/member".
        segments, label_sets, groups, weights, frame_rate: those of the manifest; None where it has none.

    Raises:
        ValueError: the file does not exist, is no index, of another version, or damaged.
    """

    def __init__(self, path: str | os.PathLike[str], *, root: str | None = None, expected: int | None = None) -> None:
        self.path = os.fspath(path)
        self._root = root
        self._bytes = self._mapped()
        header, self._checksum = self._header()
        if expected is not None and expected != self._checksum:
            self._refuse("was replaced by another index since the run began", "start again")
        more = [key for key in _MORE_COLUMNS if key in header["columns"]]
        self._columns = {key: self._column(key, header) for key in (*_COLUMNS, *more)}
        self._left_out_at = header["left_out"]
        self._paths_at = header["paths_at"]
        self.class_names = tuple(header["class_names"])
        self.kind = IMAGES if header.get("kind") == IMAGES.noun else VIDEOS
        folder = os.path.dirname(self.path)
        self.root = _first_folder(header, os.path.abspath(folder))
        self._base = join_location(folder, header["root"] or "") if root is None else root
        moved = header["shards"] if root is None else [_below(self.root, shard) for shard in header["shards"]]
        self.shards = tuple(join_location(folder if root is None else root, shard) for shard in moved)
        self.labels: npt.NDArray[np.int32] = self._columns["label"]
        self.shard_of: npt.NDArray[np.int32] | None = self._columns["shard"] if self.shards else None
        self.paths: ArrayView[str] = _Names(self)
        self._read_more(header)

    def _read_more(self, header: _Header) -> None:
        """What data sets of whole files with one label each do not have."""
        columns = self._columns
        self.frame_rate = header.get("frame_rate")
        self.segments = Segments(columns["segment"]) if "segment" in columns else None
        self.weights = FloatArrayView(columns["weight"]) if "weight" in columns else None
        self.label_sets: LabelSetArrayView | None = None
        if "labels_at" in columns:
            values = np.frombuffer(self._section(header["label_sets"], "list of labels"), "<i4")
            self.label_sets = LabelSetArrayView.of_arrays(values, columns["labels_at"])
        self.groups: TextArrayView | None = None
        if "group_at" in columns:
            self.groups = TextArrayView.of_buffer(
                self._section(header["groups"], "list of groups"), columns["group_at"]
            )

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, root: str | None = None) -> "IndexFile":
        """Map an index; see the class."""
        return cls(path, root=root)

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[Callable[..., "IndexFile"], tuple[str, str | None, int]]:
        return _reopen, (self.path, self._root, self._checksum)

    @property
    def digests(self) -> npt.NDArray[np.uint8]:
        return self._columns["digest"].view(np.uint8).reshape(-1, DIGEST_BYTES)

    @property
    def left_out(self) -> tuple[tuple[str, str], ...]:
        """(path, reason) of the videos that the split lists and the index does not hold."""
        pairs: list[tuple[str, str]] = json.loads(bytes(self._section(self._left_out_at, "list of videos left out")))
        return tuple((path, reason) for path, reason in pairs)

    def frames(self, index: int) -> FrameIndex:
        """The frame index of a video."""
        index = self._row(index)
        first, end = self._columns["frames_at"][index : index + 2]
        if "frames_end" in self._columns:
            end = self._columns["frames_end"][index]
        try:
            return decode_frame_index(memoryview(self._bytes)[first:end])
        except ValueError as error:
            self._refuse(f"{self.paths[index]}: {error}")

    def info(self, index: int) -> VideoInfo:
        """Frames, rate, size and codec of a video."""
        return self.frames(index).info

    def location(self, index: int) -> VideoLocation:
        """Where a video's bytes are, and its frames."""
        index = self._row(index)
        row = {key: int(self._columns[key][index]) for key in ("size", "mtime_ns", "shard", "start")}
        name = url = self.paths[index]
        if self.shard_of is not None:
            url = self.shards[row["shard"]]
        return VideoLocation(
            name=name,
            url=url,
            start=row["start"],
            size=row["size"],
            mtime_ns=None if row["mtime_ns"] == _NO_MTIME else row["mtime_ns"],
            index=self.frames(index) if self.kind == VIDEOS else None,
            frame_rate=self.frame_rate,
            member=name[len(url) + 1 :],
        )

    def name(self, index: int) -> str:
        """What to call a video to people."""
        index = self._row(index)
        first, end = self._columns["path_at"][index : index + 2]
        raw = self._bytes[self._paths_at + first : self._paths_at + end]
        if zlib.crc32(raw) != self._columns["path_crc"][index]:
            self._refuse(f"the path of video {index} does not fit its checksum")
        path = str(raw, "utf-8", TEXT_ERRORS)
        if self.shard_of is not None:
            return f"{self.shards[self.shard_of[index]]}/{path}"
        return join_location(self._base, path)

    def _row(self, index: int) -> int:
        """A video's row, counted from the end if `index` is negative. IndexError if there is none."""
        return range(len(self))[operator.index(index)]

    # ---- opening

    def _mapped(self) -> mmap.mmap:
        if "://" in self.path:
            self._refuse("an index is mapped into memory", "copy it to a local disk and give its videos' place as root")
        try:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size < _HEAD_BYTES:
                    self._refuse("is too short for an index")
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            self._refuse("there is no such file", "give the path of an index that mvit_video.prepare wrote")
        except OSError as error:
            self._refuse(f"cannot be read: {error.strerror}", "give the path of an index that mvit_video.prepare wrote")

    def _header(self) -> tuple[_Header, int]:
        """The header, and its checksum."""
        magic, version, checksum = _HEAD.unpack_from(self._bytes)
        if magic != _MAGIC:
            self._refuse("is no index", "give the path of an index that mvit_video.prepare wrote")
        if version not in (PLAIN_VERSION, VERSION):
            known = f"versions {PLAIN_VERSION} and {VERSION}"
            self._refuse(f"is an index of version {version}, this program reads {known}")
        rest = self._bytes[_HEAD.size : _HEAD.size + _HEAD_REST.size]
        if zlib.crc32(rest) != checksum:
            self._refuse("its first bytes are damaged")
        length, at, size, crc = _HEAD_REST.unpack(rest)
        if length != len(self._bytes):
            self._refuse(f"has {len(self._bytes)} bytes, {length} were written")
        header: _Header = json.loads(bytes(self._section(_Section(at=at, bytes=size, crc=crc), "header")))
        return header, crc

    def _column(self, key: str, header: _Header) -> npt.NDArray[Any]:
        section = header["columns"][key]
        values = np.frombuffer(self._section(section, f"column {key!r}"), {**_COLUMNS, **_MORE_COLUMNS}[key])
        if key == "segment":
            values = values.reshape(-1, 2)
        assert len(values) == header["videos"] + key.endswith("_at"), key
        return values

    def _section(self, section: _Section, what: str) -> memoryview:
        """A checked part of the file, not copied."""
        raw = memoryview(self._bytes)[section["at"] : section["at"] + section["bytes"]]
        if zlib.crc32(raw) != section["crc"]:
            self._refuse(f"its {what} is damaged")
        return raw

    def _refuse(self, problem: str, way_out: str = "prepare the data set again") -> NoReturn:
        raise ValueError(f"{self.path}: {problem}; {way_out}")


def _first_folder(header: _Header, folder: str) -> str:
    """What `root` takes the place of: the folder of the index, or that of videos or shards that lie elsewhere."""
    shards = header["shards"]
    if not shards:
        return folder if header["root"] is None else header["root"]
    if not all(is_remote(shard) or os.path.isabs(shard) for shard in shards):
        return folder
    shared = os.path.commonprefix([os.path.join(os.path.dirname(shard), "") for shard in shards])  # noqa: RUF071
    return shared.rpartition("/")[0] or "/"  # cut at a slash, for names may begin alike


def _below(folder: str, place: str) -> str:
    """A place relative to a folder that it lies below."""
    return place.removeprefix(os.path.join(folder, ""))


def _reopen(path: str, root: str | None, checksum: int) -> IndexFile:
    return IndexFile(path, root=root, expected=checksum)


class _Names(ArrayView[str]):
    """The names of an index's videos."""

    def __init__(self, index: IndexFile) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    def item(self, place: int) -> str:
        return self._index.name(place)
