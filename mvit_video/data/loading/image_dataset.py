"""From a manifest to samples of images: read the file, augment or crop, or say how the model's device is to do so."""

from dataclasses import dataclass

import torch

from mvit_video.data.augmentation.clip_views import AugmentDevice, ClipSource, Frames
from mvit_video.data.augmentation.image_views import ImageTransform, Resampling, image_eval_view
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.samples import EvalSamples, TrainSamples
from mvit_video.images.decoding import MAX_PIXELS, Orientation, read_image


@dataclass(frozen=True, kw_only=True)
class ImageReading:
    """How pixels come out of the files; see images.read_image.

    Attributes:
        orientation: "apply" turns images as their EXIF data says, "ignore" does not.
        min_side: large JPEG files may be decoded smaller, down to this short side; None decodes at full size.
        max_pixels: images with more pixels count as broken.
    """

    orientation: Orientation = "apply"
    min_side: int | None = None
    max_pixels: int = MAX_PIXELS

    def __call__(self, manifest: Manifest, index: int) -> torch.Tensor:
        """uint8 (1, H, W, 3): an image, as a clip of one frame.

        Raises:
            ImageDecodeError: it cannot be read.
        """
        pixels = read_image(
            manifest.read(index),
            orientation=self.orientation,
            name=manifest.paths[index],
            min_side=self.min_side,
            max_pixels=self.max_pixels,
        )
        return pixels[None]


class ImageTrainDataset(TrainSamples):
    """Augmented training images; what it raises is an ImageDecodeError.

    Args:
        manifest: images and labels.
        transform: the augmentation.
        repeats: augmented copies of each decoded image.
        seed: with the epoch and the index, the key of every random draw.
        reading: how files are read.
        device: where images are cut and augmented.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        transform: ImageTransform,
        repeats: int,
        seed: int,
        reading: ImageReading = ImageReading(),
        device: AugmentDevice = "worker",
    ) -> None:
        super().__init__(manifest, transform=transform, repeats=repeats, seed=seed, device=device)
        self.reading = reading

    def _read(self, epoch: int, draw: int) -> Frames:
        return self.reading(self.manifest, draw % len(self.manifest))


class ImageEvalDataset(EvalSamples):
    """The test view of each image.

    Args:
        manifest: images and labels.
        crop_size: side of the view, pixels.
        crop_ratio: share of the resized image's short side that the view takes; 0 squashes, see image_eval_view.
        resampling: how pixels are made of pixels.
        reading: how files are read.
        device: where views are cut.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        crop_size: int,
        crop_ratio: float,
        resampling: Resampling = Resampling(),  # noqa: B008 - frozen
        reading: ImageReading = ImageReading(),
        device: AugmentDevice = "worker",
    ) -> None:
        super().__init__(manifest, crop_size=crop_size, device=device)
        self.crop_ratio = crop_ratio
        self.resampling = resampling
        self.reading = reading

    def _views(self, index: int) -> ClipSource:
        image = self.reading(self.manifest, index)
        view = image_eval_view(
            image.shape[1],
            image.shape[2],
            crop_size=self.crop_size,
            crop_ratio=self.crop_ratio,
            resampling=self.resampling,
        )
        return ClipSource(image, (view,))
