"""From resolved options to the objects that all tasks share; the only caller of hydra.utils.instantiate."""

import copy
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from mvit_video import models
from mvit_video.build.agreement import check_same_options
from mvit_video.build.head_classes import rows_by_name, untrained_head
from mvit_video.build.task_builder import TaskBuilder
from mvit_video.config import Audit, Data, Evaluate, Predict, Train
from mvit_video.data.datasets.sources import Source
from mvit_video.data.datasets.splits import SplitOptions, SplitSource
from mvit_video.distributed import process_group
from mvit_video.distributed.process_group import World
from mvit_video.distributed.sharding import Sharding, gathers_bf16
from mvit_video.engine.average import WeightAverage
from mvit_video.engine.checkpoints import find_checkpoint, is_folder_of_shards, whole_weights_in
from mvit_video.engine.precision import autocast, uses_bf16
from mvit_video.engine.task import TrainBatches
from mvit_video.engine.trainer import TrainerOptions
from mvit_video.exporting.about import is_program
from mvit_video.exporting.programs import load_program
from mvit_video.models.weights.files import WeightsFile, read_weights_file
from mvit_video.models.weights.loading import holds_image_model
from mvit_video.models.weights.zoo import resolve
from mvit_video.optim import WarmupCosine, build_optimizer, parameter_groups, scale_lr
from mvit_video.runtime import determinism, env

logger = logging.getLogger(__name__)


