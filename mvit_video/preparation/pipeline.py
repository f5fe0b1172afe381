"""A data set prepared from start to end: estimate, read, re-encode, pack, index, report."""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mvit_video.data.datasets.manifest import Manifest
from mvit_video.preparation import cost as costs
from mvit_video.preparation.content import Content
from mvit_video.preparation.cost import Cost
from mvit_video.preparation.inventory import Inventory, take_inventory
from mvit_video.preparation.journal import Journal, Status, Verify
from mvit_video.preparation.output_paths import (
    OutputLedger,
    check_apart,
    common_folder,
    is_within,
    mirrored,
    own_targets,
)
from mvit_video.preparation.reencode import Encoding
from mvit_video.preparation.results import Effort, write_results
from mvit_video.preparation.resumable_stages import ReencodeStage, ScanStage, WorkerOptions
from mvit_video.preparation.split_packing import ShardOptions, pack_splits, plan_splits, shard_bytes_there, shards_there
from mvit_video.preparation.statistics import Statistics
from mvit_video.runtime.formatting import count_text
from mvit_video.video.location import is_remote

logger = logging.getLogger(__name__)
JOURNAL, ENCODED_JOURNAL, LOCK, LEDGER = "journal.jsonl", "reencoded.jsonl", ".lock", "written.jsonl"


@dataclass(frozen=True, kw_only=True)
class PreparePlan:
    """What to do.

    Attributes:
        out: folder of the indexes, the report and the journals.
        verify: "decode" every frame, or "index": read the packets only.
        workers: processes.
        time_limit_s: seconds one file may take to read; 0 for no limit.
        limit: take so many videos of each split, spread over it; None for all.
        keep: statuses of the files that are indexed.
        retry_broken: try files again that earlier runs found broken.
        dry_run: estimate the cost and stop.
        encoding: how to re-encode; None not to.
        encode_folder: where to.
        encode_limit_s: seconds one file may take to re-encode; 0 for no limit.
        shards: how to pack tar shards; None not to.
        source_folders: folders in which nothing may be written, beside those that hold videos themselves.
    """

    out: Path
    verify: Verify = "decode"
    workers: int = 1
    time_limit_s: float = 60.0
    limit: int | None = None
    keep: frozenset[Status] = frozenset({"ok"})
    retry_broken: bool = False
    dry_run: bool = False
    encoding: Encoding | None = None
    encode_folder: str = ""
    encode_limit_s: float = 600.0
    shards: ShardOptions | None = None
    source_folders: Sequence[str] = ()


def prepare_data_set(
    manifests: Mapping[str, Manifest],
    plan: PreparePlan,
    *,
    content: Content,
    confirm: Callable[[Cost], bool] = lambda cost: True,
) -> Statistics | None:
    """Prepare the splits as planned; the content of report.json, or None if it stopped after the estimate.

    Everything finished is kept in journals under `plan.out`: run again, it goes on where it was.

    Args:
        manifests: by the splits' names.
        content: what the files are.
        confirm: asked once the cost is known and before anything long begins.

    Raises:
        ValueError: a folder may not be written to, the disk is too small, or no file is usable.
        RuntimeError: another run prepares to the same folder, or a shard cannot be written.
    """
    start = time.monotonic()
    logger.info("looking up %s", count_text(sum(map(len, manifests.values())), content.kind.noun))
    data = take_inventory(manifests, limit=plan.limit)
    _check_kinds(data, plan)
    _check_folders(data, plan)
    plan.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(_only_run(plan.out))
        options = WorkerOptions(workers=plan.workers, time_limit_s=plan.time_limit_s, retry_broken=plan.retry_broken)
        if plan.shards is not None:  # before anything long begins
            there = shards_there(plan.shards.folder, list(data.entries))
            _claim(there, plan, option="shards.folder", folder=plan.shards.folder)
        journal = stack.enter_context(Journal(plan.out / JOURNAL))
        reading = ScanStage(data.items, journal, verify=plan.verify, options=options, content=content)
        effort = Effort(read=len(reading.todo), known=len(data.items) - len(reading.todo))
        reencoding = _reencoding(data, plan, stack)
        cost = _estimate(data, reading, reencoding, plan)
        for line in cost.lines(workers=plan.workers):
            logger.info("%s", line)
        costs.check_disk(cost.needs)
        if plan.dry_run or not confirm(cost):
            return None
        reading.work(reading.todo)
        records = reading.records
        if reencoding is not None:
            reencoding.work(reencoding.todo(records), records)
            records = records | reencoding.records
        packed = None
        if plan.shards is not None:
            shards = plan_splits(data, records, plan.shards, keep=plan.keep)
            _claim(map(str, shards.plans), plan, option="shards.folder", folder=plan.shards.folder)
            packed = pack_splits(shards, workers=plan.workers, out=plan.out)
        effort = replace(effort, seconds=time.monotonic() - start)
        return write_results(data, records, packed, out=plan.out, keep=plan.keep, content=content, effort=effort)


