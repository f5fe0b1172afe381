"""What a model that names classes says of videos and images: as a whole, or window by window."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import mvit_video
from mvit_video.build.clips import build_window_dataset
from mvit_video.build.explanation import check_explainable, explained_clips, explained_names
from mvit_video.build.file_predictor import LoadedModel
from mvit_video.build.samples import build_loading
from mvit_video.config import Predict, VideoData
from mvit_video.data.datasets.extensions import FileKind
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Split
from mvit_video.engine.precision import uses_bf16
from mvit_video.engine.task import Task
from mvit_video.prediction.begun import BegunVideos
from mvit_video.prediction.drawings import Drawings
from mvit_video.prediction.explanation import ExplainedClip
from mvit_video.prediction.lines import writing
from mvit_video.prediction.results import FilePrediction, Window, best_classes
from mvit_video.prediction.scoring import NamesClasses, ScoredViews, scored_views
from mvit_video.prediction.tables import ResultTable
from mvit_video.prediction.windows import WindowPlan, window_predictions
from mvit_video.runtime.interruption import stop_if_asked
from mvit_video.tasks.image_classification import ImageEvaluation

logger = logging.getLogger(__name__)


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
class ClassPredictor(LoadedModel):
    """A model that names classes, with all that it takes to turn files into what it looks at; a `FilePredictor`.

    Attributes:
        kind: of the files that the model looks at.
        several: whether a file may have several classes at a time.
    """

    kind: FileKind
    several: bool = False
    table = ResultTable()

    @classmethod
    def of(cls, loaded: LoadedModel, kind: FileKind, *, several: bool = False) -> "ClassPredictor":
        """The predictor of a loaded model."""
        given = {field.name: getattr(loaded, field.name) for field in fields(LoadedModel)}
        return cls(**given, kind=kind, several=several)

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
            classes = best_classes(mean, self.class_names, top_k=self.config.top_k)
            yield FilePrediction(path, classes, features=found.features), found.note

    def _windows(
        self, manifest: Manifest, task: Task, begun: BegunVideos | None
    ) -> Iterator[tuple[FilePrediction, str]]:
        """Each video window by window."""
        dataset = build_window_dataset(self.config, manifest)
        share = range(self.world.rank, len(manifest), self.world.size)
        # What was noted of windows before an interruption has no features: such a video is looked at anew.
        held = None if self.config.features else begun
        plan = WindowPlan(
            dataset,
            share,
            clips_per_batch=self.config.trainer.eval_batch_size,
            begun={} if held is None else held.of([manifest.paths[video] for video in share]),
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
            features=self.config.features,
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

    def drawings(self, folder: Path, names: Mapping[str, str]) -> Drawings:
        """Timelines, the words on each file, where the model looks, its features."""
        config = self.config
        return Drawings(
            folder=folder,
            kind=self.kind,
            names=names,
            threshold=config.threshold,
            several=self.several,
            annotate=config.annotate,
            explain=self.explain if config.explain else None,
        )

    def write_more(self, folder: Path, found: Sequence[FilePrediction]) -> None:
        """See FilePredictor: classes come to nothing more."""

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
            "features": config.features,
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


def check_class_prediction(config: Predict) -> None:
    """Refuse options of predictions that do not go with a model that names classes, with a ValueError."""
    if config.windows and not isinstance(config.data, VideoData):
        raise ValueError("windows=true is for videos, and the model looks at images: leave it out")
    if config.rate is not None:
        raise ValueError(
            f"rate={config.rate:g}: is for detectors, which look at single frames; the model names classes of "
            "clips or images: leave it out"
        )


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
