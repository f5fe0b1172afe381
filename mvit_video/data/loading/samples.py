"""What data sets of videos and of images have in common: keys, draws, and replacements of broken files.

A training sample is a pure function of (seed, epoch, index); an evaluation sample of the index alone. A training file
that cannot be read is replaced by another of the same set, chosen by the same key; an evaluation file that cannot be
read is returned as failed, to be counted. What a kind of file adds is how one is read and which views are made of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from mvit_video.data.augmentation.clip_views import AugmentDevice, ClipSource, Frames, View
from mvit_video.data.augmentation.transforms import Box
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.batch import Batch, Sample
from mvit_video.data.loading.collation import collate
from mvit_video.data.loading.worker_monitor import reading
from mvit_video.runtime.decode_error import DecodeError
from mvit_video.video.yuv import YuvFrames

MAX_REPLACEMENTS = 20
# What a random draw is for, the last part of its key: draws for different things never share a stream.
DRAW_CLIP, DRAW_REPLACEMENT, DRAW_FRAME_ORDER, DRAW_AUGMENT = 0, 1, 2, 3

SampleT = TypeVar("SampleT")


class DrawnView(View, Protocol):
    """A training view."""

    @property
    def erase(self) -> Box:
        """The box of the finished view that is filled with noise; zeros for none."""
        ...


class Transform(Protocol):
    """Draws training views."""

    def decoded_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that views of frames of this size are drawn for."""
        ...

    def draw(self, height: int, width: int, rng: np.random.Generator) -> DrawnView:
        """A random view."""
        ...


class TrainItems(Dataset[SampleT], ABC, Generic[SampleT]):
    """Training samples of files of any kind.

    Args:
        manifest: the files.
        seed: with the epoch and the index, the key of every random draw.
    """

    def __init__(self, manifest: Manifest, *, seed: int) -> None:
        self.manifest = manifest
        self.seed = seed

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: tuple[int, int, int]) -> SampleT:
        """The sample of key (epoch, position in the epoch's order, draw).

        A draw is the index of a file, plus the number of files for each time the epoch has drawn it before: the same
        file then gives another sample.

        Raises:
            DecodeError: when the file and all its replacements are unreadable.
        """
        epoch, position, draw = key
        failures: list[tuple[str, str]] = []
        error: DecodeError | None = None
        for _ in range(MAX_REPLACEMENTS):
            try:
                with reading(self.manifest.paths[draw % len(self)]):
                    frames = self._read(epoch, draw)
            except DecodeError as caught:
                error = caught
                failures.append((error.path, error.reason))
                draw = self._replacement(epoch, draw, len(failures))
                continue
            return self._augmented(frames, epoch, position, draw, failures)
        assert error is not None
        raise type(error)(
            failures[0][0],
            f"{failures[0][1]}; {MAX_REPLACEMENTS - 1} replacements failed too, the last {failures[-1][0]}: "
            f"{failures[-1][1]}. Check the folder of the files",
        )

    @abstractmethod
    def collate(self, samples: Sequence[SampleT]) -> Any:
        """Samples as one batch."""

    @abstractmethod
    def _read(self, epoch: int, draw: int) -> Any:
        """What `_augmented` takes: the decoded file of a draw of an epoch. Raises DecodeError."""

    @abstractmethod
    def _augmented(self, frames: Any, epoch: int, position: int, draw: int, failures: list[tuple[str, str]]) -> SampleT:
        """The sample of a decoded file."""

    def _replacement(self, epoch: int, draw: int, attempt: int) -> int:
        rng = np.random.default_rng([self.seed, epoch, draw, DRAW_REPLACEMENT, attempt])
        return int(rng.integers(len(self.manifest)))


class EvalItems(Protocol[SampleT]):
    """Evaluation samples of files of any kind; a key is the index of a file, or more, see EvalSamples.

    Attributes:
        num_views: samples that a file has.
    """

    num_views: int

    def __len__(self) -> int: ...

    def __getitem__(self, key: int, /) -> SampleT: ...

    def collate(self, samples: Sequence[SampleT]) -> Any:
        """Samples as one batch."""
        ...


