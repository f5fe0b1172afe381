"""An export, from the options of a model to one file that says all of itself and was compared with the model."""

import json
import logging
import math
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
from torch import nn

import mvit_video
from mvit_video.build.common import build_source, build_task_builder, load_model
from mvit_video.build.evaluation import forget_training_split
from mvit_video.build.export_form import CHECKED, HERE, Agreement, Examples, ExportForm, exporting
from mvit_video.build.export_record import measured_results, origin_of, without_paths
from mvit_video.build.file_predictor import FilePredictor
from mvit_video.build.prediction import build_predictor
from mvit_video.build.task_builder import TaskBuilder
from mvit_video.config import Predict, Train
from mvit_video.config.summary import changes
from mvit_video.data.datasets.extensions import FileKind
from mvit_video.engine.evaluator import score
from mvit_video.exporting import writing
from mvit_video.exporting.about import FORMAT_VERSION, SUFFIXES, Kind, Precision, is_program, read_about
from mvit_video.exporting.programs import open_program
from mvit_video.prediction.files import find_files

logger = logging.getLogger(__name__)

MEASURED = 256  # files whose scores tell what a lower precision costs
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
        parity: how it compares with the model.
        seconds: that it took, without reading the weights.
        peak_bytes: most memory that this process has had.
    """

    path: Path
    about: Mapping[str, Any]
    parity: Agreement
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
    exporter = exporting(build_task_builder(config))
    exporter.check_export(kind)
    predictor = build_predictor(replace(config, trainer=replace(config.trainer, num_workers=0)), HERE)
    form, builder = exporter.export_form(predictor), predictor.builder
    if kind == "onnx":
        writing.check_fits_onnx(predictor.model, precision)
    start = time.monotonic()
    with _examples(predictor.config, predictor, form, wanted.clips) as examples, torch.inference_mode():
        inputs = form.inputs(examples)
        expected = form.outputs(predictor.model, inputs)
        before = None if precision == "fp32" else _measure(builder, form, examples, predictor.model)
        about = {**describe(config, predictor, precision=precision), **form.about(inputs, predictor.model)}
        about = {**(about if wanted.keep_paths else without_paths(about)), "kind": kind}
        with writing.new_file(output) as beside:
            rewrite = _write(predictor, inputs, beside, about=about, kind=kind, precision=precision)
            again = _read_again(predictor, beside, about)
            found = form.outputs(again, inputs, like=expected)
            same = form.compare(expected, found, kind=kind, precision=precision, words=examples.words)
            about["parity"] = same.plain()
            if before is not None:
                after = _measure(builder, form, examples, again)
                about["results"]["precision_cost"] = {"on": examples.words, "fp32": before, precision: after}
            rewrite(about)
            _check_description(read_about(beside), form.about(inputs, again))
    seconds = time.monotonic() - start
    return Exported(path=output, about=about, parity=same, seconds=seconds, peak_bytes=_peak_bytes())


def check_exports(config: Predict, kinds: Sequence[Kind]) -> None:
    """Refuse formats that the models of a task do not have, before weights are read.

    Raises:
        ValueError: with those that there are.
    """
    exporter = exporting(build_task_builder(config))
    for kind in kinds:
        exporter.check_export(kind)


def describe(config: Predict, predictor: FilePredictor, *, precision: Precision) -> dict[str, Any]:
    """What a file says of itself besides inputs and outputs: see exporting/about.py."""
    training = predictor.training
    step = training.get("step")
    return {
        "format_version": FORMAT_VERSION,
        "config": recipe(config),
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


# ---- the files to compare on


@contextmanager
def _examples(config: Predict, predictor: FilePredictor, form: ExportForm, clips: Sequence[str]) -> Iterator[Examples]:
    """The files that were named, else those the run was validated on, else some of the embedded set."""
    kind = form.kind
    if clips:
        files = find_files(clips, kind)
        yield Examples(config=config, files=files, split=None, words=f"the {kind.plural} given")
        return
    own = _own_split(config, predictor, kind)
    if own is not None:
        yield own
        return
    with tempfile.TemporaryDirectory(prefix="embedded") as folder:
        files = find_files(form.write_embedded_set(Path(folder)), kind)
        yield Examples(config=config, files=files, split=None, words=f"{kind.plural} of the embedded set")


def _own_split(config: Predict, predictor: FilePredictor, kind: FileKind) -> Examples | None:
    """Some files of the run's validation, evenly over the split; None, and why in the log, where there are none."""
    source = config.data.source
    values = source.values() if isinstance(source, dict) else vars(source).values()
    if any(value == "???" for value in values):
        return None  # published weights
    places = [source.get("root") if isinstance(source, dict) else getattr(source, "root", None)]
    if any(place is not None and not Path(place).exists() for place in places):
        # An embedded set would be generated whole, and others are not here.
        logger.info("the run's %s are not at %s: others are taken to compare on", kind.plural, places[0])
        return None
    options = replace(config, data=replace(config.data))
    forget_training_split(options.data)
    try:
        data = build_source(options.data, HERE)
        if not (data.has("test") or data.has("train")):
            return None  # published weights of a source without required places, or a run that was never validated
        split: Any = predictor.builder.read_split(options, data, "test", class_names=predictor.class_names)
    except (ValueError, OSError) as error:
        logger.warning(
            "the run's own %s cannot be read here (%s): the file is compared on the embedded set; --clips names others",
            kind.plural,
            error,
        )
        return None
    rows = np.unique(np.linspace(0, len(split) - 1, min(MEASURED, len(split))).astype(np.int64))
    some = split.subset(rows)
    return Examples(config=options, files=list(some.paths), split=some, words=f"the run's own {kind.plural}")


