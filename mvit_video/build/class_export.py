"""A model that names classes as something to export: its inputs, what it says of them, and its bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvit_video.build.class_prediction import ClassPredictor
from mvit_video.build.export_form import CHECKED, HERE, Examples
from mvit_video.build.file_predictor import FilePredictor
from mvit_video.config import ImageData, Predict, VideoData
from mvit_video.data.datasets.extensions import VIDEOS, FileKind
from mvit_video.data.embedded.motion import CLASS_NAMES as MOTION_CLASSES
from mvit_video.data.embedded.motion import MotionSpec, generate_motion
from mvit_video.data.embedded.shapes import CLASS_NAMES as SHAPES_CLASSES
from mvit_video.data.embedded.shapes import ShapesSpec, generate_shapes
from mvit_video.exporting import parity, writing
from mvit_video.exporting.about import Kind, Precision


@dataclass(frozen=True)
class ClassExport:
    """See ExportForm."""

    predictor: ClassPredictor

    @classmethod
    def of(cls, predictor: FilePredictor) -> "ClassExport":
        """That of a predictor of the task."""
        assert isinstance(predictor, ClassPredictor), "the builder made it"
        return cls(predictor)

    @property
    def kind(self) -> FileKind:
        """See ExportForm."""
        return self.predictor.kind

    def write_embedded_set(self, folder: Path) -> Sequence[str]:
        """See ExportForm."""
        if self.kind is VIDEOS:
            count = len(MOTION_CLASSES)
            generate_motion(folder, MotionSpec(train_videos=count, test_videos=count), workers=1, progress=False)
            return [str(folder / "videos")]
        count = len(SHAPES_CLASSES)
        generate_shapes(folder, ShapesSpec(train_images=count, test_images=count))
        return [str(folder / split) for split in ("test", "train")]

    def inputs(self, examples: Examples) -> Tensor:
        """The model's input for the middle view of some of the files, float32 (N, ...).

        Raises:
            ValueError: none of them can be read.
        """
        split = self.predictor.split(examples.files)[0] if examples.split is None else examples.split
        rows = np.unique(np.linspace(0, len(split) - 1, CHECKED).astype(np.int64))
        manifest = split.subset(rows)
        builder = self.predictor.builder
        evaluation = builder.validation(examples.config, manifest, HERE)
        task, found, failures = builder.task(examples.config, manifest), [], []
        for batch in evaluation.batches(HERE):
            failures += batch.failures
            read = ~batch.failed
            found.append(task.eval_inputs(batch)[0][read])
        inputs = torch.cat(found) if found else torch.empty(0)
        if not len(inputs):
            raise ValueError(f"none of {examples.words} can be read, the first: {failures[0] if failures else 'none'}")
        # A tracer takes a batch of one for a constant, so there are at least two.
        return torch.cat([inputs, inputs]) if len(inputs) == 1 else inputs

    def about(self, inputs: Tensor, model: nn.Module) -> dict[str, Any]:
        """See ExportForm. `mean` and `std` are those of the channels in the order R, G, B, in which the model takes
        them."""
        predictor = self.predictor
        config, data = predictor.config, predictor.config.data
        assert isinstance(data, (VideoData, ImageData)), "models of videos and images name classes"
        manifest, _ = predictor.split(["none"])
        protocol = predictor.builder.evaluation(config, manifest, HERE, frame_order="forward").about()
        reversed_statistics = isinstance(data, VideoData) and data.channel_order == "bgr"
        order = slice(None, None, -1) if reversed_statistics else slice(None)
        axes = ["batch", "channels", *(["frames"] if self.kind is VIDEOS else []), "height", "width"]
        preprocessing = {
            "kind": self.kind.noun,
            "task": "classification",
            "input": {
                "name": writing.INPUT_NAMES[self.kind.noun],
                "axes": axes,
                "shape": ["batch", *inputs.shape[1:]],
                "dtype": "float32",
                "channels": "RGB",
                "values": "(pixel / 255 - mean) / std",
                "mean": list(data.mean[order]),
                "std": list(data.std[order]),
            },
            "views": {**_views(protocol), **_reading(config)},
            "output": {
                "name": writing.OUTPUT_NAME,
                "scores": "sigmoid" if predictor.several else "softmax",
                "of_views": "mean of the scores",
            },
        }
        return {"preprocessing": preprocessing}

    def outputs(self, model: nn.Module, inputs: Tensor, like: Any = None) -> Tensor:
        """See ExportForm: logits."""
        return parity.outputs_of(model, inputs)

    def compare(
        self, expected: Tensor, found: Tensor, *, kind: Kind, precision: Precision, words: str
    ) -> parity.Parity:
        """See ExportForm."""
        return parity.compare(expected, found, bound=parity.bound_of(kind, precision), clips=words)

    def named(self, model: nn.Module, files: Sequence[str]) -> dict[str, Any]:
        """See ExportForm: the best class of each file."""
        found = replace(self.predictor, model=model).predict(files)
        return {"classes": [one.predictions[0].name for one in found if one.predictions]}


def _views(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation's protocol says of pixels and frames."""
    left_out = ("normalization", "classes_to_choose_from", "several_right_labels", "allowed_classes")
    return {key: value for key, value in protocol.items() if key not in left_out}


def _reading(config: Predict) -> dict[str, Any]:
    """What is not in an evaluation's protocol."""
    if not isinstance(config.data, VideoData):
        return {}
    return {
        "reading": {"orientation": "apply"},  # of a phone's pictures: how they are held
        "filter": "bilinear",
        "antialias_above_short_side": getattr(config.augment, "decode_short_side", None),
        "num_views": config.data.test_temporal_views * config.data.test_spatial_views,
    }
