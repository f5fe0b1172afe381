"""From options to objects for videos that have several classes each."""

from collections.abc import Sequence

from mvit_video.build.clip_preview import preview_sections
from mvit_video.build.samples import build_mixing, build_normalization, read_manifest
from mvit_video.build.video_classification import VideoClassification
from mvit_video.config import Preview, Train
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Source, Split
from mvit_video.data.loading.batch import FrameOrder
from mvit_video.distributed.process_group import World
from mvit_video.engine.preview import Section
from mvit_video.tasks.classification import ViewEvaluation
from mvit_video.tasks.multilabel import MultiLabel, MultiLabelEvaluation


class VideoMultilabel(VideoClassification):
    """A `TaskBuilder`: see task_builder.py. Clips are read as those of the classification are."""

    def __init__(self) -> None:
        super().__init__(class_weights="none")

    def read_split(
        self, config: Train, source: Source, split: Split, *, class_names: Sequence[str] | None = None
    ) -> Manifest:
        """The videos of a split, with one class each or several."""
        return read_manifest(config, source, split, class_names=class_names, multi_label=True)

    def task(self, config: Train, split: Manifest) -> MultiLabel:  # type: ignore[override]
        """The task of the loop."""
        return MultiLabel(split, normalization=build_normalization(config.data), mixing=build_mixing(config))

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
