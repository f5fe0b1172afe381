"""Reading one file and checking it: what a worker process does."""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import av
import numpy as np
from PIL import Image

from mvit_video.preparation import perceptual_hash
from mvit_video.preparation.full_decode import decode_all, open_packets
from mvit_video.preparation.journal import FileState, Record, Verify, index_fields
from mvit_video.preparation.truncation import missing_bytes
from mvit_video.video.byte_source import ByteSource, Deadline, locate
from mvit_video.video.container import too_large
from mvit_video.video.index import FrameIndex, VideoDecodeError
from mvit_video.video.index_builder import build_index
from mvit_video.video.location import VideoLocation
from mvit_video.video.packets import PacketReader

if TYPE_CHECKING:
    from mvit_video.video.backends.frame_folder import FrameFolderDecoder

_CHUNK = 2**20


@dataclass(frozen=True)
class ScanTask:
    """A file to read, how far to read it, and the largest pictures (height * width) to accept."""

    location: VideoLocation
    state: FileState
    verify: Verify
    max_pixels: int

    def __str__(self) -> str:
        return self.location.name


def scan_file(task: ScanTask) -> Record:
    """Read a file: its bytes for the digest, its packets for the index, and, if asked to, every frame.

    What is wrong with the file is the record's status; no error is raised for it.
    """
    start = time.monotonic()
    record = Record(state=task.state, verify=task.verify, status="ok")
    try:
        if task.location.frame_rate is not None:
            record = _read_folder(task, record)
        else:
            source = locate(task.location)
            record = replace(record, digest=digest(source))
            record = _read(source, record, task.max_pixels)
    except (VideoDecodeError, OSError) as error:
        record = replace(record, status="broken", reason=_reason(error))
    return replace(record, seconds=round(time.monotonic() - start, 4))


def _read(source: ByteSource, record: Record, max_pixels: int) -> Record:
    with open_packets(source, max_pixels=max_pixels) as reader:
        index = build_index(reader)
        info = index.info
        if info.height * info.width > max_pixels:
            raise too_large(source.name, info.height, info.width, max_pixels)
        signed = look_at_all(reader, index) if record.verify == "decode" else ""
        container = reader.file.container
    damage = index.damage
    if not damage and (missing := missing_bytes(source)):
        damage = f"the file ends {missing} bytes too early"
    reason = f"only its first {info.num_frames} frames can be read: {damage}" if damage else ""
    return replace(
        record,
        status="partial" if reason else "ok",
        reason=reason,
        container=container,
        signature=signed,
        **index_fields(index),
    )


def _read_folder(task: ScanTask, record: Record) -> Record:
    """Read a folder of pictures: all their bytes for the digest, and, if asked to, decode each of them."""
    # Imports torch, two seconds long, which workers that read videos alone do not need.
    from mvit_video.video.backends.frame_folder import FrameFolderDecoder

    location = task.location
    assert location.frame_rate is not None
    folder = FrameFolderDecoder(
        location.name,
        location.url,
        frame_rate=location.frame_rate,
        max_pixels=task.max_pixels,
        deadline=Deadline(location.name, None),
    )
    sha = hashlib.sha256()
    for name in folder.pictures:
        with open(os.path.join(location.url, name), "rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    record = replace(record, digest=sha.hexdigest(), container="pictures", **index_fields(folder.frame_index))
    if record.verify == "decode":
        record = replace(record, signature=_look_at_pictures(folder))
    return record


def _look_at_pictures(folder: "FrameFolderDecoder") -> str:
    """Decode every picture; the signature. Raises VideoDecodeError where one does not decode."""
    wanted = perceptual_hash.signature_frames(folder.info.num_frames)
    hashes: dict[int, int] = {}
    for number in range(folder.info.num_frames):
        picture = folder.picture(number)
        if number in wanted:
            hashes[number] = perceptual_hash.difference_hash(np.asarray(Image.fromarray(picture).convert("L")))
    return perceptual_hash.to_text([hashes[number] for number in wanted])


def look_at_all(reader: PacketReader, index: FrameIndex) -> str:
    """Decode every frame; the signature. Raises VideoDecodeError where some do not decode."""
    wanted = perceptual_hash.signature_frames(index.info.num_frames)
    hashes: dict[int, int] = {}

    def on_frame(number: int, frame: av.VideoFrame) -> None:
        if number in wanted:
            hashes[number] = perceptual_hash.difference_hash(perceptual_hash.luma(frame, index.orientation))

    try:
        decode_all(reader, index, on_frame)
    except VideoDecodeError:
        reader.reopen(forget=True)  # as a training does: once more, in FFmpeg's normal way
        decode_all(reader, index, on_frame)
    return perceptual_hash.to_text([hashes[number] for number in wanted])


def digest(source: ByteSource) -> str:
    """SHA-256 of a video's bytes, hexadecimal."""
    sha = hashlib.sha256()
    for chunk in _chunks(source):
        sha.update(chunk)
    return sha.hexdigest()


def _chunks(source: ByteSource) -> Iterator[bytes]:
    if source.data is not None:
        yield source.data
        return
    with open(source.path, "rb") as stream:
        stream.seek(source.start)
        left = source.size
        while left > 0 and (chunk := stream.read(min(_CHUNK, left))):
            yield chunk
            left -= len(chunk)


def _reason(error: Exception) -> str:
    if isinstance(error, VideoDecodeError):
        return error.reason
    return getattr(error, "strerror", None) or str(error)
