"""What a model says of videos and images: `python -m mvit_video.predict SOURCE... weights=NAME`."""

import functools
import logging
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from omegaconf import DictConfig

from mvit_video.cli import run_command
from mvit_video.config import LocalLauncher, Predict, SlurmLauncher
from mvit_video.data.datasets.extensions import IMAGES, VIDEOS

logger = logging.getLogger(__name__)

# Published weights where none are named, and what they know.
_DEFAULTS = {
    "video": ("k400_mvitv2_s", "which know the 400 actions of Kinetics-400"),
    "image": ("in1k_mvitv2_s", "which know the 1,000 classes of ImageNet-1k"),
}
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
        return
    if isinstance(config.launcher, LocalLauncher) and config.launcher.processes is None and is_for_one_process(config):
        config.launcher.processes = 1
    launch(predict, config)


def is_for_one_process(config: Predict) -> bool:
    """Whether there is nothing to share out among GPUs: one stream, or one file.

    Raises:
        ValueError: several sources, one of which is a stream.
    """
    from mvit_video.build.live import wants_live

    files = [source for source in config.sources if VIDEOS.has(source) or IMAGES.has(source)]
    one_file = len(config.sources) == len(files) == 1 and not os.path.isdir(files[0])
    return wants_live(config.sources, live=config.live) or one_file


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


def default_weights(options: Sequence[str], sources: Sequence[str]) -> str | None:
    """The kind of published weights that are taken where the command line names none; None where it says something.

    Args:
        options: its words that are options.
        sources: its other words.
    """
    keys = {word.partition("=")[0].lstrip("+") for word in options}
    if not sources or keys & {"weights", "run", "checkpoint", "experiment", "sources"}:
        return None
    return "image" if all(source.lower().endswith(IMAGES.extensions) for source in sources) else "video"


def adapt(config: DictConfig, given: Sequence[str], *, sources: Sequence[str], default: str | None = None) -> None:
    """Take the sources from the command line, and the options from the run or checkpoint.

    Args:
        config: changed in place.
        given: the keys on the command line.
        sources: its words that are no options.
        default: the kind of weights that are taken because it names none.

    Raises:
        ValueError: there is no such source, or it is a run whose weights seem to be meant.
    """
    from mvit_video.build.prediction_options import take_weights_options
    from mvit_video.prediction.files import check_sources

    # Text, also where a name looks like a reference to another option.
    config.sources = [*config.sources, *(source.replace("${", "\\${") for source in sources)]
    check_sources(config.sources)
    if default:
        run = next((source for source in sources if Path(source, "config.yaml").is_file()), None)
        if run is not None:
            raise ValueError(f"{run}: is the directory of a run, not a file to look at; weights={run} predicts with it")
        logger.info("weights=NAME is not given: the published %s are taken, %s", *_DEFAULTS[default])
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
    default = default_weights(options, sources)
    sys.argv[1:] = [*options, *([f"weights={_DEFAULTS[default][0]}"] if default else [])]
    run_command(
        "predict",
        run,
        groups=groups,
        adapt=functools.partial(adapt, sources=sources, default=default),
        interrupted="the same command goes on",
    )


if __name__ == "__main__":
    main()
