"""What a prepared data set is like, as plain values: the content of report.json."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mvit_video.preparation.content import Content
from mvit_video.preparation.duplicates import look_alikes, same_bytes
from mvit_video.preparation.inventory import Inventory, SplitEntry
from mvit_video.preparation.journal import Record
from mvit_video.preparation.perceptual_hash import from_texts
from mvit_video.preparation.quantities import most_common, quantiles
from mvit_video.preparation.segment_frames import SplitFrames

Statistics = dict[str, Any]
MOST_SHOWN = 10_000  # of any list in report.json


def split_statistics(
    split: str, data: Inventory, records: Mapping[int, Record], frames: SplitFrames, content: Content
) -> Statistics:
    """Counts and distributions of one split; durations and frames are those of segments where entries are such.

    Args:
        records: by item.
        frames: entries that the index holds.
        content: what the files are.
    """
    manifest, entries, usable = data.manifests[split], data.entries[split], frames.usable
    counts = np.bincount([label for entry in usable for label in entry.labels], minlength=manifest.num_classes)
    kept = [records[entry.item] for entry in usable]
    files = [records[item] for item in sorted({entry.item for entry in usable})]
    statuses = Counter(_status(entry, records, frames) for entry in entries)
    statuses += Counter(missing=len(manifest.missing))
    repeated = len(entries) - len({(entry.item, entry.segment) for entry in entries})
    return {
        "source": manifest.source,
        "listed": len(manifest) + len(manifest.missing),
        "looked_at": len(entries),
        "usable": len(usable),
        "statuses": dict(statuses),
        "left_out": {reason: list(names[:MOST_SHOWN]) for reason, names in manifest.left_out.items()},
        "left_out_noun": manifest.left_out_noun,
        "listed_more_than_once": repeated,
        "classes": _class_statistics(counts, manifest.class_names),
        "files": len(files),
        "segments": sum(not entry.segment.whole for entry in usable),
        "frame_rate": manifest.frame_rate,
        "labels": None if manifest.label_sets is None else sum(len(entry.labels) for entry in usable),
        "bytes": sum(record.file.size for record in files),
        "file_bytes": quantiles([record.file.size for record in files]),
        "short_side": quantiles([min(record.height, record.width) for record in kept]),
        "sizes": most_common(f"{record.width}x{record.height}" for record in kept),
        **content.statistics(usable, records, manifest),
    }


def _status(entry: SplitEntry, records: Mapping[int, Record], frames: SplitFrames) -> str:
    """That of the file; "empty" for a segment without a frame of a file that is in order."""
    return "empty" if entry.row in frames.empty else records[entry.item].status


def _class_statistics(counts: np.ndarray, names: Sequence[str]) -> Statistics:
    order = np.argsort(counts, kind="stable")
    return {
        "number": len(names),
        "videos": quantiles(counts.tolist()),
        "smallest": [[names[i], int(counts[i])] for i in order[:5].tolist()],
        "largest": [[names[i], int(counts[i])] for i in order[::-1][:5].tolist()],
        "empty": [names[i] for i in np.flatnonzero(counts == 0).tolist()],
        "counts": {name: int(count) for name, count in zip(names, counts)},
    }


def problems(data: Inventory, records: Mapping[int, Record], frames: Mapping[str, SplitFrames]) -> list[Statistics]:
    """Every entry that is not simply sound, with the reason."""
    found = []
    for split, entries in data.entries.items():
        for entry in entries:
            status = _status(entry, records, frames[split])
            if status != "ok":
                reason = frames[split].empty.get(entry.row) or records[entry.item].reason
                found.append(_named(data, split, entry) | {"status": status, "reason": reason})
        for path in data.manifests[split].missing:
            found.append({"split": split, "path": path, "class": "", "status": "missing", "reason": "no such file"})
    return found


def duplicates(data: Inventory, records: Mapping[int, Record]) -> Statistics:
    """Files, or segments of files, with the same bytes, within and across splits."""
    entries = [(split, entry) for split, listed in data.entries.items() for entry in listed]
    groups = same_bytes([_content(entry, records[entry.item]) for _, entry in entries])
    shown: list[Statistics] = []
    for group in groups:
        members = [entries[place] for place in group]
        splits = {split for split, _ in members}
        classes = {_classes(data, split, entry) for split, entry in members}
        shown.append(
            {
                "across_splits": len(splits) > 1,
                "across_classes": len(classes) > 1,
                "videos": [_named(data, split, entry) for split, entry in members],
            }
        )
    shown.sort(key=lambda group: (not group["across_splits"], not group["across_classes"]))
    return {
        "groups": len(shown),
        "across_splits": sum(group["across_splits"] for group in shown),
        "across_classes": sum(group["across_classes"] for group in shown),
        "extra_files": sum(len(group["videos"]) - 1 for group in shown),
        "list": shown[:MOST_SHOWN],
    }


def _content(entry: SplitEntry, record: Record) -> str:
    """What entries with equal contents share; empty where the file could not be read."""
    return record.digest and record.digest + ("" if entry.segment.whole else f" {entry.segment}")


def near_duplicates(data: Inventory, records: Mapping[int, Record], content: Content) -> Statistics:
    """Files of different splits that look the same without having the same bytes."""
    splits, count = list(data.entries), 0
    pairs: list[Statistics] = []
    for number, first in enumerate(splits):
        for second in splits[number + 1 :]:
            between, shown = _look_alikes_between(data, records, first, second)
            count += between
            pairs += shown
    pairs.sort(key=lambda pair: pair["bits"])
    return {"rule": content.near_rule, "pairs": count, "list": pairs[:MOST_SHOWN]}


def _look_alikes_between(
    data: Inventory, records: Mapping[int, Record], first: str, second: str
) -> tuple[int, list[Statistics]]:
    """How many pairs there are, and the nearest of them."""
    known = [_once_a_file(data.entries[split], records) for split in (first, second)]
    words = [from_texts([records[e.item].signature for e in entries]) for entries in known]
    seconds = [[records[e.item].duration for e in entries] for entries in known]
    numbers: dict[str, int] = {}
    contents = [
        np.array([numbers.setdefault(records[e.item].digest, len(numbers)) for e in entries], np.int64)
        for entries in known
    ]
    found = look_alikes(
        words[0],
        words[1],
        first_seconds=seconds[0],
        second_seconds=seconds[1],
        most=MOST_SHOWN,
        different=lambda a, b: contents[0][a] != contents[1][b],
    )
    shown = []
    for pair in found.nearest:
        a, b = known[0][pair.first], known[1][pair.second]
        shown.append({"bits": round(pair.bits, 2), "videos": [_named(data, first, a), _named(data, second, b)]})
    return found.count, shown


def _once_a_file(entries: Sequence[SplitEntry], records: Mapping[int, Record]) -> list[SplitEntry]:
    """The first entry of each file that has a signature, which is one of the whole file."""
    first: dict[int, SplitEntry] = {}
    for entry in entries:
        if records[entry.item].signature:
            first.setdefault(entry.item, entry)
    return list(first.values())


def _named(data: Inventory, split: str, entry: SplitEntry) -> Statistics:
    named = {"split": split, "path": data.items[entry.item].location.name, "class": _classes(data, split, entry)}
    return named if entry.segment.whole else named | {"segment": str(entry.segment)}


def _classes(data: Inventory, split: str, entry: SplitEntry) -> str:
    return ", ".join(data.manifests[split].class_names[label] for label in entry.labels)


def too_small(
    data: Inventory, records: Mapping[int, Record], usable: Mapping[str, SplitFrames], content: Content
) -> Statistics:
    """Entries that hold less than a sample takes."""
    found = []
    for split, frames in usable.items():
        for entry in frames.usable:
            lacking = content.too_small(entry, records[entry.item])
            if lacking is not None:
                found.append(_named(data, split, entry) | lacking)
    about = {"title": content.too_small_title, "rule": content.too_small_rule}
    return {**about, "videos": len(found), "list": found[:MOST_SHOWN]}
