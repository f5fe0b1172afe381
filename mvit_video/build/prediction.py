"""A prediction, from its options to the model that makes it and to the files of its results."""

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

import mvit_video
from mvit_video.build.clips import build_window_dataset
from mvit_video.build.common import build_task_builder, load_model, process_group_of
from mvit_video.build.evaluation import free_folder, training_state_of
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
from mvit_video.distributed.process_group import World, barrier, from_main
from mvit_video.engine.checkpoints.files import sha256_of
from mvit_video.engine.precision import uses_bf16
from mvit_video.engine.task import Task
from mvit_video.models.weights.zoo import zoo
from mvit_video.prediction.drawings import Drawings
from mvit_video.prediction.files import find_files
from mvit_video.prediction.folder import LINES, ResultsFolder
from mvit_video.prediction.results import FilePrediction, best_classes, table_text
from mvit_video.prediction.scoring import NamesClasses, ScoredViews, scored_views
from mvit_video.prediction.timeline import timeline_names
from mvit_video.prediction.windows import WindowPlan, window_predictions
from mvit_video.runtime.output import write_out
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

    def predict(self, files: Sequence[str]) -> Iterator[FilePrediction]:
        """What the model says of this rank's share of the files, every world.size-th, as they are done.

        A file that cannot be read gives a result with its error.

        Raises:
            ValueError: windows of something that has no time.
        """
        if not files:
            return
        manifest, task = self.read(files)
        said: set[str] = set()
        for one, note in self._windows(manifest, task) if self.config.windows else self._whole(manifest, task):
            if note and one.path not in said:
                said.add(one.path)
                logger.warning("%s %s", one.path, note)
            yield one

    def _whole(self, manifest: Manifest, task: Task) -> Iterator[tuple[FilePrediction, str]]:
        """Each file as an evaluation looks at it."""
        evaluation = self.builder.evaluation(self._for(manifest), manifest, self.world, frame_order="forward")
        allowed = evaluation.allowed if isinstance(evaluation, ImageEvaluation) else None
        for found in self._scored(evaluation.batches(self.world), task):
            path = manifest.paths[found.video]
            if found.probabilities is None:
                yield FilePrediction(path, error=found.error), ""
                continue
            mean = found.probabilities.sum(0) / np.float32(len(found.probabilities))
            if allowed is not None:
                mean = np.where(allowed, mean, 0) / mean[allowed].sum()
            yield FilePrediction(path, best_classes(mean, self.class_names, top_k=self.config.top_k)), found.note

    def _windows(self, manifest: Manifest, task: Task) -> Iterator[tuple[FilePrediction, str]]:
        """Each video window by window."""
        dataset = build_window_dataset(self.config, manifest)
        share = range(self.world.rank, len(manifest), self.world.size)
        plan = WindowPlan(dataset, share, clips_per_batch=self.config.trainer.eval_batch_size)
        loading = build_loading(self.config, self.world)
        views = self._scored(loading.batches(dataset, plan.batches()), task)
        return window_predictions(plan, views, class_names=self.class_names, top_k=self.config.top_k)

    def _scored(self, batches: Iterator[Any], task: Task) -> Iterator[ScoredViews]:
        return scored_views(
            self.model,
            batches,
            task=_names_classes(task),
            device=self.world.device,
            bf16=uses_bf16(self.config.trainer.precision, self.world.device),  # type: ignore[arg-type]
        )

    @property
    def several(self) -> bool:
        """Whether a file may have several classes at a time."""
        return isinstance(self.builder, VideoMultilabel)

    def protocol(self, files: Sequence[str]) -> dict[str, Any]:
        """How results come about: results of one folder have all of it in common."""
        config = self.config
        manifest, _ = self.read(files[:1])
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
            "top_k": config.top_k,
            "class_names": list(self.class_names),
            "mvit_video": mvit_video.__version__,
        }

    def read(self, files: Sequence[str]) -> tuple[Manifest, Task]:
        """The files as a split of a data set whose labels mean nothing, and the task on it."""
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
    if not isinstance(builder, ManifestSplits):
        raise ValueError(
            f"predict names classes of videos and images, and the task {type(builder).__name__} of these weights does "
            "something else: give weights of a classification"
        )
    checkpoint = Path(config.checkpoint)
    if isinstance(builder, ImageClassification) and builder.classes == "present":
        raise ValueError(
            "task.classes=present: images without labels have no classes; give task.classes=all, or a file"
        )
    if (config.annotate or config.windows) and not isinstance(config.data, VideoData):
        raise ValueError("windows=true and annotate=true are for videos, and the model looks at images: leave them out")
    names = _class_names(config, checkpoint)
    config.data.num_classes = len(names)
    model_options = config.model
    if isinstance(model_options, dict):
        if "num_classes" in model_options:
            model_options["num_classes"] = len(names)
    elif hasattr(model_options, "num_classes"):
        model_options.num_classes = len(names)
    model = load_model(config, world)
    about = {"weights": config.checkpoint, "weights_sha256": sha256_of(checkpoint) if checkpoint.is_file() else None}
    return FilePredictor(
        config=config,
        builder=builder,
        kind=builder.kind,
        class_names=names,
        model=model,
        world=world,
        about={**about, "use_ema": config.use_ema},
    )


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


