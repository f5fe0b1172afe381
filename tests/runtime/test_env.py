"""The run record, seeds and choice of device."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from mvit_video.runtime.env import (
    choose_device,
    cpu_has_fast_bf16,
    describe_environment,
    git_state,
    rng_for,
    seed_everything,
    step_seed,
)


@pytest.fixture
def global_generators():
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(torch_state)


def git(folder, *arguments):
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_describe_environment_is_plain_and_complete(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "mvit_video.train", "name=two words"])
    described = describe_environment()
    assert json.loads(json.dumps(described)) == described
    expected = {"python", "platform", "cpu_count", "torch", "torchvision", "av", "numpy", "hydra", "cuda", "gpus"}
    assert described.keys() == expected | {"git_commit", "git_dirty", "determinism", "command"}
    assert described["torch"] == torch.__version__.split("+")[0]
    assert described["numpy"] == np.__version__
    assert described["cpu_count"] >= 1
    assert described["command"] == "python -m mvit_video.train 'name=two words'"


def test_git_state_follows_the_checkout(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("a = 1\n")
    assert git_state(file) == (None, None)
    git(tmp_path, "init", "-q")
    assert git_state(file) == (None, None)  # untracked: a package that lies in another project's checkout
    git(tmp_path, "add", "module.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(file) == (commit, False)
    (tmp_path / "notes.txt").write_text("untracked files do not count\n")
    assert git_state(file) == (commit, False)
    file.write_text("a = 2\n")
    assert git_state(file) == (commit, True)


def test_git_state_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path / "module.py") == (None, None)


def test_seed_everything_repeats_all_generators(global_generators):
    draws = []
    for _ in range(2):
        seed_everything(2**40 + 3)
        draws.append((random.random(), np.random.random(), torch.rand(1).item()))  # noqa: NPY002
    assert draws[0] == draws[1]
    seed_everything(4)
    assert random.random() != draws[0][0]


def test_step_seed_is_the_same_for_ever():
    assert step_seed(0) == 3483676845433561097
    assert step_seed(1, 2, 3) == 1983320550805232334
    assert step_seed(np.int64(1), 2, 3) == 1983320550805232334
    assert step_seed(-1, 2**70) != step_seed(1, 2**70)


def test_step_seed_depends_on_order_and_boundaries():
    seeds = [step_seed(1, 23), step_seed(12, 3), step_seed(123), step_seed(23, 1), step_seed(1, 23, 0)]
    assert len(set(seeds)) == 5
    many = [step_seed(0, epoch, index) for epoch in range(30) for index in range(100)]
    assert len(set(many)) == 3000
    assert all(0 <= seed < 2**63 for seed in many)
    assert torch.Generator().manual_seed(max(many)).initial_seed() == max(many)


def test_step_seed_takes_whole_numbers_only():
    with pytest.raises(TypeError):
        step_seed(0.5)


def test_rng_for_is_the_same_for_ever():
    assert rng_for(1, 2, 3).integers(1000, size=3).tolist() == [242, 627, 481]
    assert rng_for(1, 2, 3).random() == rng_for(1, 2, 3).random()
    assert rng_for(1, 2, 3).random() != rng_for(1, 2, 4).random()


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"sve_bf16": True}, True),
    ],
)
def test_cpu_has_fast_bf16(monkeypatch, capabilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert cpu_has_fast_bf16() is fast


def test_choose_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


def test_choose_device_explains_a_missing_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ValueError, match=r"sees no usable GPU \(CUDA_VISIBLE_DEVICES is '3'\).*device=auto"):
        choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match=r"was built for the CPU only.*device=cpu"):
        choose_device("cuda")
    with pytest.raises(ValueError, match="device is 'gpu': choose 'auto', 'cpu' or 'cuda'"):
        choose_device("gpu")
