"""From options to objects for the classification of images."""

import logging
from collections.abc import Sequence

from mvit_video.build.class_export import ClassExport
from mvit_video.build.class_prediction import ClassPredictor, check_class_prediction
from mvit_video.build.class_weights import Weighting, loss_weights, weights_text
from mvit_video.build.file_predictor import FilePredictor, LoadedModel
from mvit_video.build.image_preview import image_sections
from mvit_video.build.images import build_image_evaluation, build_image_loader, image_data
from mvit_video.build.samples import (
    ManifestSplits,
    build_mixing,
    build_normalization,
    read_manifest,
)
from mvit_video.config import Predict, Prepare, Preview, Train
from mvit_video.data.datasets.extensions import IMAGES, FileKind
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Source, Split
from mvit_video.data.loading.batch import FrameOrder
from mvit_video.data.loading.loader import TrainLoader
from mvit_video.distributed.process_group import World
from mvit_video.engine.preview import Section
from mvit_video.exporting.about import Kind
from mvit_video.models import MViTConfig
from mvit_video.planning.costs import IMAGE_FILES
from mvit_video.preparation.image_content import ImageContent
from mvit_video.tasks.allowed_classes import allowed_classes
from mvit_video.tasks.image_classification import ImageClassification as Task
from mvit_video.tasks.image_classification import ImageEvaluation

logger = logging.getLogger(__name__)


class ImageClassification(ManifestSplits):
    """A `TaskBuilder`: see task_builder.py.

    Args:
        class_weights: weights of the classes in the loss; "balanced": see tasks.classification.balanced_class_weights;
            or by name, 1 for the others.
        classes: which may be named in an evaluation, see tasks.allowed_classes.
    """

    kind = IMAGES
    sample = "image"
    file_costs = IMAGE_FILES

    def __init__(self, class_weights: Weighting = "none", classes: str = "all") -> None:
        self.class_weights = class_weights
        self.classes = classes

    def read_split(
        self, config: Train, source: Source, split: Split, *, class_names: Sequence[str] | None = None
    ) -> Manifest:
        """See ManifestSplits. Images that are only looked at may have several right labels (ImageNet ReaL)."""
        image_data(config)  # refuses options of videos before anything is read
        several = split != "train"
        return read_manifest(config, source, split, class_names=class_names, kind=self.kind, multi_label=several)

    def train_loader(self, config: Train, split: Manifest, world: World) -> TrainLoader:
        """Endless training batches of this rank."""
        weights = loss_weights(self.class_weights, split)
        if weights is not None:
            logger.info("weights of the classes in the loss: %s", weights_text(split, weights))
        return build_image_loader(config, split, world)

    def task(self, config: Train, split: Manifest) -> Task:
        """The task of the loop."""
        return Task(
            class_names=split.class_names,
            normalization=build_normalization(config.data),
            mixing=build_mixing(config),
            class_weights=loss_weights(self.class_weights, split),
        )

    def validation(self, config: Train, split: Manifest, world: World) -> ImageEvaluation:
        """Validation during training: the test view of every image."""
        return build_image_evaluation(config, split, world)

    def evaluation(self, config: Train, split: Manifest, world: World, *, frame_order: FrameOrder) -> ImageEvaluation:
        """The test view of every image.

        Raises:
            ValueError: another order of frames, of which an image has one; or classes that do not fit the split.
        """
        if frame_order != "forward":
            raise ValueError(f"frame_order={frame_order}: an image has one frame; leave the option out")
        return build_image_evaluation(config, split, world, allowed=allowed_classes(self.classes, split))

    @property
    def predicted(self) -> FileKind:
        """Kind of the files that a prediction names classes of."""
        return self.kind

    def check_prediction(self, config: Predict) -> None:
        """See PredictsFiles.

        Raises:
            ValueError: options of windows or frames, or classes that are those of a split.
        """
        check_class_prediction(config)
        if self.classes == "present":
            raise ValueError(
                "task.classes=present: images without labels have no classes; give task.classes=all, or a file"
            )

    def predictor(self, loaded: LoadedModel) -> ClassPredictor:
        """What names the classes of files."""
        return ClassPredictor.of(loaded, self.kind)

    def check_export(self, kind: Kind) -> None:
        """See Exports: every format is known."""

    def export_form(self, predictor: FilePredictor) -> ClassExport:
        """The model as something to export."""
        return ClassExport.of(predictor)

    def input_shape(self, config: Train, model: MViTConfig) -> tuple[int, ...]:
        """Shape of the images of one forward pass of one process."""
        images = config.trainer.batch_size * self.repeats(config)
        return images, model.in_channels, model.crop_size, model.crop_size

    def preparation(self, config: Prepare) -> ImageContent:
        """Images, and which of them are smaller than the crop.

        Raises:
            ValueError: images are to be encoded again.
        """
        if config.reencode.enabled:
            raise ValueError(
                "reencode.enabled=true: writes videos for quick reading; images stay as they are (data.decode_min_side "
                "reads large JPEG files faster): leave it out"
            )
        return ImageContent(crop_size=config.data.crop_size, max_pixels=image_data(config).max_pixels)

    def preview(self, config: Preview, source: Source) -> Sequence[Section]:
        """Training images and test views."""
        return image_sections(config, source)
