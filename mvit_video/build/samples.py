"""From options to what the samples of videos and of images have in common: splits, order, mixing, normalisation."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mvit_video.build.batch import step_batch
from mvit_video.build.class_weights import shortened
from mvit_video.build.run_identity import DataRecord
from mvit_video.config import ClassificationAugment, Data, ImageData, Train, VideoData
from mvit_video.data.augmentation.mixing import Mixing
from mvit_video.data.datasets.extensions import VIDEOS, FileKind
from mvit_video.data.datasets.fingerprint import fingerprint
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Source, Split
from mvit_video.data.loading.draws import draw_weights, expected_draws
from mvit_video.data.loading.loader import LoaderOptions, TrainLoader
from mvit_video.data.loading.samples import TrainItems
from mvit_video.distributed.process_group import World
from mvit_video.planning.costs import VIDEO_FILES, FileCosts
from mvit_video.runtime.formatting import count_text
from mvit_video.tasks.classification import Normalization
from mvit_video.video.location import same_place

logger = logging.getLogger(__name__)


class ManifestSplits:
    """The part of a `TaskBuilder` that is the same for all tasks whose splits are manifests.

    Attributes:
        kind: of the files that the task is for.
        sample: what the model sees of one, in the singular.
        file_costs: what a plan assumes of one.
    """

    kind: FileKind = VIDEOS
    sample: str = "clip"
    file_costs: FileCosts = VIDEO_FILES

    @property
    def item(self) -> str:
        """What a data set is a set of, in the singular."""
        return self.kind.noun

    def read_split(
        self, config: Train, source: Source, split: Split, *, class_names: Sequence[str] | None = None
    ) -> Manifest:
        """The files of a split. Options that left the number of classes open take it from here."""
        return read_manifest(config, source, split, class_names=class_names, kind=self.kind)

    def class_names(self, split: Manifest) -> Sequence[str]:
        """The names of the classes."""
        return split.class_names

    def record(self, split: Manifest) -> DataRecord:
        """Where the files were listed, how many they are, and the digest of their names and labels."""
        return DataRecord(source=split.source, items=len(split), fingerprint=fingerprint(split))

    def shared(self, train: Manifest, other: Manifest) -> Sequence[str]:
        """The files, or segments of files, that both splits list."""
        trained = {(same_place(path), train.segment(index)) for index, path in enumerate(train.paths)}
        return [path for index, path in enumerate(other.paths) if (same_place(path), other.segment(index)) in trained]

    def file_bytes(self, split: Manifest) -> float | None:
        """Mean size of the files, of some of them; None where it is not at hand."""
        return split.mean_size()

    def repeats(self, config: Train) -> int:
        """Samples that a training step takes of each file."""
        return classification_augment(config).repeats


def read_manifest(
    config: Train,
    source: Source,
    split: Split,
    *,
    class_names: Sequence[str] | None = None,
    kind: FileKind = VIDEOS,
    multi_label: bool = False,
) -> Manifest:
    """The manifest of a split. Options that left the number of classes open take it from here.

    Args:
        config: the options.
        source: the data source.
        split: which one.
        class_names: of the model; the labels are mapped to them by name. None: the classes of the split count.
        kind: what the task is for.
        multi_label: videos may have several labels.

    Raises:
        ValueError: the split is not as it should be, has several labels a video, files of another kind, or other
            classes than the options say.
    """
    manifest = source.manifest(split)
    check_kind(manifest, kind)
    if manifest.label_sets is not None and not multi_label:
        raise ValueError(
            f"{manifest.source} has several labels a {kind.noun}, and the loss and scores are those of one label each; "
            "give one label a row, or train with task=video_multilabel (videos)"
        )
    if class_names is not None:
        manifest = manifest.with_classes(class_names)
    set_open_classes(config, manifest, with_training=source.has("train"))
    return manifest


def check_kind(manifest: Manifest, kind: FileKind) -> None:
    """Refuse files of another kind than the task is for, with a ValueError."""
    if manifest.kind != kind:
        raise ValueError(
            f"{manifest.source} has {manifest.kind.plural}, and the task is for {kind.plural}: give data=... and "
            f"data/source=... of {kind.plural}, or a task=... for {manifest.kind.plural}"
        )


def set_open_classes(config: Train, manifest: Manifest, *, with_training: bool = True) -> None:
    """Give data and model the number of classes if they have that option without a value.

    Args:
        with_training: the source has a training split, whose classes count.

    Raises:
        ValueError: the options state another number.
    """
    classes = manifest.num_classes
    if config.data.num_classes is None:
        config.data.num_classes = classes
    model = config.model  # one without schema is a dict
    if isinstance(model, dict):
        if model.get("num_classes", classes) is None:
            model["num_classes"] = classes
    elif getattr(model, "num_classes", classes) is None:
        model.num_classes = classes
    if classes != config.data.num_classes:
        if classes > config.data.num_classes:
            whole = "take out what does not belong to them"
        else:
            whole = "complete it"
            if not with_training:
                whole = "give data.source.train=... or data.source.class_names_file=..., which say all classes"
        raise ValueError(
            f"data.num_classes={config.data.num_classes}, but {manifest.source} has {count_text(classes, 'class')}: "
            f"{whole}, or set data.num_classes={classes}"
        )


def build_loader(config: Train, dataset: TrainItems[Any], world: World) -> TrainLoader:
    """Endless training batches of this rank."""
    manifest = dataset.manifest
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
    """How many files each class has, and how often an epoch draws one of them."""
    counts, draws = manifest.counts(), expected_draws(manifest, weights)
    rows = [f"{name} {draws[i]:.1f} of {counts[i]}" for i, name in enumerate(manifest.class_names)]
    origin = f"data.sampling_weights={sampling}" + ("" if manifest.weights is None else ", times the table's weights")
    return f"an epoch draws {manifest.kind.plural} of each class so often ({origin}): {shortened(rows)}"


def build_loading(config: Train, world: World, *, files: int | None = None) -> LoaderOptions:
    """How batches are made beside this process.

    Args:
        config: the options.
        world: this process among the others.
        files: that are to be read, if there may be fewer than processes that read them.
    """
    workers = config.trainer.num_workers
    return LoaderOptions(
        num_workers=workers if files is None else min(workers, files if files > 1 else 0),
        pin_memory=world.device.type == "cuda",
        prefetch=config.data.prefetch,
        timeout_s=config.data.worker_timeout_s,
    )


def classification_augment(config: Train) -> ClassificationAugment:
    """The options of the group `augment`.

    Raises:
        ValueError: they are those of detection.
    """
    if not isinstance(config.augment, ClassificationAugment):
        raise ValueError("the task names classes, and augment=... is for detection: give one of classification")
    return config.augment


def build_mixing(config: Train) -> Mixing:
    """Mixup, cutmix and label smoothing."""
    augment = classification_augment(config)
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
    if not isinstance(data, VideoData | ImageData):
        raise ValueError("the task names classes, and data=... is a data set of detection: give another one")
    return Normalization(mean=data.mean, std=data.std, channel_order=order)