def _estimate(data: Inventory, reading: ScanStage, reencoding: ReencodeStage | None, plan: PreparePlan) -> Cost:
    """What the run will cost, from a sample of the files; what the sample finds is kept, so no work is done twice."""
    sizes = [item.size for item in data.items]
    sample = costs.sample_evenly(reading.todo, costs.SAMPLE_FILES)
    spent = reading.work(sample, title="timing a sample")
    rest = sum(sizes[place] for place in reading.todo)
    read_s = costs.extrapolate(spent, sample_bytes=sum(sizes[place] for place in sample), total_bytes=rest)
    cost = Cost(
        files=len(reading.todo),
        known=len(data.items) - len(reading.todo),
        bytes=rest,
        read_s=read_s / plan.workers,
        needs={str(plan.out): float(costs.RECORD_BYTES * len(data.items))},
    )
    total = float(sum(sizes))
    if reencoding is not None:
        cost, total = _with_encoding(cost, sizes, reading, reencoding, plan)
    if plan.shards is not None:
        needs = dict(cost.needs)
        if not is_remote(plan.shards.folder):
            needs[plan.shards.folder] = max(0.0, total - shard_bytes_there(plan.shards.folder, list(data.entries)))
        cost = replace(cost, shard_bytes=total, needs=needs)
    return cost


def _with_encoding(
    cost: Cost, sizes: Sequence[int], reading: ScanStage, reencoding: ReencodeStage, plan: PreparePlan
) -> tuple[Cost, float]:
    """The cost with that of re-encoding, and the bytes of all files after it."""
    ready = reencoding.todo(reading.records)
    sample = costs.sample_evenly(ready, costs.SAMPLE_ENCODED)
    spent = reencoding.work(sample, reading.records, title="timing a sample of re-encoding")
    sample_bytes = sum(sizes[place] for place in sample)
    done = {place: record.written.size for place, record in reencoding.records.items() if record.written is not None}
    ratio = sum(done.values()) / max(1, sum(sizes[place] for place in done)) if done else 1.0
    finished = set(reencoding.records) | {p for p, r in reading.records.items() if not reencoding.wants(r)}
    left = [place for place in range(len(sizes)) if place not in finished]
    left_bytes = sum(sizes[place] for place in left)
    seconds = costs.extrapolate(spent, sample_bytes=sample_bytes, total_bytes=left_bytes) / plan.workers
    needs = {**cost.needs, reencoding.folder: ratio * left_bytes}
    cost = replace(cost, encode_files=len(left), encode_s=seconds, encode_bytes=ratio * left_bytes, needs=needs)
    return cost, sum(done.values()) + ratio * left_bytes


def _reencoding(data: Inventory, plan: PreparePlan, stack: ExitStack) -> ReencodeStage | None:
    if plan.encoding is None:
        return None
    journal = stack.enter_context(Journal(plan.out / ENCODED_JOURNAL))
    targets = _encoded_files(data, journal, plan)
    options = WorkerOptions(workers=plan.workers, time_limit_s=plan.encode_limit_s, retry_broken=plan.retry_broken)
    return ReencodeStage(
        data.items, targets, journal, encoding=plan.encoding, options=options, keep=plan.keep, folder=plan.encode_folder
    )


def _encoded_files(data: Inventory, journal: Journal, plan: PreparePlan) -> list[str]:
    """The file to write for each item. ValueError where that would replace a file that is not this preparation's."""
    paths = [item.location.name for item in data.items]
    written = journal.written()
    sources = [
        (item.location.name if item.state is None else item.state.name, item.location.start) for item in data.items
    ]
    wanted = mirrored(paths, root=common_folder(paths), folder=plan.encode_folder)
    targets = own_targets(wanted, sources, folder=plan.encode_folder, written=written)
    _claim(targets, plan, option="reencode.folder", folder=plan.encode_folder, known=written.values())
    return targets


def _claim(files: Iterable[str], plan: PreparePlan, *, option: str, folder: str, known: Iterable[str] = ()) -> None:
    """Note files that will be written. ValueError where they would replace what is not this preparation's."""
    if not is_remote(folder) and not is_within(folder, plan.out):
        OutputLedger(plan.out / LEDGER).claim(files, option=option, folder=folder, known=known)


def _check_kinds(data: Inventory, plan: PreparePlan) -> None:
    """Refuse what folders of pictures cannot become."""
    folders = [item.location.name for item in data.items if item.is_folder]
    wanted = [
        (plan.shards, "shards.enabled=true", "a member of a shard is one file"),
        (plan.encoding, "reencode.enabled=true", "video files alone are re-encoded"),
    ]
    for chosen, option, rule in wanted:
        if chosen is not None and folders:
            raise ValueError(
                f"{option}: {count_text(len(folders), 'video')}, the first {folders[0]}, are folders of pictures, and "
                f"{rule}; leave the option out to index the folders where they are, or make a video file of each "
                "(ffmpeg -framerate RATE -i %05d.jpg) and prepare those"
            )


def _check_folders(data: Inventory, plan: PreparePlan) -> None:
    """Refuse to write re-encoded files or shards among the sources."""
    sources = {os.path.dirname(item.location.url) for item in data.items if not item.location.remote}
    sources |= set(plan.source_folders)
    if plan.encoding is not None:
        check_apart(plan.encode_folder, option="reencode.folder", sources=sorted(sources))
    if plan.shards is not None:
        check_apart(plan.shards.folder, option="shards.folder", sources=sorted(sources))
    if plan.encoding is not None and plan.shards is not None and not is_remote(plan.shards.folder):
        check_apart(plan.shards.folder, option="shards.folder", sources=[plan.encode_folder])


@contextmanager
def _only_run(out: Path) -> Iterator[None]:
    """Hold the lock of the folder; the system frees it when its holder dies, however it dies."""
    with (out / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"{out}: another run prepares to this folder; wait for it or choose another out"
            ) from error
        yield
