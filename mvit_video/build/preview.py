"""From the options of a preview to its sheets: what `python -m mvit_video.preview` does.

Sources, loaders, data sets and mixing come from build.py, as for a training run and an evaluation.
"""

import dataclasses
import logging
from pathlib import Path

import torch
from omegaconf import OmegaConf

from mvit_video import build
from mvit_video.config import Augment, Data, Preview
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.distributed.process_group import World
from mvit_video.engine.previewer import Look, Section, evaluation_views, training_clips, write_preview

logger = logging.getLogger(__name__)

FRAME_NUMBERS = "below each picture: the number of its frame in the file, from 0"


def preview(config: Preview) -> list[Path]:
    """Write the sheets, in this process, without a model and without a GPU; the files written, the index last.

    Raises:
        ValueError: a split is not configured, or its files are not as they should be.
        VideoDecodeError: a training video and all its replacements are unreadable.
    """
    # Reading in this process starts at once; the samples are the same with any number of workers.
    here = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, num_workers=0))
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    source = build.build_source(config.data, World(rank=0, size=1, device=torch.device("cpu")))
    look = _look(config)
    sections = []
    if config.clips:
        sections.append(_training(here, build.read_manifest(source, "train", here), look))
    if config.videos:
        manifest = build.read_manifest(source, config.split, here)  # type: ignore[arg-type]
        sections.append(_test(here, manifest, look))
    folder = Path(config.out) if config.out else config.run_dir / "preview"
    options = OmegaConf.to_yaml(OmegaConf.structured(config))
    written = write_preview(folder, sections, title=config.name, options=options, look=look)
    for path, reason in [failure for section in sections for failure in section.failures]:
        logger.warning("unreadable video: %s: %s", path, reason)
    logger.info("written: %d pictures and %s, the page that explains them", len(written) - 1, written[-1])
    return written


def _look(config: Preview) -> Look:
    data = config.data
    return Look(
        mean=data.mean,
        std=data.std,
        channel_order=data.channel_order,  # type: ignore[arg-type]
        frames=config.frames,
        scale=config.scale,
        animate=config.animate,
    )


def _training(config: Preview, manifest: Manifest, look: Look) -> Section:
    """Training clips from the builders that a training run uses."""
    logger.info("reading %d training clips from step %d on", config.clips, config.step)
    rank = World(rank=config.rank, size=config.processes, device=torch.device("cpu"))
    loader = build.build_train_loader(config, manifest, rank)
    clips, failures = training_clips(
        loader,
        prepare=build.build_prepare(config.data),
        mixing=build.build_mixing(config),
        seed=config.seed,
        step=config.step,
        count=config.clips,
        look=look,
    )
    batch = f"batch of {config.trainer.batch_size} x {config.augment.repeats} clips (videos x copies)"
    about = (
        f"videos of {manifest.source}",
        f"{clip_text(config.data)}  ·  {batch}  ·  rank {config.rank} of {config.processes}  ·  seed {config.seed}",
        augment_text(config.augment),
        FRAME_NUMBERS,
    )
    heading = f"{config.name}: training clips from step {config.step} on"
    return Section("train", heading, about, clips, failures)


def _test(config: Preview, manifest: Manifest, look: Look) -> Section:
    """Test views from the builders that an evaluation uses."""
    data = config.data
    count = min(config.videos, len(manifest))
    shown = "1 video" if count == 1 else f"{count} videos"
    logger.info("reading the test views of %s", shown)
    dataset = build.build_eval_dataset(
        config, manifest, temporal_views=data.test_temporal_views, spatial_views=data.test_spatial_views
    )
    clips, failures = evaluation_views(dataset, prepare=build.build_prepare(data), count=config.videos, look=look)
    views = f"{data.test_temporal_views} x {data.test_spatial_views} views, short side {data.test_short_side}"
    heading = f"{config.name}: test views of {shown} of the {config.split} split"
    about = (f"videos of {manifest.source}", f"{clip_text(data)}  ·  {views}", FRAME_NUMBERS)
    return Section("test", heading, about, clips, failures)


def clip_text(data: Data) -> str:
    """How clips are taken, in a few words."""
    spread = "one of each segment" if data.sampling == "segments" else f"one in {data.sampling_rate:g}"
    rate = f"{data.target_fps:g} frames/s"
    return f"{data.num_frames} frames, {spread} at {rate}  ·  {data.crop_size} x {data.crop_size} pixels"


def augment_text(augment: Augment) -> str:
    """What augmentation may do, in a few words."""
    if augment.crop == "resized":
        crop = f"crop of {100 * augment.scale[0]:g} to {100 * augment.scale[1]:g} % of the frame"
    else:
        crop = f"crop from a short side of {augment.jitter[0]} to {augment.jitter[1]}"
    mixed = augment.mix_prob > 0
    parts = [
        crop,
        f"flip {augment.flip:g}",
        augment.randaugment or "no RandAugment",
        f"erasing {augment.erase_prob:g}",
        f"mixup {augment.mixup_alpha if mixed else 0:g}, cutmix {augment.cutmix_alpha if mixed else 0:g}",
        f"smoothing {augment.smoothing:g}",
    ]
    return "  ·  ".join(parts)
