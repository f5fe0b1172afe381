"""From the samples of several files to a batch of clips."""

from collections.abc import Sequence

import torch

from mvit_video.data.loading import shared_memory
from mvit_video.data.loading.batch import Batch, Sample
from mvit_video.data.loading.packed_clips import pack


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of several videos, all with clips or all with sources, as one batch; a video's clips stay together."""
    counts = torch.tensor([len(sample.views) for sample in samples])
    sources = [sample.source for sample in samples if sample.source is not None]
    if sources:
        clips, packed = torch.empty(0, dtype=torch.uint8), pack(sources)
    else:
        size = (int(counts.sum()), *samples[0].clips.shape[1:])
        clips, packed = shared_memory.empty(size), None
        torch.cat([sample.clips for sample in samples], out=clips)
    return Batch(
        clips=clips,
        labels=torch.tensor([sample.label for sample in samples]).repeat_interleave(counts),
        videos=torch.tensor([sample.video for sample in samples]).repeat_interleave(counts),
        views=torch.cat([sample.views for sample in samples]),
        erase=torch.cat([sample.erase for sample in samples]),
        noise_seeds=torch.cat([sample.noise_seeds for sample in samples]),
        failed=torch.tensor([sample.failed for sample in samples]).repeat_interleave(counts),
        paths=[sample.path for sample in samples for _ in range(len(sample.views))],
        failures=[failure for sample in samples for failure in sample.failures],
        position=samples[0].position,
        epoch=samples[0].epoch,
        packed=packed,
        notes=[note for sample in samples for note in sample.notes],
    )
