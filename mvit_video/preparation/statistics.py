"""What a prepared data set is like, as plain values: the content of report.json."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mvit_video.data.sampling import ClipSampler, clip_span
from mvit_video.preparation.duplicates import RULE, look_alikes, same_bytes
from mvit_video.preparation.inventory import Inventory, SplitEntry
from mvit_video.preparation.journal import Record
from mvit_video.preparation.perceptual_hash import from_texts
from mvit_video.preparation.segment_frames import SplitFrames

Statistics = dict[str, Any]
MOST_SHOWN = 10_000  # of any list in report.json
_DURATIONS = (1, 2, 5, 10, 20, 60, 300)  # s, edges of the histogram


def split_statistics(split: str, data: Inventory, records: Mapping[int, Record], frames: SplitFrames) -> Statistics:
    """Counts and distributions of one split; durations and frames are those of segments where entries are such.

    Args:
        records: by item.
        frames: entries that the index holds.
    """
    manifest, entries, usable = data.manifests[split], data.entries[split], frames.usable
    counts = np.bincount([label for entry in usable for label in entry.labels], minlength=manifest.num_classes)
    kept = [records[entry.item] for entry in usable]
    files = [records[item] for item in sorted({entry.item for entry in usable})]
    durations = [duration(entry, records[entry.item]) for entry in usable]
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
        "listed_more_than_once": repeated,
        "classes": _class_statistics(counts, manifest.class_names),
        "files": len(files),
        "segments": sum(not entry.segment.whole for entry in usable),
        "frame_rate": manifest.frame_rate,
        "labels": None if manifest.label_sets is None else sum(len(entry.labels) for entry in usable),
        "hours": sum(durations) / 3600,
        "bytes": sum(record.file.size for record in files),
        "duration_s": quantiles(durations),
        "duration_histogram": histogram(durations, _DURATIONS),
        "frames": quantiles([frame_count(entry, records[entry.item]) for entry in usable]),
        "fps": quantiles([record.fps for record in kept]),
        "fps_histogram": most_common(f"{record.fps:.4g}" for record in kept),
        "file_bytes": quantiles([record.file.size for record in files]),
        "short_side": quantiles([min(record.height, record.width) for record in kept]),
        "sizes": most_common(f"{record.width}x{record.height}" for record in kept),
        "codecs": most_common(record.codec for record in kept),
        "containers": most_common(record.container for record in kept),
    }


def frame_count(entry: SplitEntry, record: Record) -> int:
    """Frames of an entry: of its segment, or of the whole file."""
    return record.num_frames if entry.frames is None else len(entry.frames)


def duration(entry: SplitEntry, record: Record) -> float:
    """Seconds of an entry."""
    return record.duration if entry.segment.whole or not record.fps else frame_count(entry, record) / record.fps


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


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Least, 5 %, median, 95 % and greatest; empty for no values."""
    if not values:
        return {}
    marks = np.quantile(np.asarray(values, np.float64), [0, 0.05, 0.5, 0.95, 1])
    return dict(zip(("min", "5%", "median", "95%", "max"), (round(float(mark), 4) for mark in marks)))


def histogram(values: Sequence[float], edges: Sequence[float]) -> dict[str, int]:
    """Numbers of values below the first edge, between edges, and from the last one on."""
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    names = [f"below {edges[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(edges)), f"{edges[-1]} and more"]
    return {name: int(count) for name, count in zip(names, counts)}


def most_common(values: Iterable[str], number: int = 12) -> dict[str, int]:
    """The most common values and how often they occur; the rest under "others"."""
    counted = Counter(values)
    shown = dict(counted.most_common(number))
    rest = counted.total() - sum(shown.values())
    return shown | ({"others": rest} if rest else {})


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


def near_duplicates(data: Inventory, records: Mapping[int, Record]) -> Statistics:
    """Videos of different splits that look the same without having the same bytes."""
    splits = list(data.entries)
    pairs: list[Statistics] = []
    for number, first in enumerate(splits):
        for second in splits[number + 1 :]:
            pairs += _look_alikes_between(data, records, first, second)
    pairs.sort(key=lambda pair: pair["bits"])
    return {"rule": RULE, "pairs": len(pairs), "list": pairs[:MOST_SHOWN]}


def _look_alikes_between(data: Inventory, records: Mapping[int, Record], first: str, second: str) -> list[Statistics]:
    known = [_once_a_file(data.entries[split], records) for split in (first, second)]
    words = [from_texts([records[e.item].signature for e in entries]) for entries in known]
    seconds = [[records[e.item].duration for e in entries] for entries in known]
    found = []
    for pair in look_alikes(words[0], words[1], first_seconds=seconds[0], second_seconds=seconds[1]):
        a, b = known[0][pair.first], known[1][pair.second]
        if a.item != b.item and records[a.item].digest != records[b.item].digest:
            found.append({"bits": round(pair.bits, 2), "videos": [_named(data, first, a), _named(data, second, b)]})
    return found


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


def short_videos(
    data: Inventory, records: Mapping[int, Record], usable: Mapping[str, SplitFrames], sampler: ClipSampler
) -> Statistics:
    """Videos that have fewer frames than a clip spans: their last frame is repeated (mode "span"), or frames are."""
    found = []
    for split, frames in usable.items():
        for entry in frames.usable:
            record = records[entry.item]
            needed, held = frames_needed(sampler, record.fps), frame_count(entry, record)
            if held < needed:
                found.append(_named(data, split, entry) | {"frames": held, "needed": round(needed, 1)})
    return {"rule": span_rule(sampler), "videos": len(found), "list": found[:MOST_SHOWN]}


def frames_needed(sampler: ClipSampler, fps: float) -> float:
    """Frames that a clip covers in a video of that rate."""
    if sampler.mode == "segments":
        return sampler.num_frames
    return clip_span(
        num_frames=sampler.num_frames, sampling_rate=sampler.sampling_rate, fps=fps, target_fps=sampler.target_fps
    )


def span_rule(sampler: ClipSampler) -> str:
    """What "short" means, in words."""
    if sampler.mode == "segments":
        return f"fewer than {sampler.num_frames} frames, one for each segment"
    seconds = sampler.num_frames * sampler.sampling_rate / sampler.target_fps
    return (
        f"shorter than a clip of {sampler.num_frames} frames, one in {sampler.sampling_rate:g} at "
        f"{sampler.target_fps:g} frames/s: {seconds:.3g} s"
    )
