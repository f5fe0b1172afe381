"""From options to objects for videos that have several classes each."""

import logging
from collections.abc import Sequence

from mvit_video.build.class_weights import Weighting, weights_by_name, weights_text
from mvit_video.build.clip_preview import preview_sections
from mvit_video.build.samples import build_mixing, build_normalization, read_manifest
from mvit_video.build.video_classification import VideoClassification
from mvit_video.config import Preview, Train
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Source, Split
from mvit_video.data.loading.batch import FrameOrder
from mvit_video.data.loading.loader import TrainLoader
from mvit_video.distributed.process_group import World
from mvit_video.engine.preview import Section
from mvit_video.tasks.classification import ViewEvaluation
from mvit_video.tasks.multilabel import MultiLabel, MultiLabelEvaluation, balanced_pos_weight

logger = logging.getLogger(__name__)


class VideoMultilabel(VideoClassification):
    """A `TaskBuilder`: see task_builder.py. Clips are read as those of the classification are.

    Args:
        pos_weight: weight in the loss of a class being there; "balanced": see tasks.multilabel.balanced_pos_weight; or
            by name, 1 for the others.
    """

    several = True

    def __init__(self, pos_weight: Weighting = "none") -> None:
        super().__init__(class_weights="none")
        self.pos_weight = pos_weight

    def read_split(
        self, config: Train, source: Source, split: Split, *, class_names: Sequence[str] | None = None
    ) -> Manifest:
        """The videos of a split, with one class each or several."""
        return read_manifest(config, source, split, class_names=class_names, multi_label=True)

    def task(self, config: Train, split: Manifest) -> MultiLabel:  # type: ignore[override]
        """The task of the loop."""
        return MultiLabel(
            split,
            normalization=build_normalization(config.data),
            mixing=build_mixing(config),
            pos_weight=self._pos_weight(split),
        )

    def train_loader(self, config: Train, split: Manifest, world: World) -> TrainLoader:
        """Endless training batches of this rank."""
        weights = self._pos_weight(split)
        if weights is not None:
            logger.info("weights of a class being there, in the loss: %s", weights_text(split, weights))
        return super().train_loader(config, split, world)

    def _pos_weight(self, split: Manifest) -> Sequence[float] | None:
        """One weight per class; None for 1 each. ValueError for a name that is no class."""
        if self.pos_weight == "balanced":
            return balanced_pos_weight(split.counts(), videos=len(split))
        return weights_by_name(self.pos_weight, split.class_names, option="task.pos_weight")

    def validation(self, config: Train, split: Manifest, world: World) -> MultiLabelEvaluation:
        """Validation during training: the centre clip and crop of every video, the same each time."""
        return _class_by_class(super().validation(config, split, world))

    def evaluation(
        self, config: Train, split: Manifest, world: World, *, frame_order: FrameOrder
    ) -> MultiLabelEvaluation:
        """The views that a test counts."""
        return _class_by_class(super().evaluation(config, split, world, frame_order=frame_order))

    def preview(self, config: Preview, source: Source) -> Sequence[Section]:
        """Training clips and test views."""
        return preview_sections(config, source, multi_label=True)


def _class_by_class(views: ViewEvaluation) -> MultiLabelEvaluation:
    return MultiLabelEvaluation(
        views.dataset,
        normalization=views.normalization,
        clips_per_batch=views.clips_per_batch,
        loading=views.loading,
    )
