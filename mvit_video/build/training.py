"""A training run, from its options to its end."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from mvit_video.build.batch import mixes_nothing, step_batch
from mvit_video.build.batch_size import resolve_batch_size
from mvit_video.build.closing import closing_summary
from mvit_video.build.common import (
    build_average,
    build_model,
    build_optimizer_for,
    build_schedule,
    build_sharding,
    build_source,
    build_task_builder,
    plan_activations,
    process_group_of,
    share_statistics,
    start_from_weights,
    trainer_options,
)
from mvit_video.build.out_of_memory import explained
from mvit_video.build.run_identity import RunIdentity, begin_or_go_on
from mvit_video.build.step_form import graphed_shape, resolve_form
from mvit_video.build.stored_options import weights_file
from mvit_video.build.task_builder import TaskBuilder
from mvit_video.build.trained_part import choose_trained_part
from mvit_video.config import Train
from mvit_video.data.augmentation.mixing import Mixing
from mvit_video.data.datasets.class_names import mirrored
from mvit_video.data.datasets.sources import Source
from mvit_video.distributed.exclusive import exclusive_run
from mvit_video.distributed.process_group import World, barrier, from_main
from mvit_video.engine.evaluator import score
from mvit_video.engine.precision import uses_bf16
from mvit_video.engine.task import Evaluation, Task, TrainBatches
from mvit_video.engine.tracking import Tracker, TrackerOptions, console_formats
from mvit_video.engine.trainer import Trainer, Validate
from mvit_video.runtime import determinism, interruption
from mvit_video.runtime.formatting import are, count_text
from mvit_video.runtime.journal import append_event

logger = logging.getLogger(__name__)

_TRAINING = threading.Lock()  # held while a training runs in this process

NOT_DETERMINISTIC = (
    "Ways out: train at the model's nominal frames and crop (tables of positions are then not interpolated), take "
    "another model or augmentation, or trainer.deterministic=false, whose results may differ in the last bits between "
    "runs on a GPU."
)


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        metrics: of the last validation; empty if there was none, or the run was complete before.
        best_metric: by which the best checkpoint is chosen.
    """

    metrics: dict[str, float]
    best_metric: str


def train(config: Train) -> dict[str, float]:
    """Train as configured, resuming the run if it exists; the metrics of the last validation."""
    return train_to_end(config).metrics


def train_to_end(config: Train) -> Outcome:
    """As `train`; how it ended."""
    if not _TRAINING.acquire(blocking=False):
        raise ValueError(
            f"{config.name} cannot be trained while another training runs in this process: both would draw from one "
            "random state, and neither would compute what it computes alone. Train them one after the other, or each "
            "in a process of its own"
        )
    interruption.install()
    try:
        with process_group_of(config) as world, exclusive_run(config.run_dir, world):
            outcome = _train(config, world)
            barrier(world)  # what rank 0 wrote last is there for what a program does next on any rank
            return outcome
    finally:
        interruption.uninstall()
        _TRAINING.release()


def _train(config: Train, world: World) -> Outcome:
    if config.weights is not None:
        weights_file(config.weights)  # refused before the data is read
    builder = build_task_builder(config)
    source = build_source(config.data, world)
    train_split, val_split = _splits(config, builder, source)
    model = build_model(config).to(world.device)
    if config.weights is not None:
        start_from_weights(config, model, builder.class_names(train_split))
    choose_trained_part(config, model)
    share_statistics(model, world)
    resolve_batch_size(config, builder, model, world)
    loader = builder.train_loader(config, train_split, world)
    task = builder.task(config, train_split)
    _say_batch(config, loader, task, world)
    plan_activations(config, builder, model, world)
    resolve_form(config, builder, model, world)
    options = trainer_options(config, loader, world, graphed_shape=graphed_shape(config, builder, model))
    average = build_average(config, model)
    sharding = build_sharding(config, model, average, world)
    data = {"train": builder.record(train_split)}
    validate = None
    if val_split is not None:
        data["val"] = builder.record(val_split)
        validate = build_validate(config, task, builder.validation(config, val_split, world), world)
    identity = RunIdentity.of(class_names=task.class_names, items_per_step=loader.items_per_step, data=data)
    begin_or_go_on(config, identity, world)
    tracker = build_tracker(config, task, world, total_steps=options.last_step)
    trainer = Trainer(
        model=model,
        task=task,
        optimizer=build_optimizer_for(model, config, loader),
        lr_at=build_schedule(config, loader),
        loader=loader,
        validate=validate,
        tracker=tracker,
        world=world,
        run_dir=config.run_dir,
        config_text=OmegaConf.to_yaml(OmegaConf.structured(config)),
        identity=identity.plain(),
        options=options,
        average=average,
        sharding=sharding,
    )
    with tracker:
        if world.is_main:
            append_event(config.run_dir, "steps", total=options.last_step)
        if trainer.resume() and trainer.complete:
            logger.info("%s is complete at step %d; another name=... starts another run", config.run_dir, trainer.step)
            return Outcome({}, trainer.best.metric)
        with explained(config, world, items=loader.num_items), determinism.named(NOT_DETERMINISTIC):
            metrics = trainer.fit()
    if world.is_main:
        logger.info("%s", closing_summary(config, best_metric=trainer.best.metric))
    return Outcome(metrics, trainer.best.metric)


