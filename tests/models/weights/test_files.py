"""Files of weights: containers, prefixes, averages; and that nothing besides tensors is ever read from one."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mvit_video.models.weights.files import CheckpointError, read_weights_file

WEIGHTS = {"norm.weight": torch.arange(3.0), "head.bias": torch.ones(2)}


def tensors(path: Path, **options: bool) -> dict[str, torch.Tensor]:
    return read_weights_file(path, **options).tensors


def training_checkpoint(path: Path, **changes: object) -> Path:
    torch.save({"format": 1, "model": WEIGHTS, "ema": None, "config": "model: {}\n", **changes}, path)
    return path


class TestContainers:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda weights: weights,
            lambda weights: {"model_state": weights, "epoch": 199, "cfg": "MVIT: {}", "optimizer_state": {"state": {}}},
            lambda weights: {"state_dict": weights, "meta": {"version": "1"}},
            lambda weights: {"model": weights},
            lambda weights: {f"module.{name}": value for name, value in weights.items()},
            lambda weights: {f"module._orig_mod.{name}": value for name, value in weights.items()},
            lambda weights: {name.replace(".", "._orig_mod."): value for name, value in weights.items()},
        ],
    )
    def test_containers_and_prefixes(self, tmp_path, wrap):
        torch.save(wrap(WEIGHTS), tmp_path / "weights.pyth")
        read = tensors(tmp_path / "weights.pyth")
        assert read.keys() == WEIGHTS.keys()
        assert all(torch.equal(read[name], value) for name, value in WEIGHTS.items())

    def test_legacy_format(self, tmp_path):
        torch.save({"model_state": WEIGHTS}, tmp_path / "old.pyth", _use_new_zipfile_serialization=False)
        assert tensors(tmp_path / "old.pyth").keys() == WEIGHTS.keys()

    def test_numpy_numbers_beside_the_weights(self, tmp_path):
        torch.save(
            {"state_dict": WEIGHTS, "meta": {"best": np.float64(81.0), "epoch": np.int64(3)}}, tmp_path / "a.pth"
        )
        assert tensors(tmp_path / "a.pth").keys() == WEIGHTS.keys()

    def test_safetensors(self, tmp_path):
        save_file(WEIGHTS, tmp_path / "weights.safetensors")
        assert torch.equal(tensors(tmp_path / "weights.safetensors")["norm.weight"], torch.arange(3.0))
        content = (tmp_path / "weights.safetensors").read_bytes()
        (tmp_path / "cut.safetensors").write_bytes(content[:-8])
        with pytest.raises(CheckpointError, match=r"cut\.safetensors is no complete safetensors file"):
            tensors(tmp_path / "cut.safetensors")

    def test_stored_configurations(self, tmp_path):
        torch.save({"model_state": WEIGHTS, "cfg": "MVIT: {}"}, tmp_path / "a.pyth")
        stored = read_weights_file(tmp_path / "a.pyth").config
        assert stored is not None and (stored.kind, stored.text) == ("pyslowfast", "MVIT: {}")
        ours = read_weights_file(training_checkpoint(tmp_path / "b.pt")).config
        assert ours is not None and (ours.kind, ours.text) == ("mvit_video", "model: {}\n")
        torch.save(WEIGHTS, tmp_path / "c.pth")
        assert read_weights_file(tmp_path / "c.pth").config is None


class TestAverages:
    def test_ours_prefers_the_average(self, tmp_path):
        model = nn.BatchNorm1d(2)
        ema = AveragedModel(model)
        ema.module.weight.data.fill_(7.0)
        path = training_checkpoint(tmp_path / "a.pt", model=model.state_dict(), ema=ema.state_dict())
        assert tensors(path)["weight"].tolist() == [7.0, 7.0]
        assert tensors(path).keys() == model.state_dict().keys()  # without the counter of the average
        assert tensors(path, use_ema=False)["weight"].tolist() == [1.0, 1.0]

    def test_an_average_of_the_parameters_alone(self, tmp_path):
        weights = nn.BatchNorm1d(2).state_dict()
        path = training_checkpoint(tmp_path / "a.pt", model=weights, ema={"weight": torch.full((2,), 7.0)})
        assert tensors(path)["weight"].tolist() == [7.0, 7.0]
        assert tensors(path)["running_var"].tolist() == [1.0, 1.0]

    def test_without_an_average(self, tmp_path):
        assert tensors(training_checkpoint(tmp_path / "a.pt"))["norm.weight"].tolist() == [0.0, 1.0, 2.0]


class TestDamage:
    def test_missing(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"weights\.pt does not exist"):
            tensors(tmp_path / "weights.pt")
        with pytest.raises(CheckpointError, match="is a folder"):
            tensors(tmp_path)

    def test_other_bytes_in_the_middle(self, tmp_path):
        """A copy with a hole has the length of the whole; PyTorch reads zeros."""
        path, torch_file = tmp_path / "weights.pt", tmp_path / "whole.pt"
        torch.save({"model": {"weight": torch.ones(5000)}}, torch_file)
        content = bytearray(torch_file.read_bytes())
        middle = content.index(torch.ones(100).numpy().tobytes()) + 1000
        content[middle : middle + 4000] = bytes(4000)
        path.write_bytes(content)
        assert torch.load(path, weights_only=True)["model"]["weight"].sum() == 4000
        with pytest.raises(CheckpointError, match=r"weights\.pt is damaged \(Bad CRC-32 for .*fetch or write it again"):
            read_weights_file(path)

    def test_archives_without_checksums_are_read(self, tmp_path):
        torch.serialization.set_crc32_options(False)
        try:
            torch.save({"model": {"weight": torch.ones(3)}}, tmp_path / "weights.pt")
        finally:
            torch.serialization.set_crc32_options(True)
        assert read_weights_file(tmp_path / "weights.pt").tensors["weight"].tolist() == [1, 1, 1]

    @pytest.mark.parametrize("legacy", [True, False])
    @pytest.mark.parametrize("keep", [0, 10, 200, -50])
    def test_truncated(self, tmp_path, keep, legacy):
        path = tmp_path / "weights.pt"
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=not legacy)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(CheckpointError, match=r"weights\.pt is truncated or no PyTorch file"):
            tensors(path)

    @pytest.mark.parametrize("name", ["page.pt", "page.pkl"])
    def test_neither_torch_nor_pickle(self, tmp_path, name):
        (tmp_path / name).write_text("<html>404 not found</html>")
        with pytest.raises(CheckpointError, match="truncated or no PyTorch file"):
            tensors(tmp_path / name)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "holds a list: expected a state dict"),
            ({"epoch": 3, "cfg": "x"}, r"no weights that are known here \(top-level keys: epoch, cfg\)"),
            ({"model_state": {}}, "no weights that are known here"),
            ({"a.w": torch.ones(1), "module.a.w": torch.ones(1)}, "two tensors are called 'a.w'"),
        ],
    )
    def test_none_of_these(self, tmp_path, content, message):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match=message):
            tensors(tmp_path / "other.pt")


class TestPickledArrays:
    """The model zoo of detectron2: a plain pickle of NumPy arrays."""

    @pytest.mark.parametrize("protocol", [2, 4, 5])
    def test_arrays(self, tmp_path, protocol):
        arrays = {
            "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
            "columns": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
            "number": np.array(7, dtype=np.int64),
            "half": np.ones((2, 1, 2), dtype=np.float16),
            "none": np.zeros((0, 4), dtype=np.float32),
        }
        content = {"model": OrderedDict(arrays), "__author__": "someone", "best": np.float32(3.0)}
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        read = tensors(tmp_path / "a.pkl")
        assert read.keys() == arrays.keys()
        for name, array in arrays.items():
            torch.testing.assert_close(read[name], torch.tensor(array), rtol=0, atol=0)
        assert read["columns"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]

    def test_tensors(self, tmp_path):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {**WEIGHTS, "p": nn.Parameter(torch.ones(2, 2))}}))
        read = tensors(tmp_path / "a.pkl")
        assert torch.equal(read["norm.weight"], torch.arange(3.0))
        assert read["p"].tolist() == [[1.0, 1.0], [1.0, 1.0]]

    def test_a_torch_file_with_that_suffix(self, tmp_path):
        torch.save(WEIGHTS, tmp_path / "a.pkl")
        assert tensors(tmp_path / "a.pkl").keys() == WEIGHTS.keys()

    @pytest.mark.parametrize("array", [np.array([1, "a"], dtype=object), np.zeros(2, dtype=">f4"), np.array(["text"])])
    def test_other_arrays_are_refused(self, tmp_path, array):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"a": array}}))
        with pytest.raises(CheckpointError, match=r"a\.pkl is truncated or no PyTorch file"):
            tensors(tmp_path / "a.pkl")

    def test_an_array_with_too_few_bytes(self, tmp_path):
        whole = pickle.dumps({"model": {"a": np.arange(4, dtype=np.float32)}}, protocol=4)
        state = whole.replace(b"K\x04\x85", b"K\x09\x85")  # the shape (4,) becomes (9,)
        assert state != whole
        (tmp_path / "a.pkl").write_bytes(state)
        with pytest.raises(CheckpointError, match="UnpicklingError"):
            tensors(tmp_path / "a.pkl")


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.victim}",)


class Sneaky(Hostile):
    """The same by a function that only evaluates text."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"__import__('os').system('touch {self.victim}')",)


