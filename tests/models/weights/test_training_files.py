"""Files of other people's trainings: averages beside plain weights, objects beside tensors, wrappers, NaN."""

import argparse
import functools
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mvit_video.models import CheckpointError, MViT, from_checkpoint, load_weights
from mvit_video.models.weights.files import check_finite, read_weights_file, weights_in
from tests.models.helpers import randomised, small_config
from tests.models.peers import mmaction2_state

CONFIG = small_config()
PLAIN = {"norm.weight": torch.arange(3.0), "head.bias": torch.ones(2)}
AVERAGE = {name: tensor + 10 for name, tensor in PLAIN.items()}


@functools.cache
def _state(seed: int) -> dict[str, torch.Tensor]:
    return dict(randomised(CONFIG, seed).float().state_dict())


def state_of(seed: int = 0) -> dict[str, torch.Tensor]:
    return dict(_state(seed))


def saved(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.fixture
def made_up():
    """Classes of a module that the reader of a file does not have: gone when the file is read."""
    module = types.ModuleType("made_up.training")

    class History:
        """Holds numbers and its own methods, as MMEngine's HistoryBuffer does."""

        def __init__(self) -> None:
            self.log = np.ones((3, 2))
            self.methods = {"min": History.min}

        def min(self) -> float:
            return 0.0

    class Options(dict):
        """A dictionary that can do more."""

    class Callbacks(list):
        """A list that can do more."""

    for kind in (History, Options, Callbacks):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    History.min.__module__, History.min.__qualname__ = module.__name__, "History.min"
    sys.modules["made_up"], sys.modules[module.__name__] = types.ModuleType("made_up"), module
    yield module
    sys.modules.pop("made_up", None)
    sys.modules.pop(module.__name__, None)


def forget(module: types.ModuleType) -> None:
    del sys.modules[module.__name__], sys.modules["made_up"]


class TestAverages:
    @pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
    @pytest.mark.parametrize("plain", ["state_dict", "model"])
    def test_beside_plain_weights(self, tmp_path, key, plain):
        path = saved(tmp_path / "a.pth", {plain: PLAIN, key: AVERAGE})
        file = read_weights_file(path)
        assert file.averaged and torch.equal(file.tensors["head.bias"], AVERAGE["head.bias"])
        assert file.notes == [f"averaged weights ({key}), not the plain ones ({plain}) beside them"]
        file = read_weights_file(path, use_ema=False)
        assert not file.averaged and torch.equal(file.tensors["head.bias"], PLAIN["head.bias"])
        assert file.notes == [f"plain weights ({plain}), not the averaged ones ({key}) beside them"]

    @pytest.mark.parametrize("use_ema", [True, False])
    @pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
    def test_alone(self, key, use_ema):
        file = weights_in({key: AVERAGE, "epoch": 3}, use_ema=use_ema)
        assert file.averaged and file.tensors.keys() == AVERAGE.keys()
        assert file.notes == [f"averaged weights ({key}), there are no others"]

    def test_of_torch(self):
        """torchvision's training script: the names of AveragedModel, with its counter."""
        model = nn.Linear(2, 2)
        file = weights_in({"model_ema": AveragedModel(model).state_dict()})
        assert file.tensors.keys() == model.state_dict().keys()

    def test_mmengine_exchanges_the_two(self):
        """Its EMAHook saves the averaged weights as state_dict."""
        other = {"steps": torch.tensor(5), **{f"module.{name}": tensor for name, tensor in PLAIN.items()}}
        content = {"state_dict": AVERAGE, "ema_state_dict": other}
        assert torch.equal(weights_in(content).tensors["head.bias"], AVERAGE["head.bias"])
        plain = weights_in(content, use_ema=False)
        assert torch.equal(plain.tensors["head.bias"], PLAIN["head.bias"])
        assert plain.tensors.keys() == PLAIN.keys() and not plain.averaged

    def test_only_mmengine_exchanges_the_two(self):
        """Other programs mean what the name says; plain weights were taken for averaged ones."""
        file = weights_in({"state_dict": PLAIN, "ema_state_dict": AVERAGE})
        assert file.averaged and torch.equal(file.tensors["head.bias"], AVERAGE["head.bias"])
        assert weights_in({"ema_state_dict": AVERAGE, "epoch": 3}).averaged

    def test_one_under_a_name_that_is_not_known(self):
        file = weights_in({"model_state": PLAIN, "ema_state": {f"module.{k}": v for k, v in AVERAGE.items()}})
        assert torch.equal(file.tensors["head.bias"], PLAIN["head.bias"])
        assert file.notes == ["not taken: the weights beside them (ema_state)"]
        assert weights_in({"format": 1, "model": PLAIN, "adapters": dict(PLAIN)}).notes == []

    def test_some_have_no_average(self):
        file = weights_in({"model": PLAIN, "model_ema": {"head.bias": AVERAGE["head.bias"]}})
        assert torch.equal(file.tensors["norm.weight"], PLAIN["norm.weight"])
        assert file.notes[1] == "1 tensors that have no average are the plain ones"

    def test_an_average_of_something_else(self):
        with pytest.raises(ValueError, match=r"none of the averaged weights \(model_ema\) has the name of a plain one"):
            weights_in({"model": PLAIN, "model_ema": {"other": torch.ones(1)}})

    def test_the_report_says_it(self):
        content = {"state_dict": state_of(0), "state_dict_ema": state_of(1)}
        model = MViT(CONFIG)
        report = load_weights(model, content)
        assert report.averaged and "averaged weights (state_dict_ema), not the plain ones" in str(report)
        assert torch.equal(model.norm.bias, state_of(1)["norm.bias"])
        report = load_weights(model, content, use_ema=False)
        assert not report.averaged and torch.equal(model.norm.bias, state_of(0)["norm.bias"])


@pytest.mark.parametrize(
    "content",
    [
        {"epoch": 1, "model_state_dict": state_of(), "optimizer_state_dict": {}},  # PyTorch's tutorials
        {"module": state_of(), "ds_config": {}},  # DeepSpeed
        {"state_dict": {f"net.{name}": tensor for name, tensor in state_of().items()}},  # templates of Lightning
    ],
    ids=["tutorial", "deepspeed", "net"],
)
def test_where_others_keep_the_weights(content):
    model = MViT(CONFIG)
    load_weights(model, content)
    assert all(torch.equal(value, state_of()[name]) for name, value in model.state_dict().items())


class TestObjectsBesideTheWeights:
    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_namespace(self, tmp_path, legacy):
        """Training scripts in the style of MAE, DeiT and timm."""
        args = argparse.Namespace(lr=1e-3, output=Path("runs"), nested=argparse.Namespace(blr=0.1))
        content = {"model": state_of(), "args": args, "epoch": 99, "optimizer": {"state": {}, "param_groups": []}}
        path = saved(tmp_path / "checkpoint-99.pth", content, _use_new_zipfile_serialization=not legacy)
        model = MViT(CONFIG)
        report = load_weights(model, path)
        assert all(torch.equal(value, state_of()[name]) for name, value in model.state_dict().items())
        assert report.notes == ["left unread: argparse.Namespace, pathlib.PosixPath"]
        assert from_checkpoint(path).config.depth == 4

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.parametrize("legacy", [False, True])
    def test_an_mmengine_training(self, tmp_path, made_up, legacy, protocol):
        history = made_up.History()
        options, callbacks = made_up.Options(lr=0.1), made_up.Callbacks([1, 2])
        weights = OrderedDict(mmaction2_state(state_of()))
        weights._metadata = {"": {"version": 1}}
        content = {
            "meta": {"epoch": 5, "cfg": "model = dict()", "best": np.float64(81.0)},
            "message_hub": {"log_scalars": OrderedDict(loss=history), "resumed_keys": OrderedDict()},
            "param_schedulers": [options, callbacks],
            "state_dict": weights,
        }
        options = {"_use_new_zipfile_serialization": not legacy, "pickle_protocol": protocol}
        path = saved(tmp_path / "epoch_5.pth", content, **options)
        forget(made_up)
        report = load_weights(MViT(CONFIG), path)
        assert "made_up" not in sys.modules and "made_up.training" not in sys.modules
        assert report.format == "mmaction2" and not report.new and not report.left_out
        for name in ("History", "Options", "Callbacks"):
            assert f"made_up.training.{name}" in report.notes[0]

    def test_in_a_plain_pickle(self, tmp_path):
        content = {"model": {name: value.numpy() for name, value in PLAIN.items()}, "args": argparse.Namespace(a=1)}
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
        file = read_weights_file(tmp_path / "a.pkl")
        assert file.tensors.keys() == PLAIN.keys() and file.notes == ["left unread: argparse.Namespace"]

    def test_half_precision(self, tmp_path):
        content = {"model": {"a": torch.ones(3, dtype=torch.bfloat16)}, "args": argparse.Namespace()}
        tensor = read_weights_file(saved(tmp_path / "a.pth", content)).tensors["a"]
        assert tensor.dtype == torch.bfloat16 and tensor.tolist() == [1.0, 1.0, 1.0]

    def test_weights_that_are_an_object(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"besides tensors \(torch\.nn\.modules\.linear\.Linear\)"):
            read_weights_file(saved(tmp_path / "a.pt", {"model": nn.Linear(2, 2), "epoch": 1}))

    def test_torchscript_is_not_run(self, tmp_path):
        with pytest.warns((FutureWarning, DeprecationWarning)):  # of torch.jit, by torch's release
            torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match="no PyTorch file"), pytest.warns(UserWarning, match="TorchScript"):
            read_weights_file(tmp_path / "a.pt")

    @pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "builtins.exec", "importlib.import_module"])
    def test_functions_that_run_code_refuse_the_file(self, tmp_path, name):
        module, attribute = name.split(".")
        function = getattr(__import__(module), attribute)

        class Call:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return function, ("unheard_of",)

        path = saved(tmp_path / "a.pth", {"model": PLAIN, "args": Call()})
        with pytest.raises(CheckpointError, match=r"a\.pth holds Python objects besides tensors \("):
            read_weights_file(path)


