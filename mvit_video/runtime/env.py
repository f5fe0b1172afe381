"""Where a run runs: versions, hardware and git state for its record; seeds; choice of device."""

import hashlib
import importlib.metadata
import operator
import os
import platform
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mvit_video.runtime import determinism
from mvit_video.runtime.cores import usable_cores

# Distribution names on the package index of the libraries whose versions decide what a run computes.
_LIBRARIES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "av": "av",
    "numpy": "numpy",
    "hydra": "hydra-core",
}


def describe_environment() -> dict[str, object]:
    """Versions, hardware, git state and command line, as plain values ready for JSON or YAML.

    Keys: python, platform, cpu_count (cores this process may use), one version per library (None if not installed),
    cuda (version torch was built for, or None), gpus (names), git_commit and git_dirty (None outside a git checkout),
    determinism (what is in force), command. Environment variables are left out on purpose: they may hold secrets.
    """
    versions = {key: _version(distribution) for key, distribution in _LIBRARIES.items()}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    commit, dirty = git_state(Path(__file__).resolve())
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": usable_cores(),
        **versions,
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "git_commit": commit,
        "git_dirty": dirty,
        "determinism": determinism.describe(),
        "command": shlex.join(sys.orig_argv),
    }


def git_state(file: Path) -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it) of the checkout that tracks `file`; (None, None) if none does.

    A file which merely lies inside someone else's checkout, say in a virtual environment there, belongs to no commit.
    """
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None, None
    commit = _git(file.parent, "rev-parse", "HEAD")
    changes = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return None, None
    return commit, changes != ""


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices): initial weights, dropout, drop path.

    Samples and mixing do not use these: they draw from `rng_for`.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party code may draw from the global generator
    torch.manual_seed(seed)


@contextmanager
def own_state() -> Iterator[None]:
    """Give the program around the random state and the number of threads back that it had, when the block ends.

    Else a search that draws its options by `random` would draw the same ones again after every training, which begins
    with its seed.
    """
    python, array, cpu, threads = (
        random.getstate(),
        np.random.get_state(),  # noqa: NPY002 - it is the global generator's
        torch.get_rng_state(),
        torch.get_num_threads(),
    )
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)  # noqa: NPY002 - it is the global generator's
        torch.set_rng_state(cpu)
        torch.set_num_threads(threads)
        if gpus is not None:
            torch.cuda.set_rng_state_all(gpus)


def step_seed(*parts: int) -> int:
    """A seed in [0, 2**63) that depends on every one of `parts` and their order: the same on every machine and version.

    For example step_seed(seed, epoch, index). Neighbouring parts give unrelated seeds.
    """
    return int.from_bytes(_digest(parts)[:8], "little") >> 1


def rng_for(*parts: int) -> np.random.Generator:
    """A NumPy generator of its own for `parts`, e.g. rng_for(seed, epoch, index, view)."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(_digest(parts), "little")))


def cpu_has_fast_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware; without it bf16 autocast is slower than float32."""
    probe = getattr(torch.cpu, "get_capabilities", None)
    if probe is None:  # older torch
        return bool(torch.cpu._is_avx512_bf16_supported())
    capabilities = probe()
    return any(bool(capabilities.get(name)) for name in ("amx_bf16", "avx512_bf16", "sve_bf16"))


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to run on; "auto" is the GPU if torch can use one, else the CPU.

    Raises:
        ValueError: for another name, or "cuda" where torch sees no GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {name!r}: choose 'auto', 'cpu' or 'cuda'")
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if name == "auto":
        return torch.device("cpu")
    if torch.version.cuda is None and torch.version.hip is None:
        reason = f"torch {torch.__version__} was built for the CPU only: install a CUDA build of it"
    else:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        reason = (
            f"torch {torch.__version__} sees no usable GPU (CUDA_VISIBLE_DEVICES is {visible!r}): "
            "check that nvidia-smi lists one and that its driver is recent enough"
        )
    raise ValueError(f"device is 'cuda', but {reason}; or choose device=auto or device=cpu")


def _digest(parts: tuple[int, ...]) -> bytes:
    text = ",".join(str(operator.index(part)) for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command run in `folder`, None if git is missing, refuses or takes too long."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
