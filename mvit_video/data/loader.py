"""Batches of samples, in an order that every number of ranks, workers and restarts agrees on.

The order of an epoch is a permutation drawn from (seed, epoch). A step takes the next `world_size * accumulate` batches
of it: forward pass `a` of rank `r` gets the batch at place `a * world_size + r`. So one rank accumulating two batches
sees, step by step, what two ranks see with one batch each.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from mvit_video.data.batch import Batch, Sample
from mvit_video.data.dataset import EvalDataset, TrainDataset


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of several videos as one batch; the clips of a video stay together."""
    counts = torch.tensor([len(sample.clips) for sample in samples])
    return Batch(
        clips=torch.cat([sample.clips for sample in samples]),
        labels=torch.tensor([sample.label for sample in samples]).repeat_interleave(counts),
        videos=torch.tensor([sample.video for sample in samples]).repeat_interleave(counts),
        views=torch.cat([sample.views for sample in samples]),
        erase=torch.cat([sample.erase for sample in samples]),
        noise_seeds=torch.cat([sample.noise_seeds for sample in samples]),
        failed=torch.tensor([sample.failed for sample in samples]).repeat_interleave(counts),
        paths=[sample.path for sample in samples for _ in range(len(sample.clips))],
        failures=[failure for sample in samples for failure in sample.failures],
        position=samples[0].position,
        epoch=samples[0].epoch,
    )


def epoch_order(num_videos: int, *, seed: int, epoch: int) -> np.ndarray:
    """Order in which an epoch visits the videos, int64 (num_videos,)."""
    return np.random.default_rng([seed, epoch]).permutation(num_videos)


class _TrainSampler(Sampler[list[tuple[int, int, int]]]):
    """The batches of one rank from a step on, epoch after epoch: keys (epoch, position, index)."""

    def __init__(self, loader: "TrainLoader", start_step: int) -> None:
        self.loader = loader
        self.start_step = start_step

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        own = self.loader
        epoch, step = divmod(self.start_step, own.steps_per_epoch)
        while True:
            order = epoch_order(len(own.dataset), seed=own.seed, epoch=epoch)
            for place in range(step * own.accumulate, own.steps_per_epoch * own.accumulate):
                first = (place * own.world_size + own.rank) * own.batch_size
                yield [(epoch, p, int(order[p])) for p in range(first, first + own.batch_size)]
            epoch, step = epoch + 1, 0


class TrainLoader:
    """Endless training batches of one rank, starting at any step.

    Args:
        dataset: the training samples.
        batch_size: videos per batch and rank; a batch holds `batch_size * dataset.repeats` clips.
        accumulate: batches per optimizer step and rank.
        rank: this process.
        world_size: processes in the run.
        seed: key of the order, with the epoch.
        num_workers: loader processes; 0 decodes in the training process.
        pin_memory: hand out page-locked tensors (for a GPU).

    Raises:
        ValueError: when the set is smaller than one step.
    """

    def __init__(
        self,
        dataset: TrainDataset,
        *,
        batch_size: int,
        accumulate: int,
        rank: int,
        world_size: int,
        seed: int,
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"the training split has {len(dataset)} videos, fewer than one step takes: {batch_size} videos x "
                f"{world_size} processes x {accumulate} accumulated = {self.videos_per_step}. Lower trainer.batch_size"
            )

    @property
    def videos_per_step(self) -> int:
        """Videos of one optimizer step over all ranks."""
        return self.batch_size * self.accumulate * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; the videos of an incomplete last step are left to later epochs."""
        return len(self.dataset) // self.videos_per_step

    def batches(self, start_step: int) -> Iterator[Batch]:
        """This rank's batches, `accumulate` to a step, from optimizer step `start_step` on, without end."""
        return iter(
            DataLoader(
                self.dataset,
                batch_sampler=_TrainSampler(self, start_step),
                collate_fn=collate,
                num_workers=self.num_workers,
                pin_memory=self.pin_memory,
            )
        )


def eval_loader(
    dataset: EvalDataset, *, clips_per_batch: int, rank: int, world_size: int, num_workers: int, pin_memory: bool
) -> DataLoader[Sample]:
    """Every view of this rank's videos once, in order: rank r takes videos r, r + world_size, ...

    Args:
        dataset: the evaluation samples.
        clips_per_batch: clips a batch aims at; at least one video.
    """
    return DataLoader(
        dataset,
        batch_size=max(1, clips_per_batch // dataset.num_views),
        sampler=range(rank, len(dataset), world_size),
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
    )
