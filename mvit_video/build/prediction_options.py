"""The options of a prediction: those of the run or weights that it names, and what the command line changes."""

import difflib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mvit_video.build.stored_options import (
    find_run,
    given_values,
    holds_weights,
    stored_groups,
    take_stored_options,
)
from mvit_video.config import Train
from mvit_video.config.compose import quoted
from mvit_video.models.weights.zoo import is_published, zoo

logger = logging.getLogger(__name__)


def take_weights_options(config: DictConfig, given: Iterable[str]) -> None:
    """Replace the options by those of the run or weights that `config` names; what is given stays.

    Args:
        config: composed options of a prediction; changed in place. Its `checkpoint` is set to the file of weights,
            which is fetched if it is published and not here yet.
        given: keys and groups on the command line, such as "data.num_frames".

    Raises:
        ValueError: no weights are named, or there are none of that name.
        CheckpointError: they cannot be fetched.
    """
    weights, keys = config.weights, [key for key in given if key != "weights"]
    find_weights(config)
    take_stored_options(config, keys)
    config.weights = weights
    if weights in zoo():
        _take_published_preprocessing(config, keys)
    if OmegaConf.is_missing(config, "name"):  # weights of others
        config.name = Path(config.checkpoint).stem or "weights"


def find_weights(config: DictConfig) -> None:
    """Turn `weights` into `run` or `checkpoint`, in place.

    Raises:
        ValueError: none are given, in two ways, or there is nothing of that name.
    """
    weights = config.weights
    if weights is None:
        if config.run is None and config.checkpoint is None:
            raise ValueError(
                "nothing to predict with is given: give weights=NAME of a run (python -m mvit_video.runs lists them) "
                "or of published weights (python -m mvit_video.weights lists them), or weights=PATH of a run or a file"
            )
        return
    if config.run is not None or config.checkpoint is not None:
        raise ValueError(
            f"weights={weights} with run={config.run} and checkpoint={config.checkpoint}: weights=NAME says both; "
            "leave the others out"
        )
    if is_published(weights):
        run = Path(config.output_dir) / weights
        if run.is_dir():
            logger.warning("weights=%s: the published weights are taken; weights=%s takes your run", weights, run)
        config.checkpoint = weights
    elif holds_weights(Path(weights)):  # a folder of files that has the name of a run does not
        config.checkpoint = weights
    else:
        try:
            config.run = str(find_run(weights, output_dir=config.output_dir, option="weights"))
        except ValueError as error:
            near = difflib.get_close_matches(weights.lower(), list(zoo()), n=1)
            published = f". The nearest published weights are {near[0]}" if near else ""
            raise ValueError(f"{error}{published}") from None


def _take_published_preprocessing(config: DictConfig, given: Sequence[str]) -> None:
    """What the publishers did to clips before their model saw them, where the experiment does something else."""
    changed = []
    for key, value in zoo()[config.weights].preprocessing.items():
        if key in config.data and f"data.{key}" not in given and config.data[key] != value:
            changed.append(f"data.{key}: {config.data[key]} -> {value}")
            config.data[key] = value
    if changed:
        logger.info("%s was evaluated by its publishers with other values: %s", config.weights, "; ".join(changed))


def weights_groups(words: Sequence[str]) -> list[str]:
    """What the weights of a command line imply: the experiment of published ones; groups of images or of videos."""
    given = given_values(words)
    name = given.get("weights")
    if name is not None and name in zoo():
        experiment = zoo()[name].experiment
        return [] if experiment is None or "experiment" in given else [f"+experiment={experiment}"]
    if name is None:
        return stored_groups(words)
    # It may be that of a run or of a file; where it leads nowhere, that is said when the options are taken.
    is_run = (Path(given.get("output_dir", Train.output_dir)) / name / "config.yaml").is_file()
    return stored_groups([*words, f"{'run' if is_run else 'checkpoint'}={quoted(name)}"])
