"""Evaluate: `python -m mvit_video.evaluate run=NAME`, or `mvit_video.evaluate("NAME")` in Python."""

from collections.abc import Sequence

from omegaconf import DictConfig

from mvit_video import api
from mvit_video.cli import run_command
from mvit_video.config import Evaluate


def run(config: Evaluate) -> None:
    """Evaluate as configured, here or where the launcher says."""
    from mvit_video.build.evaluation import evaluate
    from mvit_video.cluster.launch import launch

    launch(evaluate, config)


def groups(words: Sequence[str]) -> Sequence[str]:
    """The kind of data that the run or checkpoint was trained on: images have other options than videos."""
    if not any(word.startswith(("run=", "checkpoint=", "name=")) for word in words):
        return []
    from mvit_video.build.stored_options import stored_groups

    return stored_groups(words)


def adapt(config: DictConfig, given: Sequence[str]) -> None:
    """Take the options from the run or checkpoint, but for what the command line gives."""
    from mvit_video.build.stored_options import take_stored_options

    take_stored_options(config, given)


def main() -> None:
    """Entry point of the command."""
    run_command("evaluate", run, groups=groups, adapt=adapt)


api.make_callable(__name__, api.evaluate)

if __name__ == "__main__":
    main()
