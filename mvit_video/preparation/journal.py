"""What was found out about each file, kept in a journal so that an interrupted run goes on where it was.

The journal is JSON lines, appended and flushed one by one: a run that is killed loses the files in work, no more, and
the torn line that it may leave at the end is passed over.
"""

import base64
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from mvit_video.video.index import FrameIndex
from mvit_video.video.index_encoding import decode_frame_index, encode_frame_index

logger = logging.getLogger(__name__)
VERSION = 1  # records of other versions are not used: they are read again
Verify = Literal["decode", "index"]
Status = Literal["ok", "partial", "broken", "missing", "killed", "timeout"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FileState:
    """Identity of a file's content as far as the file system tells: where it is, its size and modification time.

    Attributes:
        name: what manifests call it.
        start: first byte in the file, for a video inside a larger one.
        size: bytes of the video.
        mtime_ns: modification time of the file; 0 if it is not local.
    """

    name: str
    start: int = 0
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What is known of one video.

    Attributes:
        state: the file as it was when it was read.
        verify: how far it was read: "decode" every frame, "index" its packets.
        status: "ok"; "partial": sound up to a damage; "broken": cannot be read; "missing": no such file; "killed" and
            "timeout": the process that read it died or took too long.
        reason: what is wrong, for people; empty for "ok".
        container: the demuxer's name.
        digest: SHA-256 of the bytes, hexadecimal; empty if they could not be read.
        signature: of the pictures, see perceptual_hash.py; empty without decoding.
        frames: the encoded FrameIndex in base 64; empty if there is none.
        num_frames, fps, height, width, codec, duration: as VideoInfo.
        seconds: wall-clock time it took.
        written: the file made of it by re-encoding; container, digest, frames and what follows them describe that file.
        recipe: how that was written.
    """

    state: FileState
    verify: Verify
    status: Status
    reason: str = ""
    container: str = ""
    digest: str = ""
    signature: str = ""
    frames: str = ""
    num_frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    codec: str = ""
    duration: float = 0.0
    seconds: float = 0.0
    written: FileState | None = None
    recipe: str = ""

    @property
    def file(self) -> FileState:
        """The file that all this is about: the one that was written, else the one that was read."""
        return self.written or self.state

    @property
    def frame_index(self) -> FrameIndex:
        """The index of a file that has one."""
        return decode_frame_index(self.encoded_frames)

    @property
    def encoded_frames(self) -> bytes:
        """The same as `encode_frame_index` made it."""
        return base64.b64decode(self.frames)

    def covers(self, verify: Verify) -> bool:
        """Whether this is as much as reading with `verify` would tell: what cannot be indexed cannot be decoded."""
        return self.verify == "decode" or verify == "index" or self.status == "broken"

    def to_json(self) -> str:
        """One line, without the line break."""
        content = {"version": VERSION, **asdict(self.state)}
        content |= {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("state", "written")}
        content["written"] = asdict(self.written) if self.written else None
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "Record | None":
        """The record of a line; None for one of another version.

        Raises:
            ValueError: the line is torn or no record.
        """
        content = json.loads(line)
        try:
            if content.pop("version") != VERSION:
                return None
            state = FileState(**{f.name: content.pop(f.name) for f in fields(FileState)})
            written = content.pop("written")
            if "verdict" in content:  # what the field was called once: hours of reading are not thrown away for a name
                content["status"] = content.pop("verdict")
            return cls(state=state, written=FileState(**written) if written else None, **content)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no record: {line[:80]}") from error


def frames_text(index: FrameIndex) -> str:
    """A frame index as a record holds it."""
    return base64.b64encode(encode_frame_index(index)).decode("ascii")


def index_fields(index: FrameIndex) -> dict[str, Any]:
    """What a record says of the frames: the index, and what VideoInfo has of it."""
    info = asdict(index.info)
    return {"frames": frames_text(index), **info}


class Journal:
    """The records of a run and those before it, the newest of each file; appended to as files are finished.

    Args:
        path: the journal; made if it is absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[tuple[str, int], Record] = {}
        torn = 0
        for line in lines_of(path):
            try:
                record = Record.from_json(line)
            except ValueError:
                torn += 1
                continue
            if record is not None:
                self._keep(record)
        if torn:
            logger.info("%s: %d torn lines of interrupted runs are passed over", path, torn)
        self._stream = path.open("ab")
        self._end_torn_line()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def add(self, record: Record) -> None:
        """Keep a record, here and in the file."""
        self._keep(record)
        self._stream.write(record.to_json().encode() + b"\n")
        self._stream.flush()

    def find(self, state: FileState) -> Record | None:
        """The record of a file that has not changed since."""
        record = self._records.get((state.name, state.start))
        return record if record is not None and record.state == state else None

    def written(self) -> dict[tuple[str, int], str]:
        """By (name, first byte) of each source, the file made of it, also where the source has changed since."""
        return {key: record.written.name for key, record in self._records.items() if record.written is not None}

    def _keep(self, record: Record) -> None:
        self._records[record.state.name, record.state.start] = record

    def _end_torn_line(self) -> None:
        """Begin on a new line, whatever an interrupted run has left."""
        if self._stream.tell() == 0:
            return
        with self.path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            last = stream.read()
        if last != b"\n":
            self._stream.write(b"\n")


def lines_of(path: Path) -> Iterator[str]:
    """The non-empty lines of a journal; none where it does not exist."""
    try:
        stream = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            if line.strip():
                yield line
