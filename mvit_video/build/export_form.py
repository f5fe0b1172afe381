"""What an export asks of a task: its builder says in which formats its models go, and how they are compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from mvit_video.build.file_predictor import FilePredictor
from mvit_video.build.task_builder import TaskBuilder
from mvit_video.config import Predict
from mvit_video.data.datasets.extensions import FileKind
from mvit_video.distributed.process_group import World
from mvit_video.exporting.about import Kind, Precision

HERE = World(rank=0, size=1, device=torch.device("cpu"))
CHECKED = 4  # files that an exported file is compared on


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Files to compare on.

    Attributes:
        config: the options that they are read with.
        files: paths and URLs.
        split: what the builder read, where they are labelled; None for files alone.
        words: where they come from.
    """

    config: Predict
    files: Sequence[str]
    split: Any
    words: str


class Agreement(Protocol):
    """How far an exported file is from its model, within the bound."""

    def text(self) -> str:
        """In words."""
        ...

    def plain(self) -> dict[str, Any]:
        """For the file's own record."""
        ...


class ExportForm(Protocol):
    """A loaded model as something to export.

    Attributes:
        kind: of the files that it is compared on.
    """

    @property
    def kind(self) -> FileKind: ...

    def write_embedded_set(self, folder: Path) -> Sequence[str]:
        """Make a few files of the embedded set, to compare on where there are no others; the folders that hold them."""
        ...

    def inputs(self, examples: Examples) -> Any:
        """What the model takes, of some of the files.

        Raises:
            ValueError: none of them can be read.
        """
        ...

    def about(self, inputs: Any, model: nn.Module) -> dict[str, Any]:
        """What the file of a model says of inputs and outputs; see exporting/about.py."""
        ...

    def outputs(self, model: nn.Module, inputs: Any, like: Any = None) -> Any:
        """What a model makes of inputs.

        Args:
            like: outputs of the model that it is compared with.
        """
        ...

    def compare(self, expected: Any, found: Any, *, kind: Kind, precision: Precision, words: str) -> Agreement:
        """The outputs of a file against the model's.

        Raises:
            ValueError: they are further away than the bound.
        """
        ...

    def named(self, model: nn.Module, files: Sequence[str]) -> dict[str, Any]:
        """What a model says of files without labels, in short, to see what a lower precision changes."""
        ...


@runtime_checkable
class Exports(Protocol):
    """A `TaskBuilder` whose models can be exported."""

    def check_export(self, kind: Kind) -> None:
        """Refuse a format, before weights are read.

        Raises:
            ValueError: with those that there are.
        """
        ...

    def export_form(self, predictor: FilePredictor) -> ExportForm:
        """A model of the task as something to export.

        Raises:
            ValueError: it is a model of another maker that cannot be compared.
        """
        ...


def exporting(builder: TaskBuilder) -> Exports:
    """The builder as one whose models can be exported.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(builder, Exports):
        raise ValueError(
            f"export writes models that name classes, and detectors, and the task {type(builder).__name__} of these "
            "weights does not say how its models are compared: its checkpoint is a file with model, options and "
            "class names, which predict weights=FILE reads anywhere"
        )
    return builder
