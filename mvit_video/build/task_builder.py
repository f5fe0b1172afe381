"""What a task builds of the options; one short file in this folder implements it for each task."""

from collections.abc import Sequence
from typing import Any, Protocol

from mvit_video.build.run_identity import DataRecord
from mvit_video.config import Prepare, Preview, Train
from mvit_video.data.datasets.sources import Source, Split
from mvit_video.data.loading.batch import FrameOrder
from mvit_video.distributed.process_group import World
from mvit_video.engine.preview import Section
from mvit_video.engine.task import Evaluation, Task, TrainBatches
from mvit_video.models import MViTConfig
from mvit_video.planning.costs import FileCosts
from mvit_video.preparation.content import Content


class TaskBuilder(Protocol):
    """From options to the objects in which tasks differ. `conf/task/` names the implementation.

    What `read_split` gives is handed back to the other methods and looked into by nobody else.

    Attributes:
        sample: what the model sees of an item, in the singular: "clip".
        file_costs: what a plan assumes of an item's file.
    """

    sample: str
    file_costs: FileCosts

    @property
    def item(self) -> str:
        """What a data set is a set of, in the singular: "video"."""
        ...

    def read_split(
        self, config: Train, source: Source, split: Split, *, class_names: Sequence[str] | None = None
    ) -> Any:
        """The items of a split. Options that left the number of classes open take it from here.

        Args:
            config: the options.
            source: the data source.
            split: which one.
            class_names: of the model; the split's labels are mapped to them by name. None: the split's own count.

        Raises:
            ValueError: the split has a class that is not among `class_names`, with both lists.
        """
        ...

    def class_names(self, split: Any) -> Sequence[str]:
        """The classes of a split, in the order of the model's outputs."""
        ...

    def record(self, split: Any) -> DataRecord:
        """What a split is, for the record of the run."""
        ...

    def shared(self, train: Any, other: Any) -> Sequence[str]:
        """The items of another split that are in the training split, too."""
        ...

    def train_loader(self, config: Train, split: Any, world: World) -> TrainBatches:
        """Endless training batches of this rank."""
        ...

    def task(self, config: Train, split: Any) -> Task:
        """The task of the loop."""
        ...

    def validation(self, config: Train, split: Any, world: World) -> Evaluation:
        """What a validation during training scores: quick, and the same each time."""
        ...

    def evaluation(self, config: Train, split: Any, world: World, *, frame_order: FrameOrder) -> Evaluation:
        """What a test scores."""
        ...

    def input_shape(self, config: Train, model: MViTConfig) -> tuple[int, ...]:
        """Shape of the model's input in one forward pass of one process."""
        ...

    def file_bytes(self, split: Any) -> float | None:
        """Mean size of the files of a split, or of some of them; None where it is not at hand."""
        ...

    def repeats(self, config: Train) -> int:
        """Samples that a training step takes of each item."""
        ...

    def preparation(self, config: Prepare) -> Content:
        """How the files of the data set are prepared.

        Raises:
            ValueError: an option that does not go with them.
        """
        ...

    def preview(self, config: Preview, source: Source) -> Sequence[Section]:
        """What a preview shows."""
        ...
