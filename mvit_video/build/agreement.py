"""Ranks that do one thing together: refused where they were not started alike, since nothing else would tell."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from mvit_video.config import Train
from mvit_video.config.summary import changes
from mvit_video.distributed.process_group import World, gather_to_all

_OF_A_MACHINE = (
    "launcher",
    "data.source",  # where the files are; which they are is compared when they are read
    "data.prefetch",
    "trainer.num_workers",
    "trainer.threads",
)
"""Options that each machine may have as it needs them."""
_OF_THE_MAIN_RANK = ("output_dir", "output", "run", "weights", "checkpoint", "sources")
"""Paths, of which those of rank 0 count, or whose contents do."""


def check_same_options(config: Train, world: World) -> None:
    """Refuse ranks that have other options, or another command, than rank 0; see `check_same`."""
    if world.size == 1:
        return
    values: Any = OmegaConf.to_container(OmegaConf.structured(config))
    for name in (*_OF_A_MACHINE, *_OF_THE_MAIN_RANK):
        *groups, last = name.split(".")
        found = values
        for group in groups:
            found = found[group]
        found.pop(last, None)
    check_same({"command": type(config).__name__.lower(), **values}, world)


def check_same(values: Mapping[str, Any], world: World) -> None:
    """Refuse ranks that have other values than rank 0.

    Args:
        values: by name, what may be in a configuration; nested or not.
        world: this process among the others; every rank must call this.

    Raises:
        ValueError: on every rank: which rank, what it has, and the way out.
    """
    if world.size == 1:
        return
    main, *others = gather_to_all(dict(values), world)
    for rank, theirs in enumerate(others, start=1):
        differences = changes(main, theirs)
        if differences:
            lines = "\n".join(
                f"  {name}: {here} on rank 0, {there} on rank {rank}" for name, here, there in differences
            )
            raise ValueError(
                f"the ranks do not do the same, and would mix what they compute:\n{lines}\n"
                "Give the same command, on the same data, on every machine. A program of your own under torchrun does "
                "the same on every rank, and ends when a rank fails where others do not"
            )