class TrainSamples(TrainItems[Sample]):
    """Augmented clips or images of training files.

    Args:
        manifest: files and labels.
        transform: draws the views.
        repeats: augmented copies of each decoded file (repeated augmentation).
        seed: with the epoch and the index, the key of every random draw.
        device: where samples are cut and augmented: "worker" (the loader's processes) or "model" (the model's device).
    """

    def __init__(
        self, manifest: Manifest, *, transform: Transform, repeats: int, seed: int, device: AugmentDevice = "worker"
    ) -> None:
        super().__init__(manifest, seed=seed)
        self.transform = transform
        self.repeats = repeats
        self.device: AugmentDevice = device

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """See collation.collate."""
        return collate(samples)

    @abstractmethod
    def _read(self, epoch: int, draw: int) -> Frames:
        """The frames of a draw of an epoch, uint8 (N, H, W, 3) or planes. Raises DecodeError."""

    def _augmented(
        self, frames: Frames, epoch: int, position: int, draw: int, failures: list[tuple[str, str]]
    ) -> Sample:
        height, width = (frames.y if isinstance(frames, YuvFrames) else frames).shape[1:3]
        # Frames are brought to the decoder's size once; each view is drawn for that.
        decoded = self.transform.decoded_size(height, width)
        views: list[DrawnView] = []
        seeds: list[int] = []
        for repeat in range(self.repeats):
            rng = np.random.default_rng([self.seed, epoch, draw, DRAW_AUGMENT, repeat])
            views.append(self.transform.draw(*decoded, rng))
            seeds.append(int(rng.integers(2**62)))
        clips, source = finished(ClipSource(frames, tuple(views)), self.device)
        index = draw % len(self.manifest)
        return Sample(
            clips=clips,
            label=self.manifest.labels[index],
            video=index,
            views=torch.arange(self.repeats),
            erase=torch.tensor([view.erase for view in views], dtype=torch.int32),
            noise_seeds=torch.tensor(seeds),
            path=self.manifest.paths[index],
            epoch=epoch,
            position=position,
            failures=failures,
            source=source,
        )


class EvalSamples(Dataset[Sample], ABC):
    """All test views of each file.

    Args:
        manifest: files and labels.
        crop_size: side of the views, pixels.
        num_views: views per file.
        view_frames: frames of a view.
        device: where views are cut: "worker" (the loader's processes) or "model" (the model's device).
    """

    has_groups = False
    """Whether keys from `len(self)` on stand for further views of a file."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        crop_size: int,
        num_views: int = 1,
        view_frames: int = 1,
        device: AugmentDevice = "worker",
    ) -> None:
        self.manifest = manifest
        self.crop_size = crop_size
        self.num_views = num_views
        self.view_frames = view_frames
        self.device: AugmentDevice = device

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: int) -> Sample:
        """Views of one file; `failed` with blank ones when it cannot be read.

        A key is the index of a file, plus the number of files for each earlier group of `num_views` of its views: a
        data set whose files have more views than are made at once (`has_groups`) adds that.

        Raises:
            IndexError: there are not so many files; so a loop over the data set ends.
        """
        if key < 0 or (key >= len(self) and not self.has_groups):
            raise IndexError(f"file {key} of {len(self)}")
        failures: list[tuple[str, str]] = []
        group, index = divmod(key, len(self))
        try:
            with reading(self.manifest.paths[index]):
                source = self._views(key)
        except DecodeError as error:
            failures = [(error.path, error.reason)]
            source = self._blank()
        views = len(source.views)
        clips, source_left = finished(source, self.device)
        return Sample(
            clips=clips,
            label=self.manifest.labels[index],
            video=index,
            views=group * self.num_views + torch.arange(views),
            erase=torch.zeros(views, 4, dtype=torch.int32),
            noise_seeds=torch.zeros(views, dtype=torch.int64),
            path=self.manifest.paths[index],
            failures=failures,
            failed=bool(failures),
            source=source_left,
            notes=[] if not source.note else [(self.manifest.paths[index], source.note)],
        )

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """See collation.collate."""
        return collate(samples)

    @abstractmethod
    def _views(self, key: int) -> ClipSource:
        """The decoded frames of a key's file and its views. Raises DecodeError."""

    def _blank(self) -> ClipSource:
        """Black views in the place of a file that cannot be read."""
        frames = torch.zeros(self.view_frames, self.crop_size, self.crop_size, 3, dtype=torch.uint8)
        return ClipSource(frames, (_AsItIs(),) * self.num_views)


class _AsItIs:
    """The view of frames that are what a model sees already."""

    def begin(self, frames: torch.Tensor) -> torch.Tensor:
        return frames

    def finish(self, frames: torch.Tensor) -> torch.Tensor:
        return frames


def finished(source: ClipSource, device: AugmentDevice) -> tuple[torch.Tensor, ClipSource | None]:
    """The views if they are made in the worker, else nothing and the source."""
    if device == "model":
        return torch.empty(0, dtype=torch.uint8), source
    return source.clips(), None
