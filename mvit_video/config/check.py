"""From a composed config to plain dataclasses, refusing what cannot work before any data is read.

Hydra refuses mistyped keys and wrong types by itself (see the schemas); here its messages get the way out, and values of
the right type that no run can use are named with the rule they break.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from mvit_video.config import Evaluate, Plan, Prepare, Preview, Train

AT_LEAST_ONE = (
    "data.num_classes", "data.num_frames", "data.crop_size", "data.test_short_side", "data.test_temporal_views",
    "augment.repeats", "optim.reference_batch", "trainer.batch_size", "trainer.accumulate", "trainer.eval_batch_size",
    "machine.ranks_per_node", "nodes", "num_videos", "published_videos", "launcher.chain", "launcher.array_parallelism",
    "launcher.warning_s", "trainer.eval_every", "trainer.keep_last", "trainer.log_every", "trainer.max_steps",
    "trainer.checkpoint_every",
    "trainer.threads", "augment.decode_short_side", "data.prefetch", "data.shard_window", "launcher.processes",
    "launcher.nodes", "launcher.tasks_per_node", "launcher.cpus_per_task", "launcher.time_min", "processes", "frames",
    "scale", "workers", "limit", "reencode.gop",
)  # fmt: skip
POSITIVE = (
    "machine.matrix_tflops", "machine.utilisation", "machine.memory_gb", "machine.link_gb_s", "machine.network_gbit_s",
    "machine.to_host_gb_s", "machine.disk_gb_s", "videos_per_core_s", "video_kb",
    "data.sampling_rate", "data.target_fps", "optim.lr", "optim.eps", "optim.clip_grad_norm", "schedule.epochs",
    "shards.max_gb", "data.video_time_limit_s",
)  # fmt: skip
SHARES = (
    "augment.flip", "augment.erase_prob", "augment.mix_prob", "augment.switch_prob", "augment.smoothing",
    "trainer.max_failed",
)  # fmt: skip
BELOW_ONE = ("trainer.ema_decay", "model.drop_path", "model.dropout", "optim.momentum")
NOT_NEGATIVE = (
    "augment.mixup_alpha", "augment.cutmix_alpha", "optim.weight_decay", "schedule.warmup_epochs", "schedule.end_lr",
    "schedule.warmup_start_lr", "trainer.num_workers", "launcher.gpus_per_node", "clips", "step", "rank", "videos",
    "launcher.max_failures", "launcher.max_restarts", "trainer.stall_timeout_s", "trainer.collective_timeout_s",
    "time_limit_s", "reencode.time_limit_s", "data.worker_timeout_s", "machine.launch_us", "machine.link_latency_us",
    "machine.latency_us", "machine.host_latency_us",
)  # fmt: skip
CHOICES: dict[str, tuple[object, ...]] = {
    "data.sampling": ("span", "segments"),
    "data.channel_order": ("rgb", "bgr"),
    "data.backend": ("pyav", "decord", "torchcodec"),
    "data.test_spatial_views": (1, 3),
    "data.layout": ("rgb", "yuv420"),
    "augment.crop": ("resized", "jitter"),
    "augment.device": ("worker", "model"),
    "optim.name": ("adamw", "sgd"),
    "trainer.precision": ("auto", "fp32", "bf16"),
    "trainer.strategy": ("ddp", "fsdp"),
    "machine.device": ("cuda", "cpu"),
    "trainer.device": ("auto", "cpu", "cuda"),
    "image_to_video": ("published", "corrected"),
    "frame_order": ("forward", "reversed", "shuffled"),
    "split": ("train", "val", "test"),
    "verify": ("decode", "index"),
    "reencode.preset": (
        "ultrafast",
        "superfast",
        "veryfast",
        "faster",
        "fast",
        "medium",
        "slow",
        "slower",
        "veryslow",
    ),
}


def to_object(config: DictConfig) -> Train:
    """The composed config as plain dataclasses, complete and checked.

    Raises:
        ValueError: with one line for everything that is missing, unknown or impossible.
    """
    _leave_out_sources(config)
    missing = sorted(OmegaConf.missing_keys(config) | _missing_splits(config))
    if missing:
        raise ValueError(
            "these options have no value yet; give each on the command line or in an experiment file:\n  "
            + "\n  ".join(f"{key}=..." for key in missing)
        )
    problems = [*_unknown_keys(config, ""), *_impossible(config)]
    if problems:
        raise ValueError("the configuration cannot work:\n  " + "\n  ".join(problems))
    result = OmegaConf.to_object(config)
    assert isinstance(result, Train)
    return result


def _leave_out_sources(config: DictConfig) -> None:
    """A plan reads no video: without a training list, what else the data source needs may be left out."""
    source = config.data.source
    if OmegaConf.get_type(config) is Plan and isinstance(source, DictConfig) and source.get("train") is None:
        for key in source:
            if OmegaConf.is_missing(source, key):
                source[key] = ""


def _missing_splits(config: DictConfig) -> set[str]:
    """Locations of the splits this command reads that have no value: all of them optional to the schema."""
    source = config.data.source
    if not isinstance(source, DictConfig) or source.get("table") is not None:  # a table may hold every split
        return set()
    splits = ["val" if split == "test" and source.get("test") is None else split for split in _splits_read(config)]
    if config.data.holdout is not None or config.data.folds is not None:  # the validation is cut off the training
        splits = ["train" if split == "val" else split for split in splits]
    keys = {key for split in splits for key in (split, f"{split}_root")}
    return {f"data.source.{key}" for key in keys if key in source and source.get(key) is None}


def _splits_read(config: DictConfig) -> list[str]:
    """Splits that a command cannot do without."""
    command = OmegaConf.get_type(config)
    if command is Evaluate:
        return [config.split]
    if command is Plan:
        return []
    if command is Preview:
        return ["train"] * (config.clips > 0) + [config.split] * (config.videos > 0)
    if command is Prepare:
        configured = [split for split in ("train", "val", "test") if config.data.source.get(split) is not None]
        return list(config.splits or configured or ["train"])
    return ["train"]


def explain(error: BaseException) -> str | None:
    """What to do about a config Hydra refused, or None if its own message says enough."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, ConfigKeyError | ConfigAttributeError) or cause.full_key is None:
        return None
    schema = cause.object_type
    if not (isinstance(schema, type) and is_dataclass(schema)):
        return None
    key = str(cause.key)
    return f"{cause.full_key}: unknown option; {_did_you_mean(key, [f.name for f in fields(schema)])}"