def _names_classes(task: Task) -> NamesClasses:
    if not isinstance(task, NamesClasses):
        raise ValueError(
            f"the task {type(task).__name__} does not say what its outputs mean for a file: give it a method "
            "`probabilities`, as tasks.classification.Classification has"
        )
    return task


def predict(config: Predict) -> list[FilePrediction]:
    """Predict as configured, print a table and write the results; those of the given files (on rank 0, else none).

    Raises:
        ValueError: there is nothing to predict, or with; or none of the files could be read.
    """
    with process_group_of(config) as world:
        predictor = build_predictor(config, world)
        files = find_files(config.sources, predictor.kind)
        folder = _folder(config, predictor, files)
        found = _predict_rest(predictor, folder, files)
        if not world.is_main:
            return []
    _say(found, folder.folder, predictor.kind)
    return found


def _folder(config: Predict, predictor: FilePredictor, files: Sequence[str]) -> ResultsFolder:
    world = predictor.world
    about = predictor.protocol(files)
    place = None
    if world.is_main:
        place = Path(config.output) if config.output else free_folder(Path("predictions"), about)
        if config.output and free_folder(place, about) != place:
            raise ValueError(
                f"output={config.output}: holds results of other weights or options (see results.json there); give "
                "another folder, or remove that one"
            )
    folder = ResultsFolder(from_main(place, world), rank=world.rank, about=about)
    if world.is_main:
        folder.begin()
    return folder


def _predict_rest(predictor: FilePredictor, folder: ResultsFolder, files: Sequence[str]) -> list[FilePrediction]:
    """Predict the files that have no result yet; on rank 0 the results of all of them, else none."""
    world, kind = predictor.world, predictor.kind
    done = from_main(folder.done(files) if world.is_main else None, world)
    rest = [path for path in files if path not in done]
    if done and world.is_main:
        logger.info("%d of %d %s have their results already, in %s", len(done), len(files), kind.plural, folder.folder)
    drawings = Drawings(
        folder=folder.folder,
        names=timeline_names(files),
        threshold=predictor.config.threshold,
        several=predictor.several,
        annotate=predictor.config.annotate,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not world.is_main or len(rest) < 2) as progress:
        bar = progress.add_task("predicting", total=len(range(world.rank, len(rest), world.size)))
        for one in predictor.predict(rest):
            drawings.draw(one)
            folder.add(one)
            if one.error is not None:
                logger.warning("%s could not be read: %s", one.path, one.error)
            progress.advance(bar)
    barrier(world)
    if not world.is_main:
        return []
    by_path = {one.path: one for one in folder.finish(files)}
    return [by_path[path] for path in files]


def _say(found: Sequence[FilePrediction], folder: Path, kind: FileKind) -> None:
    """Print the classes of the first files and say where the rest is."""
    code = write_out(table_text(found[:_SHOWN], noun=kind.noun), sys.stdout)
    if code:
        sys.exit(code)
    more = f" ({len(found) - _SHOWN} more of them)" if len(found) > _SHOWN else ""
    failed = [one for one in found if one.error is not None]
    unread = f"; {len(failed)} of {len(found)} could not be read" if failed else ""
    logger.info("written to %s%s%s", folder / LINES, more, unread)
    if len(failed) == len(found):
        raise ValueError(
            f"none of the {len(found)} {kind.plural} could be read, the first {failed[0].path}: {failed[0].error}"
        )
