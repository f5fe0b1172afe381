"""Reading one file and judging it: what a worker process does."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import av

from mvit_video.preparation import signature
from mvit_video.preparation.containers import missing_bytes
from mvit_video.preparation.journal import FileState, Record, Verify, facts_of
from mvit_video.preparation.linear import decode_all, opened
from mvit_video.video.byte_source import Place, locate
from mvit_video.video.container import too_large
from mvit_video.video.index import FrameIndex, VideoDecodeError
from mvit_video.video.index_builder import build_index
from mvit_video.video.location import Media
from mvit_video.video.packets import PacketReader

_CHUNK = 2**20


@dataclass(frozen=True)
class ScanTask:
    """A file to read, how far to read it, and the largest pictures (height * width) to accept."""

    media: Media
    state: FileState
    verify: Verify
    max_pixels: int

    def __str__(self) -> str:
        return self.media.name


def scan_file(task: ScanTask) -> Record:
    """Read a file: its bytes for the digest, its packets for the index, and, if asked to, every frame.

    What is wrong with the file is the record's verdict; no error is raised for it.
    """
    start = time.monotonic()
    record = Record(state=task.state, verify=task.verify, verdict="ok")
    try:
        place = locate(task.media)
        record = replace(record, digest=digest(place))
        record = _read(place, record, task.max_pixels)
    except (VideoDecodeError, OSError) as error:
        record = replace(record, verdict="broken", reason=_reason(error))
    return replace(record, seconds=round(time.monotonic() - start, 4))


def _read(place: Place, record: Record, max_pixels: int) -> Record:
    with opened(place, max_pixels=max_pixels) as reader:
        index = build_index(reader)
        info = index.info
        if info.height * info.width > max_pixels:
            raise too_large(place.name, info.height, info.width, max_pixels)
        signed = look_at_all(reader, index) if record.verify == "decode" else ""
        container = reader.file.container
    damage = index.damage
    if not damage and (missing := missing_bytes(place)):
        damage = f"the file ends {missing} bytes too early"
    reason = f"only its first {info.num_frames} frames can be read: {damage}" if damage else ""
    return replace(
        record,
        verdict="partial" if reason else "ok",
        reason=reason,
        container=container,
        signature=signed,
        **facts_of(index),
    )


def look_at_all(reader: PacketReader, index: FrameIndex) -> str:
    """Decode every frame; the signature. Raises VideoDecodeError where some do not decode."""
    wanted = signature.signature_frames(index.info.num_frames)
    hashes: dict[int, int] = {}

    def on_frame(number: int, frame: av.VideoFrame) -> None:
        if number in wanted:
            hashes[number] = signature.difference_hash(signature.luma(frame, index.orientation))

    try:
        decode_all(reader, index, on_frame)
    except VideoDecodeError:
        reader.reopen(forget=True)  # as a training does: once more, in FFmpeg's normal way
        decode_all(reader, index, on_frame)
    return signature.to_text([hashes[number] for number in wanted])


def digest(place: Place) -> str:
    """SHA-256 of a video's bytes, hexadecimal."""
    sha = hashlib.sha256()
    for chunk in _chunks(place):
        sha.update(chunk)
    return sha.hexdigest()


def _chunks(place: Place) -> Iterator[bytes]:
    if place.data is not None:
        yield place.data
        return
    with open(place.path, "rb") as stream:
        stream.seek(place.start)
        left = place.size
        while left > 0 and (chunk := stream.read(min(_CHUNK, left))):
            yield chunk
            left -= len(chunk)


def _reason(error: Exception) -> str:
    if isinstance(error, VideoDecodeError):
        return error.reason
    return getattr(error, "strerror", None) or str(error)
