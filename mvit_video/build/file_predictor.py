"""What a prediction asks of a task: its builder makes a predictor of a loaded model, which answers for files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from mvit_video.build.task_builder import TaskBuilder
from mvit_video.config import Predict
from mvit_video.data.datasets.extensions import FileKind
from mvit_video.distributed.process_group import World
from mvit_video.prediction.begun import BegunVideos
from mvit_video.prediction.results import FilePrediction
from mvit_video.prediction.tables import ResultTable


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model with its weights, and where they come from.

    Attributes:
        config: the options, taken from the run where there is one.
        builder: builds the objects of the task.
        class_names: in the order of the model's outputs.
        model: in eval mode, on the world's device.
        world: this process among the others.
        about: the weights, for the record.
        training: what the weights hold of their training; see evaluation.training_state_of.
    """

    config: Predict
    builder: TaskBuilder
    class_names: tuple[str, ...]
    model: nn.Module
    world: World
    about: dict[str, Any]
    training: Mapping[str, Any]


class Draws(Protocol):
    """Draws results beside their lines."""

    def draw(self, one: FilePrediction, /) -> str | None:
        """Draw a file's result, unless the file could not be read; the name of its drawings, None without any."""
        ...


class FilePredictor(Protocol):
    """Says what is in files.

    Attributes:
        config, builder, class_names, model, world, training: see LoadedModel.
        kind: of the files that the model looks at.
        table: how results are written down.
    """

    @property
    def config(self) -> Predict: ...

    @property
    def builder(self) -> TaskBuilder: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def model(self) -> nn.Module: ...

    @property
    def world(self) -> World: ...

    @property
    def training(self) -> Mapping[str, Any]: ...

    @property
    def kind(self) -> FileKind: ...

    @property
    def table(self) -> ResultTable: ...

    def predict(self, files: Sequence[str], *, begun: BegunVideos | None = None) -> Iterator[FilePrediction]:
        """What the model says of this rank's share of the files, every world.size-th, as they are done.

        A file that cannot be read gives a result with its error.

        Args:
            files: paths and URLs.
            begun: has what is done already of long videos, and takes what is done now.

        Raises:
            ValueError: something is asked that the files do not have.
        """
        ...

    def protocol(self, files: Sequence[str]) -> dict[str, Any]:
        """How results come about: results of one folder have all of it in common."""
        ...

    def drawings(self, folder: Path, names: Mapping[str, str]) -> Draws:
        """What is drawn into the folder of results.

        Args:
            folder: of the results.
            names: of the drawings, by the path of the file.
        """
        ...

    def write_more(self, folder: Path, found: Sequence[FilePrediction]) -> None:
        """Write what the results of all files come to, beside predictions.jsonl and predictions.csv."""
        ...


@runtime_checkable
class PredictsFiles(Protocol):
    """A `TaskBuilder` whose models can be asked about files.

    Attributes:
        predicted: kind of the files.
    """

    @property
    def predicted(self) -> FileKind: ...

    def check_prediction(self, config: Predict) -> None:
        """Refuse options that do not go with the task, before weights are read.

        Raises:
            ValueError: with the option and the way out.
        """
        ...

    def predictor(self, loaded: LoadedModel) -> FilePredictor:
        """What asks a model."""
        ...


def predicting(builder: TaskBuilder) -> PredictsFiles:
    """The builder as one whose models can be asked about files.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(builder, PredictsFiles):
        raise ValueError(
            f"predict says what is in videos and images, and the task {type(builder).__name__} of these weights does "
            "not know how: give weights of a classification or a detector"
        )
    return builder