class TestWrappers:
    @pytest.mark.parametrize("prefix", ["model.", "backbone.", "module.model.", "model.backbone.", "model.module."])
    @pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state", "model_ema"])
    @pytest.mark.parametrize("from_file", [False, True])
    def test_containers_and_prefixes(self, tmp_path, prefix, key, from_file):
        state = {prefix + name: value for name, value in state_of().items()}
        content = state if key is None else {key: state, "epoch": 3}
        source = saved(tmp_path / "a.ckpt", content) if from_file else content
        model = MViT(CONFIG)
        report = load_weights(model, source)
        assert all(torch.equal(value, state_of()[name]) for name, value in model.state_dict().items())
        left = prefix.removeprefix("module.")
        assert f"the names without {left!r} in front" in report.notes
        assert from_checkpoint(source, drop_path=0.1).config.num_classes == 5

    def test_a_head_beside_the_backbone(self):
        state = {name if name.startswith("head.") else f"backbone.{name}": value for name, value in state_of().items()}
        assert not load_weights(MViT(CONFIG), state).new

    def test_of_mmaction2(self):
        state = {f"model.{name}": value for name, value in mmaction2_state(state_of()).items()}
        assert load_weights(MViT(CONFIG), {"state_dict": state}).format == "mmaction2"

    def test_of_other_networks(self):
        target = nn.Sequential(nn.Linear(2, 2))
        load_weights(target, {"state_dict": {"model.0.weight": torch.ones(2, 2), "model.0.bias": torch.ones(2)}})
        assert target[0].bias.tolist() == [1.0, 1.0]

    def test_a_name_twice(self):
        state = {f"model.{name}": value for name, value in state_of().items()} | {"norm.bias": torch.ones(32)}
        with pytest.raises(ValueError, match=r"two tensors are called 'norm\.bias', with and without 'model\.'"):
            load_weights(MViT(CONFIG), state)


