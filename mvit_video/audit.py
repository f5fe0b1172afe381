"""How far to trust a run's number: `python -m mvit_video.audit run=NAME`."""

from collections.abc import Sequence

from omegaconf import DictConfig

from mvit_video.cli import run_command
from mvit_video.config import Audit


def run(config: Audit) -> None:
    """Audit as configured, here or where the launcher says."""
    from mvit_video.build.audit import audit
    from mvit_video.cluster.launch import launch

    launch(audit, config)


def groups(words: Sequence[str]) -> Sequence[str]:
    """The kind of data that the run was trained on, so that its options are read as what they are."""
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
    run_command("audit", run, groups=groups, adapt=adapt)


if __name__ == "__main__":
    main()