@contextmanager
def process_group_of(config: Train) -> Iterator[World]:
    """Threads, random state, deterministic algorithms and process group of this process, until the block ends.

    Raises:
        ValueError: on every rank, when they were started with different options.
    """
    size = process_group.launched_size()
    device = env.choose_device(config.trainer.device)  # type: ignore[arg-type]
    with (
        env.own_state(),
        determinism.deterministic(config.trainer.deterministic),
        process_group.world(device, timeout_s=config.trainer.collective_timeout_s) as world,
    ):
        check_same_options(config, world)
        torch.set_num_threads(config.trainer.threads or max(1, (os.cpu_count() or 1) // size))
        yield world


def build_task_builder(config: Train) -> TaskBuilder:
    """What builds the objects of the configured task."""
    builder: TaskBuilder = _instantiate(config.task)
    return builder


def build_source(data: Data, world: World) -> Source:
    """The data source, its files made to exist by rank 0 first; with a validation split cut off, if so configured."""
    source: Source = _instantiate(data.source)
    with process_group.main_first(world):
        source.prepare()
    split = SplitOptions(
        holdout=data.holdout,
        folds=data.folds,
        fold=data.fold,
        seed=data.split_seed,
        group_pattern=data.group_pattern,
    )
    return SplitSource(source, split) if split.enabled else source


def build_model(config: Train) -> nn.Module:
    """The model of the options, with weights drawn from the run's seed. An option at null is left to the preset."""
    env.seed_everything(config.seed)
    options = config.model if isinstance(config.model, dict) else dataclasses.asdict(config.model)
    model: nn.Module = _instantiate(_without_nulls(options))
    return model


def _without_nulls(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that have a value, in groups within it, too."""
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in options.items()
        if value is not None
    }


def share_statistics(model: nn.Module, world: World) -> None:
    """Let the batch norms of a model that has a method `synchronise` use the samples of all ranks."""
    synchronise: Callable[[Callable[[torch.Tensor], torch.Tensor]], None] | None = getattr(model, "synchronise", None)
    if world.size > 1 and synchronise is not None:
        synchronise(process_group.sum_over_ranks)


def plan_activations(config: Train, builder: TaskBuilder, model: nn.Module, world: World) -> None:
    """Choose the blocks to recompute under `model.activation_budget_gb`, for one forward pass of one process.

    Raises:
        ValueError: no choice keeps so little.
    """
    if not isinstance(model, models.MViT) or model.config.activation_budget_gb is None:
        return
    with autocast(uses_bf16(config.trainer.precision, world.device), world.device):  # type: ignore[arg-type]
        plan = model.train().plan_checkpointing(builder.input_shape(config, model.config))
    logger.info(
        "activation_budget_gb=%g: recomputing blocks %s, %.0f %% of the forward pass; activations take up to %.2f GB",
        model.config.activation_budget_gb,
        list(plan.blocks),
        100 * plan.recomputed,
        plan.peak_bytes / 1e9,
    )


def _instantiate(options: Any) -> Any:
    """What the options' `_target_` makes of them; its own ValueError, not Hydra's wrapping of it.

    Raises:
        ValueError: of the target; or there is no such target, or it does not take these arguments.
    """
    try:
        return instantiate(options, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError):
            raise ValueError(str(cause)) from error
        given = options if isinstance(options, dict) else vars(options)
        if isinstance(cause, ImportError):
            reason = str(cause).strip().splitlines()[-1]
            raise ValueError(
                f"_target_: {given.get('_target_')} cannot be imported ({reason}). Python looks in the current folder, "
                "in PYTHONPATH and among the installed packages: correct the name, or run from the folder that holds it"
            ) from error
        if isinstance(cause, TypeError):
            names = ", ".join(str(name) for name in given if name != "_target_") or "none"
            raise ValueError(
                f"{given.get('_target_')}: {cause}; the arguments that the options give are: {names}"
            ) from error
        raise


def load_model(config: Predict | Evaluate | Audit, world: World) -> nn.Module:
    """The model of `config.checkpoint` on the world's device, in eval mode: an exported program as it is, or the model
    of the options with the weights. All ranks have those of rank 0, also where a training has just replaced the file.

    Raises:
        ValueError, CheckpointError: the weights do not fit, or the file cannot be read.
    """
    assert config.checkpoint is not None
    if is_program(Path(config.checkpoint)):
        program = load_program(Path(config.checkpoint), device=world.device)
        logger.info("%s runs as it was exported; model options and precision are the file's", config.checkpoint)
        process_group.take_weights_from_main(program, world)
        return program
    model = build_model(config).to(world.device).eval()
    load_weights(model, config.checkpoint, new_head=False, use_ema=config.use_ema)
    process_group.take_weights_from_main(model, world)
    return model


def load_weights(
    model: nn.Module,
    path: str,
    *,
    new_head: bool,
    use_ema: bool = True,
    image_to_video: Literal["published", "corrected"] | None = None,
) -> None:
    """Put the weights of a file into the model and say what did not come from the file; see models.load_weights."""
    file = _weights_file(Path(path), use_ema=use_ema)
    report = models.load_weights(model, file, new_head=new_head, use_ema=use_ema, image_to_video=image_to_video)
    logger.info("weights from %s: %s", path, report)


def start_from_weights(config: Train, model: nn.Module, class_names: Sequence[str] = ()) -> None:
    """Put `config.weights` into a new model: published ones, a file, or a run, of which the best checkpoint counts.

    Rows of the head go by the names of the classes, `class_names`, where the file has names, too. An image model's
    weights go into a video model by the rule of `config.image_to_video`, "corrected" if it names none.
    """
    assert config.weights is not None
    path, rule = find_checkpoint(resolve(config.weights).path), config.image_to_video
    file = _weights_file(path, use_ema=True)
    is_video = isinstance(model, models.MViT) and not model.config.is_image
    if rule is None and is_video and holds_image_model(file):
        rule = "corrected"
        logger.info(
            "%s holds an image model: its convolutions are repeated over time and divided by the frames of their "
            "kernels (image_to_video=corrected)",
            path,
        )
    untrained = untrained_head(model)
    report = models.load_weights(model, file, new_head=True, image_to_video=rule)  # type: ignore[arg-type]
    logger.info("weights from %s: %s", path, report)
    rows_by_name(model, untrained, old=file.training.get("class_names"), new=class_names)


def _weights_file(path: Path, *, use_ema: bool) -> WeightsFile:
    if is_folder_of_shards(path):  # unknown to `models`, which reads files alone
        return WeightsFile(tensors=whole_weights_in(path, use_ema=use_ema))
    return read_weights_file(path, use_ema=use_ema)


def build_average(config: Train, model: nn.Module) -> WeightAverage | None:
    """The average of the model's weights, if there is to be one; before the model is sharded or compiled."""
    decay = config.trainer.ema_decay
    return None if decay is None else WeightAverage(copy.deepcopy(model), decay=decay)


def build_sharding(config: Train, model: nn.Module, average: WeightAverage | None, world: World) -> Sharding | None:
    """How the ranks divide the model and its average, which this does, in place; None where each rank has them whole.

    The optimizer must be built afterwards.
    """
    trainer = config.trainer
    if trainer.strategy != "fsdp" or world.size == 1:
        return None
    bf16 = gathers_bf16(model, bf16=uses_bf16(trainer.precision, world.device))  # type: ignore[arg-type]
    sharding = Sharding(world, bf16=bf16, timeout_s=trainer.collective_timeout_s)
    sharding.apply(model, compile=trainer.compile)
    if average is not None:
        sharding.apply(average.module)
    return sharding


def build_optimizer_for(model: nn.Module, config: Train, loader: TrainBatches) -> torch.optim.Optimizer:
    """The optimizer over the model's parameter groups, at the learning rate of the real global batch."""
    optim = config.optim
    lr = scale_lr(optim.lr, reference_batch=optim.reference_batch, global_batch=loader.items_per_step)
    layer_ids: Callable[[], dict[str, int]] | None = getattr(model, "layer_ids", None)
    layer_decay, no_decay = optim.layer_decay, optim.no_decay
    if layer_decay != 1 and layer_ids is None:
        logger.warning(
            "optim.layer_decay=%g is left out, and all layers learn at one rate: %s does not number its layers",
            layer_decay,
            type(model).__name__,
        )
        layer_decay = 1.0
    if not isinstance(model, models.MViT):
        no_decay = _of_this_model(model, no_decay)
    groups = parameter_groups(
        model,
        lr=lr,
        weight_decay=optim.weight_decay,
        decay_1d=optim.decay_1d,
        no_decay=no_decay,
        layer_decay=layer_decay,
        layer_ids=layer_ids() if layer_ids is not None else None,
    )
    return build_optimizer(
        groups,
        name=optim.name,  # type: ignore[arg-type]
        lr=lr,
        betas=pair(optim.betas),
        eps=optim.eps,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
    )


def _of_this_model(model: nn.Module, no_decay: list[str]) -> list[str]:
    """The entries that name something in the model; those of an experiment are for its own.

    A list that several models share has names of each. Where none of them fits, the list is of another model.
    """
    names = [f".{name}." for name, _ in model.named_parameters()]
    kept = [entry for entry in no_decay if any(f".{entry}." in name for name in names)]
    if len(kept) < len(no_decay):
        logger.log(
            logging.INFO if kept else logging.WARNING,
            "optim.no_decay: %s has no parameters named %s, which are left out of the list",
            type(model).__name__,
            ", ".join(entry for entry in no_decay if entry not in kept),
        )
    return kept


def build_schedule(config: Train, loader: TrainBatches) -> WarmupCosine:
    """Learning rate by step; every rate is scaled to the real global batch like `optim.lr`."""

    def scaled(lr: float) -> float:
        return scale_lr(lr, reference_batch=config.optim.reference_batch, global_batch=loader.items_per_step)

    schedule = config.schedule
    return WarmupCosine(
        base_lr=scaled(config.optim.lr),
        epochs=schedule.epochs,
        warmup_epochs=schedule.warmup_epochs,
        warmup_start_lr=scaled(schedule.warmup_start_lr),
        end_lr=scaled(schedule.end_lr),
        steps_per_epoch=loader.steps_per_epoch,
        cosine_after_warmup=schedule.cosine_after_warmup,
        milestones=tuple(schedule.milestones),
        milestone_factor=schedule.milestone_factor,
    )


def trainer_options(
    config: Train, loader: TrainBatches, world: World, *, graphed_shape: tuple[int, ...] | None = None
) -> TrainerOptions:
    """The loop's options, with epochs turned into steps; see TrainerOptions for `graphed_shape`."""
    trainer = config.trainer
    return TrainerOptions(
        total_steps=max(1, round(config.schedule.epochs * loader.steps_per_epoch)),
        max_steps=trainer.max_steps,
        eval_every=trainer.eval_every,
        checkpoint_every=trainer.checkpoint_every,
        checkpoint_async=trainer.checkpoint_async,
        keep_last=trainer.keep_last,
        log_every=trainer.log_every,
        max_failed=trainer.max_failed,
        clip_grad_norm=config.optim.clip_grad_norm,
        seed=config.seed,
        bf16=uses_bf16(trainer.precision, world.device),  # type: ignore[arg-type]
        compile=trainer.compile,
        graphed_shape=graphed_shape,
        stall_timeout_s=trainer.stall_timeout_s,
        collective_timeout_s=trainer.collective_timeout_s,
        best_metric=trainer.best_metric,
        early_stopping=trainer.early_stopping,
    )


def pair(values: list[float]) -> tuple[float, float]:
    """A list of two as a tuple."""
    return values[0], values[1]
