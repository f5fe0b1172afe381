"""From resolved options to objects, and the two jobs they do: a training run and an evaluation.

The only module that knows both the options (config.py) and the objects; the only caller of hydra.utils.instantiate.
"""

import copy
import dataclasses
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from mvit_video import models
from mvit_video.distributed import process_group
from mvit_video.runtime import env
from mvit_video.runtime import interruption
from mvit_video.config import Data, Evaluate, Train
from mvit_video.data.loading.batch import Batch, FrameOrder
from mvit_video.data.sampling import ClipSampler
from mvit_video.data.loading.dataset import Decoding, EvalDataset, TrainDataset
from mvit_video.data.loading.loader import TrainLoader, eval_loader
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.augmentation.mixing import Mixing
from mvit_video.data.datasets.sources import Source, Split
from mvit_video.data.datasets.splits import SplitOptions, SplitSource
from mvit_video.data.augmentation.transforms import TrainTransform, normalize_clips
from mvit_video.distributed.process_group import World
from mvit_video.engine.average import WeightAverage
from mvit_video.engine.evaluator import score_views, write_evaluation
from mvit_video.engine.precision import autocast, uses_bf16
from mvit_video.engine.checkpoints.shards import is_folder_of_shards, whole_weights_in
from mvit_video.engine.tracking import Tracker
from mvit_video.engine.trainer import Prepare, Trainer, TrainerOptions, Validate
from mvit_video.metrics import ViewScores
from mvit_video.optim import WarmupCosine, build_optimizer, parameter_groups, scale_lr
from mvit_video.distributed.sharding import Sharding
from mvit_video.cluster.supervisor import journal

logger = logging.getLogger(__name__)


def train(config: Train) -> dict[str, float]:
    """Train as configured, resuming the run if it exists; the metrics of the last validation."""
    interruption.install()
    try:
        with _process(config) as world:
            return _train(config, world)
    finally:
        interruption.uninstall()


def _train(config: Train, world: World) -> dict[str, float]:
    source = build_source(config.data, world)
    train_set = read_manifest(source, "train", config)
    val_set = read_manifest(source, "val", config) if source.has("val") else None
    model = build_model(config).to(world.device)
    if config.weights is not None:
        rule: Any = config.image_to_video
        load_weights(model, config.weights, new_head=True, image_to_video=rule)
    loader = build_train_loader(config, train_set, world)
    options = trainer_options(config, loader, world)
    plan_activations(config, model, world)
    average = build_average(config, model)
    sharding = build_sharding(config, model, average, world)
    record_run(config, world)
    tracker = Tracker(config.run_dir, total_steps=options.last_step, enabled=world.is_main)
    trainer = Trainer(
        model=model,
        optimizer=build_optimizer_for(model, config, loader),
        lr_at=build_schedule(config, loader),
        loader=loader,
        mixing=build_mixing(config),
        prepare=build_prepare(config.data),
        validate=None if val_set is None else build_validate(config, val_set, world),
        tracker=tracker,
        world=world,
        run_dir=config.run_dir,
        config_text=OmegaConf.to_yaml(OmegaConf.structured(config)),
        options=options,
        class_names=train_set.class_names,
        average=average,
        sharding=sharding,
    )
    with tracker:
        if world.is_main:
            journal(config.run_dir, event="steps", total=options.last_step)
        if trainer.resume() and trainer.step >= options.last_step and not trainer.unvalidated:
            logger.info("%s is complete at step %d; another name=... starts another run", config.run_dir, trainer.step)
            return {}
        return trainer.fit()


def evaluate(config: Evaluate) -> dict[str, Any]:
    """Evaluate a checkpoint as configured and write the results; returns them (on rank 0, else an empty dict)."""
    with _process(config) as world:
        return _evaluate(config, world)


