"""Evaluate: `python -m mvit_video.evaluate +experiment=k400_mvitv2_s checkpoint=PATH`."""

from mvit_video.cli import run_command
from mvit_video.config import Evaluate


def run(config: Evaluate) -> None:
    """Evaluate as configured, here or where the launcher says."""
    from mvit_video.build.evaluation import evaluate
    from mvit_video.cluster.launch import launch

    launch(evaluate, config)


def main() -> None:
    """Entry point of the command."""
    run_command("evaluate", run)


if __name__ == "__main__":
    main()
