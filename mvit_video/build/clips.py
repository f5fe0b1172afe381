"""From options to the clips of videos: splits, data sets, loaders, views, mixing, normalisation."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mvit_video.build.batch import step_batch
from mvit_video.build.common import pair
from mvit_video.config import Data, Train, VideoAugment, VideoData
from mvit_video.data.augmentation.mixing import Mixing
from mvit_video.data.augmentation.transforms import TrainTransform
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Source, Split
from mvit_video.data.loading.batch import FrameOrder
from mvit_video.data.loading.dataset import DecodeOptions, EvalDataset, TrainDataset
from mvit_video.data.loading.draws import draw_weights, expected_draws
from mvit_video.data.loading.loader import LoaderOptions, TrainLoader
from mvit_video.data.sampling import ClipSampler
from mvit_video.distributed.process_group import World
from mvit_video.tasks.classification import Normalization, ViewEvaluation

logger = logging.getLogger(__name__)
_CLASSES_SHOWN = 50


def read_manifest(
    config: Train,
    source: Source,
    split: Split,
    *,
    class_names: Sequence[str] | None = None,
    multi_label: bool = False,
) -> Manifest:
    """The manifest of a split. Options that left the number of classes open take it from here.

    Args:
        config: the options.
        source: the data source.
        split: which one.
        class_names: of the model; the labels are mapped to them by name. None: the classes of the split count.
        multi_label: videos may have several labels.

    Raises:
        ValueError: the split is not as it should be, has several labels a video, or other classes than the options say.
    """
    manifest = source.manifest(split)
    if manifest.label_sets is not None and not multi_label:
        raise ValueError(
            f"{manifest.source} has several labels a video, and the loss and scores are those of one label each; give "
            "one label a row, or train with task=video_multilabel"
        )
    if class_names is not None:
        manifest = manifest.with_classes(class_names)
    classes = manifest.num_classes
    if config.data.num_classes is None:
        config.data.num_classes = classes
    _set_open_classes(config, classes)
    if classes != config.data.num_classes:
        raise ValueError(
            f"data.num_classes={config.data.num_classes}, but {manifest.source} has {classes} classes: "
            f"set data.num_classes={classes}"
        )
    return manifest


def _set_open_classes(config: Train, classes: int) -> None:
    """Give the model the number of classes if it has that option without a value; a model without schema is a dict."""
    model = config.model
    if isinstance(model, dict):
        if model.get("num_classes", classes) is None:
            model["num_classes"] = classes
    elif getattr(model, "num_classes", classes) is None:
        model.num_classes = classes


def video_data(config: Train) -> VideoData:
    """The options of the group `data`.

    Raises:
        ValueError: they are those of images.
    """
    if not isinstance(config.data, VideoData):
        raise ValueError("the task is for videos, and data=... is a data set of images: give task=image_classification")
    return config.data


def video_augment(config: Train) -> VideoAugment:
    """The options of the group `augment`.

    Raises:
        ValueError: they are those of images.
    """
    if not isinstance(config.augment, VideoAugment):
        raise ValueError("the task is for videos, and augment=... is for images: give augment=kinetics, or another one")
    return config.augment


def build_sampler(data: VideoData) -> ClipSampler:
    """How clips are taken from videos."""
    return ClipSampler(
        num_frames=data.num_frames,
        sampling_rate=data.sampling_rate,
        target_fps=data.target_fps,
        mode=data.sampling,  # type: ignore[arg-type]
    )


def build_train_loader(config: Train, manifest: Manifest, world: World) -> TrainLoader:
    """Endless training batches of this rank."""
    augment, data = video_augment(config), video_data(config)
    transform = TrainTransform(
        crop_size=data.crop_size,
        crop=augment.crop,  # type: ignore[arg-type]
        scale=pair(augment.scale),
        ratio=pair(augment.ratio),
        jitter=(augment.jitter[0], augment.jitter[1]),
        inverse_uniform=augment.inverse_uniform,
        flip=augment.flip,
        randaugment=augment.randaugment,
        erase_prob=augment.erase_prob,
        decode_short_side=augment.decode_short_side,
        channel_order=augment.channel_order,  # type: ignore[arg-type]
    )
    dataset = TrainDataset(
        manifest,
        sampler=build_sampler(data),
        transform=transform,
        repeats=augment.repeats,
        seed=config.seed,
        decoding=build_decoding(config),
    )
    weights = draw_weights(manifest, config.data.sampling_weights)  # type: ignore[arg-type]
    if weights is not None:
        logger.info("%s", draws_text(manifest, weights, sampling=config.data.sampling_weights))
    batch = step_batch(config.trainer, processes=world.size, items=len(dataset))
    return TrainLoader(
        dataset,
        batch_size=batch.batch_size,
        accumulate=batch.accumulate,
        rank=world.rank,
        world_size=world.size,
        seed=config.seed,
        loading=build_loading(config, world),
        shard_window=config.data.shard_window,
        weights=weights,
    )


def draws_text(manifest: Manifest, weights: npt.NDArray[np.float64], *, sampling: str) -> str:
    """How many videos each class has, and how often an epoch draws one of them."""
    counts, draws = manifest.counts(), expected_draws(manifest, weights)
    rows = [f"{name} {draws[i]:.1f} of {counts[i]}" for i, name in enumerate(manifest.class_names)]
    origin = f"data.sampling_weights={sampling}" + ("" if manifest.weights is None else ", times the table's weights")
    return f"an epoch draws videos of each class so often ({origin}): {_shortened(rows)}"


def class_weights_text(manifest: Manifest, weights: Sequence[float]) -> str:
    """How many videos each class has, and its weight in the loss."""
    counts = manifest.counts()
    rows = [f"{name} {weights[i]:.3g} ({counts[i]} videos)" for i, name in enumerate(manifest.class_names)]
    return f"weights of the classes in the loss: {_shortened(rows)}"


def _shortened(rows: Sequence[str]) -> str:
    shown = rows[:_CLASSES_SHOWN]
    return ", ".join(shown) + (f" and {len(rows) - len(shown)} more classes" if len(rows) > len(shown) else "")


def build_loading(config: Train, world: World) -> LoaderOptions:
    """How batches are made beside this process."""
    return LoaderOptions(
        num_workers=config.trainer.num_workers,
        pin_memory=world.device.type == "cuda",
        prefetch=config.data.prefetch,
        timeout_s=config.data.worker_timeout_s,
    )


def build_decoding(config: Train) -> DecodeOptions:
    """How files are read, and where clips are made of their frames."""
    data = video_data(config)
    return DecodeOptions(
        backend=data.backend,  # type: ignore[arg-type]
        layout=data.layout,  # type: ignore[arg-type]
        device=config.augment.device,  # type: ignore[arg-type]
        time_limit_s=data.video_time_limit_s,
    )


def build_eval_dataset(
    config: Train,
    manifest: Manifest,
    *,
    temporal_views: int,
    spatial_views: int,
    frame_order: FrameOrder = "forward",
) -> EvalDataset:
    """The views of a split."""
    data = video_data(config)
    return EvalDataset(
        manifest,
        sampler=build_sampler(data),
        temporal_views=temporal_views,
        spatial_views=spatial_views,
        short_side=data.test_short_side,
        crop_size=data.crop_size,
        decode_short_side=video_augment(config).decode_short_side,
        frame_order=frame_order,
        seed=config.seed,
        decoding=build_decoding(config),
    )


def build_evaluation(
    config: Train,
    manifest: Manifest,
    world: World,
    *,
    temporal_views: int,
    spatial_views: int,
    frame_order: FrameOrder = "forward",
) -> ViewEvaluation:
    """The views of a split, scored once each."""
    dataset = build_eval_dataset(
        config, manifest, temporal_views=temporal_views, spatial_views=spatial_views, frame_order=frame_order
    )
    return ViewEvaluation(
        dataset,
        normalization=build_normalization(config.data),
        clips_per_batch=config.trainer.eval_batch_size,
        loading=build_loading(config, world),
    )


def build_mixing(config: Train) -> Mixing:
    """Mixup, cutmix and label smoothing."""
    augment = config.augment
    assert config.data.num_classes is not None  # read_manifest has set it
    return Mixing(
        mixup_alpha=augment.mixup_alpha,
        cutmix_alpha=augment.cutmix_alpha,
        prob=augment.mix_prob,
        switch_prob=augment.switch_prob,
        smoothing=augment.smoothing,
        num_classes=config.data.num_classes,
    )


def build_normalization(data: Data) -> Normalization:
    """From a uint8 batch to the model's input."""
    order: Any = data.channel_order if isinstance(data, VideoData) else "rgb"
    return Normalization(mean=data.mean, std=data.std, channel_order=order)
