"""The options of a prediction: those of the run or checkpoint that it names, and what the command line changes."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mvit_video.build.stored_options import find_run, stored_groups, take_stored_options


def take_weights_options(config: DictConfig, given: Iterable[str]) -> None:
    """Replace the options by those of the run or file of weights that `config` names; what is given stays.

    Args:
        config: composed options of a prediction; changed in place. Its `checkpoint` is set to the file of weights.
        given: keys and groups on the command line, such as "data.num_frames".

    Raises:
        ValueError: no weights are named, or there are none of that name.
    """
    weights = config.weights
    keys = [key for key in given if key != "weights"]
    if weights is not None:
        if config.run is not None or config.checkpoint is not None:
            raise ValueError(
                f"weights={weights} with run={config.run} and checkpoint={config.checkpoint}: weights=NAME says both; "
                "leave the others out"
            )
        if Path(weights).exists():
            config.checkpoint = weights
        else:
            config.run = str(find_run(weights, output_dir=config.output_dir, option="weights"))
    elif config.run is None and config.checkpoint is None:
        raise ValueError(
            "nothing to predict with is given: give weights=NAME of a run (python -m mvit_video.runs lists them), or "
            "weights=PATH of a run or of a file of weights"
        )
    take_stored_options(config, keys)
    config.weights = weights
    if OmegaConf.is_missing(config, "name"):  # weights of others
        config.name = Path(config.checkpoint).stem or "weights"


def weights_groups(words: Sequence[str]) -> list[str]:
    """Choices of groups that fit the weights of a command line: images have other options than videos."""
    named = [word.partition("=")[2] for word in words if word.startswith("weights=")]
    # A name may be that of a run or of a file; where it leads nowhere, that is said when the options are taken.
    return stored_groups([*words, *(f"{key}={name}" for name in named for key in ("run", "checkpoint"))])
