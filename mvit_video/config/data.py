"""Options of the group `data`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from mvit_video.config.rules import option


@dataclass
class Data:
    """A data set, as far as videos and images have it in common."""

    source: Any = option(MISSING, neutral=True, help="where the files and labels are: the group `data/source`")
    num_classes: int | None = option(None, at_least=1, help="classes; null: as many as the training split has")
    holdout: float | None = option(
        None, above=0, below=1, help="share of the training split to validate on, where there is no validation split"
    )
    folds: int | None = option(
        None, at_least=2, help="instead of holdout: parts of the training split, one of which is validated on"
    )
    fold: int | None = option(None, at_least=0, help="which of the folds, from 0")
    split_seed: int = option(0, help="another seed cuts holdout and folds another way; the run's own has no part in it")
    group_pattern: str | None = option(
        None,
        help=r"regular expression that finds in each path what must not be cut apart, such as _g(\d+)_; null: the "
        "groups of the source, else files",
    )
    crop_size: int = option(224, at_least=1, help="height and width in pixels of what the model sees")
    sampling_weights: str = option(
        "natural",
        choices=("natural", "balanced", "square_root"),
        help="how often an epoch draws a video or image: all alike, classes equally often, or in between (uneven "
        "classes); a table's weights multiply",
    )
    prefetch: int = option(2, at_least=1, neutral=True, help="batches each loader process works ahead")
    worker_timeout_s: float = option(
        300.0,
        at_least=0,
        neutral=True,
        help="without a batch for so long the run ends and names the files being read; 0: never",
    )
    shard_window: int = option(16, at_least=1, help="tar shards read at a time")

    def sizes(self) -> Mapping[str, int]:
        """The options that say how large one sample is, by their names, for advice on memory."""
        return {"data.crop_size": self.crop_size}

    def problems(self) -> Iterator[str]:
        """Rules between two values."""
        if self.holdout is not None and self.folds is not None:
            yield f"data.holdout={self.holdout}: not together with data.folds={self.folds}; give one of them"
        if self.folds is not None and (self.fold is None or self.fold >= self.folds):
            fold = "null" if self.fold is None else self.fold
            yield f"data.fold={fold}: with data.folds={self.folds} it runs from 0 to {self.folds - 1}"
        if self.folds is None and self.fold is not None:
            yield f"data.fold={self.fold}: needs the number of folds; give data.folds=5, or leave data.fold out"
        if self.group_pattern is not None and not cuts_training(self):
            yield (
                f"data.group_pattern={self.group_pattern}: has no effect without data.holdout or data.folds; give one "
                "of them, or leave it out"
            )
        if self.group_pattern is not None:
            try:
                re.compile(self.group_pattern)
            except re.error as error:
                yield f"data.group_pattern={self.group_pattern}: is no regular expression ({error}); correct it"


@dataclass
class VideoData(Data):
    """A data set of videos, how clips are taken from them, and the views a test counts."""

    mean: list[float] = option(
        [0.45, 0.45, 0.45], length=3, entries="R, G and B", help="subtracted from pixels of 0 to 1"
    )
    std: list[float] = option(
        [0.225, 0.225, 0.225], length=3, above=0, entries="R, G and B", help="divides what is left"
    )
    num_frames: int = option(MISSING, at_least=1, help="frames of a clip")
    sampling: str = option(
        "span",
        choices=("span", "segments"),
        help="span: frames evenly over num_frames * sampling_rate frames at target_fps; segments: one frame of each "
        "of num_frames equal parts of the video",
    )
    sampling_rate: float = option(1.0, above=0, help="frames at target_fps from one frame of a clip to the next (span)")
    target_fps: float = option(30.0, above=0, help="frames per second that sampling counts in, whatever a file has")
    channel_order: str = option(
        "rgb", choices=("rgb", "bgr"), help="bgr: mean and std were applied to B, G, R (published SSv2-L)"
    )
    test_short_side: int = option(
        256,
        at_least=1,
        neutral=True,
        help="short side in pixels that test videos are resized to; antialiased where frames are larger than "
        "augment.decode_short_side, else plain bilinear",
    )
    test_temporal_views: int = option(1, at_least=1, neutral=True, help="clips of a test video, spread over its length")
    test_spatial_views: int = option(
        1,
        choices=(1, 3),
        neutral=True,
        help="crops of each such clip: the centre, or three along its longer side, which published tests take with "
        "test_short_side=crop_size",
    )
    backend: str = option(
        "pyav",
        choices=("pyav", "decord", "torchcodec"),
        help="decoder; pyav is exact, docs/data.md says where others err",
    )
    layout: str = option(
        "rgb",
        choices=("rgb", "yuv420"),
        help="yuv420: frames travel as the decoder makes them, half the bytes (backend pyav)",
    )
    video_time_limit_s: float | None = option(
        120.0, above=0, neutral=True, help="a video that takes longer counts as broken (backend pyav); null: no limit"
    )

    def sizes(self) -> Mapping[str, int]:
        """See Data."""
        return {"data.num_frames": self.num_frames, **super().sizes()}

    def problems(self) -> Iterator[str]:
        """Rules between two values."""
        yield from super().problems()
        if self.layout == "yuv420" and self.backend != "pyav":
            yield f"data.layout=yuv420: needs data.backend=pyav, {self.backend} makes RGB alone; or set data.layout=rgb"
        if self.test_short_side < self.crop_size:
            yield (
                f"data.test_short_side={self.test_short_side}: must hold a crop of data.crop_size={self.crop_size}; "
                "raise the one or lower the other"
            )


@dataclass
class ImageData(Data):
    """A data set of images, and how they are read and cut."""

    mean: list[float] = option(
        [0.485, 0.456, 0.406], length=3, entries="R, G and B", help="subtracted from pixels of 0 to 1"
    )
    std: list[float] = option(
        [0.229, 0.224, 0.225], length=3, above=0, entries="R, G and B", help="divides what is left"
    )
    interpolation: str = option(
        "bicubic",
        choices=("bilinear", "bicubic"),
        help="filter of every resize, as Pillow's, with antialiasing, and of RandAugment's operations",
    )
    exact: bool = option(
        True,
        help="resize and turn pixels to the last bit as Pillow, like the published pipelines (in loader processes); "
        "false: faster, some values are off by a grey level or two",
    )
    orientation: str = option(
        "apply",
        choices=("apply", "ignore"),
        help="what is done about the EXIF orientation of photographs: apply shows them upright; ignore is what the "
        "published ImageNet recipes do",
    )
    decode_min_side: int | None = option(
        None,
        at_least=1,
        help="decode large JPEG files at 1/2, 1/4 or 1/8 of their size while the short side keeps so many pixels: "
        "faster, with other pixels; null: at full size, exactly",
    )
    max_pixels: int = option(
        178_956_970, at_least=1, help="height * width above which a file counts as broken, undecoded"
    )
    crop_ratio: float = option(
        0.875,
        at_least=0,
        at_most=1,
        neutral=True,
        help="test: the short side is resized to crop_size / crop_ratio pixels, then the centre is cut; 0: the whole "
        "image is squashed to the square, nothing is cut",
    )


def cuts_training(data: Any) -> bool:
    """Whether the validation split is cut off the training split. `data` has the fields of Data."""
    return data.holdout is not None or data.folds is not None
