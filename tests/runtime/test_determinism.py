"""Deterministic algorithms: switched on for a block, put back behind it, and operations without one named."""

import os
from collections.abc import Iterator

import pytest
import torch

from mvit_video.runtime.determinism import NotDeterministicError, describe, deterministic, named


@pytest.fixture(autouse=True)
def _clean_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO"):
        monkeypatch.delenv(name, raising=False)
    before = describe()
    yield
    monkeypatch.undo()
    assert {name: describe()[name] for name in before if name.islower()} == {
        name: value for name, value in before.items() if name.islower()
    }


def test_all_four_libraries_are_set_and_put_back() -> None:
    before = describe()
    with deterministic(True):
        assert describe() == {
            "deterministic_algorithms": True,
            "cudnn_deterministic": True,
            "cudnn_benchmark": False,
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "NCCL_ALGO": "Ring",
        }
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert describe() == before and torch.utils.deterministic.fill_uninitialized_memory


def test_an_error_in_the_block_puts_them_back_too() -> None:
    with pytest.raises(KeyError), deterministic(True):
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled() and "NCCL_ALGO" not in os.environ


def test_nothing_changes_unless_it_is_asked_for() -> None:
    before = describe()
    with deterministic(False):
        assert describe() == before


def test_variables_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_ALGO", "Tree")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic(True):
        assert (os.environ["NCCL_ALGO"], os.environ["CUBLAS_WORKSPACE_CONFIG"]) == ("Tree", ":16:8")
    assert os.environ["NCCL_ALGO"] == "Tree"


def test_a_workspace_that_does_not_repeat_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with (
        pytest.raises(ValueError, match=r"CUBLAS_WORKSPACE_CONFIG=:0:0 with .*repeats its sums with :4096:8 or :16:8"),
        deterministic(True),
    ):
        pass


def test_an_operation_without_a_deterministic_form_is_named() -> None:
    x, index = torch.zeros(4), torch.tensor([0, 0])
    with (
        deterministic(True),
        pytest.raises(NotDeterministicError, match=r"put_ has no deterministic form in PyTorch .*\. Do without\."),
        named("Do without."),
    ):
        x.put_(index, torch.ones(2))


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="something else"), named("Do without."):
        raise RuntimeError("something else")
