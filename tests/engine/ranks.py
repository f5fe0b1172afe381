"""Run under torchrun by the tests: several commands one after the other in the same processes.

`python -m torch.distributed.run ... -m tests.engine.ranks FILE`, where FILE holds a JSON list of command lines, each a
list: "train" or "evaluate", then overrides.
"""

import faulthandler
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from tests.paths import ROOT

TIMEOUT_S = 300


def run_ranks(
    folder: Path, commands: list[list[str]], *, ranks: int = 2, check: bool = True, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Start `ranks` processes that run the commands; their output."""
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "commands.json"
    listing.write_text(json.dumps(commands))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    process = subprocess.Popen(
        [*launcher, "-m", "tests.engine.ranks", str(listing)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    finally:
        stop(process)
    done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    assert done.returncode == 0 or not check, stderr
    return done


def stop(process: "subprocess.Popen[str]") -> None:
    """End torchrun, which ends its ranks."""
    if process.poll() is None:
        process.terminate()
        process.wait(60)


def _main() -> None:
    from mvit_video import build
    from mvit_video.distributed import process_group
    from mvit_video.runtime.logs import configure_logging
    from tests.conftest import evaluate_options, options

    torch.set_num_threads(1)
    configure_logging()
    faulthandler.dump_traceback_later(TIMEOUT_S, exit=True)
    with process_group.world(torch.device("cpu"), timeout_s=TIMEOUT_S) as here:
        process_group.world = lambda *_, **__: nullcontext(here)  # a process joins its group once
        for kind, *overrides in json.loads(Path(sys.argv[1]).read_text()):
            if kind == "train":
                build.train(options(*overrides))
            else:
                build.evaluate(evaluate_options(*overrides))


if __name__ == "__main__":
    _main()
