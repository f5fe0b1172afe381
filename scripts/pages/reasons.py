"""Which commands of the pages are not run on the stage, and why: the first pattern that matches `PAGE: COMMAND`."""

import re

from pages.commands import Command

NOT_RUN: dict[str, str] = {
    r"^docs/architecture\.md: ": "the first lines of docstrings: a command without the data it needs",
    r": pip install ": "changes the environment, and needs a network",
    r": bash scripts/quickstart\.sh": "makes an environment; tests/scripts/test_quickstart.py runs its parts",
    r": bash scripts/test\.sh": "runs all tests, this one too",
    r"launcher=slurm": "needs a SLURM; tests/cluster/slurm submits, requeues and ends such jobs on one",
    r": python -m mvit_video\.predict /dev/video\d": "needs a camera; tests/commands/test_predict_live.py reads pipes",
    r": (NULL_GPU_NAME=.* )?python scripts/bench_gpu\.py": "needs a GPU; tests/scripts/test_bench_gpu.py rehearses it",
    r"gpu\.compiled_bytes": "compiles for minutes; tests/scripts/test_compiled_bytes.py compiles a small function",
    r": python scripts/quickstart\.py": "takes minutes; tests/scripts/test_quickstart.py runs its parts",
    r"--device cuda": "needs a GPU",
    r": python scripts/bench_detection\.py --(markdown|evaluator)": "takes minutes, also with a small model",
    r": python scripts/bench_(predict|explain)\.py": "needs the trained model of the quickstart",
    r"data\.source\.train=\.\.\.": "leaves out what it needs",
    r"^docs/extending\.md: python: ": "a piece of a file of examples/, which tests run",
    r"^docs/python\.md: python: (run = train|val_set =|loss =)": "a piece of a file of examples/, which tests run",
}
NOT_ON_THE_NULL_GPU: dict[str, str] = {
    r"audit/groups\.csv": "needs the table of an audit, which finds groups where features mean something",
    r"explain=true": "draws what was computed, and nothing is",
}
"""Besides, where GPUs that compute nothing are played."""
NOT_ON_ONE_NULL_GPU: dict[str, str] = {r"launcher\.processes=2": "two ranks need two GPUs: --null-gpus 2"}


def reason(command: Command, *, null_gpus: int = 0) -> str | None:
    """Why a command is not run, where so many GPUs that compute nothing are played; None if it is."""
    text = f"{command.page}: {command.title}"
    known = NOT_RUN | (NOT_ON_THE_NULL_GPU if null_gpus else {}) | (NOT_ON_ONE_NULL_GPU if null_gpus == 1 else {})
    return next((why for pattern, why in known.items() if re.search(pattern, text)), None)
