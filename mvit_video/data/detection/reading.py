"""An image of a detection set and its instances, as they are in the files; what does not fit together is named."""

from dataclasses import dataclass

import torch

from mvit_video.data.detection.annotations import DetectionManifest, Instances
from mvit_video.images.decoding import MAX_PIXELS, Orientation, read_image
from mvit_video.images.formats import ImageDecodeError


@dataclass(frozen=True, kw_only=True)
class DetectionReading:
    """How images are read.

    Attributes:
        orientation: "apply" turns images as their EXIF data says, as published; "ignore" does not.
        max_pixels: images with more pixels count as broken.
    """

    orientation: Orientation = "apply"
    max_pixels: int = MAX_PIXELS

    def __call__(self, manifest: DetectionManifest, index: int) -> tuple[torch.Tensor, Instances]:
        """An image, uint8 (H, W, 3), and its instances, crowds too.

        Raises:
            ImageDecodeError: it cannot be read, or has another size than its annotations state.
        """
        path = manifest.paths[index]
        image = read_image(manifest.read(index), orientation=self.orientation, name=path, max_pixels=self.max_pixels)
        problem = size_problem(manifest.size(index), (image.shape[0], image.shape[1]))
        if problem:
            raise ImageDecodeError(path, problem)
        return image, manifest.instances(index)


def size_problem(stated: tuple[int, int], actual: tuple[int, int]) -> str:
    """What is wrong about the (height, width) that the annotations of an image state; empty if nothing is."""
    if stated == actual:
        return ""
    turned = stated == actual[::-1]
    way_out = (
        "its annotations seem drawn on the picture as it is stored; give data.orientation=ignore, or turn the file"
        if turned
        else "boxes and masks would lie elsewhere; give the image that was annotated, or scale its annotations"
    )
    return f"is {actual[1]}x{actual[0]}, and its annotations are for {stated[1]}x{stated[0]}: {way_out}"