def _did_you_mean(key: str, known: Sequence[str]) -> str:
    """The known keys, with the nearest to `key` first."""
    shown = [name for name in known if not name.startswith("_")]
    near = difflib.get_close_matches(key, shown, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}The options are: {', '.join(shown)}"


def _unknown_keys(config: DictConfig, prefix: str) -> Iterator[str]:
    """Keys added with `+` to a group that has a schema: Hydra lets those through."""
    schema = OmegaConf.get_type(config)
    known = [f.name for f in fields(schema)] if isinstance(schema, type) and is_dataclass(schema) else None
    for key in config:
        name = str(key)
        if known is not None and name not in known:
            yield f"{prefix}{name}: unknown option; {_did_you_mean(name, known)}"
        elif isinstance(config[key], DictConfig):
            yield from _unknown_keys(config[key], f"{prefix}{name}.")


def _impossible(config: DictConfig) -> Iterator[str]:
    """Values of the right type that no run can use. A null stands for "not set" wherever the schema allows it."""

    def broken(keys: Sequence[str], good: Any, rule: str) -> Iterator[str]:
        for key in keys:
            value = OmegaConf.select(config, key)
            if value is not None and not good(value):
                yield f"{key}={value}: {rule}"

    yield from broken(AT_LEAST_ONE, lambda v: v >= 1, "must be at least 1")
    yield from broken(POSITIVE, lambda v: v > 0, "must be greater than 0")
    yield from broken(SHARES, lambda v: 0 <= v <= 1, "is a probability or a share, from 0 to 1")
    yield from broken(BELOW_ONE, lambda v: 0 <= v < 1, "must be at least 0 and below 1")
    yield from broken(NOT_NEGATIVE, lambda v: v >= 0, "must not be negative")
    for key, choices in CHOICES.items():
        yield from broken([key], lambda v, c=choices: v in c, f"must be one of {', '.join(map(str, choices))}")
    yield from _impossible_pairs(config)


def _impossible_pairs(config: DictConfig) -> Iterator[str]:
    """Rules that hold between two values or inside a list."""
    data, augment, schedule = config.data, config.augment, config.schedule
    if OmegaConf.get_type(config) is Prepare:
        yield from _impossible_preparation(config)
    if OmegaConf.get_type(config) is Preview:
        if config.rank >= config.processes:
            yield f"rank={config.rank}: the ranks of processes={config.processes} run from 0 to {config.processes - 1}"
        if config.clips == 0 and config.videos == 0:
            yield "clips=0 and videos=0: nothing to show; leave one of them above 0"
    if schedule.warmup_epochs >= schedule.epochs:
        yield f"schedule.warmup_epochs={schedule.warmup_epochs}: must be less than schedule.epochs={schedule.epochs}"
    if data.layout == "yuv420" and data.backend != "pyav":
        yield f"data.layout=yuv420: needs data.backend=pyav, {data.backend} makes RGB alone; or set data.layout=rgb"
    if data.test_short_side < data.crop_size:
        yield f"data.test_short_side={data.test_short_side}: must hold a crop of data.crop_size={data.crop_size}"
    for key in ("mean", "std"):
        if len(data[key]) != 3 or (key == "std" and min(data.std) <= 0):
            yield f"data.{key}={list(data[key])}: needs three values, for R, G and B" + " above 0" * (key == "std")
    for key in ("scale", "ratio", "jitter"):
        low_high = list(augment[key])
        if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1]:
            yield f"augment.{key}={low_high}: needs two values above 0, the lesser first"
    if augment.crop == "jitter" and min(augment.jitter) < data.crop_size:
        yield f"augment.jitter={list(augment.jitter)}: no short side may be under data.crop_size={data.crop_size}"
    decay = config.optim.layer_decay
    if not 0 < decay <= 1:
        yield f"optim.layer_decay={decay}: must be above 0 and at most 1"
    elif decay < 1 and config.weights is None and OmegaConf.get_type(config) is Train:
        yield f"optim.layer_decay={decay}: is for starting from weights; give weights=PATH, or set optim.layer_decay=1"


def _impossible_preparation(config: DictConfig) -> Iterator[str]:
    """What `mvit_video.prepare` cannot work with."""
    splits = config.splits
    if splits is not None and (not splits or not set(splits) <= {"train", "val", "test"}):
        yield f"splits={list(splits)}: must be some of train, val, test; leave it out for all that are configured"
    if not 16 <= config.reencode.short_side <= 8192:
        yield f"reencode.short_side={config.reencode.short_side}: must be from 16 to 8192 pixels; 256 or 320 is usual"
    if not 0 <= config.reencode.crf <= 51:
        yield f"reencode.crf={config.reencode.crf}: x264's range is 0 (lossless) to 51; 23 is usual"
