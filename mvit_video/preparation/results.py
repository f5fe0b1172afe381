"""The end of a run: the index of every split, report.json and report.md."""

import datetime
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import mvit_video
from mvit_video.data.datasets.index_file import DIGEST_BYTES, IndexedVideo, write_index
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import Segment
from mvit_video.preparation import statistics
from mvit_video.preparation.content import Content
from mvit_video.preparation.inventory import Inventory, SplitEntry
from mvit_video.preparation.journal import Record, Status
from mvit_video.preparation.output_paths import common_folder, is_within
from mvit_video.preparation.report import markdown
from mvit_video.preparation.segment_frames import SplitFrames, split_frames
from mvit_video.preparation.split_packing import PackedSplit
from mvit_video.preparation.statistics import Statistics
from mvit_video.runtime.files import write_text
from mvit_video.video.location import is_remote

REPORT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What the run did: files it read, files known from earlier runs, seconds in all."""

    read: int
    known: int
    seconds: float = 0.0


def write_results(
    data: Inventory,
    records: Mapping[int, Record],
    packed: Mapping[str, PackedSplit] | None,
    *,
    out: Path,
    keep: frozenset[Status],
    content: Content,
    effort: Effort,
) -> Statistics:
    """Write indexes and reports; the content of report.json.

    Args:
        records: by item.
        packed: where the splits' videos are in shards; None for files.
        out: folder to write to.
        keep: statuses of the videos that are indexed.
        content: what the files are.
        effort: what was done.

    Raises:
        ValueError: no split has a usable file; the report is written nevertheless.
    """
    records = content.judged(data, records)
    usable = {split: split_frames(entries, records, keep=keep) for split, entries in data.entries.items()}
    indexes = {}
    root = _shared_root(records, usable.values())
    for split, frames in usable.items():
        if frames.usable:
            own = content.write_split(out, split, data.manifests[split], frames.usable)
            path = out / f"{split}.index"
            if own is None:
                _write_split(path, split, data, records, frames, None if packed is None else packed[split], root)
            indexes[split] = own or str(path)
    report = _report(data, records, usable, packed, indexes, root=root, content=content, effort=effort)
    write_text(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_text(out / "report.md", markdown(report))
    if not indexes:
        raise ValueError(f"no {content.kind.noun} of any split can be used; {out / 'report.md'} has the reasons")
    return report


def _write_split(
    path: Path,
    split: str,
    data: Inventory,
    records: Mapping[int, Record],
    frames: SplitFrames,
    packed: PackedSplit | None,
    shared: str,
) -> None:
    manifest, entries = data.manifests[split], frames.usable
    if packed is None and any(_is_stretch(data, records, entry.item) for entry in entries):
        packed = _in_place(data, entries)
    root: str | None = None
    if packed is not None:
        videos = _members(manifest, entries, records, packed)
    else:
        inside = is_within(shared, path.parent)
        videos = _files(manifest, entries, records, base=str(path.parent.absolute()) if inside else None)
        root = None if inside else shared
    write_index(
        path,
        videos,
        class_names=manifest.class_names,
        root=root,
        shards=[] if packed is None else [_from(path.parent, shard) for shard in packed.shards],
        left_out=_left_out(split, data, records, frames),
        frame_rate=manifest.frame_rate,
        kind=manifest.kind,
    )


def _shared_root(records: Mapping[int, Record], splits: Iterable[SplitFrames]) -> str:
    """The folder that the files of all splits lie under: data.source.root, one option, says where it is later."""
    return common_folder([records[entry.item].file.name for frames in splits for entry in frames.usable])


def _left_out(split: str, data: Inventory, records: Mapping[int, Record], frames: SplitFrames) -> list[tuple[str, str]]:
    """(path, reason) of what the split lists and the index does not hold."""
    kept = {entry.row for entry in frames.usable}
    pairs = []
    for entry in data.entries[split]:
        if entry.row not in kept:
            reason = frames.empty.get(entry.row) or records[entry.item].reason
            pairs.append((data.items[entry.item].location.name, reason))
    return pairs + [(name, "no such file") for name in data.manifests[split].missing]


def _is_stretch(data: Inventory, records: Mapping[int, Record], item: int) -> bool:
    """Whether a video lies in a shard of the source, and was not written to a file of its own."""
    location = data.items[item].location
    return records[item].written is None and (location.start > 0 or location.size is not None)


class _Row(TypedDict):
    """What an index keeps of a row beside its file."""

    label: int
    segment: Segment | None
    labels: Sequence[int] | None
    group: str | None
    weight: float | None


def _row(manifest: Manifest, entry: SplitEntry) -> _Row:
    return _Row(
        label=entry.label,
        segment=None if manifest.segments is None else entry.segment,
        labels=None if manifest.label_sets is None else entry.labels,
        group=None if manifest.groups is None else manifest.groups[entry.row],
        weight=None if manifest.weights is None else manifest.weights[entry.row],
    )


def _files(
    manifest: Manifest, entries: Sequence[SplitEntry], records: Mapping[int, Record], *, base: str | None
) -> Iterator[IndexedVideo]:
    """Videos that are files; relative to `base` if there is one."""
    for entry in entries:
        record = records[entry.item]
        state = record.file
        name = state.name if base is None else os.path.relpath(state.name, base)
        yield IndexedVideo(
            path=name,
            size=state.size,
            mtime_ns=None if is_remote(name) else state.mtime_ns,
            frames=record.encoded_frames if record.frames else b"",
            digest=_digest(record),
            **_row(manifest, entry),
        )


def _members(
    manifest: Manifest, entries: Sequence[SplitEntry], records: Mapping[int, Record], packed: PackedSplit
) -> Iterator[IndexedVideo]:
    """Videos in the shards that were written."""
    for entry in entries:
        record = records[entry.item]
        shard, start, name = packed.places[entry.item]
        yield IndexedVideo(
            path=name,
            size=record.file.size,
            mtime_ns=None,
            frames=record.encoded_frames if record.frames else b"",
            digest=_digest(record),
            shard=shard,
            start=start,
            **_row(manifest, entry),
        )


def _in_place(data: Inventory, entries: Sequence[SplitEntry]) -> PackedSplit:
    """Where the videos of a source of shards are already."""
    shards = sorted({data.items[entry.item].location.url for entry in entries})
    places: dict[int, tuple[int, int, str]] = {}
    for entry in entries:
        location = data.items[entry.item].location
        places[entry.item] = (
            shards.index(location.url),
            location.start,
            location.name.removeprefix(location.url + "/"),
        )
    return PackedSplit(tuple(shards), places)


def _from(folder: Path, place: str) -> str:
    """A place relative to a folder that holds it, else absolute."""
    if is_remote(place):
        return place
    return os.path.relpath(place, folder) if is_within(place, folder) else os.path.abspath(place)


def _digest(record: Record) -> bytes:
    return bytes.fromhex(record.digest)[:DIGEST_BYTES]


def _report(
    data: Inventory,
    records: Mapping[int, Record],
    usable: Mapping[str, SplitFrames],
    packed: Mapping[str, PackedSplit] | None,
    indexes: Mapping[str, str],
    *,
    root: str,
    content: Content,
    effort: Effort,
) -> Statistics:
    written = [record for record in records.values() if record.written is not None]
    below = "" if all(is_remote(record.file.name) for record in records.values()) else f" below {root}"
    layout = f"The {content.kind.plural} stay where they are{below}; the index refers to them."
    if written:
        layout = f"It refers to the re-encoded files{below}."
    if packed is not None:
        layout = "It refers to the tar shards."
    return {
        "version": REPORT_VERSION,
        "item": content.kind.noun,
        "quantities": dict(content.quantities),
        "histograms": dict(content.histograms),
        "mvit_video": mvit_video.__version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "verify": "decode" if all(r.verify == "decode" for r in records.values()) else "index",
        "read": effort.read,
        "known": effort.known,
        "seconds": round(effort.seconds, 1),
        "splits": {
            split: statistics.split_statistics(split, data, records, usable[split], content) for split in data.entries
        },
        "problems": statistics.problems(data, records, usable),
        "duplicates": statistics.duplicates(data, records),
        "near_duplicates": statistics.near_duplicates(data, records, content),
        "short": statistics.too_small(data, records, usable, content),
        "reencoding": _reencoding_statistics(written),
        "shards": None if packed is None else {s: f"{len(p.shards)} shards" for s, p in packed.items()},
        "indexes": dict(indexes),
        "layout": layout,
        "use": content.use(indexes, data) if indexes else "",
    }


def _reencoding_statistics(written: Sequence[Record]) -> Statistics | None:
    if not written:
        return None
    before, after = sum(r.state.size for r in written), sum(r.file.size for r in written)
    return {
        "files": len(written),
        "recipe": written[0].recipe,
        "bytes before": before,
        "bytes after": after,
        "ratio": round(after / max(1, before), 3),
    }