def _evaluate(config: Evaluate, world: World) -> dict[str, Any]:
    checkpoint = config.checkpoint or str(config.run_dir / "checkpoints" / "best.pt")
    if not (Path(checkpoint).is_file() or is_folder_of_shards(Path(checkpoint))):
        raise FileNotFoundError(f"no checkpoint at {checkpoint}: train {config.name} first, or give checkpoint=PATH")
    source = build_source(config.data, world)
    manifest = read_manifest(source, config.split, config)  # type: ignore[arg-type]
    model = build_model(config).to(world.device)
    load_weights(model, checkpoint, new_head=False, use_ema=config.use_ema)
    dataset = build_eval_dataset(
        config,
        manifest,
        temporal_views=config.data.test_temporal_views,
        spatial_views=config.data.test_spatial_views,
        frame_order=config.frame_order,  # type: ignore[arg-type]
    )
    scores = _score(config, model, dataset, world, title=f"evaluating {config.split} ({config.frame_order})")
    if scores is None:
        return {}
    default = "evaluation" if config.frame_order == "forward" else f"evaluation_{config.frame_order}"
    folder = Path(config.output) if config.output else config.run_dir / default
    about = {
        "checkpoint": checkpoint,
        "split": config.split,
        "frame_order": config.frame_order,
        "temporal_views": dataset.temporal_views,
        "spatial_views": dataset.spatial_views,
    }
    results = write_evaluation(folder, scores, manifest=manifest, about=about)
    logger.info(
        "%d videos, %d views: clip top-1 %.2f, top-5 %.2f; video top-1 %.2f, top-5 %.2f; %d unreadable; written to %s",
        *(results[key] for key in ("num_videos", "num_views", "clip_top1", "clip_top5", "video_top1", "video_top5")),
        results["num_failed"],
        folder,
    )
    return results


