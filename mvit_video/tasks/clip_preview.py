"""What the model sees of videos and of images: training samples and test views.

Clips are taken at the last point before the model, after decoding, augmentation, normalisation, erasing and mixing:
from the same loader, `Normalization` and `mixed_batch` that a training step uses.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mvit_video.data.augmentation.mixing import MixDraw, Mixing
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.loading.batch import Batch
from mvit_video.data.loading.collation import collate
from mvit_video.data.loading.dataset import EvalDataset, TrainDataset
from mvit_video.data.loading.loader import TrainLoader
from mvit_video.data.loading.samples import EvalSamples, TrainSamples
from mvit_video.data.sampling import view_of
from mvit_video.engine.contact_sheet import Pictures, denormalize_clips, shorten, spread
from mvit_video.engine.preview import Item
from mvit_video.tasks.classification import Normalization, mixed_batch
from mvit_video.video.reader import VideoDecodeError, VideoInfo, VideoReader

logger = logging.getLogger(__name__)

FramesOf = Callable[[Any, int, int], tuple[VideoInfo | None, tuple[int, ...]]]
_CPU = torch.device("cpu")
_STAY_UNKNOWN = "the frame numbers of %s stay unknown: %s"
NAME_LENGTH = 48  # characters of a class name in a caption; the index page has it whole


def shown(clips: torch.Tensor, normalization: Normalization) -> Pictures:
    """Normalised clips (B, 3, T, H, W) as uint8 (B, T, H, W, 3)."""
    return denormalize_clips(
        clips, mean=normalization.mean, std=normalization.std, channel_order=normalization.channel_order
    )


def frames_of_clip(dataset: TrainDataset, epoch: int, draw: int) -> tuple[VideoInfo | None, tuple[int, ...]]:
    """A video that was read before, and the frames drawn for its clip; none if it can no longer be read."""
    try:
        with VideoReader(dataset.manifest.location(draw % len(dataset)), backend=dataset.backend) as reader:
            return reader.info, tuple(dataset.frame_numbers(epoch, draw, reader))
    except VideoDecodeError as error:
        logger.warning(_STAY_UNKNOWN, error.path, error.reason)
        return None, ()


def training_clips(
    loader: TrainLoader,
    *,
    normalization: Normalization,
    mixing: Mixing,
    seed: int,
    step: int,
    count: int,
    targets_of: Callable[[Batch], torch.Tensor] | None = None,
    frames_of: FramesOf | None = frames_of_clip,
) -> tuple[list[Item], list[tuple[str, str]]]:
    """The first `count` clips from optimizer step `step` on, and (path, reason) of the videos that were replaced.

    Args:
        loader: of a training.
        normalization, mixing, targets_of: see classification.mixed_batch.
        seed: of the run.
        step, count: where to begin, and how many clips.
        frames_of: gives the frames of a clip; None: the samples are images.

    Raises:
        DecodeError: a video and all its replacements are unreadable.
    """
    clips: list[Item] = []
    failures: dict[str, str] = {}
    for number, made in enumerate(loader.batches(step)):
        failures.update(made.failures)
        batch = made.to(_CPU)
        inputs, targets, draw = mixed_batch(
            batch, normalization=normalization, mixing=mixing, seed=seed, targets_of=targets_of
        )
        pictures = shown(inputs, normalization)
        for row in range(min(len(pictures), count - len(clips))):
            at = step + number // loader.accumulate
            clips.append(_training_clip(loader, batch, row, at, draw, targets[row], pictures[row], frames_of))
        if len(clips) >= count:
            break
    return clips, list(failures.items())


def class_clips(
    loader: TrainLoader,
    *,
    normalization: Normalization,
    mixing: Mixing,
    step: int,
    targets_of: Callable[[Batch], torch.Tensor] | None = None,
    frames_of: FramesOf | None = frames_of_clip,
) -> tuple[list[Item], list[tuple[str, str]]]:
    """A clip of each class, by class, and (path, reason) of the videos that could not be read.

    Each is of the class's first readable video in the order of the epoch of `step`; a class without one is left out.

    Args:
        loader: of a training.
        normalization: from a batch to the model's input.
        mixing: with probability 0, for a clip has no partner here.
        step: optimizer step that tells the epoch.
        targets_of: see classification.mixed_batch.
        frames_of: see training_clips.
    """
    epoch = step // loader.steps_per_epoch
    labels = loader.dataset.manifest.labels
    clips: dict[int, Item] = {}
    failures: dict[str, str] = {}
    for position, video in enumerate(loader.order(epoch)):
        label = int(labels[int(video)])
        if label in clips:
            continue
        made = collate([loader.dataset[epoch, position, int(video)]])
        failures.update(made.failures)
        if made.failures:
            continue  # what took its place may be of another class
        batch = made.to(_CPU)
        inputs, targets, draw = mixed_batch(
            batch, normalization=normalization, mixing=mixing, seed=loader.seed, targets_of=targets_of
        )
        item = _training_clip(loader, batch, 0, step, draw, targets[0], shown(inputs, normalization)[0], frames_of)
        clips[label] = dataclasses.replace(item, position=f"epoch {epoch}, place {position} in its order")
        if len(clips) == loader.dataset.manifest.num_classes:
            break
    missing = [name for label, name in enumerate(loader.dataset.manifest.class_names) if label not in clips]
    if missing:
        logger.warning("no training %s to show of %s", loader.dataset.manifest.kind.noun, ", ".join(missing))
    return [clips[label] for label in sorted(clips)], list(failures.items())


def _training_clip(
    loader: TrainLoader,
    batch: Batch,
    row: int,
    step: int,
    draw: MixDraw,
    targets: torch.Tensor,
    pictures: Pictures,
    frames_of: FramesOf | None,
) -> Item:
    dataset = loader.dataset
    assert isinstance(dataset, TrainSamples)
    names = dataset.manifest.class_names
    partner = len(batch.labels) - 1 - row
    title = classes_text(dataset.manifest, int(batch.videos[row]))
    if draw.mode != "none":
        other = classes_text(dataset.manifest, int(batch.videos[partner]))
        title = f"{draw.mode}  {draw.lam:.2f} {title}  +  {1 - draw.lam:.2f} {other}"
    video, copy = int(batch.videos[row]), int(batch.views[row])
    position = batch.position + row // dataset.repeats
    draw_key = int(loader.order(batch.epoch)[position])
    if draw_key % len(dataset) != video:  # it could not be read, and this one took its place
        draw_key = video
    copies = f", copy {copy + 1} of {dataset.repeats}" if dataset.repeats > 1 else ""
    info, numbers = (None, ()) if frames_of is None else frames_of(dataset, batch.epoch, draw_key)
    return Item(
        title=title,
        target=target_text(names, targets),
        path=batch.paths[row],
        position=f"step {step}, epoch {batch.epoch}, place {position} in its order{copies}",
        pictures=pictures,
        frames=numbers,
        fps=0.0 if info is None else info.fps,
        total=0 if info is None else info.num_frames,
        mixed_with="" if draw.mode == "none" else batch.paths[partner],
    )


def evaluation_views(
    dataset: EvalDataset, *, normalization: Normalization, count: int
) -> tuple[list[Item], list[tuple[str, str]]]:
    """All views of `count` videos spread evenly over the split, and (path, reason) of those that cannot be read."""
    clips: list[Item] = []
    failures: list[tuple[str, str]] = []
    for video in spread(len(dataset), count):
        batch = collate([dataset[video]]).to(_CPU)
        failures += batch.failures
        if bool(batch.failed.any()):
            clips.append(_failed_clip(dataset, batch, video))
            continue
        clips += _views_of_video(dataset, batch, video, shown(normalization(batch), normalization))
    return clips, failures


def evaluation_images(
    dataset: EvalSamples, *, normalization: Normalization, count: int
) -> tuple[list[Item], list[tuple[str, str]]]:
    """Test views of `count` images spread evenly over the split, and (path, reason) of those that cannot be read."""
    items: list[Item] = []
    failures: list[tuple[str, str]] = []
    for image in spread(len(dataset), count):
        batch = collate([dataset[image]]).to(_CPU)
        failures += batch.failures
        if bool(batch.failed.any()):
            items.append(_failed_clip(dataset, batch, image))
            continue
        name = classes_text(dataset.manifest, image)
        position = f"image {image} of the split"
        pictures = shown(normalization(batch), normalization)[0]
        items.append(Item(title=name, target=name, path=batch.paths[0], position=position, pictures=pictures))
    return items, failures


def _failed_clip(dataset: EvalSamples, batch: Batch, video: int) -> Item:
    name = classes_text(dataset.manifest, video)
    position_text = f"{dataset.manifest.kind.noun} {video} of the split"
    reason = "; ".join(reason for _, reason in batch.failures)
    return Item(title=name, target=name, path=batch.paths[0], position=position_text, pictures=None, problem=reason)


def _views_of_video(dataset: EvalDataset, batch: Batch, video: int, pictures: Pictures) -> Iterator[Item]:
    name = classes_text(dataset.manifest, video)
    info, numbers = _frames_of_views(dataset, video)
    for number, view in enumerate(pictures):
        temporal, spatial = view_of(number, dataset.spatial_views)
        crop = _crop_name(spatial, dataset.spatial_views, info)
        yield Item(
            title=f"{name}  ·  view {number + 1} of {dataset.num_views}: clip {temporal + 1}, {crop} crop",
            target=name,
            path=batch.paths[number],
            position=f"video {video} of the split",
            pictures=view,
            frames=numbers[temporal],
            fps=0.0 if info is None else info.fps,
            total=0 if info is None else info.num_frames,
        )


def _crop_name(spatial: int, num_spatial: int, info: VideoInfo | None) -> str:
    if num_spatial == 1:
        return "centre"
    portrait = info is not None and info.height > info.width
    return ("top", "middle", "bottom")[spatial] if portrait else ("left", "centre", "right")[spatial]


def _frames_of_views(dataset: EvalDataset, video: int) -> tuple[VideoInfo | None, list[tuple[int, ...]]]:
    """Likewise for the clips of all temporal views."""
    try:
        with VideoReader(dataset.manifest.location(video), backend=dataset.backend) as reader:
            return reader.info, [tuple(clip) for clip in dataset.frame_numbers(video, reader)]
    except VideoDecodeError as error:
        logger.warning(_STAY_UNKNOWN, error.path, error.reason)
        return None, [()] * dataset.temporal_views


def class_text(names: Sequence[str], label: int) -> str:
    """A class by name and number."""
    return f"{shorten(names[label], NAME_LENGTH)} ({label})"


def classes_text(manifest: Manifest, video: int) -> str:
    """The class of a video, or its classes."""
    labels = [manifest.labels[video]] if manifest.label_sets is None else manifest.label_sets[video]
    return ", ".join(class_text(manifest.class_names, label) for label in labels)


def target_text(names: Sequence[str], targets: torch.Tensor) -> str:
    """The largest two of a row of targets that stand out, largest first, and what every other class has."""
    values, labels = targets.float().sort(descending=True, stable=True)
    floor = float(values[-1])
    shown = [i for i in range(min(2, len(values))) if float(values[i]) > floor] or [0]
    text = " + ".join(f"{float(values[i]):.4g} {names[int(labels[i])]} ({int(labels[i])})" for i in shown)
    return f"{text}, {floor:.3g} each of the others" if floor > 0 and len(shown) < len(values) else text
