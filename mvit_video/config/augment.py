"""Options of the group `augment`."""

from collections.abc import Iterator
from dataclasses import dataclass

from mvit_video.config.rules import option


@dataclass
class Augment:
    """Training augmentation that every kind of sample has."""

    flip: float = option(0.5, at_least=0, at_most=1, help="chance of a horizontal flip; 0 where left and right matter")

    def problems_with(self, crop_size: int) -> Iterator[str]:
        """Rules between these options and the size of the crop."""
        yield from ()


@dataclass
class ClassificationAugment(Augment):
    """Training augmentation that videos and images of one class share."""

    scale: list[float] = option(
        [0.08, 1.0], length=2, above=0, ascending=True, help="share of the picture that a resized crop takes"
    )
    ratio: list[float] = option(
        [0.75, 1.3333], length=2, above=0, ascending=True, help="width by height of a resized crop"
    )
    device: str = option(
        "worker",
        choices=("worker", "model"),
        neutral=True,
        help="where training samples and test views are made: in the loader processes, or on the model's device",
    )
    randaugment: str | None = option(None, help="RandAugment, such as rand-m7-n4-mstd0.5-inc1; null: none")
    erase_prob: float = option(0.0, at_least=0, at_most=1, help="chance that a box of the sample is filled with noise")
    repeats: int = option(1, at_least=1, help="augmented copies of each decoded clip or image in a batch")
    mixup_alpha: float = option(0.0, at_least=0, help="mixup draws its share from Beta(alpha, alpha); 0: no mixup")
    cutmix_alpha: float = option(0.0, at_least=0, help="CutMix draws its share from Beta(alpha, alpha); 0: no CutMix")
    mix_prob: float = option(1.0, at_least=0, at_most=1, help="chance that a batch is mixed at all")
    switch_prob: float = option(0.5, at_least=0, at_most=1, help="chance of CutMix where both are switched on")
    smoothing: float = option(
        0.0, at_least=0, below=1, help="label smoothing: share of a label spread evenly over all classes"
    )


@dataclass
class VideoAugment(ClassificationAugment):
    """Training augmentation of videos: what is drawn per video and per batch."""

    crop: str = option(
        "resized",
        choices=("resized", "jitter"),
        help="resized: random area and aspect; jitter: random short side, then a random crop",
    )
    jitter: list[int] = option(
        [256, 320], length=2, above=0, ascending=True, help="short side in pixels before a jitter crop"
    )
    inverse_uniform: bool = option(False, help="draw the short side as 1 / U(1/high, 1/low) instead of U(low, high)")
    decode_short_side: int | None = option(
        256,
        at_least=1,
        help="short side that frames are first brought to, smaller ones too, as the published Kinetics decoder does; "
        "test views of larger frames are antialiased, too; null: frames as decoded (SSv2 as published)",
    )
    channel_order: str = option("rgb", choices=("rgb", "bgr"), help="bgr: RandAugment sees B, G, R (published SSv2)")

    def problems_with(self, crop_size: int) -> Iterator[str]:
        """Rules between these options and the size of the crop."""
        if self.crop == "jitter" and min(self.jitter) < crop_size:
            yield (
                f"augment.jitter={self.jitter}: no short side may be under data.crop_size={crop_size}; raise the "
                "jitter or lower the crop"
            )


@dataclass
class ImageAugment(ClassificationAugment):
    """Training augmentation of images: resized crop, flip, then RandAugment and the rest on what was cut."""

    color_jitter: float = option(
        0.0,
        at_least=0,
        help="brightness, contrast and saturation are multiplied by U(1 - j, 1 + j), in random order, after "
        "RandAugment; 0: not",
    )
