"""An export, from the options of a model to one file that says all of itself and was compared with the model."""

import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

import mvit_video
from mvit_video.build.class_prediction import ClassPredictor
from mvit_video.build.common import build_source, load_model
from mvit_video.build.evaluation import forget_training_split, training_state_of
from mvit_video.build.export_record import measured_results, origin_of, without_paths
from mvit_video.build.prediction import build_predictor, naming_classes
from mvit_video.build.task_builder import TaskBuilder
from mvit_video.build.video_multilabel import VideoMultilabel
from mvit_video.config import ImageData, Predict, Train, VideoData
from mvit_video.data.datasets.extensions import VIDEOS
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.embedded.motion import CLASS_NAMES as MOTION_CLASSES
from mvit_video.data.embedded.motion import MotionSpec, generate_motion
from mvit_video.data.embedded.shapes import CLASS_NAMES as SHAPES_CLASSES
from mvit_video.data.embedded.shapes import ShapesSpec, generate_shapes
from mvit_video.distributed.process_group import World
from mvit_video.engine.evaluator import score
from mvit_video.exporting import parity, writing
from mvit_video.exporting.about import FORMAT_VERSION, Kind, Precision, is_program
from mvit_video.exporting.programs import open_program
from mvit_video.prediction.files import find_files

logger = logging.getLogger(__name__)

HERE = World(rank=0, size=1, device=torch.device("cpu"))
CHECKED = 4  # clips that a file is compared on
MEASURED = 256  # files whose classes tell what a lower precision costs
_NO_DETECTOR = (
    "export writes models that name classes, and the weights are a detector's, which has no exported form yet. Its "
    "checkpoint is a file of its own, with model, options and class names: predict weights=FILE and "
    "mvit_video.models.from_checkpoint(FILE) read it anywhere"
)
_NOT_RECIPE = ("launcher", "resume", "output_dir")


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is to be written.

    Attributes:
        output: the file; without an ending it gets that of the kind.
        kind: None: by the ending.
        precision: of the weights, in programs also of the computation.
        clips: files to compare on; none: the run's validation split, else the embedded set.
        keep_paths: the options keep absolute paths of this machine, such as those of the data.
    """

    output: Path
    kind: Kind | None = None
    precision: Precision = "fp32"
    clips: Sequence[str] = ()
    keep_paths: bool = True


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        about: what it says of itself.
        parity: on clips.
        seconds: that it took, without reading the weights.
        peak_bytes: most memory that this process has had.
    """

    path: Path
    about: Mapping[str, Any]
    parity: parity.Parity
    seconds: float
    peak_bytes: int

    def text(self) -> str:
        """What to tell a person."""
        shape = " x ".join(map(str, self.about["preprocessing"]["input"]["shape"]))
        lines = [
            f"{self.path}: {self.about['kind']}, {self.about['precision']}, "
            f"{self.path.stat().st_size / 2**20:.1f} MiB, inputs {shape}, {len(self.about['class_names'])} classes",
            f"compared with the model: {self.parity.text()}",
        ]
        cost = self.about["results"].get("precision_cost")
        if cost is not None:
            lines.append(f"what {self.about['precision']} costs, on {cost['on']}: {_cost_text(cost)}")
        lines.append(f"{self.seconds:.0f} s, at most {self.peak_bytes / 2**30:.2f} GiB of memory")
        return "\n".join(lines)


def export(config: Predict, wanted: Export) -> Exported:
    """Write the model of the options to one file, and compare that file with the model before it gets its name.

    Raises:
        ValueError: the model has no such form, or the file computes something else.
        CheckpointError: there are no such weights, or a package is missing.
        OSError: the file cannot be written.
    """
    precision = wanted.precision
    output, kind = writing.file_and_kind(wanted.output, wanted.kind, precision)
    if is_program(Path(str(config.checkpoint))):
        raise ValueError(
            f"{config.checkpoint}: is an exported program already; export from the run, the checkpoint or the "
            ".safetensors file"
        )
    predictor = naming_classes(build_predictor(config, HERE), refused=_NO_DETECTOR)
    if kind == "onnx":
        writing.check_fits_onnx(predictor.model, precision)
    start = time.monotonic()
    with _split(predictor, wanted.clips) as split, torch.inference_mode():
        inputs = _inputs(predictor, split)
        expected = parity.outputs_of(predictor.model, inputs)
        before = None if precision == "fp32" else _measure(predictor, split, predictor.model)
        about = describe(predictor, inputs, precision=precision)
        about = {**(about if wanted.keep_paths else without_paths(about)), "kind": kind}
        with writing.new_file(output) as beside:
            rewrite = _write(predictor, inputs, beside, about=about, kind=kind, precision=precision)
            program = _read_again(predictor, beside, tuple(inputs.shape[1:]))
            found = parity.outputs_of(program, inputs)
            bound = parity.bound_of(kind, precision)
            same = parity.compare(expected, found, bound=bound, clips=split.words)
            about["parity"] = parity.plain(same)
            if before is not None:
                after = _measure(predictor, split, program)
                about["results"]["precision_cost"] = {"on": split.words, "fp32": before, precision: after}
            rewrite(about)
    seconds = time.monotonic() - start
    return Exported(path=output, about=about, parity=same, seconds=seconds, peak_bytes=_peak_bytes())


