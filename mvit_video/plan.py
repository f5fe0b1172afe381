"""What a run will need: `python -m mvit_video.plan +experiment=k400_mvitv2_s machine=h200 nodes=8`."""

from mvit_video.cli import run_command
from mvit_video.config import Plan


def run(config: Plan) -> None:
    """Print the plan; nothing is read, trained or written."""
    from mvit_video.build.plan import print_plan

    print_plan(config)


def main() -> None:
    """Entry point of the command."""
    run_command("plan", run)


if __name__ == "__main__":
    main()
