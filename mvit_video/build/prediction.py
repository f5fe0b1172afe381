"""A prediction, from its options to the model that makes it and to what it says of files."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

import mvit_video
from mvit_video.build.clips import build_window_dataset
from mvit_video.build.common import build_task_builder, load_model
from mvit_video.build.evaluation import training_state_of
from mvit_video.build.explanation import check_explainable, explained_clips, explained_names
from mvit_video.build.image_classification import ImageClassification
from mvit_video.build.samples import ManifestSplits, build_loading
from mvit_video.build.task_builder import TaskBuilder
from mvit_video.build.video_multilabel import VideoMultilabel
from mvit_video.config import Predict, VideoData
from mvit_video.data.datasets.class_names import numbered_names, read_class_names
from mvit_video.data.datasets.extensions import FileKind
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.published_names import published_class_names
from mvit_video.data.datasets.sources import Split
from mvit_video.distributed.process_group import World
from mvit_video.engine.checkpoints.files import sha256_of
from mvit_video.engine.precision import uses_bf16
from mvit_video.engine.task import Task
from mvit_video.models.weights.zoo import zoo
from mvit_video.prediction.begun import BegunVideos
from mvit_video.prediction.explanation import ExplainedClip
from mvit_video.prediction.lines import writing
from mvit_video.prediction.results import FilePrediction, Window, best_classes
from mvit_video.prediction.scoring import NamesClasses, ScoredViews, scored_views
from mvit_video.prediction.windows import WindowPlan, window_predictions
from mvit_video.runtime.interruption import stop_if_asked
from mvit_video.tasks.image_classification import ImageEvaluation

logger = logging.getLogger(__name__)

_SHOWN = 40  # files whose classes are printed


@dataclass(frozen=True)
class _Files:
    """The files to predict as a data source: without labels, so that each has the first class."""

    paths: Sequence[str]
    names: tuple[str, ...]
    kind: FileKind

    def prepare(self) -> None:
        """See Source: the files are there."""

    def has(self, split: Split) -> bool:
        """See Source."""
        return True

    def manifest(self, split: Split) -> Manifest:
        """See Source."""
        return Manifest(self.paths, [0] * len(self.paths), self.names, source="the given files", kind=self.kind)


@dataclass(frozen=True, kw_only=True)
class FilePredictor:
    """A model with its weights, and all that it takes to turn files into what it looks at.

    Attributes:
        config: the options, taken from the run where there is one.
        builder: builds the objects of the task.
        kind: of the files that the model looks at.
        class_names: in the order of the model's outputs.
        model: in eval mode, on the world's device.
        world: this process among the others.
        about: the weights, for the record.
    """

    config: Predict
    builder: TaskBuilder
    kind: FileKind
    class_names: tuple[str, ...]
    model: nn.Module
    world: World
    about: dict[str, Any]

    def predict(self, files: Sequence[str], *, begun: BegunVideos | None = None) -> Iterator[FilePrediction]:
        """What the model says of this rank's share of the files, every world.size-th, as they are done.

        A file that cannot be read gives a result with its error.

        Args:
            files: paths and URLs.
            begun: has the windows of long videos that are done already, and takes those that are done now.

        Raises:
            ValueError: windows of something that has no time.
        """
        if not files:
            return
        manifest, task = self.split(files)
        said: set[str] = set()
        for one, note in self._windows(manifest, task, begun) if self.config.windows else self._whole(manifest, task):
            if note and one.path not in said:
                said.add(one.path)
                logger.warning("%s %s", one.path, note)
            yield one

    def _whole(self, manifest: Manifest, task: Task) -> Iterator[tuple[FilePrediction, str]]:
        """Each file as an evaluation looks at it."""
        evaluation = self.builder.evaluation(self._for(manifest), manifest, self.world, frame_order="forward")
        allowed = evaluation.allowed if isinstance(evaluation, ImageEvaluation) else None
        for found in self.scored(evaluation.batches(self.world), task):
            path = manifest.paths[found.video]
            if found.probabilities is None:
                yield FilePrediction(path, error=found.error), ""
                continue
            mean = found.probabilities.sum(0) / np.float32(len(found.probabilities))
            if allowed is not None:
                mean = np.where(allowed, mean, 0) / mean[allowed].sum()
            yield FilePrediction(path, best_classes(mean, self.class_names, top_k=self.config.top_k)), found.note

    def _windows(
        self, manifest: Manifest, task: Task, begun: BegunVideos | None
    ) -> Iterator[tuple[FilePrediction, str]]:
        """Each video window by window."""
        dataset = build_window_dataset(self.config, manifest)
        share = range(self.world.rank, len(manifest), self.world.size)
        plan = WindowPlan(
            dataset,
            share,
            clips_per_batch=self.config.trainer.eval_batch_size,
            begun={} if begun is None else begun.of([manifest.paths[video] for video in share]),
        )
        loading = build_loading(self.config, self.world)
        views = self.scored(loading.batches(dataset, plan.batches()), task)
        return window_predictions(
            plan,
            views,
            class_names=self.class_names,
            top_k=self.config.top_k,
            keep=None if begun is None else partial(_keep, begun),
        )

    def scored(self, batches: Iterator[Any], task: Task) -> Iterator[ScoredViews]:
        """What the model makes of batches of this task."""
        return scored_views(
            self.model,
            batches,
            task=_names_classes(task),
            device=self.world.device,
            bf16=uses_bf16(self.config.trainer.precision, self.world.device),  # type: ignore[arg-type]
        )

    def explain(self, found: FilePrediction, *, name: str | None = None) -> tuple[int, Iterator[ExplainedClip]]:
        """How many clips a file that was predicted has, and each of them with its map.

        Args:
            found: with classes.
            name: of the class to explain; None: the best one of the file, or of each window.

        Raises:
            ValueError: the model is no MViT, there is no such class, or the file could not be read.
        """
        check_explainable(self.model)
        names = explained_names(found, name, self.class_names)
        manifest, task = self.split([found.path])
        if found.windows is not None:
            dataset: Any = build_window_dataset(self.config, manifest)
            count = len(names)
        else:
            evaluation: Any = self.builder.evaluation(self.config, manifest, self.world, frame_order="forward")
            dataset = evaluation.dataset
            count = getattr(dataset, "temporal_views", 1)
        clips = explained_clips(
            self.config,
            self.model,
            self.class_names,
            dataset=dataset,
            task=_names_classes(task),
            device=self.world.device,
            names=names,
        )
        return count, clips

    @property
    def several(self) -> bool:
        """Whether a file may have several classes at a time."""
        return isinstance(self.builder, VideoMultilabel)

    def protocol(self, files: Sequence[str]) -> dict[str, Any]:
        """How results come about: results of one folder have all of it in common."""
        config = self.config
        manifest, _ = self.split(files[:1])
        evaluation = self.builder.evaluation(config, manifest, self.world, frame_order="forward")
        windows = None
        if config.windows:
            sliding = build_window_dataset(config, manifest).windows
            windows = {"length_s": sliding.length_s, "stride_s": sliding.stride_s, "threshold": config.threshold}
        return {
            **self.about,
            **evaluation.about(),
            "windows": windows,
            "annotate": config.annotate,
            "explain": config.explain,
            "top_k": config.top_k,
            "class_names": list(self.class_names),
            "mvit_video": mvit_video.__version__,
        }

    def split(self, files: Sequence[str]) -> tuple[Manifest, Task]:
        """Files as a split without labels, and the task for them."""
        source = _Files(files, self.class_names, self.kind)
        manifest = self.builder.read_split(self.config, source, "test", class_names=self.class_names)
        return manifest, self.builder.task(self.config, manifest)

    def _for(self, manifest: Manifest) -> Predict:
        """The options, with no more loader processes than there is work for."""
        share = -(-len(manifest) // self.world.size)
        workers = 0 if share == 1 else min(self.config.trainer.num_workers, share)
        return replace(self.config, trainer=replace(self.config.trainer, num_workers=workers))


def build_predictor(config: Predict, world: World) -> FilePredictor:
    """The model of the options with its weights and its classes.

    Raises:
        ValueError: the task does not name classes of files, or the class names do not fit the weights.
    """
    assert config.checkpoint is not None  # taken from the run or given
    builder = build_task_builder(config)
    kind = predicted_kind(builder)
    checkpoint = Path(config.checkpoint)
    if isinstance(builder, ImageClassification) and builder.classes == "present":
        raise ValueError(
            "task.classes=present: images without labels have no classes; give task.classes=all, or a file"
        )
    if config.windows and not isinstance(config.data, VideoData):
        raise ValueError("windows=true is for videos, and the model looks at images: leave it out")
    names = _class_names(config, checkpoint)
    config.data.num_classes = len(names)
    model_options = config.model
    if isinstance(model_options, dict):
        if "num_classes" in model_options:
            model_options["num_classes"] = len(names)
    elif hasattr(model_options, "num_classes"):
        model_options.num_classes = len(names)
    model = load_model(config, world)
    if config.explain:
        check_explainable(model)
    about = {"weights": config.checkpoint, "weights_sha256": sha256_of(checkpoint) if checkpoint.is_file() else None}
    return FilePredictor(
        config=config,
        builder=builder,
        kind=kind,
        class_names=names,
        model=model,
        world=world,
        about={**about, "use_ema": config.use_ema},
    )


def predicted_kind(builder: TaskBuilder) -> FileKind:
    """What a task names the classes of.

    Raises:
        ValueError: the task is another one.
    """
    if not isinstance(builder, ManifestSplits) or not builder.names_classes:
        raise ValueError(
            f"predict names classes of videos and images, and the task {type(builder).__name__} of these weights does "
            "something else: give weights of a classification"
        )
    return builder.kind


def _class_names(config: Predict, checkpoint: Path) -> tuple[str, ...]:
    """The names of the model's classes: those given, or the checkpoint's.

    Raises:
        ValueError: two of them do not fit together.
    """
    held = training_state_of(checkpoint).get("class_names")
    entry = zoo().get(config.weights or "")
    published = published_class_names(entry.classes) if entry is not None and entry.classes is not None else None
    held = tuple(str(name) for name in held) if held else published
    if config.class_names is None:
        if held is not None:
            return held
        count = config.data.num_classes
        if count is None:
            raise ValueError(
                f"{checkpoint} holds no class names, and data.num_classes is not set: give class_names=FILE with one "
                "name a line, in the order of the model's outputs"
            )
        logger.warning(
            "%s holds no class names: its %d classes are called by their numbers, class 0 and so on; class_names=FILE "
            "with one name a line gives them words",
            checkpoint,
            count,
        )
        return numbered_names(count)
    given = read_class_names(config.class_names)
    expected = len(held) if held is not None else config.data.num_classes
    if expected is not None and len(given) != expected:
        raise ValueError(
            f"class_names={config.class_names}: has {len(given)} names, and the model of {checkpoint} {expected} "
            "classes; give one name a line for each, in the order of the model's outputs"
        )
    return given


def _keep(begun: BegunVideos, path: str, first: int, windows: Sequence[Window], total: npt.NDArray[np.float64]) -> None:
    """Note windows of a long video, after which the process may be asked to stop."""
    with writing(begun.path.parent):
        begun.add(path, first, windows, total)
    stop_if_asked()


def _names_classes(task: Task) -> NamesClasses:
    if not isinstance(task, NamesClasses):
        raise ValueError(
            f"the task {type(task).__name__} does not say what its outputs mean for a file: give it a method "
            "`probabilities`, as tasks.classification.Classification has"
        )
    return task
