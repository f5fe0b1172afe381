"""`python -m mvit_video.train` whose launcher forks its ranks instead of starting interpreters that import torch.

For tests/interpreters.py, whose processes have torch imported.
"""

import functools
import runpy

import torch.distributed.launcher.api as api


def fork_ranks() -> None:
    """Let torchrun's agent fork the ranks that it starts from this process."""
    api.LaunchConfig = functools.partial(api.LaunchConfig, start_method="fork")  # type: ignore[assignment,misc]


if __name__ == "__main__":
    fork_ranks()
    runpy.run_module("mvit_video.train", run_name="__main__", alter_sys=True)
