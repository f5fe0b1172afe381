"""From options to objects for detection."""

from collections.abc import Sequence
from typing import Any

from mvit_video.build.detection_preview import detection_sections
from mvit_video.build.detection_samples import (
    build_reading,
    build_train_dataset,
    detection_augment,
    detection_data,
    protocol,
    read_detection,
)
from mvit_video.build.file_predictor import FilePredictor, LoadedModel
from mvit_video.build.object_export import ObjectExport, check_object_export
from mvit_video.build.object_prediction import ObjectPredictor, check_object_prediction
from mvit_video.build.run_identity import DataRecord
from mvit_video.build.samples import ManifestSplits, build_loader, build_loading
from mvit_video.config import Predict, Prepare, Preview, Train
from mvit_video.data.datasets.extensions import IMAGES, PICTURES, FileKind
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Source, Split
from mvit_video.data.detection.annotations import DetectionManifest
from mvit_video.data.detection.fingerprint import detection_fingerprint
from mvit_video.data.detection.ground_truth import category_numbers
from mvit_video.data.loading.batch import FrameOrder
from mvit_video.data.loading.detection_dataset import DetectionEvalDataset
from mvit_video.data.loading.loader import TrainLoader
from mvit_video.distributed.process_group import World
from mvit_video.engine.preview import Section
from mvit_video.exporting.about import Kind
from mvit_video.models import MViTConfig
from mvit_video.planning.costs import DETECTION_FILES
from mvit_video.preparation.detection_content import DetectionContent
from mvit_video.tasks.detection import Detection as Task
from mvit_video.tasks.detection import DetectionEvaluation, ResultsWriter
from mvit_video.tasks.detection_pictures import DetectionPictures


class Detection(ManifestSplits):
    """A `TaskBuilder`: see task_builder.py.

    Args:
        pictures: best, worst and random images of an evaluation that are drawn, of each so many.
    """

    kind = IMAGES
    sample = "image"
    file_costs = DETECTION_FILES

    def __init__(self, pictures: int = 6) -> None:
        self.pictures = pictures

    def read_split(
        self, config: Train, source: Source, split: Split, *, class_names: Sequence[str] | None = None
    ) -> DetectionManifest:
        """The images of a split with their instances. Options that left the number of classes open take it from here.

        Raises:
            ValueError: the source has no boxes, or other classes than the options say.
        """
        return read_detection(config, source, split, class_names=class_names)

    def record(self, split: Manifest) -> DataRecord:
        """As of other tasks, with the numbers of the classes; boxes and masks are part of the fingerprint."""
        assert isinstance(split, DetectionManifest)
        return DataRecord(
            source=split.source,
            items=len(split),
            fingerprint=detection_fingerprint(split),
            category_ids=category_numbers(split),
        )

    def repeats(self, config: Train) -> int:
        """One view of each image."""
        return 1

    def train_loader(self, config: Train, split: DetectionManifest, world: World) -> TrainLoader:
        """Endless training batches of this rank."""
        return build_loader(config, build_train_dataset(config, split), world)

    def task(self, config: Train, split: DetectionManifest) -> Task:
        """The task of the loop."""
        return Task(class_names=split.class_names, has_masks=split.has_masks)

    def validation(self, config: Train, split: DetectionManifest, world: World) -> DetectionEvaluation:
        """Validation during training: every image."""
        return self._evaluation(config, split, world)

    def evaluation(
        self, config: Train, split: DetectionManifest, world: World, *, frame_order: FrameOrder
    ) -> DetectionEvaluation:
        """Every image.

        Raises:
            ValueError: another order of frames, of which an image has one.
        """
        if frame_order != "forward":
            raise ValueError(f"frame_order={frame_order}: an image has one frame; leave the option out")
        pictures = DetectionPictures(build_reading(config), count=self.pictures, seed=config.seed)
        return self._evaluation(config, split, world, writers=(pictures,))

    @property
    def predicted(self) -> FileKind:
        """Kind of the files that a prediction finds objects in."""
        return PICTURES

    def check_prediction(self, config: Predict) -> None:
        """See PredictsFiles."""
        check_object_prediction(config)

    def predictor(self, loaded: LoadedModel) -> ObjectPredictor:
        """What finds objects in images and frames."""
        return ObjectPredictor.of(loaded)

    def check_export(self, kind: Kind) -> None:
        """See Exports: detectors are exported as safetensors.

        Raises:
            ValueError: another format.
        """
        check_object_export(kind)

    def export_form(self, predictor: FilePredictor) -> ObjectExport:
        """The detector as something to export.

        Raises:
            ValueError: it is of another make.
        """
        return ObjectExport.of(predictor)

    def input_shape(self, config: Train, model: MViTConfig) -> tuple[int, ...]:
        """Shape of the images of one forward pass of one process, as large as training images get."""
        augment = detection_augment(config)
        if augment.view == "jitter":
            height = width = config.data.crop_size
        else:
            height, width = max(augment.short_sides), augment.long_side
        height, width = (side + -side % 32 for side in (height, width))
        return int(config.trainer.batch_size), model.in_channels, height, width

    def preparation(self, config: Prepare) -> DetectionContent:
        """Images, and what is annotated in them.

        Raises:
            ValueError: files are to be encoded again or packed.
        """
        for name, given in (("reencode", config.reencode.enabled), ("shards", config.shards.enabled)):
            if given:
                raise ValueError(
                    f"{name}.enabled=true: detection reads images as files, and they stay as they are: leave it out"
                )
        data, augment = detection_data(config), detection_augment(config)
        orientation: Any = data.orientation
        side = data.crop_size if augment.view == "jitter" else max(augment.short_sides)
        return DetectionContent(short_side=side, orientation=orientation, max_pixels=data.max_pixels)

    def preview(self, config: Preview, source: Source) -> Sequence[Section]:
        """Training views and images, with boxes, masks and names."""
        return detection_sections(config, source)

    def _evaluation(
        self, config: Train, split: DetectionManifest, world: World, *, writers: Sequence[ResultsWriter] = ()
    ) -> DetectionEvaluation:
        return DetectionEvaluation(
            DetectionEvalDataset(split, reading=build_reading(config)),
            images_per_batch=config.trainer.eval_batch_size,
            loading=build_loading(config, world),
            protocol=protocol(config),
            writers=writers,
        )
