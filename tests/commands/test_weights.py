"""The command that lists published weights, what of them is here, and fetches them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvit_video import weights as command
from mvit_video.build.common import start_from_weights
from mvit_video.build.stored_options import fetched, take_stored_options, weights_file
from mvit_video.config.compose import compose_options
from mvit_video.convert import main as convert
from mvit_video.models import create_model, from_checkpoint
from mvit_video.models.weights import zoo as zoo_module
from mvit_video.models.weights.loading import checkpoint_content
from tests.conftest import options
from tests.models.weights.weights_server import WeightsServer, weights_server


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    before = torch.hub._hub_dir
    torch.hub.set_dir(tmp_path / "hub")
    yield tmp_path / "hub" / "checkpoints"
    torch.hub._hub_dir = before


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    """A server that has the file of k400_mvitv2_s, made up."""
    made_up = cache.parent.parent / "made_up.pt"
    torch.save(checkpoint_content(create_model("mvitv2_motion"), "mvit_video"), made_up)
    with weights_server() as state:
        state.files["/tiny.pt"] = made_up.read_bytes()
        table = dict(zoo_module.zoo())
        table["k400_mvitv2_s"] = replace(table["k400_mvitv2_s"], url=f"{state.url}/tiny.pt")
        for module in (zoo_module, command):
            monkeypatch.setattr(module, "zoo", lambda: table)
        yield state


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_table_fits_the_terminal(
    cache: Path, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert command.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 50 and max(map(len, (line for line in lines if str(cache) not in line))) <= columns
    row = next(line for line in lines if line.startswith("k400_mvitv2_s "))
    assert "81.0 top-1 (5x1)" in row and (columns < 200 or "~138.0 MB" in row)
    assert f"0 of them here (0 bytes), in {cache}" in lines[-3]


def test_what_is_fetched_is_shown(cache: Path, server: WeightsServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["/own.pt?key=7"] = b"own"
    assert command.main(["--fetch", "k400_mvitv2_s", f"{server.url}/own.pt?key=7"]) == 0
    first, second = map(Path, capsys.readouterr().out.split())
    assert first == cache / "MViTv2_S_16x4_k400_f302660347.pyth" and second.read_bytes() == b"own"
    (cache / "k400.pyth.part").touch()
    command.main(["k400_mvitv2"])
    shown = capsys.readouterr().out
    assert next(line for line in shown.splitlines() if line.startswith("k400_mvitv2_s ")).endswith(" here")
    assert "1 of them here" in shown and f"  {second}, 3 bytes, from {server.url}/own.pt\n" in shown


def test_one_name_shows_all_that_is_known(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["ssv2_mvitv2_l"]) == 0
    shown = capsys.readouterr().out
    for part in ("Apache-2.0", "channel_order=bgr", "top1 73.3", "B, G, R", "https://dl.", f"{cache}/MViTv2_L"):
        assert part in shown
    assert "(not here yet)" in shown


def test_json_has_everything(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--json", "*.torchvision"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert {first["sha256"], second["sha256"]} == {"dbeb1030", "ae3be167"}
    assert first["cache"] == "absent" and first["path"].startswith(str(cache))


def test_what_is_wrong_is_a_line(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["k400_mvit2_s"]) == 1
    assert "did you mean k400_mvitv2_s" in capsys.readouterr().err
    assert command.main(["--fetch", "in1k_mvitv1_b"]) == 1
    assert f"put it at {cache}/in1k_mvitv1_b.pyth" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--fetch"])
    assert "needs the names" in capsys.readouterr().err


def test_names_and_addresses_where_a_file_is_asked_for(cache: Path, server: WeightsServer, tmp_path: Path) -> None:
    place = cache / "MViTv2_S_16x4_k400_f302660347.pyth"
    assert fetched("k400_mvitv2_s") == weights_file("k400_mvitv2_s") == str(place)
    assert fetched("runs/mine") == "runs/mine"
    assert Path(weights_file(f"{server.url}/tiny.pt")) == place
    for url in (f"{server.url}/tiny.pt", "'https://host/a.pt?download=1'"):  # as Hydra reads them
        assert options("+experiment=motion_mvitv2", f"weights={url}").weights == url.strip("'")
    config = options("+experiment=motion_mvitv2", "weights=k400_mvitv2_s")
    model = create_model("mvitv2_motion")
    start_from_weights(config, model)
    assert torch.equal(model.patch_embed.proj.weight, from_checkpoint(place).patch_embed.proj.weight)
    convert(["k400_mvitv2_s", str(tmp_path / "out.safetensors")])
    assert (tmp_path / "out.safetensors").is_file()


def test_an_evaluation_fetches_before_it_reads_the_options(cache: Path, server: WeightsServer) -> None:
    composed = compose_options("evaluate", experiment="motion_mvitv2", options={"checkpoint": "k400_mvitv2_s"})
    take_stored_options(composed.config, composed.given)
    assert composed.config.checkpoint == str(cache / "MViTv2_S_16x4_k400_f302660347.pyth")