class TestNotFinite:
    def broken(self) -> dict[str, torch.Tensor]:
        state = {name: value.clone() for name, value in state_of().items()}
        state["norm.weight"][:3] = float("nan")
        state["head.projection.bias"][1] = float("inf")
        return state

    def test_refused_with_names_and_counts(self):
        model = MViT(CONFIG)
        before = model.norm.weight.clone()
        message = (
            r"2 of 107 tensors hold NaN or infinity: norm\.weight \(3 of 32\), head\.projection\.bias \(1 of 5\)\."
        )
        for load in (lambda: load_weights(model, self.broken()), lambda: from_checkpoint(self.broken())):
            with pytest.raises(ValueError, match=message + ".*allow_nonfinite=True"):
                load()
        assert torch.equal(model.norm.weight, before)

    def test_allowed(self):
        model = MViT(CONFIG)
        report = load_weights(model, self.broken(), allow_nonfinite=True)
        assert model.norm.weight[:3].isnan().all()
        assert "2 of 107 tensors hold NaN or infinity: norm.weight (3 of 32)" in str(report)
        assert from_checkpoint(self.broken(), allow_nonfinite=True).norm.weight.isnan().any()

    def test_numbers_of_every_width(self):
        check_finite({"counter": torch.tensor(3), "half": torch.ones(2, dtype=torch.bfloat16)})
        with pytest.raises(ValueError, match=r"tiny \(1 of 1\)"):
            check_finite({"tiny": torch.tensor([float("nan")]).to(torch.float8_e5m2)})


def test_numbers_of_another_kind_are_refused():
    """Integers are no weights without their scales; they were read as such."""
    model = MViT(small_config())
    for change, message in (
        (
            lambda weight: (weight * 127).to(torch.int8),
            r"head\.projection\.weight: torch\.int8 in the file, torch\.float32 in",
        ),
        (lambda weight: weight.to(torch.complex64), r"head\.projection\.weight: torch\.complex64 in the file"),
        (
            lambda weight: weight.to_sparse(),
            r"1 of \d+ tensors are sparse or quantised \(head\.projection\.weight.*to_dense",
        ),
    ):
        state = model.state_dict()
        state["head.projection.weight"] = change(state["head.projection.weight"])
        with pytest.raises(ValueError, match=message):
            load_weights(model, state)
