"""An evaluation, from its options to the files of its results."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

import mvit_video
from mvit_video.build.agreement import check_same
from mvit_video.build.common import build_source, build_task_builder, load_model, process_group_of
from mvit_video.build.published_classes import in_published_order
from mvit_video.build.run_identity import DataRecord
from mvit_video.build.stored_options import beside_weights
from mvit_video.build.task_builder import TaskBuilder
from mvit_video.config import Audit, Data, Evaluate
from mvit_video.data.datasets.sources import Source
from mvit_video.data.datasets.splits import SplitSource
from mvit_video.distributed.process_group import World, from_main
from mvit_video.engine.checkpoints import is_folder_of_shards, load_checkpoint
from mvit_video.engine.checkpoints.files import sha256_of
from mvit_video.engine.evaluator import score
from mvit_video.engine.precision import uses_bf16
from mvit_video.engine.task import Evaluation
from mvit_video.exporting.about import is_program, read_about
from mvit_video.runtime.env import describe_environment
from mvit_video.runtime.files import check_writable
from mvit_video.runtime.run_record import read_object

logger = logging.getLogger(__name__)

ELSEWHERE = "output=FOLDER puts them elsewhere"


def evaluate(config: Evaluate) -> dict[str, Any]:
    """Evaluate a checkpoint as configured and write the results; returns them, on every rank."""
    return evaluate_to_folder(config)[1]


def evaluate_to_folder(config: Evaluate) -> tuple[Path, dict[str, Any]]:
    """As `evaluate`; the folder of the results, and the results. Rank 0 has written them when this ends on any rank."""
    with process_group_of(config) as world:
        written: tuple[Path, dict[str, Any]] = from_main(_evaluate(config, world), world)
        return written


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What was trained, and the split to score with it.

    Attributes:
        checkpoint: file or folder of the weights.
        training: step, class names and record of the run that the checkpoint holds; see `training_state_of`.
        builder: builds the objects of the task.
        source: the data source.
        split: what the builder read.
        model: with the weights, on the world's device.
    """

    checkpoint: str
    training: Mapping[str, Any]
    builder: TaskBuilder
    source: Source
    split: Any
    model: nn.Module

    def about(self, config: Evaluate | Audit) -> dict[str, Any]:
        """What was scored, for the record."""
        path = Path(self.checkpoint)
        return {
            "checkpoint": self.checkpoint,
            "weights_sha256": sha256_of(path) if path.is_file() else None,
            "step": self.training.get("step"),
            "split": config.split,
            "data": self.builder.record(self.split).plain(),
        }


def load_trained(config: Evaluate | Audit, world: World, *, needs_training_split: bool = False) -> Trained:
    """The model of the options with its weights, and the split.

    Args:
        config: the options, taken from the run where there is one.
        world: this process among the others.
        needs_training_split: read the training split of the source, too.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the split does not belong to the model, or is another one than was held out.
    """
    checkpoint = config.checkpoint or str(config.run_dir / "checkpoints" / "best.pt")
    if not (Path(checkpoint).is_file() or is_folder_of_shards(Path(checkpoint))):
        raise FileNotFoundError(f"no checkpoint at {checkpoint}: train {config.name} first, or give checkpoint=PATH")
    builder = build_task_builder(config)
    trained = training_state_of(Path(checkpoint))
    if trained.get("class_names") and config.split != "train" and not needs_training_split:
        forget_training_split(config.data)
    source = build_source(config.data, world)
    names = trained.get("class_names")
    listed = source if names else in_published_order(source, Path(checkpoint))
    split = builder.read_split(config, listed, config.split, class_names=names)  # type: ignore[arg-type]
    found = {**builder.record(split).plain(), "classes": list(builder.class_names(split))}
    check_same({config.split: {name: value for name, value in found.items() if name != "source"}}, world)
    if isinstance(source, SplitSource) and config.split != "train" and source.cuts_off(config.split):  # type: ignore[arg-type]
        check_held_out(builder.record(split), trained.get("run"))
    model = load_model(replace(config, checkpoint=checkpoint), world)
    return Trained(checkpoint=checkpoint, training=trained, builder=builder, source=source, split=split, model=model)