def _process(config: Train) -> Any:
    """Threads, logging and process group of this process."""
    size = process_group.launched_size()
    device = env.choose_device(config.trainer.device)  # type: ignore[arg-type]
    torch.set_num_threads(config.trainer.threads or max(1, (os.cpu_count() or 1) // size))
    return process_group.world(device, timeout_s=config.trainer.collective_timeout_s)


def build_source(data: Data, world: World) -> Source:
    """The data source, its files made to exist by rank 0 first."""
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


def read_manifest(source: Source, split: Split, config: Train) -> Manifest:
    """The manifest of a split. Options that left the number of classes open take it from here."""
    manifest = source.manifest(split)
    if manifest.label_sets is not None:
        raise ValueError(
            f"{manifest.source} has several labels a video, and the loss and scores are those of one label each; give "
            "one label a row"
        )
    if manifest.weights is not None and split == "train":
        logger.warning("%s: the weights are not used, every video is drawn alike", manifest.source)
    classes = manifest.num_classes
    if config.data.num_classes is None:
        config.data.num_classes = classes
        if getattr(config.model, "num_classes", classes) is None:
            config.model.num_classes = classes
    if classes != config.data.num_classes:
        raise ValueError(
            f"data.num_classes={config.data.num_classes}, but {manifest.source} has {classes} classes: "
            f"set data.num_classes={classes}"
        )
    return manifest


def build_model(config: Train) -> nn.Module:
    """The model of the options, with weights drawn from the run's seed. An option at null is left to the preset."""
    env.seed_everything(config.seed)
    options = config.model if isinstance(config.model, dict) else dataclasses.asdict(config.model)
    model: nn.Module = _instantiate({key: value for key, value in options.items() if value is not None})
    return model


def plan_activations(config: Train, model: nn.Module, world: World) -> None:
    """Choose the blocks to recompute under `model.activation_budget_gb`, for one forward pass of one process.

    Raises:
        ValueError: no choice keeps so little.
    """
    if not isinstance(model, models.MViT) or model.config.activation_budget_gb is None:
        return
    clips, size = config.trainer.batch_size * config.augment.repeats, (model.config.crop_size, model.config.crop_size)
    frames = () if model.config.is_image else (model.config.num_frames,)
    with autocast(uses_bf16(config.trainer.precision, world.device), world.device):  # type: ignore[arg-type]
        plan = model.train().plan_checkpointing((clips, model.config.in_channels, *frames, *size))
    logger.info(
        "activation_budget_gb=%g: recomputing blocks %s, %.0f %% of the forward pass; activations take up to %.2f GB",
        model.config.activation_budget_gb,
        list(plan.blocks),
        100 * plan.recomputed,
        plan.peak_bytes / 1e9,
    )


def _instantiate(options: Any) -> Any:
    """What the options' `_target_` makes of them; its own ValueError, not Hydra's wrapping of it."""
    try:
        return instantiate(options, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise ValueError(str(error.__cause__)) from error
        raise


def load_weights(
    model: nn.Module,
    path: str,
    *,
    new_head: bool,
    use_ema: bool = True,
    image_to_video: Literal["published", "corrected"] | None = None,
) -> None:
    """Put the weights of a file into the model and say what did not come from the file; see models.load_weights."""
    # A folder of shards is unknown to `models`, which reads files alone.
    source = whole_weights_in(Path(path), use_ema=use_ema) if is_folder_of_shards(Path(path)) else path
    report = models.load_weights(model, source, new_head=new_head, use_ema=use_ema, image_to_video=image_to_video)
    logger.info("weights from %s: %s", path, report)


def build_sampler(data: Data) -> ClipSampler:
    """How clips are taken from videos."""
    return ClipSampler(
        num_frames=data.num_frames,
        sampling_rate=data.sampling_rate,
        target_fps=data.target_fps,
        mode=data.sampling,  # type: ignore[arg-type]
    )


def build_train_loader(config: Train, manifest: Manifest, world: World) -> TrainLoader:
    """Endless training batches of this rank."""
    augment, trainer = config.augment, config.trainer
    transform = TrainTransform(
        crop_size=config.data.crop_size,
        crop=augment.crop,  # type: ignore[arg-type]
        scale=_pair(augment.scale),
        ratio=_pair(augment.ratio),
        jitter=(augment.jitter[0], augment.jitter[1]),
        inverse_uniform=augment.inverse_uniform,
        flip=augment.flip,
        randaugment=augment.randaugment,
        erase_prob=augment.erase_prob,
        decode_short_side=augment.decode_short_side,
    )
    dataset = TrainDataset(
        manifest,
        sampler=build_sampler(config.data),
        transform=transform,
        repeats=augment.repeats,
        seed=config.seed,
        decoding=build_decoding(config),
    )
    return TrainLoader(
        dataset,
        batch_size=trainer.batch_size,
        accumulate=trainer.accumulate,
        rank=world.rank,
        world_size=world.size,
        seed=config.seed,
        num_workers=trainer.num_workers,
        pin_memory=world.device.type == "cuda",
        prefetch=config.data.prefetch,
        timeout_s=config.data.worker_timeout_s,
        shard_window=config.data.shard_window,
    )


def build_decoding(config: Train) -> Decoding:
    """How files are read, and where clips are made of their frames."""
    return Decoding(
        backend=config.data.backend,  # type: ignore[arg-type]
        layout=config.data.layout,  # type: ignore[arg-type]
        device=config.augment.device,  # type: ignore[arg-type]
        time_limit_s=config.data.video_time_limit_s,
    )


def _pair(values: list[float]) -> tuple[float, float]:
    return values[0], values[1]


def build_eval_dataset(
    config: Train,
    manifest: Manifest,
    *,
    temporal_views: int,
    spatial_views: int,
    frame_order: FrameOrder = "forward",
) -> EvalDataset:
    """The views of a split."""
    data = config.data
    return EvalDataset(
        manifest,
        sampler=build_sampler(data),
        temporal_views=temporal_views,
        spatial_views=spatial_views,
        short_side=data.test_short_side,
        crop_size=data.crop_size,
        frame_order=frame_order,
        seed=config.seed,
        decoding=build_decoding(config),
    )


def build_mixing(config: Train) -> Mixing:
    """Mixup, cutmix and label smoothing."""
    augment = config.augment
    assert config.data.num_classes is not None  # read_manifest has set it
    return Mixing(
        mixup_alpha=augment.mixup_alpha,
        cutmix_alpha=augment.cutmix_alpha,
        prob=augment.mix_prob,
        switch_prob=augment.switch_prob,
        smoothing=augment.smoothing,
        num_classes=config.data.num_classes,
    )


def build_prepare(data: Data) -> Prepare:
    """From a uint8 batch to the model's input: normalise, erase."""

    def prepare(batch: Batch) -> torch.Tensor:
        batch = batch.to(batch.labels.device)  # makes the clips, unless that was done when the batch was moved
        return normalize_clips(
            batch.clips,
            mean=data.mean,
            std=data.std,
            erase=batch.erase,
            noise_seeds=batch.noise_seeds,
            channel_order=data.channel_order,  # type: ignore[arg-type]
        )

    return prepare


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
    bf16 = uses_bf16(trainer.precision, world.device)  # type: ignore[arg-type]
    sharding = Sharding(world, bf16=bf16, timeout_s=trainer.collective_timeout_s)
    sharding.apply(model, compile=trainer.compile)
    if average is not None:
        sharding.apply(average.module)
    return sharding


def build_optimizer_for(model: nn.Module, config: Train, loader: TrainLoader) -> torch.optim.Optimizer:
    """The optimizer over the model's parameter groups, at the learning rate of the real global batch."""
    optim = config.optim
    lr = scale_lr(optim.lr, reference_batch=optim.reference_batch, global_batch=loader.videos_per_step)
    layer_ids: Callable[[], dict[str, int]] | None = getattr(model, "layer_ids", None)
    if optim.layer_decay != 1 and layer_ids is None:
        raise ValueError(
            f"optim.layer_decay={optim.layer_decay} needs a model that numbers its layers, and "
            f"{type(model).__name__} does not: set optim.layer_decay=1"
        )
    groups = parameter_groups(
        model,
        lr=lr,
        weight_decay=optim.weight_decay,
        decay_1d=optim.decay_1d,
        no_decay=optim.no_decay,
        layer_decay=optim.layer_decay,
        layer_ids=layer_ids() if layer_ids is not None else None,
    )
    return build_optimizer(
        groups,
        name=optim.name,  # type: ignore[arg-type]
        lr=lr,
        betas=_pair(optim.betas),
        eps=optim.eps,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
    )


def build_schedule(config: Train, loader: TrainLoader) -> WarmupCosine:
    """Learning rate by step; every rate is scaled to the real global batch like `optim.lr`."""

    def scaled(lr: float) -> float:
        return scale_lr(lr, reference_batch=config.optim.reference_batch, global_batch=loader.videos_per_step)

    schedule = config.schedule
    return WarmupCosine(
        base_lr=scaled(config.optim.lr),
        epochs=schedule.epochs,
        warmup_epochs=schedule.warmup_epochs,
        warmup_start_lr=scaled(schedule.warmup_start_lr),
        end_lr=scaled(schedule.end_lr),
        steps_per_epoch=loader.steps_per_epoch,
        cosine_after_warmup=schedule.cosine_after_warmup,
    )


def trainer_options(config: Train, loader: TrainLoader, world: World) -> TrainerOptions:
    """The loop's options, with epochs turned into steps."""
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
        stall_timeout_s=trainer.stall_timeout_s,
        collective_timeout_s=trainer.collective_timeout_s,
    )


def build_validate(config: Train, manifest: Manifest, world: World) -> Validate:
    """Validation during training: the centre clip and crop of every video, the same each time."""
    dataset = build_eval_dataset(config, manifest, temporal_views=1, spatial_views=1)

    def validate(model: nn.Module, on_progress: Callable[[int], None]) -> dict[str, float]:
        scores = _score(config, model, dataset, world, title=None, on_progress=on_progress)
        metrics: dict[str, float] = {}
        if scores is not None:
            results = scores.results(manifest.labels, manifest.class_names)
            shown = ("video_top1", "video_top5", "num_videos", "num_failed")
            metrics = {key: float(results[key]) for key in shown}  # type: ignore[arg-type]
        return process_group.from_main(metrics, world)

    return validate


def _score(
    config: Train,
    model: nn.Module,
    dataset: EvalDataset,
    world: World,
    *,
    title: str | None,
    on_progress: Callable[[int], None] | None = None,
) -> ViewScores | None:
    """Score a split, with a progress bar on rank 0 if it has a title."""
    model.eval()
    loader = eval_loader(
        dataset,
        clips_per_batch=config.trainer.eval_batch_size,
        rank=world.rank,
        world_size=world.size,
        num_workers=config.trainer.num_workers,
        pin_memory=world.device.type == "cuda",
        prefetch=config.data.prefetch,
        timeout_s=config.data.worker_timeout_s,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=title is None or not world.is_main) as progress:
        share = len(range(world.rank, len(dataset), world.size))
        task = progress.add_task(title or "", total=share * dataset.num_views)
        return score_views(
            model,
            loader,
            prepare=build_prepare(config.data),
            manifest=dataset.manifest,
            num_views=dataset.num_views,
            world=world,
            bf16=uses_bf16(config.trainer.precision, world.device),  # type: ignore[arg-type]
            on_progress=on_progress or (lambda clips: progress.advance(task, clips)),
        )


def record_run(config: Train, world: World) -> None:
    """Write the resolved options and the environment into the run directory (rank 0)."""
    if not world.is_main:
        return
    config.run_dir.mkdir(parents=True, exist_ok=True)
    files = {
        "config.yaml": OmegaConf.to_yaml(OmegaConf.structured(config)),
        "environment.json": json.dumps(env.describe_environment(), indent=2) + "\n",
    }
    for name, text in files.items():
        env.write_text(config.run_dir / name, text)
