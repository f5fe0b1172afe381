"""A detector as something to export: the images it is compared on, and what its file says of pictures and objects."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from mvit_video.build.detection_samples import build_reading, detection_data
from mvit_video.build.export_form import CHECKED, HERE, Examples
from mvit_video.build.file_predictor import FilePredictor
from mvit_video.build.object_prediction import ObjectPredictor
from mvit_video.build.samples import build_loading
from mvit_video.data.datasets.extensions import IMAGES, FileKind
from mvit_video.data.embedded.scenes import ScenesSpec, generate_scenes
from mvit_video.data.loading.image_files import ImageFiles
from mvit_video.data.loading.loader import eval_loader
from mvit_video.exporting import parity
from mvit_video.exporting.about import Kind, Precision
from mvit_video.exporting.object_parity import ObjectAnswer, ObjectParity, answers_of, compare_objects
from mvit_video.models.detection import Detector
from mvit_video.models.detection.detector import MEAN, STD
from mvit_video.models.detection.pyramid import COARSEST_STRIDE


@dataclass(frozen=True)
class ObjectExport:
    """See ExportForm."""

    predictor: ObjectPredictor
    kind: FileKind = IMAGES

    @classmethod
    def of(cls, predictor: FilePredictor) -> "ObjectExport":
        """That of a predictor of the task.

        Raises:
            ValueError: the detector is of another make.
        """
        assert isinstance(predictor, ObjectPredictor), "the builder made it"
        detector(predictor.model)
        return cls(predictor)

    def write_embedded_set(self, folder: Path) -> Sequence[str]:
        """See ExportForm."""
        generate_scenes(folder, ScenesSpec(train_images=CHECKED, test_images=CHECKED))
        return [str(folder / split) for split in ("test", "train")]

    def inputs(self, examples: Examples) -> list[Tensor]:
        """Some of the images, uint8 (3, H, W) each.

        Raises:
            ValueError: none of them can be read.
        """
        places = np.unique(np.linspace(0, len(examples.files) - 1, CHECKED).astype(np.int64))
        found: list[Tensor] = []
        failures: list[tuple[str, str]] = []
        for batch in self._batches(examples, places):
            failures += batch.failures
            found += [picture.clone() for picture, failed in zip(batch.pictures(), batch.failed) if not failed]
        if not found:
            raise ValueError(f"none of {examples.words} can be read, the first: {failures[0] if failures else 'none'}")
        return found

    def _batches(self, examples: Examples, places: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[Any]:
        """Images of a split as an evaluation reads them, others as a prediction does."""
        config = examples.config
        if examples.split is not None:
            return self.predictor.builder.validation(config, examples.split.subset(places), HERE).batches(HERE)
        files = ImageFiles([examples.files[place] for place in places], max_pixels=detection_data(config).max_pixels)
        loading = build_loading(config, HERE)
        return eval_loader(files, clips_per_batch=1, rank=0, world_size=1, loading=loading)

    def about(self, inputs: Sequence[Tensor], model: nn.Module) -> dict[str, Any]:
        """See ExportForm: pictures and objects, and all fields of the detector."""
        options = detector(model).config
        preprocessing = {
            "kind": self.kind.noun,
            "task": "detection",
            "input": {
                "name": "images",
                "axes": ["channels", "height", "width"],
                "shape": [3, "height", "width"],
                "dtype": "uint8",
                "channels": "RGB",
                "values": "(pixel - mean) / std, after the image was resized",
                "mean": list(MEAN),
                "std": list(STD),
            },
            "views": {
                "short_side": options.short_side,
                "long_side": options.long_side,
                "interpolation": "bilinear",
                "antialias": True,
                "padding": f"zeros at the bottom and right, to multiples of {COARSEST_STRIDE}, after normalization",
                "reading": asdict(build_reading(self.predictor.config)),
            },
            "output": {
                "boxes": "x1, y1, x2, y2 in pixels of the image",
                "scores": "softmax, best first",
                "labels": "from 0, in the order of class_names",
                "masks": "bool, of the size of the image" if self.predictor.masks else None,
                "score_threshold": options.score_threshold,
                "nms_threshold": options.nms_threshold,
                "detections_per_image": options.detections_per_image,
            },
            "detector": asdict(options),
        }
        return {"preprocessing": preprocessing, "category_ids": list(self.predictor.category_numbers.values())}

    def outputs(
        self, model: nn.Module, inputs: Sequence[Tensor], like: Sequence[ObjectAnswer] | None = None
    ) -> list[ObjectAnswer]:
        """See ExportForm: what the heads answer, and what is found."""
        return answers_of(detector(model), inputs, like)

    def compare(
        self,
        expected: Sequence[ObjectAnswer],
        found: Sequence[ObjectAnswer],
        *,
        kind: Kind,
        precision: Precision,
        words: str,
    ) -> ObjectParity:
        """See ExportForm."""
        bound, exact = parity.bound_of(kind, precision), precision == "fp32"
        return compare_objects(expected, found, bound=bound, exact=exact, clips=words)

    def named(self, model: nn.Module, files: Sequence[str]) -> dict[str, Any]:
        """See ExportForm: how many objects are found."""
        found = replace(self.predictor, model=model).predict(files)
        return {"objects": sum(len(one.predictions) for one in found)}


def detector(model: nn.Module) -> Detector:
    """A model as a detector of this project.

    Raises:
        ValueError: it is of another make.
    """
    if not isinstance(model, Detector):
        raise ValueError(
            f"export compares what the heads of a detector of mvit_video.models.detection answer, and the model is a "
            f"{type(model).__name__}: its checkpoint is a file with model, options and class names, which predict "
            "weights=FILE reads anywhere"
        )
    return model


def check_object_export(kind: Kind) -> None:
    """Refuse what detectors have no form in, with a ValueError."""
    if kind != "safetensors":
        raise ValueError(
            f"--to {kind}: the weights are a detector's, which finds any number of objects in images of any size, and "
            "no graph is written of that. --to safetensors writes it (fp32, bf16 or fp16), and predict, evaluate, "
            "train and Predictor need that file alone"
        )