def score_split(config: Evaluate | Audit, trained: Trained, evaluation: Evaluation, world: World, *, title: str) -> Any:
    """The scorer of an evaluation on rank 0, None on the others; a bar shows how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not world.is_main) as progress:
        bar = progress.add_task(title, total=evaluation.count(world))
        return score(
            trained.model,
            evaluation,
            task=trained.builder.task(config, trained.split),
            world=world,
            bf16=uses_bf16(config.trainer.precision, world.device),  # type: ignore[arg-type]
            on_progress=lambda samples: progress.advance(bar, samples),
        )


def _evaluate(config: Evaluate, world: World) -> tuple[Path, dict[str, Any]] | None:
    """The folder of the results, and the results; None on other ranks than 0."""
    default = "evaluation" if config.frame_order == "forward" else f"evaluation_{config.frame_order}"
    if world.is_main:
        check_writable(Path(config.output or config.run_dir / default), way_out=ELSEWHERE)
    trained = load_trained(config, world)
    builder, split = trained.builder, trained.split
    evaluation = builder.evaluation(config, split, world, frame_order=config.frame_order)  # type: ignore[arg-type]
    title = f"evaluating {config.split} ({config.frame_order})"
    scorer = score_split(config, trained, evaluation, world, title=title)
    if scorer is None:
        return None
    about = {
        **trained.about(config),
        **evaluation.about(),
        "class_names": list(builder.class_names(split)),
        "mvit_video": mvit_video.__version__,
        "environment": describe_environment(),
    }
    folder = Path(config.output) if config.output else free_folder(config.run_dir / default, about)
    try:
        results: dict[str, Any] = scorer.write(folder, about)
    except OSError:
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in scorer.metrics().items())
        logger.error("the results could not be written to %s; they are: %s", folder, numbers)
        raise
    logger.info("%s; written to %s", scorer.summary(results), folder)
    return folder, results


# What of results.json may differ in the same folder: the rest is the protocol, whose results are not mixed.
_NOT_PROTOCOL = ("environment", "mvit_video")


def forget_training_split(data: Data) -> None:
    """Leave the training split of a source unread: the classes are the checkpoint's, and its files may be gone.

    Where the validation is cut off the training split, that is needed all the same.
    """
    if data.holdout is not None or data.folds is not None:
        return
    source = data.source
    if isinstance(source, dict):
        if source.get("train") is not None and (source.get("val") or source.get("test")):
            source["train"] = None
    elif getattr(source, "train", None) is not None and (source.val or source.test):
        source.train = None


def check_held_out(now: DataRecord, run: Mapping[str, Any] | None) -> None:
    """Refuse a validation split that is cut off other videos than in training: some of it was trained on.

    Args:
        now: the split that would be evaluated.
        run: the record of the run in the checkpoint.

    Raises:
        ValueError: it is another one than the run validated on.
    """
    before = (run or {}).get("data", {}).get("val")
    if before is not None and before["fingerprint"] != now.fingerprint:
        raise ValueError(
            f"the validation split is cut off the training split, which has changed since: {before['items']} were "
            f"held out ({before['fingerprint']}), now it would be {now.items} others ({now.fingerprint}), and the "
            "model was trained on some of them. Put the training split back as it was, or evaluate files that were "
            "never trained on: data.holdout=null data.folds=null data.source.val=PATH"
        )


def training_state_of(checkpoint: Path) -> dict[str, Any]:
    """Step, class names and record of the run that a checkpoint of a training holds; empty for other weights."""
    if is_folder_of_shards(checkpoint):
        state = load_checkpoint(checkpoint)
        return {"step": state["step"], "class_names": state.get("class_names") or None, "run": state.get("run")}
    if is_program(checkpoint):
        about = read_about(checkpoint)
        return {key: about[key] for key in ("step", "class_names", "run") if key in about}
    return beside_weights(checkpoint).training


def free_folder(folder: Path, about: Mapping[str, Any]) -> Path:
    """`folder`, or the first of folder-2, folder-3 ... that holds no results of another protocol or other weights."""
    number = 1
    while True:
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        results = candidate / "results.json"
        if not results.exists():
            return candidate
        try:
            held = read_object(results)
        except ValueError as error:
            logger.warning("%s; it is left as it is", error)
            held = {}
        if all(held.get(key) == value for key, value in about.items() if key not in _NOT_PROTOCOL):
            return candidate
        number += 1
