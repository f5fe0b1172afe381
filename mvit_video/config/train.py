"""Options of `python -m mvit_video.train`; the other commands add theirs to these."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from mvit_video.config.augment import Augment
from mvit_video.config.data import Data, cuts_training
from mvit_video.config.optim import Optim
from mvit_video.config.rules import option
from mvit_video.config.schedule import Schedule
from mvit_video.config.sources import missing_locations
from mvit_video.config.trainer import Trainer


@dataclass
class Train:
    """Everything a training run needs."""

    name: str = option(
        MISSING,
        neutral=True,
        help="name of the run; its folder is <output_dir>/<name>, and the same name again resumes it",
    )
    output_dir: str = option("runs", neutral=True, help="folder of all runs")
    seed: int = option(0, help="seed of everything random: first weights, order, augmentation, dropout")
    weights: str | None = option(
        None,
        help="weights to start from: a published name such as k400_mvitv2_s, a URL, a file, or the directory of a run; "
        "the class head may differ; null: random ones",
    )
    image_to_video: str | None = option(
        None,
        choices=("published", "corrected"),
        help="how an image model's weights become a video model's (see README, Weights); null: corrected where needed",
    )
    resume: str = option(
        "auto",
        choices=("auto", "force"),
        neutral=True,
        help="auto: a run goes on with the options and data it began with; force: with the present ones, on record",
    )
    task: Any = option(MISSING, help="what the model is trained for: the group `task`")
    model: Any = option(MISSING, help="the network: the group `model`")
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    trainer: Trainer = field(default_factory=Trainer)
    launcher: Any = option(MISSING, neutral=True, help="where the job runs: the group `launcher`")

    @property
    def run_dir(self) -> Path:
        """Folder of the run: `<output_dir>/<name>`."""
        return Path(self.output_dir) / self.name

    @property
    def job_dir(self) -> Path:
        """Where a cluster job leaves its notes, logs and journal: the folder of the run."""
        return self.run_dir

    @classmethod
    def splits_read(cls, options: Any) -> list[str]:
        """Splits that the command cannot do without. `options` has these fields, some of them still without a value."""
        return ["train"]

    @classmethod
    def unset(cls, options: Any) -> set[str]:
        """Options that have no value, may have none by their type, and are needed all the same."""
        data, splits = options.data, cls.splits_read(options)
        keys = missing_locations(data.source, splits, cut_training=cuts_training(data))
        return {f"data.source.{key}" for key in keys}

    @classmethod
    def unneeded(cls, options: Any) -> set[str]:
        """Options without a value that this command never looks at."""
        return set()

    def problems(self) -> Iterator[str]:
        """The rule of the name, and rules between the values of two groups."""
        if self.name in ("", ".", "..") or "/" in self.name or "\\" in self.name:
            yield (
                f"name={self.name!r}: names a folder in output_dir={self.output_dir}; it must be a plain name without "
                "slashes, such as birds. Another place is output_dir=PATH"
            )
        yield from self.augment.problems_with(self.data.crop_size)
        if self.optim.frozen == "backbone" and self.weights is None and type(self) is Train:
            yield "optim.frozen=backbone: is for starting from weights; give weights=PATH, or set optim.frozen=none"
        if self.optim.frozen == "backbone" and self.trainer.strategy == "fsdp":
            yield (
                "optim.frozen=backbone with trainer.strategy=fsdp: fsdp divides gradients and the optimizer's state, "
                "of which a frozen backbone has none; set trainer.strategy=ddp"
            )
        if self.optim.layer_decay < 1 and self.weights is None and type(self) is Train:
            yield (
                f"optim.layer_decay={self.optim.layer_decay}: is for starting from weights; give weights=PATH, "
                "or set optim.layer_decay=1"
            )