def _measure(builder: TaskBuilder, form: ExportForm, examples: Examples, model: nn.Module) -> dict[str, Any]:
    """What the model scores on the files; without labels what it says of some, for the share that stays."""
    if examples.split is None:
        return form.named(model, examples.files[: 2 * CHECKED])
    evaluation = builder.evaluation(examples.config, examples.split, HERE, frame_order="forward")
    task = builder.task(examples.config, examples.split)
    scorer: Any = score(model, evaluation, task=task, world=HERE, bf16=False, on_progress=lambda _: None)
    numbers = {name: value for name, value in scorer.metrics().items() if not math.isnan(value)}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in numbers.items()}


def _cost_text(cost: Mapping[str, Any]) -> str:
    before, after = (value for key, value in cost.items() if key != "on")
    if "classes" in before:
        same = sum(a == b for a, b in zip(before["classes"], after["classes"]))
        return f"the same class for {same} of {len(before['classes'])}"
    return ", ".join(f"{name} {_number(before[name])} -> {_number(after[name])}" for name in before if name in after)


def _number(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


# ---- the file


def _write(
    predictor: FilePredictor, inputs: Any, path: Path, *, about: Mapping[str, Any], kind: Kind, precision: Precision
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


def _read_again(predictor: FilePredictor, path: Path, about: Mapping[str, Any]) -> nn.Module:
    """The file as others will run it: a model of the options that it holds, or a program."""
    if path.suffix == SUFFIXES["safetensors"]:
        options = read_about(path)["config"]["model"]
        return load_model(replace(predictor.config, model=options, checkpoint=str(path)), HERE)
    return open_program(path, shape=tuple(about["preprocessing"]["input"]["shape"][1:]), device=HERE.device)


def _check_description(said: Mapping[str, Any], true: Mapping[str, Any]) -> None:
    """Compare what a file says of its inputs and outputs with the model that was read from it.

    Raises:
        ValueError: it says something else.
    """
    plain: dict[str, Any] = json.loads(json.dumps(true))
    apart = changes({key: said.get(key) for key in plain}, plain)
    if apart:
        differences = "; ".join(f"{key} is {stated}, and the model's {own}" for key, stated, own in apart)
        raise ValueError(f"the file says of itself what its model is not, and is not written: {differences}")


def _peak_bytes() -> int:
    """Most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