def _warn_of_flips(config: Train, names: Sequence[str]) -> None:
    """Say it where a flip makes one class of another, and its label stays."""
    pairs, flip = mirrored(names), getattr(config.augment, "flip", 0)
    if pairs and flip:
        logger.warning(
            "augment.flip=%g: %s of classes are mirror images by their names, such as %r and %r, and a flip keeps "
            "the label: augment.flip=0 leaves flips out",
            flip,
            count_text(len(pairs), "pair"),
            *pairs[0],
        )


def _splits(config: Train, builder: TaskBuilder, source: Source) -> tuple[Any, Any]:
    """The training and the validation split, the latter None if there is none; labels go by the training's classes.

    Raises:
        ValueError: an option needs validations, and there is no split for them.
    """
    train_split = builder.read_split(config, source, "train")
    _warn_of_flips(config, builder.class_names(train_split))
    if source.has("val"):
        val_split = builder.read_split(config, source, "val", class_names=builder.class_names(train_split))
        shared = builder.shared(train_split, val_split)
        if shared:
            logger.warning(
                "%d of the validation's files %s trained on, too, so that its accuracy says nothing about new ones: %s",
                len(shared),
                are(len(shared)),
                ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else ""),
            )
        return train_split, val_split
    if config.trainer.early_stopping is not None:
        raise ValueError(
            f"trainer.early_stopping={config.trainer.early_stopping}: counts validations, and the data source has no "
            "validation split; give one (data.source.val or data.holdout), or set trainer.early_stopping=null"
        )
    logger.warning(
        "there is no validation split: nothing is measured during the training, and its newest checkpoint counts. "
        "data.source.val=PATH gives one, data.holdout=0.2 holds one out"
    )
    return train_split, None


def _say_batch(config: Train, loader: TrainBatches, task: Task, world: World) -> None:
    """One line on the items of a step; warnings where they are not what the recipe states, or cannot be mixed."""
    batch = step_batch(config.trainer, processes=world.size, items=loader.num_items)
    if batch.videos != loader.items_per_step:
        return  # the task cuts its steps in a way of its own
    level = logging.WARNING if batch.reason and world.is_main else logging.INFO
    logger.log(level, batch.text(config.optim, item=task.item))
    mixing = getattr(task, "mixing", None)
    if world.is_main and isinstance(mixing, Mixing) and mixing.enabled:
        alone = mixes_nothing(batch.batch_size, repeats=getattr(config.augment, "repeats", 1), item=task.item)
        if alone:
            logger.warning("%s", alone)


def build_tracker(config: Train, task: Task, world: World, *, total_steps: int) -> Tracker:
    """Where the numbers of the run go."""
    plain: Any = OmegaConf.to_container(OmegaConf.structured(config))
    return Tracker(
        config.run_dir,
        total_steps=total_steps,
        enabled=world.is_main,
        formats=console_formats({metric.name: metric.console for metric in task.metrics}, task.sample),
        panels=task.panels,
        trackers=TrackerOptions(
            names=config.trainer.trackers,
            project=config.trainer.tracker_project,
            timeout_s=config.trainer.tracker_timeout_s,
            options=plain,
        ),
    )


def build_validate(config: Train, task: Task, evaluation: Evaluation, world: World) -> Validate:
    """Validation during training: the metrics, on every rank."""

    def validate(model: nn.Module, on_progress: Callable[[int], None]) -> dict[str, float]:
        bf16 = uses_bf16(config.trainer.precision, world.device)  # type: ignore[arg-type]
        scorer = score(model, evaluation, task=task, world=world, bf16=bf16, on_progress=on_progress)
        metrics = {} if scorer is None else scorer.metrics()
        return from_main(metrics, world)

    return validate
