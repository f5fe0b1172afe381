"""All splits of a data set packed into tar shards; shards that an earlier run wrote whole are left as they are."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvit_video.preparation.inventory import Inventory
from mvit_video.preparation.isolated_workers import run_isolated
from mvit_video.preparation.journal import Record, Status, lines_of
from mvit_video.preparation.output_paths import common_folder
from mvit_video.preparation.progress import track_files
from mvit_video.preparation.shard_writing import (
    PlannedShard,
    WrittenShard,
    member_name,
    member_of,
    plan_shards,
    shard_to_json,
    shards_from_lines,
    unique_names,
    write_shard,
)
from mvit_video.video.location import is_remote

logger = logging.getLogger(__name__)
JOURNAL = "shards.jsonl"
PRELOAD = ("mvit_video.preparation.shard_writing",)


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """How to pack: the folder or fsspec URL, and the most bytes in a shard."""

    folder: str
    max_bytes: int

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes={self.max_bytes}: a shard must hold at least one byte")


@dataclass(frozen=True)
class PackedSplit:
    """Where the videos of a split are.

    Attributes:
        shards: the files.
        places: (number of the shard, first byte, name in the shard) by item.
    """

    shards: tuple[str, ...]
    places: Mapping[int, tuple[int, int, str]]


@dataclass(frozen=True)
class PlannedSplits:
    """What is packed, and into which shards.

    Attributes:
        folder: of the shards.
        items: of each split, those that are packed.
        names: theirs in the shards, likewise.
        plans: the shards of all splits.
    """

    folder: str
    items: Mapping[str, Sequence[int]]
    names: Mapping[str, Sequence[str]]
    plans: Sequence[PlannedShard]


def plan_splits(
    data: Inventory, records: Mapping[int, Record], options: ShardOptions, *, keep: frozenset[Status]
) -> PlannedSplits:
    """Plan the shards of every split.

    Args:
        records: by item.
        keep: statuses of the videos that are packed.
    """
    items = {
        split: sorted({entry.item for entry in entries if records[entry.item].status in keep})
        for split, entries in data.entries.items()
    }
    root = common_folder([records[item].file.name for listed in items.values() for item in listed])
    names = {split: _names(data, records, listed, root) for split, listed in items.items()}
    plans: list[PlannedShard] = []
    for split, listed in items.items():
        members = [member_of(data.items[i].location, records[i], name) for i, name in zip(listed, names[split])]
        plans += plan_shards(split, members, folder=options.folder, max_bytes=options.max_bytes)
    return PlannedSplits(options.folder, items, names, plans)


def pack_splits(shards: PlannedSplits, *, workers: int, out: Path) -> dict[str, PackedSplit]:
    """Write the shards of every split.

    Args:
        workers: processes.
        out: folder of the journal.

    Raises:
        RuntimeError: a shard cannot be written; the others are kept, and the next run goes on from them.
    """
    done = _write(shards.plans, workers=workers, journal=out / JOURNAL)
    _tell_of_strangers(shards.plans, shards.folder, list(shards.items))
    return {
        split: _located(split, listed, shards.names[split], shards.plans, done)
        for split, listed in shards.items.items()
    }


def shard_bytes_there(folder: str, splits: Sequence[str]) -> int:
    """Bytes of the splits' shards in a local folder."""
    return sum(os.stat(path).st_size for path in shards_there(folder, splits))


def shards_there(folder: str, splits: Sequence[str]) -> list[str]:
    """The splits' shards in a local folder."""
    if is_remote(folder) or not os.path.isdir(folder):
        return []
    prefixes = tuple(f"{split}-" for split in splits)
    return [
        os.path.join(folder, n) for n in sorted(os.listdir(folder)) if n.startswith(prefixes) and n.endswith(".tar")
    ]


def _names(data: Inventory, records: Mapping[int, Record], items: Sequence[int], root: str) -> list[str]:
    return unique_names([member_name(_place(data, records[item], item), root) for item in items])


def _place(data: Inventory, record: Record, item: int) -> str:
    return data.items[item].location.name if record.written is None else record.written.name


def _write(plans: Sequence[PlannedShard], *, workers: int, journal: Path) -> dict[str, WrittenShard]:
    """Write the shards that do not stand yet; all of them by key."""
    known = shards_from_lines(list(lines_of(journal)))
    done = {plan.key: known[plan.key] for plan in plans if plan.key in known and known[plan.key].stands(plan)}
    todo = [plan for plan in plans if plan.key not in done]
    if done:
        logger.info("%d of %d shards stand from an earlier run", len(done), len(plans))
    failures = []
    with journal.open("a", encoding="utf-8") as stream, track_files("packing shards", len(todo)) as progress:
        stream.write("\n")  # ends a line that an interrupted run has torn
        outcomes = run_isolated(
            write_shard, todo, workers=min(workers, len(todo)) or 1, time_limit_s=0, preload=PRELOAD
        )
        for outcome in outcomes:
            if outcome.result is None:
                failures.append(f"{outcome.task}: {outcome.reason}")
                continue
            done[outcome.result.key] = outcome.result
            stream.write(shard_to_json(outcome.result) + "\n")
            stream.flush()
            progress.advance(outcome.task.size)
    if failures:
        raise RuntimeError(
            f"{len(failures)} of {len(plans)} shards could not be written; the others are kept, run again to go on:\n  "
            + "\n  ".join(failures[:5])
        )
    return done


def _located(
    split: str,
    items: Sequence[int],
    names: Sequence[str],
    plans: Sequence[PlannedShard],
    done: Mapping[str, WrittenShard],
) -> PackedSplit:
    """Where each item of a split was put."""
    item_of: dict[str, int] = dict(zip(names, items))
    own = [plan for plan in plans if plan.split == split]
    places = {}
    for number, plan in enumerate(own):
        starts = done[plan.key].starts
        for member, start in zip(plan.members, starts):
            places[item_of[member.name]] = (number, start, member.name)
    return PackedSplit(tuple(str(plan) for plan in own), places)


def _tell_of_strangers(plans: Sequence[PlannedShard], folder: str, splits: Sequence[str]) -> None:
    """Warn of shards in the folder that are not this data set's: left by a run with other options."""
    wanted = {plan.file_name for plan in plans}
    strangers = [path for path in shards_there(folder, splits) if os.path.basename(path) not in wanted]
    if strangers:
        logger.warning("%d shards are an earlier run's and may be deleted: %s, ...", len(strangers), strangers[0])
