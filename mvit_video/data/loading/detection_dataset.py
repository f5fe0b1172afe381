"""From a manifest to samples of detection: read the image, and in training draw a view of it and its instances."""

from collections.abc import Sequence

import numpy as np
import torch

from mvit_video.data.detection.annotations import DetectionManifest, Instances
from mvit_video.data.detection.reading import DetectionReading
from mvit_video.data.detection.transforms import DetectionTransform
from mvit_video.data.loading.detection_batch import DetectionBatch, DetectionSample, collate_detection
from mvit_video.data.loading.samples import DRAW_AUGMENT, TrainItems
from mvit_video.data.loading.worker_monitor import reading
from mvit_video.runtime.decode_error import DecodeError

BLANK_SIDE = 32  # of what stands for an image that cannot be read


class DetectionTrainDataset(TrainItems[DetectionSample]):
    """Augmented training images with their instances, crowds left out; what it raises is an ImageDecodeError.

    Args:
        manifest: images and instances.
        transform: the augmentation.
        seed: with the epoch and the index, the key of every random draw.
        reading: how files are read.
    """

    manifest: DetectionManifest

    def __init__(
        self,
        manifest: DetectionManifest,
        *,
        transform: DetectionTransform,
        seed: int,
        reading: DetectionReading = DetectionReading(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(manifest, seed=seed)
        self.transform = transform
        self.reading = reading

    def collate(self, samples: Sequence[DetectionSample]) -> DetectionBatch:
        """See detection_batch.collate_detection."""
        return collate_detection(samples)

    def _read(self, epoch: int, draw: int) -> tuple[torch.Tensor, Instances]:
        return self.reading(self.manifest, draw % len(self.manifest))

    def _augmented(
        self,
        frames: tuple[torch.Tensor, Instances],
        epoch: int,
        position: int,
        draw: int,
        failures: list[tuple[str, str]],
    ) -> DetectionSample:
        index, (pixels, instances) = draw % len(self.manifest), frames
        rng = np.random.default_rng([self.seed, epoch, draw, DRAW_AUGMENT, 0])
        view = self.transform.draw(pixels.shape[0], pixels.shape[1], rng)
        return DetectionSample(
            pixels=view.pixels(pixels),
            instances=view.instances(instances.without_crowds()),
            image=index,
            path=self.manifest.paths[index],
            failures=failures,
            epoch=epoch,
            position=position,
        )


class DetectionEvalDataset:
    """The images of a split as they are; the detector resizes them.

    Args:
        manifest: images and instances.
        reading: how files are read.
    """

    num_views = 1

    def __init__(
        self,
        manifest: DetectionManifest,
        *,
        reading: DetectionReading = DetectionReading(),  # noqa: B008 - frozen
    ) -> None:
        self.manifest = manifest
        self.reading = reading

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> DetectionSample:
        """One image; `failed`, and a small black one, where it cannot be read."""
        failures: list[tuple[str, str]] = []
        try:
            with reading(self.manifest.paths[index]):
                pixels, _ = self.reading(self.manifest, index)
        except DecodeError as error:
            failures = [(error.path, error.reason)]
            pixels = torch.zeros(BLANK_SIDE, BLANK_SIDE, 3, dtype=torch.uint8)  # a broken header may state any size
        return DetectionSample(
            pixels=pixels,
            instances=self.manifest.instances(index),
            image=index,
            path=self.manifest.paths[index],
            failures=failures,
            failed=bool(failures),
        )

    def collate(self, samples: Sequence[DetectionSample]) -> DetectionBatch:
        """See detection_batch.collate_detection."""
        return collate_detection(samples)
