"""From the options of a preview to its sheets: what `python -m mvit_video.preview` does."""

import dataclasses
import logging
from pathlib import Path

import torch
from omegaconf import OmegaConf

from mvit_video.build.batch_size import resolve_without_ranks
from mvit_video.build.common import build_source, build_task_builder
from mvit_video.config import Preview
from mvit_video.distributed.process_group import World
from mvit_video.engine.preview import Look, write_preview

logger = logging.getLogger(__name__)


def preview(config: Preview) -> list[Path]:
    """Write the sheets, in this process, without a model and without a GPU; the files written, the index last.

    Raises:
        ValueError: a split is not configured, or its files are not as they should be.
        RuntimeError: a training file and all its replacements are unreadable.
    """
    # Reading in this process starts at once; the samples are the same with any number of workers.
    here = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, num_workers=0))
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    source = build_source(config.data, World(rank=0, size=1, device=torch.device("cpu")))
    builder = build_task_builder(config)
    resolve_without_ranks(here, builder, processes=config.processes)
    sections = builder.preview(here, source)
    look = Look(frames=config.frames, scale=config.scale, animate=config.animate)
    folder = Path(config.out) if config.out else config.run_dir / "preview"
    options = OmegaConf.to_yaml(OmegaConf.structured(config))
    written = write_preview(folder, sections, title=config.name, options=options, look=look)
    for section in sections:
        for path, reason in section.failures:
            logger.warning("unreadable %s: %s: %s", section.item, path, reason)
    logger.info("written: %d pictures and %s, the page that explains them", len(written) - 1, written[-1])
    return written
