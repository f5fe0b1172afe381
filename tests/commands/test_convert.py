"""python -m mvit_video.convert."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mvit_video.convert import main
from mvit_video.models import from_checkpoint
from mvit_video.models.weights.loading import checkpoint_content
from tests.models.helpers import image_fields, randomised, small_config, v1_fields
from tests.models.peers import timm_state, torchvision_state

CONFIG = small_config()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.pyth"
    torch.save({"model_state": randomised(CONFIG).float().state_dict(), "epoch": 1}, path)
    return path


def test_to_torchvision_and_back(source, tmp_path, capsys):
    theirs, ours = tmp_path / "tv.pth", tmp_path / "ours.pt"
    main([str(source), str(theirs), "--to", "torchvision"])
    first = capsys.readouterr().out.splitlines()
    state = torch.load(source, weights_only=True)["model_state"]
    written = torch.load(theirs, weights_only=True)
    wanted = torchvision_state(dict(state))
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[name], value) for name, value in wanted.items())
    assert first[0] == f"{source}: pyslowfast, {len(state)} tensors loaded"
    assert first[1].startswith(f"{theirs}: torchvision, {len(state)} tensors, ")
    assert first[1].endswith("4 blocks, 4 x 32 pixels, 5 classes")

    main([str(theirs), str(ours), "--to", "mvit_video", "--set", "drop_path=0.1"])
    assert "of them converted from torchvision" in capsys.readouterr().out
    main([str(ours), str(theirs), "--to", "torchvision"])
    assert capsys.readouterr().out.startswith(f"{ours}: mvit_video, {len(state)} tensors loaded")
    model = from_checkpoint(ours)
    assert model.config.drop_path == 0.1
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pyth", "ours.pt", "tv.pth"]


def test_to_timm_and_back(tmp_path, capsys):
    """An image model: the bare state dict that timm's create_model reads from checkpoint_path, and back to the bit."""
    config = small_config(**image_fields(cls_token=False, head_pooling="norm_mean"))
    state = dict(randomised(config).float().state_dict())
    source, theirs, tensors, ours = (tmp_path / name for name in ("in.pyth", "t.pth", "t.safetensors", "ours.pt"))
    torch.save({"model_state": state}, source)
    main([str(source), str(theirs), "--to", "timm"])
    main([str(source), str(tensors), "--to", "timm"])
    written, wanted = torch.load(theirs, weights_only=True), timm_state(state, config)
    assert list(written) == list(wanted) and all(torch.equal(written[name], value) for name, value in wanted.items())
    capsys.readouterr()
    for given in (theirs, tensors):
        main([str(given), str(ours), "--to", "mvit_video"])
        assert "of them converted from timm" in capsys.readouterr().out
        assert all(torch.equal(value, state[name]) for name, value in from_checkpoint(ours).state_dict().items())


def test_the_container_of_pyslowfast_and_another_size(source, tmp_path, capsys):
    target = tmp_path / "out.pyth"
    main([str(source), str(target), "--to", "pyslowfast", "--set", "num_frames=8", "--set", "crop_size=64"])
    content = torch.load(target, weights_only=True)
    assert list(content) == ["model_state"]
    assert content["model_state"]["blocks.0.attn.rel_pos_t"].shape == (7, 8)
    assert "interpolated: " in capsys.readouterr().out


def test_names_to_leave_out(source, tmp_path, capsys):
    content = torch.load(source, weights_only=True)
    content["model_state"]["pred_head.0.weight"] = torch.zeros(2)
    torch.save(content, source)
    command = [str(source), str(tmp_path / "out.pt"), "--to", "mvit_video"]
    with pytest.raises(SystemExit, match="1"):
        main(command)
    captured = capsys.readouterr()
    assert captured.err.startswith(
        "error: the weights do not fit the model (1 problems): pred_head.0.weight: in the file"
    )
    assert captured.err.count("\n") == 1 and captured.out == ""
    main([*command, "--allow", "pred_head.*"])
    assert "left out: pred_head.0.weight" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "qkv_bias=False"], "error: the weights do not fit the model (4 problems): blocks.0.attn.qkv.bias"),
        (["--set", "frames=8"], "error: unknown override 'frames'"),
        (["--set", "head_pooling=norm_mean"], "error: torchvision's MViT has no such model"),
    ],
)
def test_errors_are_one_line_and_write_nothing(source, tmp_path, capsys, change, message):
    with pytest.raises(SystemExit, match="1"):
        main([str(source), str(tmp_path / "out.pth"), "--to", "torchvision", *change])
    captured = capsys.readouterr()
    assert captured.err.startswith(message) and captured.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pyth"]


def test_missing_files_and_folders(source, tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path / "none.pyth"), str(tmp_path / "out.pt"), "--to", "mvit_video"])
    assert "none.pyth does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        main([str(source), str(tmp_path / "no_folder" / "out.pt"), "--to", "mvit_video"])
    assert capsys.readouterr().err.startswith("error: ")


def test_a_field_without_a_value(source, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(source), str(tmp_path / "out.pt"), "--to", "mvit_video", "--set", "num_frames"])
    assert "'num_frames' must be FIELD=VALUE" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = (
        "import sys, runpy\nsys.argv = ['convert', '--help']\n"
        "try: runpy.run_module('mvit_video.convert', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--to {pyslowfast,torchvision,pytorchvideo,timm,mvit_video}" in result.stdout


@pytest.mark.parametrize("name", ["out.pt", "out.safetensors"])
def test_others_may_read_what_is_written(source, tmp_path, name):
    previous = os.umask(0o022)
    try:
        main([str(source), str(tmp_path / name), "--to", "mvit_video"])
    finally:
        os.umask(previous)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


def test_weights_with_nan_must_be_allowed(source, tmp_path, capsys):
    content = torch.load(source, weights_only=True)
    content["model_state"]["norm.bias"][0] = float("nan")
    torch.save(content, source)
    command = [str(source), str(tmp_path / "out.pt"), "--to", "mvit_video"]
    with pytest.raises(SystemExit, match="1"):
        main(command)
    assert "norm.bias (1 of 32)" in capsys.readouterr().err
    main([*command, "--allow-nonfinite"])
    assert "hold NaN or infinity: norm.bias" in capsys.readouterr().out


def test_safetensors_of_a_training_script(source, tmp_path, capsys):
    content = {"model": torch.load(source, weights_only=True)["model_state"], "args": argparse.Namespace(lr=0.1)}
    torch.save(content, source)
    out = tmp_path / "out.safetensors"
    main([str(source), str(out), "--set", "pool_norm_eps=1e-5"])
    assert "left unread: argparse.Namespace" in capsys.readouterr().out
    assert from_checkpoint(out).config.pool_norm_eps == 1e-5


def test_to_pytorchvideo(tmp_path, capsys):
    model = randomised(small_config(**v1_fields(pool_norm_eps=1e-5))).float()
    torch.save(checkpoint_content(model, "mvit_video"), tmp_path / "in.pt")
    main([str(tmp_path / "in.pt"), str(tmp_path / "out.pyth"), "--to", "pytorchvideo"])
    assert "cls_positional_encoding.cls_token" in torch.load(tmp_path / "out.pyth", weights_only=True)["model_state"]
    assert "4 blocks, 4 x 32 pixels, 5 classes" in capsys.readouterr().out