def describe(predictor: ClassPredictor, inputs: Tensor, *, precision: Precision) -> dict[str, Any]:
    """What the file says of itself: see exporting/about.py."""
    config, checkpoint = predictor.config, Path(str(predictor.config.checkpoint))
    training = training_state_of(checkpoint)
    step = training.get("step")
    return {
        "format_version": FORMAT_VERSION,
        "config": recipe(config),
        "preprocessing": preprocessing(predictor, inputs),
        "class_names": list(predictor.class_names),
        "run": training.get("run"),
        "results": measured_results(config),
        "precision": precision,
        "origin": origin_of(config),
        "mvit_video": mvit_video.__version__,
        "format": "pt",
        "names": "mvit_video",
        "step": step,
        "averaged": None if step is None else config.use_ema and config.trainer.ema_decay is not None,
    }


def recipe(config: Predict) -> dict[str, Any]:
    """The options of the training, as a checkpoint has them, without where it ran."""
    options: Any = OmegaConf.to_container(OmegaConf.structured(config))
    kept = {field.name for field in fields(Train)} - set(_NOT_RECIPE)
    return {key: value for key, value in options.items() if key in kept} | {
        "weights": None
    }  # what it started from is its origin


def preprocessing(predictor: ClassPredictor, inputs: Tensor) -> dict[str, Any]:
    """What a file must become before the model sees it, and what the model's outputs are, for readers in any language.

    `mean` and `std` are those of the channels in the order in which the model takes them, R, G, B.
    """
    config, data = predictor.config, predictor.config.data
    assert isinstance(data, (VideoData, ImageData)), "models of videos and images are exported"
    manifest, _ = predictor.split(["none"])
    protocol = predictor.builder.evaluation(config, manifest, HERE, frame_order="forward").about()
    reversed_statistics = isinstance(data, VideoData) and data.channel_order == "bgr"
    order = slice(None, None, -1) if reversed_statistics else slice(None)
    video = predictor.kind is VIDEOS
    axes = ["batch", "channels", *(["frames"] if video else []), "height", "width"]
    return {
        "kind": predictor.kind.noun,
        "input": {
            "name": writing.INPUT_NAMES[predictor.kind.noun],
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
            "scores": "sigmoid" if isinstance(predictor.builder, VideoMultilabel) else "softmax",
            "of_views": "mean of the scores",
        },
    }


