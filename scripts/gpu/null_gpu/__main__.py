"""Run a command on the null GPU: `python -m gpu.null_gpu COMMAND...`."""

import os
import sys

from gpu.null_gpu.builder import NullGPUError, environment


def main(command: list[str]) -> None:
    """Become the command.

    Raises:
        SystemExit: there is none, or no null GPU can be had here.
    """
    if not command:
        sys.exit("usage: python -m gpu.null_gpu COMMAND...")
    try:
        surroundings = environment()
    except NullGPUError as error:
        sys.exit(str(error))
    os.execvpe(command[0], command, surroundings)


if __name__ == "__main__":
    main(sys.argv[1:])
