"""What is smaller on the stage than in the package, so that a recipe for 128 GPUs takes seconds on two cores.

Only processes of the stage see it (site/sitecustomize.py); the package knows nothing of it. `plan`, which computes what
a training needs and trains nothing, runs as it is.

- Models: a preset of more than six blocks has four, one in each stage, of 8 channels a head. What a published file has
  besides (class token, tables, widening, heads, classes, names of the tensors) stays.
- Detectors: fewer channels, anchors and proposals, and images of 96 x 128 pixels.
- Options above LIMITS are lowered to them: crops, batches, epochs, loader processes, sizes of embedded sets. A process
  has one thread where no number is given: on a busy machine threads wait for each other.
- Streams: addresses of STREAMS are files of the stage.
"""

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

LIMITS: dict[str, float] = {
    "data.crop_size": 64,
    "data.test_short_side": 72,
    "augment.decode_short_side": 72,
    "schedule.epochs": 2,
    "schedule.warmup_epochs": 0.5,
    "trainer.global_batch": 4,
    "trainer.batch_size": 2,
    "trainer.eval_batch_size": 4,
    "trainer.num_workers": 1,
    "trainer.eval_every": 1,
    "trainer.log_every": 2,
    "data.source.train_videos": 32,
    "data.source.test_videos": 16,
    "data.source.train_images": 32,
    "data.source.test_images": 16,
}
JITTER = [72, 80]  # pixels of augment.jitter, where that is larger
DETECTION_CROP = 128
STREAMS = {"rtsp://camera.example/stream": "growing.ts", "https://example.org/growing.ts": "growing.ts"}
LARGEST_DEPTH = 6


def small_config(config: Any) -> Any:
    """An MViTConfig of a published size with four blocks; a smaller one as it is."""
    if config.depth <= LARGEST_DEPTH:
        return config
    return dataclasses.replace(config, depth=4, stage_starts=(1, 2, 3), embed_dim=8 * config.num_heads)


def small_detector(config: Any) -> Any:
    """A DetectorConfig of a published size with fewer channels and proposals; its backbone is small already."""
    if config.channels < 256:
        return config
    return dataclasses.replace(
        config, channels=32, hidden=64, anchor_sides=(16.0, 28.0, 44.0, 72.0, 112.0), canonical_side=56,
        proposals_per_level_train=100, proposals_per_level_test=50, proposals=50, anchors_sampled=64, rois_sampled=32,
        short_side=96, long_side=128, detections_per_image=10,
    )  # fmt: skip


def lower_options(config: Any) -> Any:
    """A copy of composed options with what is above the limits lowered."""
    from omegaconf import OmegaConf

    config = config.copy()
    limits = dict(LIMITS)
    if _number(config, "data.crop_size") is not None and OmegaConf.select(config, "data.num_frames") is None:
        target = OmegaConf.select(config, "model._target_", throw_on_missing=False) or ""
        if target.endswith("create_detector"):
            limits["data.crop_size"] = DETECTION_CROP
    for key, limit in limits.items():
        value = _number(config, key)
        if value is not None and value > limit:
            OmegaConf.update(config, key, limit)
    if OmegaConf.select(config, "trainer.threads") is None and OmegaConf.select(config, "trainer") is not None:
        OmegaConf.update(config, "trainer.threads", 1)
    jitter = OmegaConf.select(config, "augment.jitter")
    if jitter is not None and max(jitter) > JITTER[1]:
        OmegaConf.update(config, "augment.jitter", JITTER)
    return config


def _number(config: Any, key: str) -> float | None:
    from omegaconf import OmegaConf

    value = OmegaConf.select(config, key, throw_on_missing=False)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _presets(module: ModuleType) -> None:
    for name, preset in module.PRESETS.items():
        module.PRESETS[name] = functools.partial(lambda published: small_config(published()), preset)


def _detectors(module: ModuleType) -> None:
    for name, preset in module.DETECTORS.items():
        module.DETECTORS[name] = functools.partial(lambda published: small_detector(published()), preset)


def _options(module: ModuleType) -> None:
    to_object = module.to_object
    module.to_object = functools.wraps(to_object)(lambda config: to_object(lower_options(config)))


def _streams(module: ModuleType) -> None:
    live_source = module.live_source

    def on_the_stage(source: str) -> Any:
        found = live_source(source)
        return dataclasses.replace(found, target=STREAMS.get(found.target, found.target), options=())

    module.live_source = on_the_stage


CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "mvit_video.models.mvit.presets": _presets,
    "mvit_video.models.detection.config": _detectors,
    "mvit_video.config.check": _options,
    "mvit_video.prediction.live_source": _streams,
}
