"""What a model says of videos and images: `python -m mvit_video.predict SOURCE... weights=NAME`."""

import functools
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from omegaconf import DictConfig

from mvit_video.cli import run_command
from mvit_video.config import Predict, SlurmLauncher

# Hydra's, whose value may be a word of its own.
_FLAGS_WITH_VALUE = {
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--cfg",
    "-c",
    "--package",
    "-p",
}


def run(config: Predict) -> None:
    """Predict as configured, here or where the launcher says."""
    from mvit_video.build.prediction_job import predict
    from mvit_video.cluster.launch import launch

    if config.parts is not None and config.part is None and isinstance(config.launcher, SlurmLauncher):
        submit_parts(config)
    else:
        launch(predict, config)


def submit_parts(config: Predict) -> list[str]:
    """Submit the jobs that share the files out as one array of SLURM; their ids.

    Raises:
        ValueError: there is nothing to predict, or no folder for all of them.
        RuntimeError: see cluster.submit.submit.
    """
    from mvit_video.build.prediction_job import predict, split_into_parts
    from mvit_video.cluster.submit import submit_array

    parts = split_into_parts(config)
    folder = Path(str(config.output)) / "slurm"
    return submit_array([(predict, part) for part in parts], folder, name=f"predict-{config.name}")


def groups(words: Sequence[str]) -> Sequence[str]:
    """The kind of data that the weights were trained on: images have other options than videos."""
    from mvit_video.build.prediction_options import weights_groups

    return weights_groups(words)


def adapt(config: DictConfig, given: Sequence[str], *, sources: Sequence[str]) -> None:
    """Take the sources from the command line, and the options from the run or checkpoint."""
    from mvit_video.build.prediction_options import take_weights_options

    # Text, also where a name looks like a reference to another option.
    config.sources = [*config.sources, *(source.replace("${", "\\${") for source in sources)]
    take_weights_options(config, given)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that are options, and those that are sources: all that no `key=` begins, and files that exist."""
    options: list[str] = []
    sources: list[str] = []
    for before, word in pairwise(["", *words]):
        url = "://" in word.partition("=")[0]
        named = "=" in word and not url and not os.path.exists(word)
        flag = word.startswith("-") and word != "-"  # standard input
        is_option = named or flag or before in _FLAGS_WITH_VALUE
        (options if is_option else sources).append(word)
    return options, sources


def main() -> None:
    """Entry point of the command."""
    options, sources = split_words(sys.argv[1:])
    sys.argv[1:] = options
    run_command(
        "predict",
        run,
        groups=groups,
        adapt=functools.partial(adapt, sources=sources),
        interrupted="the same command goes on",
    )


if __name__ == "__main__":
    main()