def _views(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation's protocol says of pixels and frames."""
    left_out = ("normalization", "classes_to_choose_from", "several_right_labels", "allowed_classes")
    return {key: value for key, value in protocol.items() if key not in left_out}


def _reading(config: Predict) -> dict[str, Any]:
    """What is not in an evaluation's protocol."""
    if not isinstance(config.data, VideoData):
        return {}
    return {
        "filter": "bilinear",
        "antialias_above_short_side": getattr(config.augment, "decode_short_side", None),
        "num_views": config.data.test_temporal_views * config.data.test_spatial_views,
    }


# ---- the clips


@dataclass(frozen=True, kw_only=True)
class _Split:
    """Files to compare on.

    Attributes:
        builder: reads them.
        config: with the options that they are read with.
        manifest: the files.
        labelled: whether their classes are the model's.
        words: where they come from.
    """

    builder: TaskBuilder
    config: Predict
    manifest: Manifest
    labelled: bool
    words: str


@contextmanager
def _split(predictor: ClassPredictor, clips: Sequence[str]) -> Iterator[_Split]:
    """The files that were named, else those the run was validated on, else some of the embedded set."""
    config = replace(predictor.config, trainer=replace(predictor.config.trainer, num_workers=0))
    if clips:
        files = find_files(clips, predictor.kind)
        manifest, _ = predictor.split(files)
        words = f"the {predictor.kind.plural} given"
        yield _Split(builder=predictor.builder, config=config, manifest=manifest, labelled=False, words=words)
        return
    own = _own_split(predictor, config)
    if own is not None:
        yield own
        return
    with tempfile.TemporaryDirectory(prefix="embedded") as folder:
        if predictor.kind is VIDEOS:
            count = len(MOTION_CLASSES)
            generate_motion(folder, MotionSpec(train_videos=count, test_videos=count), workers=1, progress=False)
            places = [os.path.join(folder, "videos")]
        else:
            count = len(SHAPES_CLASSES)
            generate_shapes(folder, ShapesSpec(train_images=count, test_images=count))
            places = [os.path.join(folder, split) for split in ("test", "train")]
        manifest, _ = predictor.split(find_files(places, predictor.kind))
        words = f"{predictor.kind.plural} of the embedded set"
        yield _Split(builder=predictor.builder, config=config, manifest=manifest, labelled=False, words=words)


def _own_split(predictor: ClassPredictor, config: Predict) -> _Split | None:
    """Some files of the run's validation, evenly over the split; None, and why in the log, where there are none."""
    source = config.data.source
    values = source.values() if isinstance(source, dict) else vars(source).values()
    if any(value == "???" for value in values):
        return None  # published weights
    places = [source.get("root") if isinstance(source, dict) else getattr(source, "root", None)]
    if any(place is not None and not Path(place).exists() for place in places):
        # An embedded set would be generated whole, and others are not here.
        logger.info("the run's %s are not at %s: others are taken to compare on", predictor.kind.plural, places[0])
        return None
    options = replace(config, data=replace(config.data))
    forget_training_split(options.data)
    try:
        found = build_source(options.data, HERE)
        if not (found.has("test") or found.has("train")):
            return None  # published weights of a source without required places
        manifest = predictor.builder.read_split(options, found, "test", class_names=predictor.class_names)
    except (ValueError, OSError) as error:
        logger.warning(
            "the run's own %s cannot be read here (%s): the file is compared on the embedded set; --clips names others",
            predictor.kind.plural,
            error,
        )
        return None
    rows = np.unique(np.linspace(0, len(manifest) - 1, min(MEASURED, len(manifest))).astype(np.int64))
    words = f"the run's own {predictor.kind.plural}"
    return _Split(builder=predictor.builder, config=options, manifest=manifest.subset(rows), labelled=True, words=words)


def _inputs(predictor: ClassPredictor, split: _Split) -> Tensor:
    """The model's input for the middle view of some of the files, float32 (N, ...).

    Raises:
        ValueError: none of them can be read.
    """
    rows = np.unique(np.linspace(0, len(split.manifest) - 1, CHECKED).astype(np.int64))
    manifest = split.manifest.subset(rows)
    evaluation = split.builder.validation(split.config, manifest, HERE)
    task, found, failures = split.builder.task(split.config, manifest), [], []
    for batch in evaluation.batches(HERE):
        failures += batch.failures
        read = ~batch.failed
        found.append(task.eval_inputs(batch)[0][read])
    inputs = torch.cat(found) if found else torch.empty(0)
    if not len(inputs):
        raise ValueError(f"none of {split.words} can be read, the first: {failures[0] if failures else 'none'}")
    # A tracer takes a batch of one for a constant, so there are at least two.
    return torch.cat([inputs, inputs]) if len(inputs) == 1 else inputs


def _measure(predictor: ClassPredictor, split: _Split, model: nn.Module) -> dict[str, Any]:
    """What the model scores on the files; without labels the classes that it names, for the share that stays."""
    evaluation = split.builder.evaluation(split.config, split.manifest, HERE, frame_order="forward")
    task = split.builder.task(split.config, split.manifest)
    if split.labelled:
        scorer: Any = score(model, evaluation, task=task, world=HERE, bf16=False, on_progress=lambda _: None)
        return {name: round(float(value), 4) for name, value in scorer.metrics().items()}
    program = replace(predictor, model=model)
    files = [str(path) for path in split.manifest.paths][: 2 * CHECKED]
    return {"classes": [one.predictions[0].name for one in program.predict(files) if one.predictions]}


def _cost_text(cost: Mapping[str, Any]) -> str:
    before, after = (value for key, value in cost.items() if key != "on")
    if "classes" in before:
        same = sum(a == b for a, b in zip(before["classes"], after["classes"]))
        return f"the same class for {same} of {len(before['classes'])}"
    return ", ".join(f"{name} {before[name]:.2f} -> {after[name]:.2f}" for name in before if name in after)


# ---- the file


def _write(
    predictor: ClassPredictor, inputs: Tensor, path: Path, *, about: Mapping[str, Any], kind: Kind, precision: Precision
) -> Any:
    """Write the file; a function that sets what it says of itself to something else."""
    if kind == "safetensors":

        def rewrite(new: Mapping[str, Any]) -> None:
            writing.write_safetensors(predictor.model, path, about=new, precision=precision)

        rewrite(about)
        return rewrite
    example = inputs[:2].clone()
    with torch.inference_mode(False):
        example = example.clone()
        program = writing.trace(predictor.model, example, precision=precision)
        if kind == "torch_export":
            writing.write_torch_export(program, path)
            return lambda new: writing.describe_torch_export(path, new)
        name = about["preprocessing"]["input"]["name"]
        writing.write_onnx(program, example, path, input_name=name, precision=precision)
    return lambda new: writing.describe_onnx(path, new)


def _read_again(predictor: ClassPredictor, path: Path, shape: tuple[int, ...]) -> nn.Module:
    """The file as others will run it."""
    if path.suffix == ".safetensors":
        return load_model(replace(predictor.config, checkpoint=str(path)), HERE)
    return open_program(path, shape=shape, device=HERE.device)


def _peak_bytes() -> int:
    """Most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