class TestHostileFiles:
    @pytest.mark.parametrize("kind", [Hostile, Sneaky])
    @pytest.mark.parametrize("name", ["weights.pkl", "weights.pickle", "weights.pth", "weights.pt"])
    def test_a_plain_pickle(self, tmp_path, name, kind):
        victim = tmp_path / "ran"
        content = pickle.dumps({"extra": kind(victim), "model": WEIGHTS}, protocol=2)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=r"besides tensors \((posix\.system|(__builtin__\.)?eval)\)"):
            tensors(tmp_path / name)
        assert not victim.exists()
        pickle.loads(content)  # the file does what it is meant to
        assert victim.exists()

    @pytest.mark.parametrize("legacy", [True, False])
    @pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
    def test_a_torch_file(self, tmp_path, name, legacy):
        victim = tmp_path / "ran"
        content = {"model_state": WEIGHTS, "cfg": Hostile(victim)}
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match=r"besides tensors \(posix\.system\)"):
            tensors(tmp_path / name)
        assert not victim.exists()

    def test_a_storage_inside_a_pickle(self, tmp_path):
        victim = tmp_path / "ran"

        class Storage:
            def __reduce__(self) -> tuple[object, tuple[bytes]]:
                return torch.storage._load_from_bytes, (pickle.dumps(Hostile(victim), protocol=2),)

        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": WEIGHTS, "extra": Storage()}))
        with pytest.raises(CheckpointError, match=r"a\.pkl holds Python objects besides tensors"):
            tensors(tmp_path / "a.pkl")
        assert not victim.exists()

    def test_whole_modules(self, tmp_path):
        torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
        with pytest.raises(
            CheckpointError, match=r"besides tensors \(torch\.nn\.modules\.linear\.Linear\).*state_dict\(\)"
        ):
            tensors(tmp_path / "module.pt")
