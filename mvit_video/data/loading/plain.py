"""Clips for a plain `torch.utils.data.DataLoader`: no options, no trainer, any loop.

train_set = training_clips(from_folder("birds/train"), num_frames=16, sampling_rate=4, crop_size=224)
loader = DataLoader(train_set, batch_size=8, shuffle=True, num_workers=4, collate_fn=collate, drop_last=True)
for epoch in range(30):
    train_set.set_epoch(epoch)
    for batch in loader:
        logits = model(normalize(batch))  # float32 (B, 3, T, H, W) -> (B, classes)
        loss = cross_entropy(logits, batch.labels)
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from mvit_video.data.augmentation.transforms import TrainTransform, normalize_clips
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.batch import Batch, Sample
from mvit_video.data.loading.dataset import DecodeOptions, EvalDataset, TrainDataset
from mvit_video.data.sampling import ClipSampler, SamplingMode

MEAN = (0.45, 0.45, 0.45)
STD = (0.225, 0.225, 0.225)
_DECODING = DecodeOptions()


class TrainingClips(Dataset[Sample]):
    """A random clip of each video: a map from the number of a video to a sample.

    Another epoch gives other clips; the same seed, epoch and number give the same one, in any process and order.

    Args:
        dataset: the training samples, see TrainDataset.
    """

    def __init__(self, dataset: TrainDataset) -> None:
        self.dataset = dataset
        # Shared with the processes of a DataLoader, which may outlive an epoch (persistent_workers=True).
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a copy: its epoch is shared anew, unless the copy is that of a process of a DataLoader."""
        self.__dict__.update(state)
        if not self._epoch.is_shared():
            self._epoch.share_memory_()

    @property
    def manifest(self) -> Manifest:
        """The videos, their labels and the names of the classes."""
        return self.dataset.manifest

    @property
    def epoch(self) -> int:
        """The epoch whose clips are given out."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Give out the clips of an epoch from here on; call it before the DataLoader is iterated."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """The clip of a video; of another one, which `failures` says, where it cannot be read.

        Raises:
            IndexError: there are not so many videos.
            VideoDecodeError: the video and all its replacements are unreadable.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of {len(self)}")
        return self.dataset[self.epoch, index, index]


def training_clips(
    manifest: Manifest,
    *,
    num_frames: int,
    sampling_rate: float,
    crop_size: int,
    sampling: SamplingMode = "span",
    target_fps: float = 30.0,
    transform: TrainTransform | None = None,
    seed: int = 0,
    decoding: DecodeOptions = _DECODING,
) -> TrainingClips:
    """Augmented clips of the videos of a manifest.

    Args:
        manifest: such as `from_folder` reads.
        num_frames: frames of a clip.
        sampling_rate: one frame in so many, at `target_fps`.
        crop_size: height and width of a clip in pixels.
        sampling: see ClipSampler.
        target_fps: see ClipSampler.
        transform: crop, flip, RandAugment and erasing; None: random resized crops and flips alone.
        seed: of every draw.
        decoding: how files are read.

    Raises:
        ValueError: a number is not possible, or the transform has another crop size.
    """
    if transform is None:
        transform = TrainTransform(crop_size=crop_size)
    if transform.crop_size != crop_size:
        raise ValueError(f"crop_size={crop_size} with a transform of {transform.crop_size}: give both the same size")
    sampler = ClipSampler(num_frames=num_frames, sampling_rate=sampling_rate, target_fps=target_fps, mode=sampling)
    dataset = TrainDataset(manifest, sampler=sampler, transform=transform, repeats=1, seed=seed, decoding=decoding)
    return TrainingClips(dataset)


def evaluation_clips(
    manifest: Manifest,
    *,
    num_frames: int,
    sampling_rate: float,
    crop_size: int,
    short_side: int,
    temporal_views: int = 1,
    spatial_views: int = 1,
    sampling: SamplingMode = "span",
    target_fps: float = 30.0,
    decode_short_side: int | None = None,
    decoding: DecodeOptions = _DECODING,
) -> EvalDataset:
    """The test views of the videos of a manifest: `temporal_views * spatial_views` clips of each, always the same.

    Args:
        manifest: with the classes of the training: `from_folder(PATH, class_names=train_set.manifest.class_names)`.
        num_frames, sampling_rate, sampling, target_fps: see `training_clips`.
        crop_size: height and width of a clip in pixels.
        short_side: pixels the short side is resized to before the crop.
        temporal_views: clips along a video.
        spatial_views: 1 (centre) or 3 crops of each.
        decode_short_side: see EvalDataset.
        decoding: how files are read.

    Raises:
        ValueError: a number is not possible.
    """
    sampler = ClipSampler(num_frames=num_frames, sampling_rate=sampling_rate, target_fps=target_fps, mode=sampling)
    return EvalDataset(
        manifest,
        sampler=sampler,
        temporal_views=temporal_views,
        spatial_views=spatial_views,
        short_side=short_side,
        crop_size=crop_size,
        decode_short_side=decode_short_side,
        decoding=decoding,
    )


def normalize(
    batch: Batch,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """The clips of a batch as a model takes them, float32 (B, 3, T, H, W), erased where training drew a box.

    Args:
        batch: of `collate`.
        mean, std: of R, G and B, for values from 0 to 1; by default those of the published models.
        device: where the clips shall be; None: where the batch is.
    """
    batch = batch.to(batch.labels.device if device is None else torch.device(device))
    return normalize_clips(batch.clips, mean=mean, std=std, erase=batch.erase, noise_seeds=batch.noise_seeds)
