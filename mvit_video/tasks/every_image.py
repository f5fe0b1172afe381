"""Which images a rank evaluates: those of a split once each, whatever is asked of them."""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from mvit_video.data.loading.loader import LoaderOptions, eval_loader
from mvit_video.data.loading.samples import EvalItems
from mvit_video.distributed.process_group import World

DatasetT = TypeVar("DatasetT", bound=EvalItems[Any])


class EveryImage(Generic[DatasetT]):
    """The part of an `Evaluation` of engine/task.py that says which images are seen.

    Args:
        dataset: the images.
        images_per_batch: what it says.
        loading: how batches are made beside the evaluating process.
    """

    def __init__(self, dataset: DatasetT, *, images_per_batch: int, loading: LoaderOptions) -> None:
        self.dataset = dataset
        self.images_per_batch = images_per_batch
        self.loading = loading

    def batches(self, world: World) -> Iterator[Any]:
        """This rank's images, once each."""
        return eval_loader(
            self.dataset,
            clips_per_batch=self.images_per_batch,
            rank=world.rank,
            world_size=world.size,
            loading=self.loading,
        )

    def count(self, world: World) -> int:
        """Images in this rank's share."""
        return len(range(world.rank, len(self.dataset), world.size))
