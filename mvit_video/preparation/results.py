"""The end of a run: the index of every split, report.json and report.md."""

import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mvit_video
from mvit_video.data.datasets.index_file import DIGEST_BYTES, IndexedVideo, write_index
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.preparation import statistics
from mvit_video.preparation.content import Content
from mvit_video.preparation.inventory import Inventory, SplitEntry
from mvit_video.preparation.journal import Record, Status
from mvit_video.preparation.output_paths import common_folder, is_within
from mvit_video.preparation.report import markdown
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
    usable = {split: [e for e in entries if records[e.item].status in keep] for split, entries in data.entries.items()}
    indexes = {}
    for split, entries in usable.items():
        if entries:
            path = out / f"{split}.index"
            _write_split(path, split, data, records, entries, None if packed is None else packed[split])
            indexes[split] = str(path)
    report = _report(data, records, usable, packed, indexes, content=content, effort=effort)
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
    entries: Sequence[SplitEntry],
    packed: PackedSplit | None,
) -> None:
    kept = {entry.item for entry in entries}
    left_out = [
        (data.items[entry.item].location.name, records[entry.item].reason)
        for entry in data.entries[split]
        if entry.item not in kept
    ]
    left_out += [(name, "no such file") for name in data.manifests[split].missing]
    names, kind = data.manifests[split].class_names, data.manifests[split].kind
    if packed is not None:
        shards = [_from(path.parent, shard) for shard in packed.shards]
        videos = _members(entries, records, packed)
        write_index(path, videos, class_names=names, root=None, shards=shards, left_out=left_out, kind=kind)
        return
    stretches = [data.items[item].location for item in sorted(kept) if _is_stretch(data, records, item)]
    if stretches:
        _write_stretches(path, data, records, entries, left_out, manifest=data.manifests[split])
        return
    root = common_folder([records[item].file.name for item in kept])
    inside = is_within(root, path.parent)
    videos = _files(entries, records, base=str(path.parent.absolute()) if inside else None)
    write_index(path, videos, class_names=names, root=None if inside else root, left_out=left_out, kind=kind)


def _is_stretch(data: Inventory, records: Mapping[int, Record], item: int) -> bool:
    """Whether a video lies in a shard of the source, and was not written to a file of its own."""
    location = data.items[item].location
    return records[item].written is None and (location.start > 0 or location.size is not None)


def _files(entries: Sequence[SplitEntry], records: Mapping[int, Record], *, base: str | None) -> Iterator[IndexedVideo]:
    """Videos that are files; relative to `base` if there is one."""
    for entry in entries:
        record = records[entry.item]
        state = record.file
        name = state.name if base is None else os.path.relpath(state.name, base)
        yield IndexedVideo(
            path=name,
            label=entry.label,
            size=state.size,
            mtime_ns=None if is_remote(name) else state.mtime_ns,
            frames=record.frame_index if record.frames else b"",
            digest=_digest(record),
        )


def _members(
    entries: Sequence[SplitEntry], records: Mapping[int, Record], packed: PackedSplit
) -> Iterator[IndexedVideo]:
    """Videos in the shards that were written."""
    for entry in entries:
        record = records[entry.item]
        shard, start, name = packed.places[entry.item]
        yield IndexedVideo(
            path=name,
            label=entry.label,
            size=record.file.size,
            mtime_ns=None,
            frames=record.frame_index if record.frames else b"",
            digest=_digest(record),
            shard=shard,
            start=start,
        )


def _write_stretches(
    path: Path,
    data: Inventory,
    records: Mapping[int, Record],
    entries: Sequence[SplitEntry],
    left_out: Sequence[tuple[str, str]],
    *,
    manifest: Manifest,
) -> None:
    """Index a source of shards anew, its videos where they are."""
    shards = sorted({data.items[entry.item].location.url for entry in entries})
    places: dict[int, tuple[int, int, str]] = {}
    for entry in entries:
        location = data.items[entry.item].location
        places[entry.item] = (
            shards.index(location.url),
            location.start,
            location.name.removeprefix(location.url + "/"),
        )
    videos = _members(entries, records, PackedSplit(tuple(shards), places))
    named = [_from(path.parent, shard) for shard in shards]
    names, kind = manifest.class_names, manifest.kind
    write_index(path, videos, class_names=names, root=None, shards=named, left_out=left_out, kind=kind)


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
    usable: Mapping[str, Sequence[SplitEntry]],
    packed: Mapping[str, PackedSplit] | None,
    indexes: Mapping[str, str],
    *,
    content: Content,
    effort: Effort,
) -> Statistics:
    written = [record for record in records.values() if record.written is not None]
    layout = f"The {content.kind.plural} stay where they are; the index refers to them."
    if written:
        layout = "It refers to the re-encoded files."
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
        "problems": statistics.problems(data, records),
        "duplicates": statistics.duplicates(data, records),
        "near_duplicates": statistics.near_duplicates(data, records, content),
        "short": statistics.too_small(data, records, usable, content),
        "reencoding": _reencoding_statistics(written),
        "shards": None if packed is None else {s: f"{len(p.shards)} shards" for s, p in packed.items()},
        "indexes": dict(indexes),
        "layout": layout,
        "use": _use(indexes),
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


def _use(indexes: Mapping[str, str]) -> str:
    """The options that choose the result as the source."""
    if not indexes:
        return ""
    places = " ".join(f"data.source.{split}={path}" for split, path in indexes.items())
    return f"data/source=index {places}"
