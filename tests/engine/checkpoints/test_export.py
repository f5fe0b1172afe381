"""Weights alone as safetensors: from a file, a run, with and without averaging, and back into a model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mvit_video.convert import main
from mvit_video.engine.checkpoints import CheckpointError, find_checkpoint, save_checkpoint
from mvit_video.models import from_checkpoint, load_weights
from mvit_video.models.mvit.network import MViT
from mvit_video.models.weights.files import read_weights_file
from mvit_video.models.weights.loading import checkpoint_content
from tests.models.helpers import randomised, small_config

CONFIG = small_config(drop_path=0.3)
NAMES = ["run", "jump", "sit", "kick", "fly"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a best checkpoint of step 1 and a newer one of step 2."""
    for step in (1, 2):
        model, average = randomised(CONFIG, seed=step).float(), randomised(CONFIG, seed=step + 10).float()
        state = {
            "step": step,
            "epoch": 0.5,
            "model": model.state_dict(),
            "optimizer": {"state": {}, "param_groups": []},
            "ema": average.state_dict(),
            "config": checkpoint_content(model, "mvit_video")["config"],
            "class_names": NAMES,
            "metrics": {},
        }
        save_checkpoint(tmp_path / "run" / "checkpoints", state, step=step, best=step == 1)
    return tmp_path / "run"


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize(("options", "seed", "averaged"), [([], 11, "true"), (["--no-ema"], 1, "false")])
def test_the_best_weights_of_a_run(run, tmp_path, capsys, options, seed, averaged):
    out = tmp_path / "out.safetensors"
    main([str(run), str(out), *options])
    tensors, about = read(out)
    wanted = randomised(CONFIG, seed=seed).float().state_dict()
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], value) for name, value in wanted.items())
    assert json.loads(about["class_names"]) == NAMES
    assert (about["step"], about["averaged"], about["names"], about["format"]) == ("1", averaged, "mvit_video", "pt")
    stored = json.loads(about["config"])["model"]
    assert (stored["_target_"], stored["drop_path"]) == ("mvit_video.models.MViTConfig", 0.3)
    assert f"{run / 'checkpoints' / 'best.pt'} (the best of the run): " in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "run"]


def test_back_into_a_model(run, tmp_path):
    out = tmp_path / "out.safetensors"
    main([str(run / "checkpoints" / "step_00000002.pt"), str(out)])
    wanted = randomised(CONFIG, seed=12).float()
    model = MViT(CONFIG)
    load_weights(model, out)
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model.eval()(clip), wanted(clip))
        assert torch.equal(from_checkpoint(out).eval()(clip), wanted(clip))
    again = tmp_path / "again.pt"
    main([str(out), str(again), "--to", "mvit_video"])
    assert torch.equal(torch.load(again, weights_only=True)["model"]["norm.weight"], wanted.norm.weight)


def test_the_newest_where_there_is_no_best(run, tmp_path):
    for name in ("best.pt", "best.json"):
        (run / "checkpoints" / name).unlink()
    assert find_checkpoint(run).name == "step_00000002.pt"
    assert find_checkpoint(run / "checkpoints").name == "step_00000002.pt"
    with pytest.raises(CheckpointError, match="has no complete checkpoint"):
        find_checkpoint(tmp_path)


def test_a_damaged_checkpoint_is_not_converted(run, tmp_path, capsys):
    path = run / "checkpoints" / "best.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.unlink()
    path.write_bytes(bytes(content))
    with pytest.raises(SystemExit, match="1"):
        main([str(run), str(tmp_path / "out.safetensors")])
    assert "best.pt is damaged: its sha256 is" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_names_of_others(run, tmp_path):
    out = tmp_path / "tv.safetensors"
    main([str(run), str(out), "--to", "torchvision"])
    tensors, about = read(out)
    assert "conv_proj.weight" in tensors
    assert about["names"] == "torchvision"
    assert torch.equal(from_checkpoint(out).norm.weight, randomised(CONFIG, seed=11).float().norm.weight)


def test_other_containers_need_to_be_named(run, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(run), str(tmp_path / "out.pt")])
    assert "required: --to {pyslowfast,torchvision,pytorchvideo,timm,mvit_video}" in capsys.readouterr().err


def test_it_says_which_checkpoint_of_a_run_it_takes(run, tmp_path, capsys):
    out = str(tmp_path / "out.safetensors")
    main([str(run), out])
    assert "best.pt (the best of the run): " in capsys.readouterr().out
    for name in ("best.pt", "best.json"):
        (run / "checkpoints" / name).unlink()
    main([str(run), out])
    assert "step_00000002.pt (the newest of the run, which has no validation): " in capsys.readouterr().out
    main([str(run / "checkpoints" / "step_00000001.pt"), out])
    assert "step_00000001.pt: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["out.safetensors", "out.pt"])
def test_the_names_of_the_classes_stay_with_the_weights(run, tmp_path, name):
    main([str(run), str(tmp_path / name), "--to", "mvit_video"])
    assert read_weights_file(tmp_path / name).training == {"step": 1, "class_names": NAMES}
    main([str(tmp_path / name), str(tmp_path / "again.pt"), "--to", "mvit_video"])
    assert read_weights_file(tmp_path / "again.pt").training["class_names"] == NAMES


def test_a_container_without_a_place_for_names_is_said(run, tmp_path, capsys):
    main([str(run), str(tmp_path / "out.pth"), "--to", "torchvision"])
    assert "the names of the classes are left out: this container has no place for them" in capsys.readouterr().out
