"""Train: `python -m mvit_video.train +experiment=k400_mvitv2_s`, or `mvit_video.train("k400_mvitv2_s")` in Python."""

from mvit_video import api
from mvit_video.cli import run_command
from mvit_video.config import Train


def run(config: Train) -> None:
    """Train as configured, here or where the launcher says."""
    from mvit_video.build.stored_options import fetch_weights
    from mvit_video.build.training import train
    from mvit_video.cluster.launch import launch

    if config.weights is not None:
        fetch_weights(config.weights)
    launch(train, config)


def main() -> None:
    """Entry point of the command."""
    run_command("config", run, interrupted="the same command goes on from the last checkpoint")


api.make_callable(__name__, api.train)

if __name__ == "__main__":
    main()
