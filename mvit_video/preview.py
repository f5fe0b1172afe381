"""Contact sheets of what the model sees: `python -m mvit_video.preview +experiment=k400_mvitv2_s`."""

from mvit_video.cli import run_command
from mvit_video.config import Preview


def run(config: Preview) -> None:
    """Write the sheets, in this process whatever the launcher."""
    from mvit_video.build.preview import preview

    preview(config)


def main() -> None:
    """Entry point of the command."""
    run_command("preview", run, shown=("name", "output_dir", "seed", "data", "augment"))


if __name__ == "__main__":
    main()
