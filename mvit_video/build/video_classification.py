"""From options to objects for the classification of videos."""

import logging
from collections.abc import Sequence

from mvit_video.build.class_export import ClassExport
from mvit_video.build.class_prediction import ClassPredictor, check_class_prediction
from mvit_video.build.class_weights import Weighting, loss_weights, weights_text
from mvit_video.build.clip_preview import preview_sections
from mvit_video.build.clips import build_evaluation, build_sampler, build_train_loader, video_data
from mvit_video.build.file_predictor import FilePredictor, LoadedModel
from mvit_video.build.samples import ManifestSplits, build_mixing, build_normalization
from mvit_video.config import Predict, Prepare, Preview, Train
from mvit_video.data.datasets.extensions import FileKind
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Source
from mvit_video.data.loading.batch import FrameOrder
from mvit_video.data.loading.loader import TrainLoader
from mvit_video.distributed.process_group import World
from mvit_video.engine.preview import Section
from mvit_video.exporting.about import Kind
from mvit_video.models import MViTConfig
from mvit_video.preparation.video_content import VideoContent
from mvit_video.tasks.classification import Classification, ViewEvaluation

logger = logging.getLogger(__name__)


class VideoClassification(ManifestSplits):
    """A `TaskBuilder`: see task_builder.py.

    Args:
        class_weights: weights of the classes in the loss; "balanced": see tasks.classification.balanced_class_weights;
            or by name, 1 for the others.
    """

    several = False  # classes of a file at a time

    def __init__(self, class_weights: Weighting = "none") -> None:
        self.class_weights = class_weights

    def train_loader(self, config: Train, split: Manifest, world: World) -> TrainLoader:
        """Endless training batches of this rank."""
        weights = loss_weights(self.class_weights, split)
        if weights is not None:
            logger.info("weights of the classes in the loss: %s", weights_text(split, weights))
        return build_train_loader(config, split, world)

    def task(self, config: Train, split: Manifest) -> Classification:
        """The task of the loop."""
        return Classification(
            class_names=split.class_names,
            normalization=build_normalization(config.data),
            mixing=build_mixing(config),
            class_weights=loss_weights(self.class_weights, split),
        )

    def validation(self, config: Train, split: Manifest, world: World) -> ViewEvaluation:
        """Validation during training: the centre clip and crop of every video, the same each time."""
        return build_evaluation(config, split, world, temporal_views=1, spatial_views=1)

    def evaluation(self, config: Train, split: Manifest, world: World, *, frame_order: FrameOrder) -> ViewEvaluation:
        """The views that a test counts."""
        data = video_data(config)
        return build_evaluation(
            config,
            split,
            world,
            temporal_views=data.test_temporal_views,
            spatial_views=data.test_spatial_views,
            frame_order=frame_order,
        )

    @property
    def predicted(self) -> FileKind:
        """Kind of the files that a prediction names classes of."""
        return self.kind

    def check_prediction(self, config: Predict) -> None:
        """See PredictsFiles."""
        check_class_prediction(config)

    def predictor(self, loaded: LoadedModel) -> ClassPredictor:
        """What names the classes of files."""
        return ClassPredictor.of(loaded, self.kind, several=self.several)

    def check_export(self, kind: Kind) -> None:
        """See Exports: every format is known."""

    def export_form(self, predictor: FilePredictor) -> ClassExport:
        """The model as something to export."""
        return ClassExport.of(predictor)

    def input_shape(self, config: Train, model: MViTConfig) -> tuple[int, ...]:
        """Shape of the clips of one forward pass of one process."""
        frames = () if model.is_image else (model.num_frames,)
        clips = config.trainer.batch_size * self.repeats(config)
        return clips, model.in_channels, *frames, model.crop_size, model.crop_size

    def preparation(self, config: Prepare) -> VideoContent:
        """Videos, and which of them are shorter than a clip."""
        return VideoContent(build_sampler(video_data(config)))

    def preview(self, config: Preview, source: Source) -> Sequence[Section]:
        """Training clips and test views."""
        return preview_sections(config, source)
