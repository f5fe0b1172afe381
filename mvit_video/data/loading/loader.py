"""Batches of samples, in an order that every number of ranks, workers and restarts agrees on.

The order of an epoch is a permutation drawn from (seed, epoch), of all videos or of those that weights draw. A step
takes the next `world_size * accumulate` batches of it: forward pass `a` of rank `r` gets the batch at place
`a * world_size + r`. So one rank accumulating two batches sees, step by step, what two ranks see with one batch each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.shards import shard_order
from mvit_video.data.loading.draws import drawn_videos
from mvit_video.data.loading.samples import EvalItems, TrainItems
from mvit_video.data.loading.workers import Workers, pinned
from mvit_video.runtime.formatting import count_text

TrainKey = tuple[int, int, int]


def epoch_order(
    num_videos: int,
    *,
    seed: int,
    epoch: int,
    shard_of: npt.NDArray[np.integer] | None = None,
    shard_window: int = 16,
    weights: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.int64]:
    """Order in which an epoch visits the videos, int64 (num_videos,).

    Args:
        num_videos: in the training split.
        seed: of the run.
        epoch: number of the epoch.
        shard_of: (num_videos,) number of each video's shard, if they lie in shards; see shards.shard_order.
        shard_window: shards read at a time.
        weights: (num_videos,) how often each is drawn, relative to the others; None: each once. With weights the order
            holds draws, see draws.drawn_videos: the video is the draw modulo num_videos.
    """
    if weights is not None:
        drawn = drawn_videos(weights, seed=seed, epoch=epoch)
        shards = None if shard_of is None else shard_of[drawn % num_videos]
        return drawn[epoch_order(num_videos, seed=seed, epoch=epoch, shard_of=shards, shard_window=shard_window)]
    if shard_of is not None:
        return shard_order(shard_of, seed=seed, epoch=epoch, window=shard_window)
    return np.random.default_rng([seed, epoch]).permutation(num_videos)


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How batches are made beside the training process.

    Attributes:
        num_workers: loader processes; 0 makes the batches in the training process.
        prefetch: batches each of them works ahead.
        timeout_s: seconds without a batch after which the run ends with an error; 0 for no limit. Without workers
            there is nobody to notice.
        pin_memory: hand out page-locked tensors (for a GPU).
    """

    num_workers: int
    prefetch: int = 2
    timeout_s: float = 300.0
    pin_memory: bool = False

    def batches(self, dataset: TrainItems[Any] | EvalItems[Any], keys: Iterator[list[Any]]) -> Iterator[Any]:
        """One batch for each list of the dataset's keys, in order.

        Raises:
            WorkerError: a worker died or hangs.
        """
        if self.num_workers == 0:
            made: Iterator[Any] = map(_Fetch(dataset), keys)
            return (batch.pin_memory() for batch in made) if self.pin_memory else made
        workers: Workers[list[Any], Any] = Workers(
            _Fetch(dataset), count=self.num_workers, prefetch=self.prefetch, timeout_s=self.timeout_s
        )
        made = workers.run(keys)
        return pinned(made, workers.close) if self.pin_memory else made


@dataclass(frozen=True)
class _Fetch:
    """Makes a batch of keys."""

    dataset: TrainItems[Any] | EvalItems[Any]

    def __call__(self, keys: list[Any]) -> Any:
        return self.dataset.collate([self.dataset[key] for key in keys])


class TrainLoader:
    """Endless training batches of one rank, starting at any step.

    Args:
        dataset: the training samples.
        batch_size: items per batch and rank; of videos and images a batch holds `batch_size * dataset.repeats` samples.
        accumulate: batches per optimizer step and rank.
        rank: this process.
        world_size: processes in the run.
        seed: key of the order, with the epoch.
        loading: how batches are made beside the training process.
        shard_window: shards read at a time, if the videos lie in shards.
        weights: (videos,) how often an epoch draws each, relative to the others; None: each once.

    Raises:
        ValueError: when the set is smaller than one step.
    """

    def __init__(
        self,
        dataset: TrainItems[Any],
        *,
        batch_size: int,
        accumulate: int,
        rank: int,
        world_size: int,
        seed: int,
        loading: LoaderOptions,
        shard_window: int = 16,
        weights: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.loading = loading
        self.shard_window = shard_window
        self.weights = weights
        if self.steps_per_epoch == 0:
            noun, processes = dataset.manifest.kind.noun, count_text(world_size, "process")
            passes = "" if accumulate == 1 else f" x {accumulate} forward passes a step (trainer.accumulate)"
            raise ValueError(
                f"the training split has {count_text(len(dataset), noun)}, fewer than one step takes: "
                f"{count_text(batch_size, noun)} x {processes}{passes} = {self.items_per_step}. Lower "
                "trainer.batch_size" + (" or trainer.accumulate" if accumulate > 1 else "")
            )

    @property
    def num_items(self) -> int:
        """Videos of the training split."""
        return len(self.dataset)

    @property
    def items_per_step(self) -> int:
        """Videos of one optimizer step over all ranks."""
        return self.batch_size * self.accumulate * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; the videos of an incomplete last step are left to later epochs."""
        return len(self.dataset) // self.items_per_step

    def batches(self, start_step: int) -> Iterator[Any]:
        """This rank's batches, `accumulate` to a step, from optimizer step `start_step` on, without end."""
        return self.loading.batches(self.dataset, self._keys(start_step))

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Draws of an epoch, see `epoch_order`, (videos,)."""
        return epoch_order(
            len(self.dataset),
            seed=self.seed,
            epoch=epoch,
            shard_of=self.dataset.manifest.shard_of,
            shard_window=self.shard_window,
            weights=self.weights,
        )

    def _keys(self, start_step: int) -> Iterator[list[TrainKey]]:
        """The batches of this rank from a step on, epoch after epoch: keys (epoch, position, draw)."""
        epoch, step = divmod(start_step, self.steps_per_epoch)
        while True:
            order = self.order(epoch)
            for place in range(step * self.accumulate, self.steps_per_epoch * self.accumulate):
                first = (place * self.world_size + self.rank) * self.batch_size
                yield [(epoch, p, int(order[p])) for p in range(first, first + self.batch_size)]
            epoch, step = epoch + 1, 0


def eval_loader(
    dataset: EvalItems[Any],
    *,
    clips_per_batch: int,
    rank: int,
    world_size: int,
    loading: LoaderOptions,
) -> Iterator[Any]:
    """Every view of this rank's videos once, in order: rank r takes videos r, r + world_size, ...

    Args:
        dataset: the evaluation samples.
        clips_per_batch: clips a batch aims at; at least one video.
        rank: this process.
        world_size: processes in the run.
        loading: how batches are made beside the evaluating process.
    """
    videos = range(rank, len(dataset), world_size)
    size = max(1, clips_per_batch // dataset.num_views)
    return loading.batches(dataset, (list(videos[i : i + size]) for i in range(0, len(videos), size)))
